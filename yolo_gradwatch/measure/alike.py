"""Checks that tensors still have the types, sizes, strides and devices they had before."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Alike:
    """Compares N tensors with those of an earlier step, whatever their values and addresses.

    This is checked for every tensor in every step: a kernel that gets an address with the size or
    device of another tensor ends the training. PyTorch's own guard, which checks whether compiled
    code still fits, needs a single call; where it is missing, Python checks.
    """

    def __init__(self) -> None:
        self._missing: list[bool] | None = None  # None: no tensor is missing
        self._guard: Any = None
        self._facts: list[object] | None = None

    def holds(self, tensors: Sequence[Tensor | None]) -> bool:
        """Whether the tensors are like those noted last, with the same ones missing."""
        if self._guard is None:
            return self._facts == _facts(tensors)
        if self._missing is None:
            return bool(self._guard.check(*tensors))
        if self._missing != [one is None for one in tensors]:
            return False
        return bool(self._guard.check(*(one for one in tensors if one is not None)))

    def note(self, tensors: Sequence[Tensor | None]) -> None:
        """Compare with these tensors from now on."""
        present = [one for one in tensors if one is not None]
        is_whole = len(present) == len(tensors)
        self._missing = None if is_whole else [one is None for one in tensors]
        self._guard = guard_of(present)
        self._facts = _facts(tensors) if self._guard is None else None


def guard_of(tensors: Sequence[Tensor]) -> Any:
    """Return a guard for such tensors; None where PyTorch has none, for no tensors or a duplicate.

    It is not public, so it is tried on examples before it is trusted.
    """
    guard = _plain_guard_of(tensors) if tensors and _is_trusted() else None
    return guard if guard is not None and guard.check(*tensors) else None


def _plain_guard_of(tensors: Sequence[Tensor]) -> Any:
    ways = {"dynamic_dims_sizes": None, "dynamic_dims_strides": None}  # none may vary
    try:
        return torch._C._dynamo.guards.TensorGuards(*tensors, **ways)
    except Exception:  # noqa: BLE001  # another version
        return None


@cache
def _is_trusted() -> bool:
    """Whether a guard accepts a tensor like its own, and refuses each kind that must not pass."""
    one = torch.zeros(2, 2)
    others = [one[0], one.new_zeros(2, 3), one.new_zeros(2, 3)[:, :2], one[:1].expand(2, 2), None]
    others += [one.double(), one.int(), one.to("meta"), one.to_sparse()]
    guard = _plain_guard_of([one])
    if guard is None:
        return False
    try:
        return bool(guard.check(one.clone())) and not any(guard.check(other) for other in others)
    except Exception:  # noqa: BLE001  # another version
        return False


def _facts(tensors: Sequence[Tensor | None]) -> list[object]:
    return [
        one is not None and (type(one), one.dtype, one.device, one.layout, one.shape, one.stride())
        for one in tensors
    ]
