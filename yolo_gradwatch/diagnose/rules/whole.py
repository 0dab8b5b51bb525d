"""The rules about the whole net: its level against its past, its norm, its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from yolo_gradwatch.diagnose.messages import Message, factor, significant
from yolo_gradwatch.diagnose.reading import FLOOR, medians
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules.history import Hit, begin, beyond_clip, finite
from yolo_gradwatch.diagnose.rules.losses import losses_at
from yolo_gradwatch.diagnose.rules.rates import rate_of_code
from yolo_gradwatch.measure.arrays import FLOAT32_MAX
from yolo_gradwatch.measure.clipping import CLIP_OVERFLOW
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.arrays import Counts, Floats
    from yolo_gradwatch.measure.windows import Window


PEAK_WINDOWS, PEAK_LEAST = 100, 5
"""Windows that a spike is compared with, and how many are enough."""

JUMPED = 3.0
"""Times the loss before from which on a loss has jumped with its gradient."""

COLLAPSE_BEFORE, COLLAPSE_WINDOWS = 20, 3
"""Windows that a collapse is compared with, and how many in a row it takes."""

HIGH_WINDOWS = 3
"""Windows in a row with a total norm that is too high."""

STILL_HIGH = 0.1
"""Share of the limit below which a norm must fall before it is not too high any more: one that
swings around the limit is one episode, and this is still above all that healthy trainings show."""

GROWTH_WINDOWS = 20
"""Windows in which the weights of a healthy training do not double."""

UPPER_LEAST = 10
"""Layers of which a tenth may be judged alone."""

STILL_SHARE = 0.1
"""Share of a growth up to which it has not begun."""

FRESH = 100
"""Windows for which a change of the whole net is reported; after that it is the new normal."""


def spike(history: History, limits: Thresholds) -> Iterator[Hit]:
    """The whole net, while its trunk is far above all that was before.

    Value: decades above the highest of the windows before it.
    """
    peaks = np.array([mark.peak for mark in history.marks])
    if not peaks.size or not peaks[-1] > np.fmin.reduce(peaks) + limits.spike:
        return
    for count in range(min(len(peaks) - PEAK_LEAST, FRESH), 0, -1):  # since the earliest
        before = peaks[: len(peaks) - count][-PEAK_WINDOWS:]
        highest = np.fmax.reduce(np.where(before > FLOOR, before, np.nan))
        rise = peaks[-count:].min() - highest
        if rise > limits.spike:
            since = history.marks[-count]
            at, reason = (since.epoch, since.step), losses_at(history, since.step)
            yield Hit(WHOLE, float(rise), limits.spike, at, reason=reason)
            return


def spike_words(case: Case) -> Message:
    """The whole trunk jumped."""
    outlier = (
        "an outlier among labels or images, a very small last batch, a loss without "
        f"bounds{case.moment}."
    )
    look, course, likely, measured = "look at its images and labels", "", outlier, ""
    if not case.finding.reason:
        likely = f"the loss of that step: {outlier}"
    else:
        before, then = case.finding.reason.values
        course = f"The loss jumped too, from {significant(before, 2)} to {significant(then, 2)}."
        if then < JUMPED * before:
            course, likely = "", ""
            measured = (
                f"the loss was {significant(then, 2)} then, {significant(before, 2)} before: what "
                "comes between it and the gradient has made the jump."
            )
            look = (
                "find what multiplies the loss in the code of the trainer, or a root, norm "
                "or division near 0"
            )
    return Message(
        what="the whole model: the gradient jumped to "
        f"{factor(case.finding.value)} its highest so far,",
        since=case.at,
        why=course,
        likely=likely,
        measured=measured,
        remedy=f"Clipping limits that step. Try to {look}, or {case.lower_rate} if it comes back.",
    )


def collapse(history: History, limits: Thresholds) -> Iterator[Hit]:
    """The whole net, while its trunk is far below what it was before.

    Value: decades below the median of the windows before it.
    """
    levels = np.array([mark.trunk for mark in history.marks])
    if not levels.size or not levels[-1] < np.fmax.reduce(levels) - limits.collapse:
        return
    counts = np.arange(min(len(levels) - COLLAPSE_BEFORE, FRESH), COLLAPSE_WINDOWS - 1, -1)
    if not counts.size:
        return
    before = sliding_window_view(levels, COLLAPSE_BEFORE)[len(levels) - COLLAPSE_BEFORE - counts]
    falls = medians(before.T) - np.maximum.accumulate(levels[::-1])[counts - 1]
    earliest = int(np.argmax(falls > limits.collapse))
    if falls[earliest] > limits.collapse:
        since = history.marks[-counts[earliest]]
        yield Hit(WHOLE, float(falls[earliest]), limits.collapse, (since.epoch, since.step))


def collapse_words(case: Case) -> Message:
    """The whole trunk fell."""
    return Message(
        what="the whole model: the gradient became "
        f"{factor(case.finding.value)} weaker in all blocks at once,",
        since=case.at,
        likely="the loss is near zero or constant: a loss weight that became tiny, no labels "
        f"any more, or weights that a high learning rate has destroyed{case.moment}.",
        remedy=f"Try {case.way_back('the last checkpoint before that step')} with "
        f"{case.lower_rate}, and look at the loss columns of results.csv.",
    )


def total_high(history: History, limits: Thresholds) -> Iterator[Hit]:
    """The whole net, when the norm of its gradient is too high for several windows.

    One that clipping multiplies by 0 is found in its first window: nothing is learned there.
    """
    newest = [reading.window for reading in history.readings[-1:]]
    if newest and beyond_clip(newest[0]):
        highest = min(float(newest[0].norm_max[0]), FLOAT32_MAX)
        yield Hit(WHOLE, highest, limits.total_high, begin(newest[0]))
        return
    windows = [reading.window for reading in history.readings]
    norms = np.array([one.norm_mean[0] for one in windows], np.float64)
    ended = np.flatnonzero(~(norms > STILL_HIGH * limits.total_high))  # NaN ends it too
    for first in range(ended[-1] + 1 if len(ended) else 0, len(norms) - HIGH_WINDOWS + 1):
        if (norms[first : first + HIGH_WINDOWS] > limits.total_high).all():
            value = min(float(norms[-1]), FLOAT32_MAX)
            yield Hit(WHOLE, value, limits.total_high, begin(windows[first]))
            return


def total_high_words(case: Case) -> Message:
    """A total norm that is too high."""
    value = case.finding.value
    norm = significant(value, 2) if value < FLOAT32_MAX else "beyond 3.4e38"
    clipping = (
        "Clipping computes in float32, in which its square is Inf, so it multiplies every gradient "
        "by 0: nothing is learned."
        if value > CLIP_OVERFLOW
        else "Clipping hides that, half precision does not: it overflows."
    )
    return Message(
        what=f"the whole model: total gradient norm {norm}, above {case.finding.limit:g} "
        f"({case.reached(is_low=False)}),",
        since=case.since,
        why=clipping,
        likely="the loss or its weights (box, cls, dfl) are far too large, or "
        f"the initialization is{case.moment}.",
        remedy=f"Try to scale the loss, a normalization in every block, and {case.lower_rate}.",
    )


def weight_growth(history: History, limits: Thresholds) -> Iterator[Hit]:
    """The whole net, when the weights of its trunk have grown too much in a few windows.

    Value: decades, the median over the weights, or half of those of the quickest tenth of them.
    """
    trunk = history.graph.trunk_weights
    weighed = [reading for reading in history.readings if reading.is_weighed]
    recent = [r for r in history.readings[-GROWTH_WINDOWS - 1 :] if r.is_weighed]
    taken = [r.window for r in (recent if len(recent) > 1 else weighed[-2:])]
    if len(taken) < 2 or not len(trunk):
        return
    if not (_grown(taken[:: len(taken) - 1], trunk)[-1] > limits.weight_growth).any():
        return
    grown = _grown(taken, trunk)
    norms = taken[-1].weight_norm[trunk].astype(np.float64)
    large = np.where(
        norms > history.graph.elements[trunk] ** 0.25, grown, np.nan
    )  # others may have begun near 0
    upper = np.nan_to_num(_upper(large), nan=0.0) / 2 if len(trunk) >= UPPER_LEAST else 0.0
    course = np.fmax(medians(grown.T, 1), upper)
    if course[-1] > limits.weight_growth:
        still = np.flatnonzero(course <= STILL_SHARE * course[-1])
        since = taken[still[-1] if len(still) else 0]
        reason = rate_of_code(history, taken[-1])
        yield Hit(WHOLE, float(course[-1]), limits.weight_growth, begin(since), reason=reason)


def _grown(windows: Sequence[Window], rows: Counts) -> Floats:
    """(W, K) decades by which the norms of weights lie above those of the first window."""
    norms = np.array([window.weight_norm[rows] for window in windows], np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # weights of 0 or NaN say nothing
        return finite(np.log10(norms) - np.log10(norms[0]))


def _upper(values: Floats) -> Floats:
    """(W,) what a tenth of all layers reach at the least; values that are not known lie below."""
    known = np.where(np.isnan(values), -np.inf, values)
    return np.sort(known, axis=1)[:, -max(round(values.shape[1] / 10), 1)]


def weight_growth_words(case: Case) -> Message:
    """Weights that grow too fast."""
    reason = case.finding.reason
    remedy = f"Try {case.lower_rate} and longer warmup_epochs."
    if reason:
        rate, asked = (significant(value, 2) for value in reason.values)
        remedy = (
            f"Try to find the callback or scheduler that sets the rate: {rate} is at work, and "
            f"lr0={asked} does not ask for that."
        )
    return Message(
        what=f"the whole model: the weights have grown {10**case.finding.value:.1f}-fold within a "
        "few windows",
        since=case.since,
        likely=f"the learning rate is far too high{case.moment}. Most such trainings end "
        "with a gradient near zero.",
        remedy=remedy,
    )


SPIKE = Rule(
    name="spike",
    kind="exploding",
    severity="warning",
    threshold="spike",
    unit="decades",
    judge=spike,
    needs=lambda _: PEAK_LEAST + 1,
    words=spike_words,
    meaning="the whole trunk jumped to 30 times its highest so far",
    not_meaning="a step above the clip",
    remedy="the images and losses of that step, in the file that the finding names",
    keeps_evidence=True,
)


COLLAPSE = Rule(
    name="collapse",
    kind="vanishing",
    severity="critical",
    threshold="collapse",
    unit="decades",
    judge=collapse,
    needs=lambda _: COLLAPSE_BEFORE + COLLAPSE_WINDOWS,
    words=collapse_words,
    meaning="the whole trunk fell to a thousandth of what it was",
    not_meaning="a loss that becomes small: gradients then shrink slowly",
    remedy="the checkpoint before it, lower `lr0`",
    explains=("total_low",),
)


TOTAL_HIGH = Rule(
    name="total_high",
    kind="exploding",
    severity="critical",
    threshold="total_high",
    unit="norm",
    judge=total_high,
    needs=lambda _: HIGH_WINDOWS,
    words=total_high_words,
    meaning="the total norm is above the limit for several windows; above 1.8e19, where "
    "clipping multiplies by 0, from the first step on",
    not_meaning="that clipping fired",
    remedy="scale the loss; normalization; lower `lr0`",
    healthy=4e5,
    state="high",
    keeps_evidence=True,
)


WEIGHT_GROWTH = Rule(
    name="weight_growth",
    kind="exploding",
    severity="warning",
    threshold="weight_growth",
    unit="decades",
    judge=weight_growth,
    needs=lambda _: 2,
    words=weight_growth_words,
    meaning="the weights doubled within 20 windows",
    not_meaning="weights that grow over a whole training",
    remedy="lower `lr0`, longer `warmup_epochs`; it mostly ends in silence",
    state="growing",
    explains=("dead", "partly_dead", "dead_branch", "collapse", "total_low"),
)
