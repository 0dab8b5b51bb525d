"""The rule about scales of the head that hardly get any objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose.causes import now
from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.phrases import joined
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
"""Number of scales in a head with P3, P4 and P5."""

CRUMBS = 4.0
"""Decades below the strongest scale at which a gradient is negligible, a crumb.

Scales that learn are 0 to 3 below in most steps; those without objects are 4.6 to 18 below, or get
exactly 0.
"""

STARVED = 0.1
"""Share of the steps with objects in which a starved scale may still learn, crumbs aside.

In long trainings (300 to 900 steps with objects) the scales are between 0 and 0.01, or at 0.42 and
more, each family on its own: of the pair that YOLO26 trains, one may starve alone.
"""

PAIRED = "one2one"
"""Part of the names of the branches that get a single box per object."""

ENOUGH = 200
"""Minimum number of steps with objects for a share to mean anything.

In trainings of 300 steps, of which the windows hold 100, a scale may be anywhere between 0 and 1:
the pair's one-to-one boxes at 0.02 to 0.09 where the others are at 0.6, and 0.16 to 0.36 falling to
0.
"""


def starved_scale(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield scales of the head whose boxes hardly learn, while those of another scale do.

    Crumbs count as nothing. Of the pair that YOLO26 trains, one family may starve alone. Value and
    limit: windows.
    """
    count = limits.dead_branch_windows
    recent = last(history, count)
    starved: dict[str, dict[int, float]] = {}
    affected: dict[int, list[str]] = {}
    known: dict[str, int] = {}
    for family in box_families(history) if recent else ():
        learned, known[family] = _learned(history, recent, family)
        if known[family] < ENOUGH:
            continue
        for s in (s for s, steps in enumerate(learned) if steps <= STARVED * known[family]):
            if s in affected:  # as in the previous family, which is named
                affected[s].append(history.graph.families[family][s])
            else:
                starved.setdefault(family, {})[s] = learned[s]
                affected[s] = []
    for family, scales in starved.items():
        units = history.graph.families[family]
        places = tuple(_scale(s, len(units)) for s in scales)
        values = (float(known[family]), *map(float, scales.values()))
        reason = Reason("scales", places, values, rank=len(places))
        for s in scales:
            yield Hit(units[s], count, count, begin(recent[0]), tuple(affected[s]), reason)


def starved_scale_words(case: Case) -> Message:
    """Describe scales of the head to which hardly any objects are assigned."""
    size = now(case.training, "imgsz")
    place, how = "this scale", ""
    is_single = PAIRED in case.finding.module
    own = ", and this branch gets only one box per object" if is_single else ""
    if reason := case.finding.reason:
        of, *learned = reason.values
        place = joined(reason.names)
        pairs = zip(reason.names, learned, strict=True)
        counts = ", ".join(f"{name} in {n:,.0f}" for name, n in pairs)
        how = f" ({counts} of {of:,.0f} steps)"
    return Message(
        what=f"{case.where}: hardly any objects have been assigned to {place} of the head",
        since=f"{case.since}{how}; other scales learn, so no branch is dead",
        why=f"The box sizes in pixels decide which scale learns{own}, so this is normal if all "
        "objects have a similar size.",
        remedy=f"If they do not, check {size} and the box sizes.",
    )


def _learned(history: History, recent: Sequence[Window], family: str) -> tuple[list[int], int]:
    """Return the steps in which each scale of a box family learned, and in which any did."""
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
    """Return the name of a scale; heads of three usually have P3, P4 and P5."""
    return f"P{3 + scale}" if count == USUAL else f"scale {scale + 1} of {count}"


STARVED_SCALE = Rule(
    name="starved_scale",
    severity="notice",
    threshold="dead_branch_windows",
    unit="windows",
    judge=starved_scale,
    needs=lambda limits: limits.dead_branch_windows,
    words=starved_scale_words,
    meaning="hardly any objects are assigned to a scale of the head for that many windows",
    not_meaning="that the branch is dead: other scales learn",
    remedy="check `imgsz` if objects of that size are expected",
)
