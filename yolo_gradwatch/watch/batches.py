"""What the batches of an optimizer step are made of, and what has happened in the newest one."""

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
    """Images, objects and loss items of the batches since the captured step before.

    The loss items are those of all these batches; the images are those of the newest step alone.
    """

    def __init__(self) -> None:
        self._meter = LossMeter()
        self._made_of: deque[Batch] = deque(maxlen=MOST_BATCHES)
        self._is_read = False
        self._has_stepped = False

    def begin(self, images: Sequence[str], objects: int | None) -> None:
        """A batch goes to the model."""
        self._made_of.append(Batch(images, objects))

    def read(self, trainer: Any) -> list[Batch]:
        """The gradients of a step are read, in its last batch; what its batches were made of."""
        self._meter.add(*facts.losses(trainer))
        self._is_read = True
        made_of = list(self._made_of)
        self._made_of.clear()
        return made_of

    def take_losses(self, trainer: Any) -> Taken:
        """The loss items so far, and the learning rates."""
        return self._meter.take(facts.learning_rates(trainer))

    def note_step(self) -> None:
        """The optimizer has stepped in this batch."""
        self._has_stepped = True

    def end(self, trainer: Any) -> None:
        """A batch is over.

        Raises:
            Unwatchable: The optimizer stepped in it, and the gradients were not read.
        """
        if not self._is_read:
            self._meter.add(*facts.losses(trainer))
        if self._has_stepped and not self._is_read:
            raise contract.skipped_unscale(type(trainer))
        self._has_stepped = self._is_read = False

    def forget(self) -> None:
        """What they have given to the gradient is gone."""
        self._made_of.clear()
        self._meter.forget()
