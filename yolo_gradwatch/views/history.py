"""The levels of a training so far, in memory that does not grow with the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.measure.arrays import Floats

HISTORY = 128
"""Points that are kept; when they are used up, neighbours merge."""


class History:
    """Up to `HISTORY` points of B series, each the mean of equally many steps."""

    def __init__(self) -> None:
        self._points = np.empty((HISTORY, 0))
        self._filled = 0
        self._stride = 1  # steps in a point
        self._sum: Floats = np.zeros(0)  # of the steps that have not filled a point
        self._summed = 0

    def add(self, levels: Floats) -> None:
        """Take a step's (B,) levels."""
        self._sum = self._sum + levels if self._summed else levels
        self._summed += 1
        if self._summed < self._stride:
            return
        if self._filled == HISTORY:
            self._points[: HISTORY // 2] = self._points.reshape(HISTORY // 2, 2, -1).mean(axis=1)
            self._filled, self._stride = HISTORY // 2, 2 * self._stride
            return
        self._points[self._filled] = self._sum / self._summed
        self._filled += 1
        self._summed = 0

    def points(self) -> Floats:
        """(H, B) points, oldest first, the newest made of the steps that have not filled one."""
        points = self._points[: self._filled].copy()
        return np.vstack([points, self._sum / self._summed]) if self._summed else points

    def regroup(self, old: Sequence[int]) -> None:
        """Go on with other series: for each its number of before, or -1 for one without a past.

        The past of a new one is -Inf throughout.
        """
        self._points = np.pad(self._points, ((0, 0), (0, 1)), constant_values=-np.inf)[:, old]
        self._sum = np.append(self._sum, -np.inf)[old]
