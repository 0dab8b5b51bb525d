"""Measures how much one optimizer step changes the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from yolo_gradwatch.measure.host import plan_of
from yolo_gradwatch.measure.norms import norms_of, room
from yolo_gradwatch.measure.table import table_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from yolo_gradwatch.measure.chunks import Chunks


class Moved(NamedTuple):
    """The change made by a step, on the device.

    Attributes:
        before: (P,) L2 norms of the weights before the step; None if they are known already.
        moved: (P,) L2 norms of their change.
        chunks: If not None, both are (C,) sums of squares instead.
    """

    before: Tensor | None
    moved: Tensor
    chunks: Chunks | None = None


class Updates:
    """Copies the weights before a step and compares them after it.

    The copies exist only during the step, when the activations have been freed, so the training's
    peak memory does not change. On CUDA, copying and comparing take one kernel launch each.

    Args:
        parameters: P parameters, at least one.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters: list[Tensor] = list(parameters)
        self._plan = plan_of(self._parameters)
        self._table = table_of(self._parameters)
        self._before: list[Tensor] = []
        self._copies: Tensor | None = None

    @torch.no_grad()
    def begin(self) -> None:
        """Copy the weights just before the optimizer steps.

        Raises:
            MemoryError: The device has no room for the copies.
        """
        self.forget()
        with room():
            if self._table:
                self._copies = self._table.keep(self._parameters)
            if self._copies is None:
                self._before = [p.clone() for p in self._parameters]

    @torch.no_grad()
    def end(self, *, is_weighed: bool = False) -> Moved | None:
        """Compare the weights just after the optimizer has stepped, without synchronization.

        Args:
            is_weighed: Whether their norms before the step are known already. A kernel reads them
                in any case.

        Returns:
            The change; None if the weights were not copied.

        Raises:
            MemoryError: As for `begin`.
        """
        before, copies = self._before, self._copies
        if not before and copies is None:
            return None
        self.forget()
        with room():
            if self._table and copies is not None:
                sums = self._table.compare(self._parameters, copies)
                return None if sums is None else Moved(sums[0], sums[1], self._table.chunks)
            norms = None if is_weighed else norms_of(before, self._plan)
            torch._foreach_sub_(before, self._parameters)
            return Moved(norms, norms_of(before, self._plan))

    def forget(self) -> None:
        """Drop the copies that were made for a step that did not finish."""
        self._before, self._copies = [], None
