"""Branches of the head, and the steps in which they get a gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from yolo_gradwatch.diagnose.graph import BOXES
from yolo_gradwatch.diagnose.rules.items import empty_batches, steps_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.measure.arrays import Counts
    from yolo_gradwatch.measure.windows import Window


def name(history: History, family: str) -> str:
    """Return the name of a family's module."""
    return f"{history.layout.head}.{family}"


def box_families(history: History) -> list[str]:
    """Return the families of the boxes: one, or the pair of YOLO26."""
    return [family for family in history.graph.families if family.endswith(BOXES)]


def without(history: History, windows: Sequence[Window], family: str) -> Counts:
    """Return (W, S) applied steps without a gradient, by newest window and scale."""
    newest = history.readings[len(history.readings) - len(windows) :]
    size = len(history.graph.families[family])
    return np.array([one.without[family] for one in newest], np.int64).reshape(-1, size)


class Silence(NamedTuple):
    """Applied steps without a gradient at any scale of a family.

    A window counts the zeros of each scale separately, so a window of several steps only bounds how
    often all scales were zero at once.

    Attributes:
        least: Lower bound.
        most: Upper bound.
    """

    least: int
    most: int


def silence(history: History, windows: Sequence[Window], family: str) -> Silence:
    """Return how often a family got no gradient; for boxes, losses narrow the bounds."""
    zeros = without(history, windows, family)
    applied = np.array([window.steps - window.skipped for window in windows])
    least = np.maximum(zeros.sum(axis=1) - (zeros.shape[1] - 1) * applied, 0)
    most = zeros.min(axis=1)
    for w in np.flatnonzero(least < most).tolist() if family.endswith(BOXES) else ():
        empty = empty_batches(windows[w])
        if empty is not None:
            most[w] = max(min(int(most[w]), empty.batches), int(least[w]))
            least[w] = most[w] if empty.is_by_step else least[w]
    return Silence(int(least.sum()), int(most.sum()))


def shares(history: History, recent: Sequence[Window]) -> dict[str, float]:
    """Return each box family's share of steps without a gradient at any scale; empty if too few.

    If windows only bound it, this is the upper bound.
    """
    steps = steps_of(recent)
    families = box_families(history) if steps else []
    return {family: silence(history, recent, family).most / steps for family in families}
