"""Highest and lowest values over a share of the run: the range that noise has reached so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from yolo_gradwatch.measure.arrays import Floats

STRETCH_SHARE = 0.02
"""A stretch is full when it holds this share of the steps before it."""

STRETCH_STEPS = 4
"""Minimum number of steps in a stretch."""

STRETCHES = 30
"""Stretches kept, including the newest: the last 45 % of the steps."""


class Past:
    """Highest and lowest values of K columns, by stretches of steps, in memory that does not grow.

    The span grows with the run, so that noise sets a record as often from step 100 to 200 as from
    100,000 to 200,000.

    Args:
        columns: Number of columns, K.
        recent: Number of newest stretches that do not count yet.

    Attributes:
        seen: Number of steps so far.
    """

    def __init__(self, columns: int, recent: int = 0) -> None:
        # A row of `_low` and `_high` is a stretch, 2 % of the steps before it. With 5 recent ones:
        #
        #   row  0 . . . . . . . 24 | 25 . . . 28      29
        #        oldest,            |            newest,
        #        in the band        |   recent   filling
        #
        # When the newest is full, all move up one row and the oldest is forgotten. If none is
        # recent, all rows are in the band, even the one that is filling.
        self._low = np.full((STRETCHES, columns), np.inf)
        self._high = np.full((STRETCHES, columns), -np.inf)
        self._older = STRETCHES - max(recent, 1)
        self._is_recent = recent > 0
        self._least, self._most = self._low[0], self._high[0]
        self._held = 0
        self.seen = 0

    @property
    def room(self) -> int:
        """Number of steps that still fit into the newest stretch, at least one."""
        return max(STRETCH_STEPS, int(STRETCH_SHARE * (self.seen - self._held))) - self._held

    def add(self, low: Floats, high: Floats) -> None:
        """Add at least one step, but no more than there is `room` for.

        Args:
            low: (S, K) values that can set the lowest.
            high: (S, K) values that can set the highest.
        """
        is_full = len(low) == self.room
        self._low[-1] = np.fmin(self._low[-1], np.fmin.reduce(low))
        self._high[-1] = np.fmax(self._high[-1], np.fmax.reduce(high))
        self._held += len(low)
        self.seen += len(low)
        if is_full:
            self._begin_stretch()

    def band(self) -> tuple[Floats, Floats]:
        """Return the (K,) lowest and the (K,) highest values."""
        if self._is_recent:
            return self._least, self._most
        return np.fmin(self._least, self._low[-1]), np.fmax(self._most, self._high[-1])

    def _begin_stretch(self) -> None:
        self._low, self._high = np.roll(self._low, -1, axis=0), np.roll(self._high, -1, axis=0)
        self._low[-1], self._high[-1] = np.inf, -np.inf
        self._least = np.fmin.reduce(self._low[: self._older])
        self._most = np.fmax.reduce(self._high[: self._older])
        self._held = 0
