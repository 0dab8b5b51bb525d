"""The rule about a single unusual batch after a training has converged."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.phrases import factor
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules.history import Hit, begin, beyond_clip, last, totals
from yolo_gradwatch.diagnose.rules.low import solved
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds

NEIGHBOURS = 10
"""Earlier windows that a step is compared with."""


def stray_step(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield the whole model at a step far above its neighbours, if the training has converged.

    If the step also exceeds the start of the run, it is a `spike`.

    Value: decades above the median of the windows before.
    """
    windows = last(history, NEIGHBOURS + 1)
    if not windows or beyond_clip(windows[-1]):
        return
    began = [float(reading.window.norm_max[0]) for reading in history.opening]
    levels = [float(windows[-1].norm_max[0]), *totals(windows[:-1]), *began]
    if len(levels) <= NEIGHBOURS + len(began) or not min(levels) > 0:
        return
    highest, *others = map(math.log10, levels)
    rise = highest - statistics.median(others[:NEIGHBOURS])
    is_spike = highest - max(others[NEIGHBOURS:]) > limits.spike
    if not rise > limits.stray_step or is_spike:
        return
    before = replace(history, readings=history.readings[:-1], marks=history.marks[:-1])
    if solved(before, limits):
        reason = Reason("steps", values=(windows[-1].steps,))
        yield Hit(WHOLE, rise, limits.stray_step, begin(windows[-1]), reason=reason)


def stray_step_words(case: Case) -> Message:
    """Describe a batch that stands out."""
    reason = case.finding.reason
    is_exact = reason is not None and reason.values == (1,)
    return Message(
        what="the whole model: one step had a gradient "
        f"{factor(case.finding.value)} that of its neighbours,",
        since=case.at if is_exact else f"{case.at} or soon after",
        why="The training has converged and this batch is an outlier: probably an image with a "
        "wrong label, or one unlike all others.",
        remedy="Clipping limits that step; check its images and labels.",
    )


STRAY_STEP = Rule(
    name="stray_step",
    severity="notice",
    threshold="stray_step",
    unit="decades",
    judge=stray_step,
    needs=lambda _: NEIGHBOURS + 2,
    words=stray_step_words,
    meaning="after convergence, the gradient of one step is at least 30,000 times that of its "
    "neighbours",
    not_meaning="a fault of the model",
    remedy="check the images and labels of that step, in the file that the notice names",
    explains=("spike",),
    is_passing=True,
    keeps_evidence=True,
    comes_back=True,
)
