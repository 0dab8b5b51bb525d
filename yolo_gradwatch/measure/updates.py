"""By how much one step of the optimizer changes the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from yolo_gradwatch.measure.norms import norms_of, room

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn


class Updates:
    """Copies the weights before a step and compares them after it.

    The copies exist during the step alone, when the activations have been freed, so that the
    training's peak of memory does not move.

    Args:
        parameters: P parameters, at least one.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters: list[Tensor] = list(parameters)
        self._before: list[Tensor] = []

    @torch.no_grad()
    def begin(self) -> None:
        """Keep the weights: the optimizer is about to step.

        Raises:
            MemoryError: There is no room for them on the device.
        """
        with room():
            self._before = [p.clone() for p in self._parameters]

    @torch.no_grad()
    def end(self) -> tuple[Tensor, Tensor] | None:
        """Compare: the optimizer has stepped.

        Returns:
            (P,) L2 norms of the weights before the step and (P,) of their change, on the device;
            None if the weights were not kept. No synchronization.

        Raises:
            MemoryError: See `begin`.
        """
        before, self._before = self._before, []
        if not before:
            return None
        with room():
            norms = norms_of(before)
            torch._foreach_sub_(before, self._parameters)
            return norms, norms_of(before)

    def forget(self) -> None:
        """Let go of the weights that were kept for a step that did not come to its end."""
        self._before = []
