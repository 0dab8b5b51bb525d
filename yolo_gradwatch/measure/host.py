"""Reads tensors in the host's memory: each one once, while it is in the processor's cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

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

The norm of as many random numbers is off by 1e-8, that of as many equal numbers by 1e-6.
"""

MOST_ROWS = 2
"""Times the least number of rows that a tensor may be cut into, so that rows stay long."""


class Reading(NamedTuple):
    """What was read from N tensors.

    Attributes:
        norms: (N,) L2 norms.
        nonzeros: (N,) numbers of elements that are not exactly zero; empty if not asked for.
        largest: (N,) largest absolute values, NaN where a value is; empty if not asked for.
    """

    norms: Floats
    nonzeros: Floats
    largest: Floats


class Plan:
    """How to read tensors, worked out once for their shapes.

    In float32 a norm overflows to Inf from elements of 1e18 on, underflows to 0 below 1e-23, and
    the sum over a tensor of 5 million elements is off by 2e-4. Float64 takes three times as long.
    Tensors below `SMALL` elements are therefore copied to float64; larger ones are cut into rows of
    at most `LONGEST_ROW`, which are summed in float32, and these sums in float64. If a norm is too
    large or too small for that, all is summed in float64, as are tensors of other dtypes.

    Args:
        tensors: N tensors, or others with their shapes and dtypes.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        sizes = [tensor.numel() for tensor in tensors]
        shapes = [_rows(tensor) for tensor in tensors]
        self._size = len(tensors)
        self._small = [i for i, size in enumerate(sizes) if 0 < size < SMALL]
        self._large = [i for i, (count, _) in enumerate(shapes) if count]
        self._odd = sorted({*range(len(tensors))} - {*self._small, *self._large})
        self._begins = _begins([sizes[i] for i in self._small])
        self._elements = sum(sizes[i] for i in self._small)
        self._shapes = [shapes[i] for i in self._large]
        self._row_begins = _begins([count for count, _ in self._shapes])

    def read(
        self, tensors: Sequence[Tensor], *, nonzeros: bool = False, largest: bool = False
    ) -> Reading:
        """Read tensors of the planned shapes; for others, make another plan.

        Args:
            tensors: N tensors.
            nonzeros: Whether to count the elements that are not zero.
            largest: Whether to look for the largest absolute values.
        """
        small = _joined([tensors[i] for i in self._small])
        if len(small) != self._elements or not self._fits(tensors):  # as after pruning
            return Plan(tensors).read(tensors, nonzeros=nonzeros, largest=largest)
        found = Reading(
            np.empty(self._size),
            np.empty(self._size if nonzeros else 0),
            np.empty(self._size if largest else 0),
        )
        self._read_large(tensors, found)
        self._read_small(small, found)
        for i in self._odd:
            _read_odd(tensors[i], found, i)
        return found

    def _fits(self, tensors: Sequence[Tensor]) -> bool:
        return all(
            tensors[i].dtype is torch.float32 and tensors[i].numel() == count * length
            for i, (count, length) in zip(self._large, self._shapes, strict=True)
        )

    def _read_large(self, tensors: Sequence[Tensor], found: Reading) -> None:
        if not self._large:
            return
        sums = []
        with np.errstate(all="ignore"):  # what overflows is read again
            for i, shape in zip(self._large, self._shapes, strict=True):
                rows = _array(tensors[i]).reshape(shape)
                sums.append(np.matmul(rows[:, None], rows[:, :, None]))  # a dot product each
                if len(found.nonzeros):
                    found.nonzeros[i] = np.count_nonzero(rows != 0)
                if len(found.largest):
                    found.largest[i] = np.maximum(rows.max(), -rows.min())
        squares = np.concatenate(sums).ravel().astype(np.float64)
        norms = np.sqrt(np.add.reduceat(squares, self._row_begins))
        for k in np.flatnonzero(~((PLAIN[0] < norms) & (norms < PLAIN[1]))).tolist():
            norms[k] = _exact_norm(tensors[self._large[k]])
        found.norms[self._large] = norms

    def _read_small(self, values: Floats, found: Reading) -> None:
        """Read the joined elements of the small tensors, which are overwritten."""
        if not self._small:
            return
        if len(found.nonzeros):
            flags = (values != 0).astype(np.float64)  # integers are added far more slowly
            found.nonzeros[self._small] = np.add.reduceat(flags, self._begins)
        if len(found.largest):
            found.largest[self._small] = np.maximum.reduceat(np.abs(values), self._begins)
        with np.errstate(over="ignore"):
            squares = np.add.reduceat(np.square(values, out=values), self._begins)
        found.norms[self._small] = np.sqrt(squares)


def plan_of(tensors: Sequence[Tensor]) -> Plan | None:
    """Return a plan for tensors, at least one; None if they are not in the host's memory."""
    return Plan(tensors) if tensors[0].device.type == "cpu" else None


def _rows(tensor: Tensor) -> tuple[int, int]:
    """Return how many rows of which length to cut a tensor into; no rows if it is no large one."""
    size = tensor.numel()
    if size < SMALL or tensor.dtype is not torch.float32:
        return 0, 0
    least = -(-size // LONGEST_ROW)
    count = next((n for n in range(least, MOST_ROWS * least + 1) if size % n == 0), 0)
    return count, size // count if count else 0


def _begins(sizes: Sequence[int]) -> Counts:
    """Return where each of several stretches begins in a vector."""
    begins: Counts = np.cumsum([0, *sizes[:-1]])
    return begins


def _array(tensor: Tensor) -> Singles:
    """Return a float32 tensor as a flat array, its elements in the order of the memory."""
    own: Singles = (tensor.detach() if tensor.requires_grad else tensor).numpy()
    return own if own.flags.c_contiguous else own.ravel("K")


def _joined(tensors: Sequence[Tensor]) -> Floats:
    """Return all elements in float64."""
    if not tensors:
        return np.empty(0)
    joined = torch._C._nn.flatten_dense_tensors([*tensors])  # far quicker than views and a cat
    values: Floats = joined.detach().to(torch.float64, copy=True).numpy()
    return values


def _read_odd(tensor: Tensor, found: Reading, i: int) -> None:
    """Read a tensor that is empty, has another dtype, or cannot be cut into rows."""
    found.norms[i] = _exact_norm(tensor)
    if len(found.nonzeros):
        found.nonzeros[i] = int(torch.count_nonzero(tensor))
    if len(found.largest):
        found.largest[i] = float(tensor.detach().abs().amax())


def _exact_norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
