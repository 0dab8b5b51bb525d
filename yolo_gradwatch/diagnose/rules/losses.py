"""The rules about the sizes of loss items, together with the norm of the whole gradient."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from yolo_gradwatch.diagnose.causes import at_work
from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.phrases import significant
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules.history import Hit, begin, last
from yolo_gradwatch.diagnose.rules.items import terms
from yolo_gradwatch.measure.clipping import CLIP_NORM
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.loss_items import TOTAL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.windows import Window

LARGE_WINDOWS = 5
"""Windows in a row with items that are too large, because single batches may be."""

CLIPPED = 100.0
"""Minimum factor by which clipping shrinks the gradient for a large item to drown the others."""

START_NORM = 1e4
"""Minimum norm of the whole gradient for an initial loss that comes from an initialization. Healthy
trainings begin at 10 to 8e3, RT-DETR and poses at up to 3.8e5, but with losses of at most 100."""

BACKGROUND = 15.0
"""Initial class loss of a batch without objects, for each of its images of 640 pixels: twice the
sum of the scores given by the head's initial biases."""


GAINS = {"box": 7.5, "cls": 0.5, "dfl": 1.5, "pose": 12.0, "kobj": 1.0, "rle": 1.0, "angle": 1.0}
"""Options that multiply a loss item, with their defaults."""

OWN = {f"{name}_loss" for name in (*GAINS, "seg", "sem", "l1", "giou", "bbox")} | {"loss"}
"""Ultralytics' own loss items, whose targets have the right size."""

BOUNDED = {"box_loss", "giou_loss"}
"""Items of overlap losses: at most a few times their gain, however far off the boxes are."""

MANY = 10
"""Factor above its default at which a gain is named."""


class Largest(NamedTuple):
    """The largest loss item of a window.

    Attributes:
        name: Name of the item.
        value: Mean of the item.
        others: Sum of the means of the other items.
        is_alone: Whether there is no other item.
    """

    name: str
    value: float
    others: float
    is_alone: bool


def total(window: Window) -> float | None:
    """Return the mean sum of the loss items; None if unknown, or if a batch was not finite."""
    found = next((one for one in window.losses if one.item == TOTAL), None)
    return None if found is None or found.nonfinite else found.mean


def largest(window: Window) -> Largest | None:
    """Return the largest item of a window; None if the items are unknown or not finite."""
    items = terms(window)
    values = {o.item: o.mean for o in items if o.mean is not None and not o.nonfinite}
    if not values or len(values) < len(items) or not all(map(np.isfinite, values.values())):
        return None
    name = max(values, key=lambda item: values[item])
    others = sum(abs(value) for item, value in values.items() if item != name)
    return Largest(name, values[name], others, len(values) == 1)


def loss_imbalance(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield the whole model while one loss item far exceeds all others, and clipping is strong.

    A batch without objects leaves only the class loss: where the others are 0, there is nothing to
    compare with, and where they are rare, it is large. An item that is logged but not trained on
    does not change the gradient.

    Value: decades by which it exceeds the sum of the others, the lowest of the windows.
    """
    windows = last(history, LARGE_WINDOWS)
    newest = _imbalance(windows[-1]) if windows else None
    if newest is None or not _share(newest) > limits.loss_imbalance:
        return
    found = [(window, _imbalance(window)) for window in windows]
    names = {one.name for _, one in found if one}
    if len(names) != 1 or not all(one for _, one in found):
        return
    shares = [_share(one) for _, one in found if one]
    norm = float(np.median([window.norm_mean[0] for window, _ in found]))
    name, value = names.pop(), float(np.median([one.value for _, one in found if one]))
    usual = _background(history.training) if name in OWN else 0.0
    if min(shares) > limits.loss_imbalance and norm > CLIPPED * CLIP_NORM and value > usual:
        reason = Reason("item", (name,), (value, norm))
        since = begin(_since(history, name, limits.loss_imbalance))
        yield Hit(WHOLE, float(min(shares)), limits.loss_imbalance, since, reason=reason)


def loss_imbalance_words(case: Case) -> Message:
    """Describe a loss item that drowns the others."""
    item, size, norm = _measured(case)
    decades = min(case.finding.value, 300.0)
    left = f"1/{significant(norm / CLIP_NORM, 2)}" if norm else "almost nothing"
    clipping = (
        f"Clipping to {CLIP_NORM:g} leaves {left} of every gradient, so the other items hardly "
        "train anything."
    )
    message = Message(
        what=f"the whole model: {item}{f' is {size},' if size else ' is'} "
        f"{significant(10.0**decades, 2)} times the sum of all other loss items (limit "
        f"{10.0**case.finding.limit:,.0f}; healthy runs reach 10),",
        since=case.since,
        why=clipping,
        remedy="Divide its target by its standard deviation, or give the item a gain of about "
        f"{10.0**-decades:.0e}; a bounded loss (smooth L1) also helps.",
    )
    if item in OWN or _raised(case.training):
        return _explained(message, case.training, item)
    return message


def initial_loss(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield the whole model while a loss is far too large, and was from the first step on.

    In a batch without objects, the class loss is large and all other items are 0.

    Value: the largest loss item, the median of the windows.
    """
    limit = max(limits.initial_loss, _background(history.training))
    now = last(history, LARGE_WINDOWS)
    if not now or len(history.opening) < LARGE_WINDOWS:
        return
    opening = [reading.window for reading in history.opening]
    norms = [float(window.norm_mean[0]) for window in opening]
    if not max(norms) > START_NORM or not (norm := float(np.median(norms))) > START_NORM:
        return
    first, newest = _level(opening), _level(now)
    if first and newest and min(first.value, newest.value) > limit:
        reason = Reason("item", (first.name,), (first.value, norm))
        yield Hit(WHOLE, newest.value, limit, begin(opening[0]), reason=reason)


def initial_loss_words(case: Case) -> Message:
    """Describe a loss that begins far above all usual values."""
    item, size, norm = _measured(case)
    total_norm = f" and the total gradient norm at {significant(norm, 2)}" if norm else ""
    message = Message(
        what=f"the whole model: {item} begins at "
        f"{size or significant(case.finding.value, 2)} (limit "
        f"{significant(case.finding.limit, 2)}; healthy runs begin at 12 or less, pose models at "
        f"100 or less){total_norm},",
        since=case.since,
    )
    return _explained(message, case.training, item)


def _measured(case: Case) -> tuple[str, str, float]:
    """Return a finding's loss item, its size in words, and the norm; "" and 0 if unknown."""
    reason = case.finding.reason
    if reason is None:
        return "one loss item", "", 0.0
    return reason.names[0], significant(reason.values[0], 2), reason.values[1]


def _explained(message: Message, training: Mapping[str, object], item: str) -> Message:
    """Return a message with why an Ultralytics item is too large, and what to try."""
    if raised := _raised(training):
        one = len(raised) == 1
        gains = (
            "A gain far above its default causes" if one else "Gains far above their defaults cause"
        )
        return replace(
            message,
            why=f"{message.why} {gains} this: {', '.join(raised)}.".lstrip(),
            remedy=f"Lower {'it' if one else 'them'} first.",
        )
    if item in BOUNDED:
        why = (
            "No initialization causes this: overlap (IoU) losses are bounded by a few times "
            "their gain."
        )
        return replace(
            message,
            why=f"{message.why} {why}".lstrip(),
            remedy=f"Remove what multiplies {item} in the code of the loss or its targets.",
        )
    likely = (
        "the initial weights are too large, above all in the head's last convolutions, so its "
        "outputs are far off. Targets or a gain of the wrong size have the same effect."
    )
    remedy = (
        "Try Ultralytics' initialization, at least for the head's last convolutions (a standard "
        "deviation of about 0.05, biases by bias_init()), or pretrained weights; then check the "
        "units of the targets."
    )
    return replace(message, likely=likely, remedy=remedy)


def _raised(training: Mapping[str, object]) -> list[str]:
    """Return the gains far above their defaults."""
    given = ((option, training.get(option), usual) for option, usual in GAINS.items())
    return [
        f"{option}={gain:g} (default {usual:g})"
        for option, gain, usual in given
        if isinstance(gain, (int, float)) and gain >= MANY * usual
    ]


def _imbalance(window: Window) -> Largest | None:
    """Return the largest item, if others are nonzero."""
    found = largest(window)
    return found if found and found.value > 0 and found.others > 0 else None


def _share(found: Largest) -> float:
    """Return the decades by which an item exceeds the sum of the others."""
    return float(np.log10(found.value) - np.log10(found.others))


def _since(history: History, name: str, limit: float) -> Window:
    """Return the first window of the latest unbroken run in which this item was too large."""

    def is_large(window: Window) -> bool:
        found = _imbalance(window)
        return bool(found and found.name == name and _share(found) > limit)

    newest = (reading.window for reading in reversed(history.readings))
    return list(takewhile(is_large, newest))[-1]


def _level(windows: Sequence[Window]) -> Largest | None:
    """Return the largest item of the median window, of those with objects; None if too few."""
    found = [one for one in map(largest, windows) if one and (one.others > 0 or one.is_alone)]
    if 2 * len(found) <= len(windows):
        return None
    return sorted(found, key=lambda one: one.value)[(len(found) - 1) // 2]


def _background(training: Mapping[str, object]) -> float:
    """Return the largest initial class loss of batches with few objects."""
    batch, size = at_work(training, "batch"), at_work(training, "imgsz")
    if not isinstance(batch, (int, float)) or not isinstance(size, (int, float)):
        return 0.0
    return BACKGROUND * max(batch, 0) * (size / 640) ** 2


LOSS_IMBALANCE = Rule(
    name="loss_imbalance",
    kind="exploding",
    severity="critical",
    threshold="loss_imbalance",
    unit="decades",
    judge=loss_imbalance,
    needs=lambda _: LARGE_WINDOWS,
    words=loss_imbalance_words,
    meaning="one loss item is 100 times the sum of all others, and clipping leaves less than a "
    "hundredth of the gradient",
    not_meaning="items of different size: healthy runs reach 10 times",
    remedy="divide the target by its spread, or use a small gain",
    state="imbalance",
    explains=("spike", "total_high", "initial_loss", "dead_branch"),
)


INITIAL_LOSS = Rule(
    name="initial_loss",
    kind="exploding",
    severity="warning",
    threshold="initial_loss",
    unit="loss",
    judge=initial_loss,
    needs=lambda _: LARGE_WINDOWS,
    words=initial_loss_words,
    meaning="a loss begins far above anything usual, and so does the gradient",
    not_meaning="the class loss of images without objects",
    remedy="a smaller initialization of the head's last convolutions; check the target units",
    state="bad loss",
    explains=("total_high",),
)
