"""Gradient statistics of an optimizer step, computed on the device of the gradients."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from yolo_gradwatch.measure.host import PLAIN, Plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

FLOAT64 = ("cpu", "cuda")
"""Device types known to have float64; MPS has none, others are unknown."""

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


def norms_of(tensors: Sequence[Tensor], plan: Plan | None = None) -> Tensor:
    """Return the L2 norm of each tensor, summed in float64 where the device has it.

    On a CPU, large tensors are summed in part in float32, as `Plan` describes.

    Args:
        tensors: N tensors on one device, at least one.
        plan: The plan for their shapes, if there is one already.

    Returns:
        Tensor of shape (N,) on that device; float64 on a CPU, and from torch 2.4 on with CUDA, else
        float32 (MPS has no other). No synchronization.
    """
    device = tensors[0].device.type
    if device == "cpu":
        return torch.from_numpy((plan or Plan(tensors)).read(tensors).norms)
    if _HAS_DTYPE and device in FLOAT64:
        return torch.stack(torch._foreach_norm([*tensors], 2, dtype=torch.float64))
    return torch.stack([norm.float() for norm in torch._foreach_norm([*tensors], 2)])


def norm_of(tensor: Tensor) -> Tensor:
    """Return the L2 norm of a tensor, as a 0-d tensor on its device.

    On a CPU, where float64 takes twenty times as long, each entry of the first dimension is summed
    in float32, and float64 is used only if the norm is too large or too small. No temporaries, and
    no synchronization on other devices.
    """
    if tensor.device.type != "cpu":
        if tensor.dtype is torch.float16:
            return _norm(tensor, torch.float32)
        if tensor.dtype is torch.bfloat16:  # float32 cannot hold all of its squares
            return _norm(tensor, precision(tensor.device))
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
        (N,) on that device; NaN where a value is. No synchronization.
    """
    device = tensors[0].device.type
    if device == "cpu":
        return torch.from_numpy(Plan(tensors).read(tensors, norms=False, largest=True).largest)
    if device == "cuda":
        return torch.stack([norm.float() for norm in torch._foreach_norm([*tensors], math.inf)])
    return torch.stack([tensor.abs().amax().float() for tensor in tensors])


def nonzeros_of(gradients: Sequence[Tensor]) -> Tensor:
    """(N,) number of elements of each gradient that are not exactly zero. No synchronization."""
    return torch.stack([torch.count_nonzero(gradient) for gradient in gradients])
