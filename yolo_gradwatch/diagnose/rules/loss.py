"""The rule about non-finite loss items, and what they say about the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.phrases import joined
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules.history import Hit, begin
from yolo_gradwatch.diagnose.rules.items import terms
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.loss_items import LossItem
    from yolo_gradwatch.measure.windows import Window


def bad_items(window: Window) -> list[LossItem]:
    """Return the loss items that were not finite in at least one batch."""
    return [item for item in terms(window) if item.nonfinite]


def has_bad_loss(window: Window) -> bool:
    """Return whether a loss item was not finite; unknown ones count as finite."""
    return bool(bad_items(window))


def loss_nonfinite(history: History, limits: Thresholds) -> Iterator[Hit]:  # noqa: ARG001
    """Yield the whole model if a loss was NaN or Inf while every gradient was finite.

    Value and limit: batches with such a loss.
    """
    newest, bad = history.newest, bad_items(history.newest)
    if not bad or newest.skipped or newest.nonfinite.any():
        return
    worst = max(item.nonfinite for item in bad)
    reason = Reason("loss items", tuple(item.item for item in bad), (float(newest.norm_min[0]),))
    yield Hit(WHOLE, float(worst), float(worst), begin(newest), reason=reason)


def loss_nonfinite_words(case: Case) -> Message:
    """Describe a loss that was NaN where no gradient was."""
    reason = case.finding.reason
    names = reason.names if reason else ()
    is_zero = reason is not None and reason.values == (0.0,)
    finite = f"every gradient was {'exactly 0' if is_zero else 'finite'}"
    return Message(
        what=f"{joined(names) or 'the loss'} {'were' if len(names) > 1 else 'was'} NaN or Inf",
        since=f"{case.at}, but {finite}, so no weight was damaged",
        why="This happens when a loss item averages over zero objects or pixels. The printed "
        "losses stay NaN until the epoch ends.",
        remedy="Check the labels of that step's images, or clamp the divisor to at least 1.",
    )


LOSS_NONFINITE = Rule(
    name="loss_nonfinite",
    severity="notice",
    unit="steps",
    judge=loss_nonfinite,
    needs=lambda _: 1,
    words=loss_nonfinite_words,
    meaning="a loss item was NaN or Inf, but every gradient was finite",
    not_meaning="that a weight was damaged",
    remedy="check the labels of that step, or divide by max(count, 1)",
    keeps_evidence=True,
)
