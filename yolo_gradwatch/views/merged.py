"""Merging of windows that share a column of a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.views.heatmap import UNKNOWN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from yolo_gradwatch.measure.arrays import Counts, Floats

_RANKS = np.array([1, 4, 3, 2, 0])  # by state; in a merged column, the highest rank is shown
_BY_RANK = np.argsort(_RANKS)


def merged(
    levels: Floats, states: NDArray[np.uint8], begin: Counts, end: Counts
) -> tuple[Floats, NDArray[np.uint8]]:
    """Merge windows into columns: the mean of the levels, and the worst of the states.

    Args:
        levels: (R, W) log10 of norms; NaN where there is none.
        states: (R, W) as in a `Heatmap`.
        begin: (C,) first window of each column.
        end: (C,) one past its last window.

    Returns:
        (R, C) levels, NaN where none is known, and (R, C) states; all are `UNKNOWN` if W is 0.
    """
    if not levels.shape[1]:
        shape = len(levels), len(begin)
        return np.full(shape, np.nan), np.full(shape, UNKNOWN, np.uint8)
    cuts = np.stack([begin, end], axis=1).ravel()
    spare = ((0, 0), (0, 1))  # reduceat needs every end of a column to be a valid index
    levels = np.pad(levels, spare, constant_values=np.nan)
    ranks = np.pad(_RANKS[states], spare)
    known = ~np.isnan(levels)
    count = np.add.reduceat(known, cuts, axis=1, dtype=np.int64)[:, ::2]
    total = np.add.reduceat(np.where(known, levels, 0.0), cuts, axis=1)[:, ::2]
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    worst = np.maximum.reduceat(ranks, cuts, axis=1)[:, ::2]
    return mean, _BY_RANK[worst].astype(np.uint8)
