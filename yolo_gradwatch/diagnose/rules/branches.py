"""Branches of the head and the steps in which they get a gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose.graph import BOXES
from yolo_gradwatch.diagnose.rules.items import steps_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.measure.arrays import Counts
    from yolo_gradwatch.measure.windows import Window


def name(history: History, family: str) -> str:
    """The module of a family."""
    return f"{history.layout.head}.{family}"


def box_families(history: History) -> list[str]:
    """The families of the boxes: one, or the pair of YOLO26."""
    return [family for family in history.graph.families if family.endswith(BOXES)]


def without(history: History, windows: Sequence[Window], family: str) -> Counts:
    """(W, S) applied steps without a gradient, by window and scale."""
    rows = [history.graph.rows[unit] for unit in history.graph.families[family]]
    return np.array([(window.zero + window.none)[rows] for window in windows]).reshape(
        -1, len(rows)
    )


def silent_steps(history: History, windows: Sequence[Window], family: str) -> int:
    """Applied steps without a gradient at any scale; of wide windows, at the most so many."""
    return int(without(history, windows, family).min(axis=1).sum())


def shares(history: History, recent: Sequence[Window]) -> dict[str, float]:
    """For each box family the share of steps without a gradient at any scale; none if too few."""
    steps = steps_of(recent)
    families = box_families(history) if steps else []
    return {family: silent_steps(history, recent, family) / steps for family in families}
