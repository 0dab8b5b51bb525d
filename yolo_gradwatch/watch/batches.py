"""Contents of the batches of an optimizer step, and what happened in the newest batch."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.measure.losses import LossMeter
from yolo_gradwatch.runs.evidence import Batch
from yolo_gradwatch.watch.ultralytics import contract
from yolo_gradwatch.watch.ultralytics import training as facts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.measure.losses import Taken

MOST_BATCHES = 1024
"""Batches of one optimizer step whose images are remembered."""


class Batches:
    """Images, object counts and loss items of the batches since the previous captured step.

    The loss items cover all these batches; the images are those of the newest step alone.
    """

    def __init__(self) -> None:
        self._meter = LossMeter()
        self._made_of: deque[Batch] = deque(maxlen=MOST_BATCHES)
        self._is_read = False
        self._has_stepped = False

    def begin(self, images: Sequence[str], objects: int | None) -> None:
        """Note the images of a batch that is about to enter the model."""
        self._made_of.append(Batch(images, objects))

    def read(self, trainer: Any) -> list[Batch]:
        """Note that the gradients were read in a step's last batch; return the step's batches."""
        self._meter.add(*facts.losses(trainer))
        self._is_read = True
        made_of = list(self._made_of)
        self._made_of.clear()
        return made_of

    def take_losses(self, trainer: Any) -> Taken:
        """Return the loss items so far and the learning rates."""
        return self._meter.take(facts.learning_rates(trainer))

    def note_step(self) -> None:
        """Note that the optimizer has stepped in this batch."""
        self._has_stepped = True

    def end(self, trainer: Any) -> None:
        """Note the end of a batch.

        Raises:
            Unwatchable: The optimizer stepped in it, but the gradients were not read.
        """
        if not self._is_read:
            self._meter.add(*facts.losses(trainer))
        if self._has_stepped and not self._is_read:
            raise contract.skipped_unscale(type(trainer))
        self._has_stepped = self._is_read = False

    def forget(self) -> None:
        """Drop everything: the gradients of these batches were discarded."""
        self._made_of.clear()
        self._meter.forget()
