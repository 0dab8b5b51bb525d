"""Duration of the learning rate's warm-up, measured where rates are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.causes import at_work
from yolo_gradwatch.measure.loss_items import RATE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yolo_gradwatch.measure.windows import Window

LEAST = 100
"""Minimum batches of a warm-up in some versions of Ultralytics (8.4.0 to 8.4.100)."""


class Warmup:
    """The warm-up of a run.

    A warm-up changes the rates from batch to batch, a schedule from epoch to epoch. So it is over
    once they are equal in two steps of an epoch. Until then, and where rates are unknown, options
    give its maximum duration; beyond that, it lasts as long as a rate rises.

    Args:
        training: Options of the training.
    """

    def __init__(self, training: Mapping[str, object]) -> None:
        epochs = at_work(training, "warmup_epochs")
        self._epochs = epochs if isinstance(epochs, (int, float)) else 0
        self._before: tuple[int, int, tuple[float | None, ...]] = (0, 0, ())
        self._over: int | None = None
        self._highest: tuple[float | None, ...] = ()
        self._rises = False

    def add(self, window: Window) -> None:
        """Add the newest window."""
        if self._epochs <= 0 or self._over is not None:
            return
        rates = [one for one in window.losses if one.item.startswith(RATE)]
        if not rates:
            return
        lowest, highest = tuple(one.min for one in rates), tuple(one.max for one in rates)
        self._rises = any(b and h and h > b for b, h in zip(self._highest, highest, strict=False))
        self._highest = highest
        epoch, step, before = self._before
        self._before = window.epoch, window.step_first, lowest if lowest == highest else ()
        if epoch == window.epoch and lowest == highest == before:
            self._over = step
        elif window.steps > 1 and lowest == highest:
            self._over = window.step_first

    def covers(self, epoch: int, step: int) -> bool:
        """Return whether the warm-up covers a step."""
        if self._over is not None and step >= self._over:
            return False
        is_least = self._rises and self._epochs > 0 and step <= LEAST
        return epoch - 1 < self._epochs or is_least
