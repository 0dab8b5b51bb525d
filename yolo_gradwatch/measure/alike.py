"""Whether tensors are still of the types, sizes, strides and devices that they were found to be."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Alike:
    """Compares N tensors with those of a step before, whatever their values and addresses.

    Asked of every tensor in every step: an address that is handed to a kernel with the size or the
    device of another tensor ends the training. PyTorch's own guard, with which it asks whether
    compiled code still fits, takes a single call; where it is missing, Python asks.
    """

    def __init__(self) -> None:
        self._missing: list[bool] | None = None  # none is
        self._guard: Any = None
        self._facts: list[object] | None = None

    def holds(self, tensors: Sequence[Tensor | None]) -> bool:
        """Whether the tensors are like those that were noted last, missing where those were."""
        if self._guard is None:
            return self._facts == _facts(tensors)
        if self._missing is None:
            return bool(self._guard.check(*tensors))
        if self._missing != [one is None for one in tensors]:
            return False
        return bool(self._guard.check(*(one for one in tensors if one is not None)))

    def note(self, tensors: Sequence[Tensor | None]) -> None:
        """Compare with these from now on."""
        there = [one for one in tensors if one is not None]
        is_whole = len(there) == len(tensors)
        self._missing = None if is_whole else [one is None for one in tensors]
        self._guard = guard_of(there)
        self._facts = _facts(tensors) if self._guard is None else None


def guard_of(tensors: Sequence[Tensor]) -> Any:
    """What asks of such tensors; None where PyTorch cannot, as of none or one that is there twice.

    It has no public name, so it is tried on examples before it is trusted.
    """
    guard = _plain_guard_of(tensors) if tensors and _is_trusted() else None
    return guard if guard is not None and guard.check(*tensors) else None


def _plain_guard_of(tensors: Sequence[Tensor]) -> Any:
    ways = {"dynamic_dims_sizes": None, "dynamic_dims_strides": None}  # none may differ
    try:
        return torch._C._dynamo.guards.TensorGuards(*tensors, **ways)
    except Exception:  # noqa: BLE001  # of another version
        return None


@cache
def _is_trusted() -> bool:
    """Whether a guard refuses whatever must not pass, and nothing else."""
    one = torch.zeros(2, 2)
    others = [one[0], one.new_zeros(2, 3), one.new_zeros(2, 3)[:, :2], one[:1].expand(2, 2), None]
    others += [one.double(), one.int(), one.to("meta"), one.to_sparse()]
    guard = _plain_guard_of([one])
    if guard is None:
        return False
    try:
        return bool(guard.check(one.clone())) and not any(guard.check(other) for other in others)
    except Exception:  # noqa: BLE001  # of another version
        return False


def _facts(tensors: Sequence[Tensor | None]) -> list[object]:
    return [
        one is not None and (type(one), one.dtype, one.device, one.layout, one.shape, one.stride())
        for one in tensors
    ]
