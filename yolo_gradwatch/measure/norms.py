"""Gradient statistics of an optimizer step, computed on the device of the gradients."""

from __future__ import annotations

import math
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from yolo_gradwatch.measure.arrays import Counts, Floats

FLOAT64 = ("cpu", "cuda")
"""Device types known to have float64; MPS has none, others are unknown."""

PLAIN = (1e-12, 1e18)
"""Between these, a norm in float32 has neither lost nor overflowed anything that matters."""

SMALL = 4096
"""Elements below which many tensors are read faster as one vector than one by one."""

LONGEST_ROW = 16384
"""Elements that are summed in float32 at once. The norm of as many random numbers is off by 4e-7,
that of as many equal numbers by 2e-5."""

_HAS_DTYPE = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 4)


@contextmanager
def room() -> Iterator[None]:
    """Turn a lack of memory on the device into a MemoryError."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise MemoryError from error


def precision(device: torch.device) -> torch.dtype:
    """Return the dtype in which the values of a step leave a device."""
    return torch.float64 if device.type in FLOAT64 else torch.float32


class Plan:
    """How to read tensors on a CPU, worked out once for their shapes.

    In float32 a norm overflows to Inf from elements of 1e18 on, underflows to 0 below 1e-23, and
    on a CPU the sum over a tensor of 5 million elements is off by 2e-4. Float64 takes three times
    as long there. Tensors below `SMALL` elements are therefore copied to float64; those up to
    `LONGEST_ROW` are summed in float32; longer ones for each entry of their first dimension in
    float32, and these sums in float64. All others are summed in float64.

    Args:
        tensors: N tensors, or others with their shapes and dtypes.

    Attributes:
        middle: Indices of those summed in float32.
        long: Indices of those summed by entry, with the dimensions of an entry.
        single: Indices of both, as an array.
        exact: Indices of those summed in float64.
        begins: (N,) where the numbers to add up begin for each tensor.
        count: How many these are.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.middle: list[int] = []
        self.long: list[tuple[int, tuple[int, ...]]] = []
        self.exact: list[int] = []
        ends = np.cumsum([self._place(i, tensor) for i, tensor in enumerate(tensors)])
        self.single: Counts = np.array([*self.middle, *(i for i, _ in self.long)], np.int64)
        self.begins: Counts = np.append(0, ends[:-1])
        self.count = int(ends[-1])

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Return whether those that are summed in float32 can still be read so."""
        return all(tensors[i].dtype is torch.float32 for i in self.middle) and all(
            tensors[i].dtype is torch.float32 and tensors[i].ndim > len(inside)
            for i, inside in self.long
        )

    def _place(self, i: int, tensor: Tensor) -> int:
        """Choose how to read the tensor at index ``i``; return the count of numbers to add up."""
        size, is_single = tensor.numel(), tensor.dtype is torch.float32
        if 0 < size < SMALL:
            return size
        if is_single and 0 < size <= LONGEST_ROW:
            self.middle.append(i)
        elif is_single and tensor.ndim > 1 and 0 < size <= LONGEST_ROW * len(tensor):
            self.long.append((i, tuple(range(1, tensor.ndim))))
            return len(tensor)
        else:
            self.exact.append(i)
        return 1


def norms_of(tensors: Sequence[Tensor], plan: Plan | None = None) -> Tensor:
    """Return the L2 norm of each tensor, summed in float64 where the device has it.

    On a CPU, large tensors are summed in part in float32, as `Plan` describes; if the norm is too
    large or too small for that, all is summed in float64.

    Args:
        tensors: N tensors on one device, at least one.
        plan: The plan for their shapes, if there is one already.

    Returns:
        Tensor of shape (N,) on that device; float64 on a CPU, and from torch 2.4 on with CUDA, else
        float32 (MPS has no other). No synchronization.
    """
    device = tensors[0].device.type
    if device == "cpu":
        return torch.from_numpy(_norms_on_cpu(tensors, plan or Plan(tensors)))
    if _HAS_DTYPE and device in FLOAT64:
        return torch.stack(torch._foreach_norm([*tensors], 2, dtype=torch.float64))
    return torch.stack([norm.float() for norm in torch._foreach_norm([*tensors], 2)])


def _norms_on_cpu(tensors: Sequence[Tensor], plan: Plan) -> Floats:
    plan = plan if plan.fits(tensors) else Plan(tensors)
    parts = list(tensors)
    if plan.middle:
        middle = torch._foreach_norm([parts[i] for i in plan.middle], 2)
        for i, norm in zip(plan.middle, middle, strict=True):
            parts[i] = norm
    for i, inside in plan.long:
        parts[i] = torch.linalg.vector_norm(parts[i], dim=inside)
    for i in plan.exact:
        parts[i] = _norm(parts[i], torch.float64)
    values = _joined(parts)
    if len(values) != plan.count:  # other shapes than planned, as after pruning
        return _norms_on_cpu(tensors, Plan(tensors))
    with np.errstate(over="ignore"):
        norms: Floats = np.sqrt(np.add.reduceat(np.square(values, out=values), plan.begins))
    is_plain = (PLAIN[0] < norms) & (norms < PLAIN[1])
    for i in plan.single[~is_plain[plan.single]].tolist():
        norms[i] = float(_norm(tensors[i], torch.float64))
    return norms


def _joined(parts: Sequence[Tensor]) -> Floats:
    """Return all elements in float64."""
    joined = torch._C._nn.flatten_dense_tensors([*parts])  # far quicker than views and a cat
    values: Floats = joined.detach().to(torch.float64, copy=True).numpy()
    return values


def norm_of(tensor: Tensor) -> Tensor:
    """Return the L2 norm of a tensor, as a 0-d tensor on its device.

    On a CPU, where float64 takes twenty times as long, each entry of the first dimension is summed
    in float32, and float64 is used only if the norm is too large or too small. No temporaries, and
    no synchronization on other devices.
    """
    if tensor.device.type != "cpu":
        if tensor.element_size() < 4:  # halves: summed in float32 as they are
            return _norm(tensor, torch.float32)
        return norms_of([tensor])[0]
    if tensor.dtype is not torch.float32:
        return _norm(tensor, torch.float64)
    inside = tuple(range(1, tensor.ndim))
    rows = torch.linalg.vector_norm(tensor, dim=inside) if inside else tensor
    norm = _norm(rows, torch.float64)
    if PLAIN[0] < float(norm) < PLAIN[1] or not tensor.any():
        return norm
    return _norm(tensor, torch.float64)


def _norm(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=dtype)
    return norm


def extent_of(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest absolute value of a tensor and its number of nonzero elements."""
    if tensor.device.type == "cpu":
        low, high = torch.aminmax(tensor)
        return torch.maximum(-low, high), torch.count_nonzero(tensor)
    dtype = torch.float32 if tensor.element_size() < 4 else None
    largest: Tensor = torch.linalg.vector_norm(tensor, float("inf"), dtype=dtype)
    nonzero: Tensor = torch.linalg.vector_norm(tensor, 0, dtype=dtype)
    return largest, nonzero


def largest_of(tensors: Sequence[Tensor]) -> Tensor:
    """Return the largest absolute value of each tensor.

    Args:
        tensors: N floating-point tensors on one device, none of them empty.

    Returns:
        (N,) on that device; NaN where a value is. No synchronization, and on a CPU no temporaries.
    """
    device = tensors[0].device.type
    if device == "cpu":  # 7 times faster there than the norm
        parts = [(t,) if t.numel() < SMALL else torch.aminmax(t) for t in tensors]
        sizes = [2 if len(ends) > 1 else ends[0].numel() for ends in parts]
        values, begins = _joined([*chain.from_iterable(parts)]), np.cumsum([0, *sizes[:-1]])
        return torch.from_numpy(np.maximum.reduceat(np.abs(values, out=values), begins))
    if device == "cuda":
        return torch.stack([norm.float() for norm in torch._foreach_norm([*tensors], math.inf)])
    return torch.stack([tensor.abs().amax().float() for tensor in tensors])


def nonzeros_of(gradients: Sequence[Tensor]) -> Tensor:
    """(N,) number of elements of each gradient that are not exactly zero. No synchronization."""
    if all(one.dtype is torch.float32 and one.device.type == "cpu" for one in gradients):
        counts = [np.count_nonzero(one.detach().numpy() != 0) for one in gradients]
        return torch.tensor(counts, dtype=torch.float64)
    return torch.stack([torch.count_nonzero(gradient) for gradient in gradients])
