"""The rules about learning rates that jump, and weights that suddenly move faster."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from yolo_gradwatch.diagnose.causes import at_work
from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.phrases import factor, significant
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules.history import Hit, begin, finite, is_frozen
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.loss_items import RATE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.arrays import Counts, Floats
    from yolo_gradwatch.measure.windows import Window

RATE_BEFORE = 3
"""Windows with a nonzero rate before a jump counts: a warm-up from 0 doubles it at once."""

SPEED_BEFORE = 20
"""Minimum number of intervals between weight readings that a speed is compared with."""

REMEMBERED = 50
"""Windows in which the weights must have moved more slowly before: in a warm-up they move as fast
as after a jump."""

QUICK = 0.9
"""Quantile of the layers that is judged, because a tenth of them may be at fault alone."""

MOVED = 0.03
"""Minimum decades by which a tenth of the layers have changed since the jump. In intervals of a
healthy training: at most 0.01; with a 50 times higher learning rate: 0.1 in one."""

NEAR = 0.999
"""Share of a limit below which rounding does not matter."""

RECENT = 10
"""Intervals in which weights must have moved that fast for the jump to count as lasting."""

RATE_OF_CODE = "rate"
"""Kind of a reason: a learning rate far above what the options ask for."""

MUCH = 5.0
"""Factor above the highest rate in the options at which other code must have set the rate."""

LEAST_SPEED = 1e-6
"""Decades per step below which a file of three digits, or float32, shows nothing."""


class _Rates(NamedTuple):
    """The highest learning rates of a window, by parameter group."""

    window: Window
    rates: dict[str, float]


def rate_jump(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield the whole model while a learning rate is far above its maximum before a jump.

    A schedule changes it in small steps: after the first step of a warm-up, at most twofold.

    Value: decades above the previous maximum.
    """
    if _is_near(history, limits.rate_jump):
        return
    found_in = [_rates(reading.window) for reading in history.readings]
    known = [one for one in found_in if one.rates] if found_in and found_in[-1].rates else []
    best: tuple[float, int, str] | None = None
    for group in known[-1].rates if known else ():
        series = np.array([one.rates.get(group, np.nan) for one in known])
        found = _jump(series, limits.rate_jump)
        if found and (best is None or found[0] > best[0]):
            best = (*found, group)
    if best is None:
        return
    value, at, group = best
    before, after = known[at - 1].rates[group], known[at].rates[group]
    reason = Reason("rate", (group,), (before, after))
    yield Hit(WHOLE, value, limits.rate_jump, begin(known[at].window), reason=reason)


def rate_jump_words(case: Case) -> Message:
    """Describe a learning rate that jumped."""
    reason = case.finding.reason
    jumped = "jumped to"
    if reason:
        before, after = (significant(value, 2) for value in reason.values)
        jumped = f"jumped from {before} to {after},"
    return Message(
        what=f"the whole model: the learning rate {jumped} {factor(case.finding.value)} its "
        "previous maximum,",
        since=case.at,
        why="Neither a warm-up nor a schedule jumps like this: check what changed at that step, "
        "such as a callback, a custom scheduler or a resume.",
        remedy="Remove that change unless it is intentional, and resume from "
        f"{case.way_back('the last checkpoint before that step')}.",
    )


def weight_jump(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield the whole model while its weights move far faster than ever before.

    The speed is the change of the norms in decades per step, for the quickest tenth of the layers.

    Value: decades by which the speed exceeds its previous maximum, at its highest since then.
    """
    weighed = [r.window for r in history.readings[-REMEMBERED:] if r.is_weighed]
    if len(weighed) < SPEED_BEFORE + 2 or not len(history.graph.trunk_weights):
        return
    levels, speeds = _speeds(weighed, history.graph.trunk_weights)
    if not levels.size:
        return
    highest = np.maximum(np.fmax.accumulate(speeds), LEAST_SPEED)
    rises = np.log10(
        np.maximum(speeds, LEAST_SPEED)[SPEED_BEFORE:] / highest[SPEED_BEFORE - 1 : -1]
    )
    for at in (SPEED_BEFORE + np.flatnonzero(rises > limits.weight_jump)).tolist():
        if history.is_warming(*begin(weighed[at])):
            continue
        faster = np.log10(np.maximum(speeds[at:], LEAST_SPEED) / highest[at - 1])
        recent = np.fmax.reduce(faster[-RECENT:])
        is_far = _quick(np.abs(levels[-1:] - levels[at]))[0] > MOVED
        if recent > limits.weight_jump and is_far:
            value = float(np.fmax.reduce(faster))
            yield Hit(WHOLE, value, limits.weight_jump, begin(weighed[at]))
            return


def weight_jump_words(case: Case) -> Message:
    """Describe weights that suddenly move faster."""
    return Message(
        what="the whole model: its weights have moved "
        f"{factor(case.finding.value)} as fast as before,",
        since=case.since,
        why="The training was healthy until then, so something changed.",
        likely="the learning rate, changed by a callback, a scheduler or a resume"
        f"{case.moment}. Weights that move this fast forget what they have learned.",
        remedy=f"Resume from {case.way_back('the last checkpoint before that step')}, and check "
        "what sets the learning rate (columns lr/ of results.csv).",
    )


def rate_of_code(history: History, window: Window) -> Reason | None:
    """Return a window's highest learning rate, and ``lr0``, if no option asks for as much."""
    asked = [at_work(history.training, option) for option in ("lr0", "warmup_bias_lr")]
    known = [float(rate) for rate in asked if isinstance(rate, (int, float))]
    rates = [o.max for o in window.losses if o.item.startswith(RATE) and o.max is not None]
    if not known or not rates or max(rates) <= MUCH * max(known):
        return None
    return Reason(RATE_OF_CODE, values=(max(rates), known[0]))


def rate_words(reason: Reason) -> str:
    """Return what to do about a learning rate that `rate_of_code` found."""
    rate, asked = (significant(value, 2) for value in reason.values)
    return (
        f"Find the callback or scheduler that sets the learning rate: it is {rate}, although "
        f"lr0={asked}."
    )


def _rates(window: Window) -> _Rates:
    found = {
        one.item: one.max
        for one in window.losses
        if one.item.startswith(RATE) and one.max is not None and np.isfinite(one.max)
    }
    return _Rates(window, found)


def _is_near(history: History, limit: float) -> bool:
    """Return whether no current rate is far above the oldest one, from before any jump."""
    ends = history.readings[-1:], history.readings[:1]
    newest, oldest = (
        {g: r for one in end for g, r in _rates(one.window).rates.items()} for end in ends
    )
    return all(
        rate > 0 and oldest.get(g, 0.0) > 0 and np.log10(rate / oldest[g]) < NEAR * limit
        for g, rate in newest.items()
    )


def _jump(series: Floats, limit: float) -> tuple[float, int] | None:
    """Return the newest rate's decades above the maximum before the first jump, and its index."""
    highest, count = 0.0, 0
    for at, rate in enumerate(series):
        if highest > 0 and count >= RATE_BEFORE and rate > 0 and np.log10(rate / highest) > limit:
            value = float(np.log10(series[-1] / highest)) if series[-1] > 0 else 0.0
            return (value, at) if value > limit else None
        if rate > 0:
            highest, count = max(highest, float(rate)), count + 1
    return None


def _speeds(windows: Sequence[Window], rows: Counts) -> tuple[Floats, Floats]:
    """Return (W, K) norms of weights in decades, and (W - 1,) decades per step between them.

    Layers that were frozen in a window are left out, because they seem to jump when they thaw.
    """
    if np.isnan([one.norm_mean[rows] for one in windows]).any():
        rows = rows[~np.array([is_frozen(one)[rows] for one in windows]).any(axis=0)]
    norms = np.array([one.weight_norm[rows] for one in windows], np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # weights of 0 or NaN say nothing
        levels = finite(np.log10(norms))
    steps = np.diff([one.step_first for one in windows])
    return levels, _quick(np.abs(np.diff(levels, axis=0))) / np.maximum(steps, 1)


def _quick(values: Floats) -> Floats:
    """Return (W,) the quickest tenth of (W, K) layers, ignoring NaN; NaN without any.

    Same result as ``np.nanquantile``, which is far slower on rows with NaN.
    """
    if not values.shape[1]:
        return np.full(len(values), np.nan)
    ordered = np.sort(values, axis=1)  # NaN last
    place = QUICK * np.maximum((~np.isnan(ordered)).sum(axis=1) - 1, 0)
    low, rows = np.floor(place).astype(np.int64), np.arange(len(values))
    lower, upper = ordered[rows, low], ordered[rows, np.ceil(place).astype(np.int64)]
    found: Floats = lower + (upper - lower) * (place - low)
    return found


RATE_JUMP = Rule(
    name="rate_jump",
    kind="exploding",
    severity="warning",
    threshold="rate_jump",
    unit="decades",
    judge=rate_jump,
    needs=lambda _: RATE_BEFORE + 1,
    words=rate_jump_words,
    meaning="a learning rate jumped to at least 5 times its previous maximum",
    not_meaning="a warm-up or a schedule",
    remedy="check the callback, scheduler or resume that set it",
    state="rate up",
    explains=("weight_jump", "weight_growth"),
)


WEIGHT_JUMP = Rule(
    name="weight_jump",
    kind="exploding",
    severity="warning",
    threshold="weight_jump",
    unit="decades",
    judge=weight_jump,
    needs=lambda _: SPEED_BEFORE + 2,
    words=weight_jump_words,
    meaning="the weights move 10 times faster than ever before",
    not_meaning="a warm-up",
    remedy="the checkpoint before it; check what sets the learning rate",
    state="weight jump",
    explains=("weight_growth",),
)
