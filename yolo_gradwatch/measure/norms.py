"""What is computed of the gradients of an optimizer step, on their device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

FLOAT64 = ("cpu", "cuda")
"""Kinds of devices that are known to have float64; MPS has none, of others nothing is known."""

_HAS_DTYPE = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 4)


def precision(device: torch.device) -> torch.dtype:
    """The type of numbers in which the values of a step leave a device."""
    return torch.float64 if device.type in FLOAT64 else torch.float32


def norms_of(tensors: list[Tensor]) -> Tensor:
    """L2 norm of each tensor, summed in float64 where the device has it.

    In float32 a norm overflows to Inf from elements of 1e18 on, underflows to 0 below 1e-23, and
    on a CPU the sum over a tensor of 5 million elements is off by 2e-4.

    Args:
        tensors: N tensors on one device, at least one.

    Returns:
        Tensor of shape (N,) on that device; float64 on a CPU, and from torch 2.4 on with CUDA, else
        float32 (MPS has no other). No synchronization.
    """
    device = tensors[0].device.type
    if _HAS_DTYPE and device in FLOAT64:
        return torch.stack(torch._foreach_norm(tensors, 2, dtype=torch.float64))
    if device == "cpu":
        norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]
        return torch.stack(norms)
    return torch.stack([norm.float() for norm in torch._foreach_norm(tensors, 2)])


def details_of(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Norms of the parameters, and for each weight with a gradient its non-zero elements.

    Args:
        parameters: P on one device; a weight has two or more dimensions.

    Returns:
        (P,) norms, then (W,) counts where there is any such weight. No synchronization.
    """
    weights = (p.grad for p in parameters if p.ndim >= 2)
    counts = [torch.count_nonzero(weight) for weight in weights if weight is not None]
    return [norms_of([*parameters]), *([torch.stack(counts)] if counts else [])]
