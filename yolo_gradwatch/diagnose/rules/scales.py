"""The rule about scales of the head on which hardly any object lands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose.causes import now
from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules.branches import box_families, without
from yolo_gradwatch.diagnose.rules.history import Hit, begin, last

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.windows import Window

USUAL = 3
"""Scales of a head that are P3, P4 and P5."""

CRUMBS = 4.0
"""Decades below the strongest scale from which a gradient is a crumb.

Scales that learn lie 0 to 3 below in most steps; those on which no object lands from 4.6 to 18, or
they get exactly 0.
"""

STARVED = 0.1
"""Share of the steps with objects in which a scale may learn, crumbs aside, and be starved.

In recorded trainings the scales lie between 0 and 0.1, or from 0.2 on.
"""


def starved_scale(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Scales of the head whose boxes hardly learn, while those of another scale do.

    Crumbs count as nothing. One family alone may be silent for long: of the pair that YOLO26
    trains, one gets a single box an object. Value and limit: windows.
    """
    count = limits.dead_branch_windows
    recent = last(history, count)
    found = [_learned(history, recent, family) for family in box_families(history)]
    if not recent or not found or any(of < count / 2 for _, of in found):
        return
    scales = [
        s
        for s in range(len(found[0][0]))
        if all(learned[s] <= STARVED * of for learned, of in found)
    ]
    learned, of = max(found, key=lambda one: sum(one[0][s] for s in scales))
    places = [_scale(s, len(learned)) for s in scales]
    values = (float(of), *(float(learned[s]) for s in scales))
    reason = Reason("scales", tuple(places), values, rank=len(scales))
    for s in scales:
        first, *others = (history.graph.families[f][s] for f in box_families(history))
        yield Hit(first, count, count, begin(recent[0]), tuple(others), reason)


def starved_scale_words(case: Case) -> Message:
    """Scales of the head on which hardly any object lands."""
    size = now(case.training, "imgsz")
    what, how = f"{case.where}: no object lands on this scale of the head", ""
    if reason := case.finding.reason:
        of, *learned = reason.values
        places = " and ".join(reason.names)
        what = f"{case.where}: hardly any object lands on {places} of the head"
        pairs = zip(reason.names, learned, strict=True)
        counts = " and ".join(f"{place} in {n:,.0f}" for place, n in pairs)
        how = f"; boxes taught {counts} of {of:,.0f} steps"
    return Message(
        what=what,
        since=f"{case.since}{how}; other scales learn, so no branch is dead",
        why="The sizes of the boxes in pixels decide which scale learns, so that this is normal "
        "where objects have one size.",
        remedy=f"If they have not, check {size} and the sizes of the boxes.",
    )


def _learned(history: History, recent: Sequence[Window], family: str) -> tuple[list[int], int]:
    """Steps in which each scale of a box family learned, and in which any did."""
    if not recent:
        return [], 0
    rows = [history.graph.rows[unit] for unit in history.graph.families[family]]
    applied = np.array([[window.steps - window.skipped] for window in recent])
    learned = applied - without(history, recent, family)
    norms = np.array([window.norm_mean[rows] for window in recent], np.float64)
    with np.errstate(invalid="ignore"):  # NaN: no gradient at all
        learned[~(norms > np.fmax.reduce(norms, axis=1)[:, None] * 10.0**-CRUMBS)] = 0
    return learned.sum(axis=0).tolist(), int(learned.max(axis=1).sum())


def _scale(scale: int, count: int) -> str:
    """What a scale is called; heads of three have P3, P4 and P5 as a rule."""
    return f"P{3 + scale}" if count == USUAL else f"scale {scale + 1} of {count}"


STARVED_SCALE = Rule(
    name="starved_scale",
    severity="notice",
    threshold="dead_branch_windows",
    unit="windows",
    judge=starved_scale,
    needs=lambda limits: limits.dead_branch_windows,
    words=starved_scale_words,
    meaning="hardly any object lands on a scale of the head for that many windows",
    not_meaning="that the branch is dead: other scales learn",
    remedy="`imgsz`, if the objects should land there",
)
