"""The rules about a gradient that is almost zero: because of a fault, or of convergence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.phrases import significant
from yolo_gradwatch.diagnose.reading import medians
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules.history import Hit, begin, finite, last, totals
from yolo_gradwatch.diagnose.rules.losses import total
from yolo_gradwatch.diagnose.rules.whole import collapse
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds

LOW_WINDOWS = 10
"""Windows in a row with a total norm that is too low."""

BEGAN = 10.0
"""Minimum multiple of the limit at which the norm began, if it fell as the loss did."""

SOLVED = 100.0
"""Factor by which the loss is below its start if the task is solved or memorized. Trainings whose
norm is too low: at least 1,800 if they are solved; at most 3 with broken weights or a tiny loss
weight from the start, unless the loss falls to 0 with weights that have grown."""


def total_low(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield the whole model if its gradient norm is too low, and not because it has converged."""
    for hit, reason in _low(history, limits):
        if reason is None:
            yield hit


def total_low_words(case: Case) -> Message:
    """Describe a total norm that is too low."""
    stops = "" if case.is_strict(is_low=True) else ", so the training may have stopped learning"
    return Message(
        what=f"the whole model: total gradient norm {significant(case.finding.value, 2)}, below "
        f"{case.finding.limit:g} ({case.reached(is_low=True)}),",
        since=f"{case.since}{stops}",
        likely="the loss or its gains are far too small, or a high learning rate has destroyed "
        f"the weights{case.moment}.",
        remedy=f"Scale the loss up, or resume from {case.way_back('the last good checkpoint')} "
        f"with {case.lower_rate}.",
    )


def converged(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield the whole model if its gradient norm became low as its loss did.

    This happens when a training has solved its task or memorized its images. If the loss is
    unknown, a gradual fall of the norm, while the weights have not grown, is taken as a sign of it.
    """
    for hit, reason in _low(history, limits):
        if reason is not None:
            yield hit._replace(reason=reason)


def converged_words(case: Case) -> Message:
    """Describe a training that has nothing left to learn."""
    norm = significant(case.finding.value, 2)
    what = f"the whole model: total gradient norm {norm}, below {case.finding.limit:g},"
    reason = case.finding.reason
    if reason is None or not reason.values:
        return Message(
            what=what,
            since=case.since,
            why="It fell gradually, and the loss is not known here. If the loss is near zero, the "
            "training has converged or memorized its images; otherwise it no longer learns.",
            remedy="Check the loss columns of results.csv.",
        )
    first, newest = (significant(value, 2) for value in reason.values)
    return Message(
        what=what,
        since=case.since,
        why=f"Converged or memorized: the loss is near zero (from {first} to {newest}), so "
        "hardly anything is left to learn.",
        remedy="Compare with the validation loss: if that is much higher, use more images or "
        "augmentation; otherwise the training can end here.",
    )


def _low(history: History, limits: Thresholds) -> Iterator[tuple[Hit, Reason | None]]:
    """Yield a norm that is too low for several windows, and the reason if the run has converged."""
    norms = totals(recent := last(history, LOW_WINDOWS))
    if norms and max(norms) < limits.total_low:
        yield Hit(WHOLE, norms[-1], limits.total_low, begin(recent[0])), solved(history, limits)


def solved(history: History, limits: Thresholds) -> Reason | None:
    """Return why a low norm is no fault; None if it is one."""
    began = totals([reading.window for reading in history.opening])
    if not began or max(began) < BEGAN * limits.total_low:  # was it ever higher?
        return None
    if _grown(history) > limits.weight_growth or any(collapse(history, limits)):
        return None
    sums = [total(reading.window) for reading in history.opening]
    newest = [total(window) for window in last(history, LOW_WINDOWS)]
    if not any(window.losses for window in last(history, LOW_WINDOWS)):
        return Reason("unknown")
    first, now = ([one for one in known if one is not None] for known in (sums, newest))
    if not first or len(now) < len(newest) or SOLVED * max(now) > max(first):
        return None
    return Reason("solved", values=(max(first), now[-1]), rank=1)


def _grown(history: History) -> float:
    """Return the decades by which the trunk's median weight has grown since the run began."""
    trunk = history.graph.trunk_weights
    weighed = [r.window for r in (*history.opening[:1], *history.readings) if r.is_weighed]
    if len(weighed) < 2 or not len(trunk):
        return 0.0
    norms = np.array([one.weight_norm[trunk] for one in (weighed[0], weighed[-1])], np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # weights of 0 or NaN say nothing
        grown = finite(np.log10(norms[1]) - np.log10(norms[0]))
    return float(np.nan_to_num(medians(grown[:, None], 1)[0], nan=0.0))


TOTAL_LOW = Rule(
    name="total_low",
    kind="vanishing",
    severity="critical",
    threshold="total_low",
    unit="norm",
    judge=total_low,
    needs=lambda _: LOW_WINDOWS,
    words=total_low_words,
    meaning="the total gradient norm is below the limit for several windows",
    not_meaning="that the loss is small",
    remedy="scale the loss up; an earlier checkpoint; a lower `lr0`",
    healthy=0.3,
    state="low",
    explains=("collapse",),
)


CONVERGED = Rule(
    name="converged",
    severity="notice",
    threshold="total_low",
    unit="norm",
    judge=converged,
    needs=lambda _: LOW_WINDOWS + 1,
    words=converged_words,
    meaning="the total gradient norm fell below the limit as the loss did, or, where the loss is "
    "not known, gradually",
    not_meaning="a fault: the task is solved, or the images are memorized",
    remedy="nothing; more data or augmentation if the validation loss is far higher",
)
