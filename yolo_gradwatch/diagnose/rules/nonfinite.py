"""The rules about gradients that are NaN or Inf, and about the steps that AMP skips for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose import causes
from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.rules.history import Hit, begin, is_frozen, names
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.arrays import Flags


def nonfinite(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Modules with a NaN or Inf gradient in a step that was applied, or in too many skipped ones.

    AMP's scaler skips a step with an overflow and lowers its scale: calibration, until it has
    done so more often in a row than any scale explains. Value: bad steps, limit: how many are
    allowed.
    """
    newest, leaves = history.newest, history.graph.leaves
    for m in np.flatnonzero(newest.nonfinite * leaves):
        yield Hit(history.layout.modules[m], float(newest.nonfinite[m]), 0.0, begin(newest))
    skips = sum(window.skipped for window in history.skipped)
    if skips > limits.amp_grace:
        bad = leaves & np.isnan(newest.norm_mean) & ~_without_gradient(history)
        for name in names(history.layout, bad) or [WHOLE]:
            since = begin(history.skipped[0])
            yield Hit(name, float(skips), float(limits.amp_grace), since)


def nonfinite_words(case: Case) -> Message:
    """NaN or Inf in steps that were applied, or in too many that AMP skipped."""
    why, remedy = causes.of_nonfinite(case.layout, case.training, case.finding)
    what = f"{case.where}: NaN or Inf in the gradient"
    has_come_back = len(case.finding.episodes) > 1
    checkpoint = (
        "an earlier checkpoint, because last.pt, from which Ultralytics recovers, is probably "
        "spoiled as well"
        if has_come_back
        else "the last checkpoint"
    )
    if case.finding.limit:
        return Message(
            what=f"{what}, AMP skipped each of the {case.finding.value:,.0f} steps captured",
            since=f"{case.since}: nothing is learned",
            why=f"Probably {why}.",
            remedy="Lowering the loss scale does not help. Try amp=False; if it stays, "
            f"{remedy}.{f' Restart from {checkpoint}.' if has_come_back else ''}",
        )
    first = "amp=False or bfloat16 first, then " if causes.at_work(case.training, "amp") else ""
    return Message(
        what=what,
        since=f"{case.since}{case.others(' by now')}",
        why=f"Probably {why}.",
        remedy=f"Clipping spreads it to every weight, so restart from {checkpoint}. Try "
        f"{first}{remedy}.",
    )


def amp_overflow(history: History, limits: Thresholds) -> Iterator[Hit]:
    """The whole model, when AMP's scaler skipped a step to calibrate its scale.

    Value: steps skipped, limit: how many in a row would be an alarm.
    """
    newest = history.newest
    in_a_row = sum(window.skipped for window in history.skipped)
    if newest.skipped and in_a_row <= limits.amp_grace:
        yield Hit(WHOLE, float(newest.skipped), float(limits.amp_grace), begin(newest))


def amp_overflow_words(case: Case) -> Message:
    """A step that AMP skipped to find its scale."""
    return Message(
        what="AMP skipped a step and lowered its loss scale",
        since=f"at step {case.finding.episodes[-1].step:,} or soon after",
        why="That is calibration, and harmless unless it happens many times in a row.",
    )


def _without_gradient(history: History) -> Flags:
    """(M,) whether a module had no gradient, or was frozen, in the last window that was applied."""
    if not history.readings:
        return np.zeros(len(history.newest.none), np.bool_)
    last = history.readings[-1].window
    without: Flags = (last.none == last.steps - last.skipped) | is_frozen(last)
    return without
