"""The rules about the whole model: its level compared with its past, and its norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.phrases import factor, significant
from yolo_gradwatch.diagnose.reading import medians
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules.history import Hit, begin, beyond_clip
from yolo_gradwatch.measure.arrays import FLOAT32_MAX
from yolo_gradwatch.measure.clipping import CLIP_OVERFLOW
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds


COLLAPSE_BEFORE, COLLAPSE_WINDOWS = 20, 3
"""Windows that a collapse is compared with, and how many in a row it takes."""

HIGH_WINDOWS = 3
"""Windows in a row with a total norm that is too high."""

STILL_HIGH = 0.1
"""Share of the limit below which a norm must fall before it is no longer too high: a norm that
swings around the limit is one episode, and this share is still above all healthy trainings."""

FRESH = 100
"""Windows for which a change of the whole model is reported; after that it is the new normal."""


def collapse(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield the whole model while its trunk is far below its previous level.

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
    """Describe a fall of the whole trunk."""
    return Message(
        what="the whole model: the gradient became "
        f"{factor(case.finding.value)} weaker in all blocks at once,",
        since=case.at,
        likely="the loss is near zero or constant: a loss gain that became tiny, missing labels, "
        f"or weights destroyed by a high learning rate{case.moment}.",
        remedy=f"Resume from {case.way_back('the last checkpoint before that step')} with "
        f"{case.lower_rate}, and check the loss columns of results.csv.",
    )


def total_high(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield the whole model if the norm of its gradient is too high for several windows.

    If clipping multiplies it by 0, the first window is enough: nothing is learned there.
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
    """Describe a total norm that is too high."""
    value = case.finding.value
    norm = significant(value, 2) if value < FLOAT32_MAX else "beyond 3.4e+38"
    clipping = (
        "Clipping computes in float32, where its square is Inf, so it multiplies every gradient by "
        "0 and nothing is learned."
        if value > CLIP_OVERFLOW
        else "Clipping hides this, but float16 gradients can overflow."
    )
    return Message(
        what=f"the whole model: total gradient norm {norm}, above {case.finding.limit:g} "
        f"({case.reached(is_low=False)}),",
        since=case.since,
        why=clipping,
        likely="the loss or its gains (box, cls, dfl) are far too large, or the initialization is"
        f"{case.moment}.",
        remedy="Scale the loss down, and try a normalization in every block and "
        f"{case.lower_rate}.",
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
    meaning="the gradient of the whole trunk fell to a thousandth of its level",
    not_meaning="a loss that becomes small: gradients then shrink slowly",
    remedy="the checkpoint before it, a lower `lr0`",
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
    meaning="the total gradient norm is above the limit for several windows; above 1.8e19, where "
    "clipping multiplies by 0, from the first step on",
    not_meaning="that clipping is active",
    remedy="scale the loss down; normalization; a lower `lr0`",
    healthy=4e5,
    state="high",
    keeps_evidence=True,
)
