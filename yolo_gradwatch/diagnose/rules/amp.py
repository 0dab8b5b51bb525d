"""The rule about steps that AMP skips to calibrate its scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules.history import Hit, begin
from yolo_gradwatch.diagnose.rules.loss import has_bad_loss
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds

HALF = 0.5
"""Share of the newest steps that are skipped if AMP does not find its scale.

Once found, a scale is raised every 2,000 steps, which costs one skipped step: healthy recorded
trainings skip a few of their first steps and then at most one in a hundred, a long real run seven
of 1,200. A NaN in every second forward pass skips half of them, never two in a row.
"""


class Overflow(NamedTuple):
    """More skipped steps than any scale explains.

    Attributes:
        since: Epoch and first step of the oldest window that counts.
        skips: Number of skipped steps.
        steps: Number of captured steps that include them.
    """

    since: tuple[int, int]
    skips: int
    steps: int


def endless_overflow(history: History, limits: Thresholds) -> Overflow | None:
    """Return the skips if AMP skipped too many steps in a row, or half of twice as many."""
    skips = sum(window.skipped for window in history.skipped)
    if skips > limits.amp_grace:
        return Overflow(begin(history.skipped[0]), skips, skips)
    skips = steps = 0
    since = begin(history.newest)
    for window in reversed(history.recent):
        if steps >= 2 * (limits.amp_grace + 1):
            break
        skips, steps = skips + window.skipped, steps + window.steps
        since = begin(window) if window.skipped else since
    if skips > limits.amp_grace and skips >= HALF * steps:
        return Overflow(since, skips, steps)
    return None


def amp_overflow(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield the whole model if AMP's scaler skipped a step to calibrate its scale.

    The loss of such a step is finite: only its scaled gradient is too large for float16.
    Value: skipped steps, limit: how many in a row would be an alarm.
    """
    newest = history.newest
    if not newest.skipped or has_bad_loss(newest) or endless_overflow(history, limits):
        return
    yield Hit(WHOLE, float(newest.skipped), float(limits.amp_grace), begin(newest))


def amp_overflow_words(case: Case) -> Message:
    """Describe a step that AMP skipped to find its scale."""
    return Message(
        what="AMP skipped a step and lowered its loss scale",
        since=f"at step {case.finding.episodes[-1].step:,} or soon after",
        why="The loss scaler is calibrating, which is harmless unless it happens many times in a "
        "row.",
    )


AMP_OVERFLOW = Rule(
    name="amp_overflow",
    severity="notice",
    threshold="amp_grace",
    unit="steps",
    judge=amp_overflow,
    needs=lambda _: 1,
    words=amp_overflow_words,
    meaning="AMP skipped a step with a finite loss and lowered its loss scale",
    not_meaning="a fault: it is calibration",
    remedy="nothing",
)
