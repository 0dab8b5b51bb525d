"""History of levels over a training, in constant memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.measure.arrays import Floats

HISTORY = 128
"""Points that are kept; when all are in use, neighbours are merged."""


class History:
    """Up to `HISTORY` points of B series, each the mean of equally many steps."""

    def __init__(self) -> None:
        self._points = np.empty((HISTORY, 0))
        self._filled = 0
        self._stride = 1  # steps in a point
        self._sum: Floats = np.zeros(0)  # over the steps of the point that is not full yet
        self._summed = 0

    def add(self, levels: Floats) -> None:
        """Add the (B,) levels of a step."""
        self._sum = self._sum + levels if self._summed else levels
        self._summed += 1
        if self._summed < self._stride:
            return
        if self._filled == HISTORY:
            self._points[: HISTORY // 2] = self._points.reshape(HISTORY // 2, 2, -1).mean(axis=1)
            self._filled, self._stride = HISTORY // 2, 2 * self._stride
            return  # the sum is now half of a point and continues to fill
        self._points[self._filled] = self._sum / self._summed
        self._filled += 1
        self._summed = 0

    def points(self) -> Floats:
        """(H, B) points, oldest first; the newest may cover fewer steps than the others."""
        points = self._points[: self._filled].copy()
        return np.vstack([points, self._sum / self._summed]) if self._summed else points

    def regroup(self, old: Sequence[int]) -> None:
        """Continue with another set of series.

        Args:
            old: For each new series its previous index, or -1 if it has no past; its past is then
                -Inf throughout.
        """
        self._points = np.pad(self._points, ((0, 0), (0, 1)), constant_values=-np.inf)[:, old]
        self._sum = np.append(self._sum, -np.inf)[old]
