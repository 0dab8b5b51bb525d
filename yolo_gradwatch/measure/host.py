"""Reads tensors in the host's memory: each one once, while it is in the processor's cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from yolo_gradwatch.measure.chunks import Extents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from yolo_gradwatch.measure.arrays import Counts, Floats, Singles

PLAIN = (1e-12, 1e18)
"""Between these, a norm in float32 has neither lost nor overflowed anything that matters."""

SMALL = 4096
"""Elements below which many tensors are read faster as one vector than one by one."""

LONGEST_ROW = 8192
"""Elements that are summed in float32 at once; above 10,000, OpenBLAS starts threads.

The norm of as many random numbers is off by 1e-7, that of as many equal numbers by 4e-6.
"""

MOST_ROWS = 2
"""A tensor may be cut into at most this many times the least number of rows to have them equal."""


class _Large(NamedTuple):
    """A large tensor and how to cut it.

    Attributes:
        place: Its index.
        size: Number of its elements.
        rows: Number of rows of equal length; what is left over is a shorter row.
        length: Length of such a row.
    """

    place: int
    size: int
    rows: int
    length: int

    @property
    def sums(self) -> int:
        """Number of rows, including the shorter one."""
        return self.rows + (self.size > self.rows * self.length)

    def squares(self, flat: Singles) -> Singles:
        """Return the sum of squares of each row."""
        end = self.rows * self.length
        rows = flat[:end].reshape(self.rows, self.length)
        found: Singles = np.matmul(rows[:, None], rows[:, :, None]).ravel()  # a dot product each
        if end == self.size:
            return found
        return np.append(found, np.dot(flat[end:], flat[end:]))


class Plan:
    """How to read tensors, worked out once for their shapes.

    In float32 a norm overflows to Inf from elements of 1e18 on, underflows to 0 below 1e-23, and
    the sum over a tensor of 5 million elements is off by 2e-4. Float64 takes three times as long.
    Tensors below `SMALL` elements are therefore copied to float64; larger ones are cut into rows of
    at most `LONGEST_ROW`, and what is left over, which are summed in float32, and these sums in
    float64. If a norm is too large or too small for that, all is summed in float64, as are tensors
    of other dtypes.

    Args:
        tensors: N tensors, or others with their shapes and dtypes.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        sizes = [tensor.numel() for tensor in tensors]
        self._size = len(tensors)
        self._small = [i for i, size in enumerate(sizes) if 0 < size < SMALL]
        self._large = [
            _large(i, size)
            for i, size in enumerate(sizes)
            if size >= SMALL and tensors[i].dtype is torch.float32
        ]
        self._places = [one.place for one in self._large]
        self._odd = sorted({*range(len(tensors))} - {*self._small, *self._places})
        self._elements = sum(sizes[i] for i in self._small)
        self._begins = _begins([sizes[i] for i in self._small])
        self._row_begins = _begins([one.sums for one in self._large])

    def read(
        self,
        tensors: Sequence[Tensor],
        *,
        norms: bool = True,
        nonzero: bool = False,
        largest: bool = False,
    ) -> Extents:
        """Read tensors of the planned shapes; for others, make another plan.

        Args:
            tensors: N tensors.
            norms: Whether to return their norms.
            nonzero: Whether to count the elements that are not zero.
            largest: Whether to look for the largest absolute values.

        Returns:
            Their extents; what was not asked for is empty.
        """
        small = _joined([tensors[i] for i in self._small])
        if len(small) != self._elements or not self._fits(tensors):  # as after pruning
            plan = Plan(tensors)
            return plan.read(tensors, norms=norms, nonzero=nonzero, largest=largest)
        asked = (norms, largest, nonzero)
        found = Extents(*(np.empty(self._size if is_asked else 0) for is_asked in asked))
        self._read_large(tensors, found)
        self._read_small(small, found)
        for i in self._odd:
            _read_odd(tensors[i], found, i)
        return found

    def _fits(self, tensors: Sequence[Tensor]) -> bool:
        return all(
            tensors[one.place].dtype is torch.float32 and tensors[one.place].numel() == one.size
            for one in self._large
        )

    def _read_large(self, tensors: Sequence[Tensor], found: Extents) -> None:
        squares = []
        with np.errstate(all="ignore"):  # what overflows is read again
            for one in self._large:
                flat = _array(tensors[one.place])
                if len(found.norms):
                    squares.append(one.squares(flat))
                if len(found.nonzero):
                    found.nonzero[one.place] = np.count_nonzero(flat != 0)
                if len(found.largest):
                    found.largest[one.place] = abs(np.maximum(flat.max(), -flat.min()))
        if not squares:
            return
        sums = np.concatenate(squares).astype(np.float64)
        norms = np.sqrt(np.add.reduceat(sums, self._row_begins))
        for k in np.flatnonzero(~((PLAIN[0] < norms) & (norms < PLAIN[1]))).tolist():
            norms[k] = _exact_norm(tensors[self._places[k]])
        found.norms[self._places] = norms

    def _read_small(self, values: Floats, found: Extents) -> None:
        """Read the joined elements of the small tensors, which are overwritten."""
        if not self._small:
            return
        if len(found.nonzero):
            flags = (values != 0).astype(np.float64)  # integers are added far more slowly
            found.nonzero[self._small] = np.add.reduceat(flags, self._begins)
        if len(found.largest):
            found.largest[self._small] = np.maximum.reduceat(np.abs(values), self._begins)
        if len(found.norms):
            with np.errstate(over="ignore"):
                squares = np.add.reduceat(np.square(values, out=values), self._begins)
            found.norms[self._small] = np.sqrt(squares)


def plan_of(tensors: Sequence[Tensor]) -> Plan | None:
    """Return a plan for tensors, at least one; None if they are not in the host's memory."""
    return Plan(tensors) if tensors[0].device.type == "cpu" else None


def _large(place: int, size: int) -> _Large:
    """Choose how to cut a large tensor: into rows of equal length if few are enough for that."""
    least = -(-size // LONGEST_ROW)
    rows = next((n for n in range(least, MOST_ROWS * least + 1) if size % n == 0), least)
    return _Large(place, size, rows, size // rows)


def _begins(sizes: Sequence[int]) -> Counts:
    """Return where each of several stretches begins in a vector."""
    begins: Counts = np.cumsum([0, *sizes[:-1]])
    return begins


def _array(tensor: Tensor) -> Singles:
    """Return a float32 tensor as a flat array, its elements in the order of the memory."""
    own: Singles = (tensor.detach() if tensor.requires_grad else tensor).numpy()
    return own.ravel("K")


def _joined(tensors: Sequence[Tensor]) -> Floats:
    """Return all elements in float64."""
    if not tensors:
        return np.empty(0)
    joined = torch._C._nn.flatten_dense_tensors([*tensors])  # far quicker than views and a cat
    values: Floats = joined.detach().to(torch.float64, copy=True).numpy()
    return values


def _read_odd(tensor: Tensor, found: Extents, i: int) -> None:
    """Read a tensor that is empty or large and of another dtype."""
    if len(found.norms):
        found.norms[i] = _exact_norm(tensor)
    if len(found.nonzero):
        found.nonzero[i] = int(torch.count_nonzero(tensor))
    if len(found.largest):
        found.largest[i] = float(tensor.detach().abs().amax()) if tensor.numel() else 0.0


def _exact_norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64))
