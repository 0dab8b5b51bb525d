"""The highest and lowest values of a share of the run, which is what noise has reached so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from yolo_gradwatch.measure.arrays import Floats

STRETCH_SHARE = 0.02
"""A stretch is full when it holds this share of the steps so far."""

STRETCH_STEPS = 4
"""Steps of a stretch at the least."""

STRETCHES = 30
"""Stretches that are kept, the newest included: the last 45 % of the steps."""


class Past:
    """Highest and lowest of K columns, by stretches of the steps, in memory that does not grow.

    What it spans grows with the run, so that noise sets a record as often from step 100 to 200 as
    from 100,000 to 200,000.

    Args:
        columns: K.
        recent: How many of the newest stretches do not count yet.

    Attributes:
        seen: Steps so far.
    """

    def __init__(self, columns: int, recent: int = 0) -> None:
        self._low = np.full((STRETCHES, columns), np.inf)
        self._high = np.full((STRETCHES, columns), -np.inf)
        self._older = STRETCHES - max(recent, 1)
        self._is_recent = recent > 0
        self._least, self._most = self._low[0], self._high[0]
        self._held = 0
        self.seen = 0

    @property
    def room(self) -> int:
        """Steps, at least one, that the newest stretch still takes."""
        return max(STRETCH_STEPS, int(STRETCH_SHARE * (self.seen - self._held))) - self._held

    def add(self, low: Floats, high: Floats) -> None:
        """Add at least one step, and no more than there is `room` for.

        Args:
            low: (S, K) values that count for the lowest.
            high: (S, K) the same for the highest.
        """
        is_full = len(low) == self.room
        self._low[-1] = np.fmin(self._low[-1], np.fmin.reduce(low))
        self._high[-1] = np.fmax(self._high[-1], np.fmax.reduce(high))
        self._held += len(low)
        self.seen += len(low)
        if is_full:
            self._begin_stretch()

    def band(self) -> tuple[Floats, Floats]:
        """(K,) the lowest and (K,) the highest."""
        if self._is_recent:
            return self._least, self._most
        return np.fmin(self._least, self._low[-1]), np.fmax(self._most, self._high[-1])

    def _begin_stretch(self) -> None:
        self._low, self._high = np.roll(self._low, -1, axis=0), np.roll(self._high, -1, axis=0)
        self._low[-1], self._high[-1] = np.inf, -np.inf
        self._least = np.fmin.reduce(self._low[: self._older])
        self._most = np.fmax.reduce(self._high[: self._older])
        self._held = 0
