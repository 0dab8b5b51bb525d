"""Clipping and skipped steps of each pass over an epoch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from yolo_gradwatch.measure.clipping import Clipping

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from yolo_gradwatch.measure.arrays import Floats
    from yolo_gradwatch.measure.clipping import EpochClipping
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.sample import Sample


class Epochs:
    """The passes over the epochs of a training; a restart repeats an epoch in a new pass.

    Args:
        layout: Layout of the watched model.
        clip: Total norm above which the trainer clips.
        past: The passes of the continued run.
    """

    def __init__(self, layout: Layout, clip: float, past: Iterable[EpochClipping] = ()) -> None:
        self._layout = layout
        self._clip = clip
        self._past = list(past)
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Begin a pass."""
        self._epoch = epoch
        self._running = Clipping(epoch, self._clip, self._layout)

    def regroup(self, layout: Layout) -> None:
        """Continue with a layout that has more modules."""
        self._layout = layout
        self._running.regroup(layout)

    def add(self, samples: Sequence[Sample], norms: Floats) -> None:
        """Add steps, with their (S, M) module norms."""
        self._running.add(samples, norms)

    def end(self, last_step: int) -> EpochClipping | None:
        """End the running pass and return it; None if it had no step."""
        over = self._result(last_step)
        self.begin(self._epoch)
        if not over.steps:
            return None
        self._past.append(over)
        return over

    def so_far(self, last_step: int) -> tuple[EpochClipping, ...]:
        """Return every pass that had a step, the running one last."""
        running = self._result(last_step)
        return (*self._past, running) if running.steps else tuple(self._past)

    def _result(self, last_step: int) -> EpochClipping:
        return replace(self._running.result(), step_last=last_step)
