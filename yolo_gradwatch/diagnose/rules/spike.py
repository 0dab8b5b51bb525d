"""The rule about a jump of the whole gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.phrases import factor, significant
from yolo_gradwatch.diagnose.reading import FLOOR
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules.history import Hit
from yolo_gradwatch.diagnose.rules.losses import total
from yolo_gradwatch.diagnose.rules.whole import FRESH
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.loss_items import TOTAL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds

PEAK_WINDOWS, PEAK_LEAST = 100, 5
"""Windows that a spike is compared with, and how many of them are enough."""

JUMPED = 3.0
"""Factor above the previous loss at which a loss has jumped with its gradient."""


def spike(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield the whole model while its trunk is far above all earlier levels.

    Value: decades above the highest of the windows before it.
    """
    peaks = np.array([mark.peak for mark in history.marks])
    if not peaks.size or not peaks[-1] > np.fmin.reduce(peaks) + limits.spike:
        return
    for count in range(min(len(peaks) - PEAK_LEAST, FRESH), 0, -1):  # from the earliest start on
        before = peaks[: len(peaks) - count][-PEAK_WINDOWS:]
        highest = np.fmax.reduce(np.where(before > FLOOR, before, np.nan))
        rise = peaks[-count:].min() - highest
        if rise > limits.spike:
            since = history.marks[-count]
            at, reason = (since.epoch, since.step), losses_at(history, since.step)
            yield Hit(WHOLE, float(rise), limits.spike, at, reason=reason)
            return


def spike_words(case: Case) -> Message:
    """Describe a jump of the whole trunk."""
    outlier = (
        "an outlier among labels or images, a very small last batch, or an unbounded "
        f"loss{case.moment}."
    )
    look, course, likely, measured = "Check its images and labels", "", outlier, ""
    if not case.finding.reason:
        likely = f"the loss of that step, due to {outlier}"
    else:
        before, then = case.finding.reason.values
        course = f"The loss jumped too, from {significant(before, 2)} to {significant(then, 2)}."
        if then < JUMPED * before:
            course, likely = "", ""
            measured = (
                f"the logged loss items did not jump (sum {significant(before, 2)} before and "
                f"{significant(then, 2)} at that step), so the loss is scaled after it is logged, "
                "or the backward pass amplifies the gradient."
            )
            look = (
                "Look for what multiplies the loss in the trainer's code, or for a root, norm or "
                "division near 0"
            )
    return Message(
        what="the whole model: the gradient jumped to "
        f"{factor(case.finding.value)} its previous maximum,",
        since=case.at,
        why=course,
        likely=likely,
        measured=measured,
        remedy=f"Clipping limits that step. {look}, or try {case.lower_rate} if it recurs.",
    )


def losses_at(history: History, step: int) -> Reason | None:
    """Return the median loss before a step, and the loss at that step; None if unknown.

    A window's highest loss is that of the outlying step, whatever else the window contains.
    """
    windows = [reading.window for reading in history.readings]
    here = [window for window in windows if window.step_first == step]
    known = [window.losses for window in here if total(window) is not None]
    then = next((one.max for losses in known for one in losses if one.item == TOTAL), None)
    found = [total(window) for window in windows if window.step_first < step]
    before = [value for value in found if value is not None]
    if then is None or not before:
        return None
    return Reason("loss", values=(float(np.median(before)), then))


SPIKE = Rule(
    name="spike",
    kind="exploding",
    severity="warning",
    threshold="spike",
    unit="decades",
    judge=spike,
    needs=lambda _: PEAK_LEAST + 1,
    words=spike_words,
    meaning="the whole trunk jumped to 30 times its previous maximum",
    not_meaning="a step above the clip",
    remedy="check the images and losses of that step, in the file that the finding names",
    keeps_evidence=True,
)
