"""Loss items: their gains, the branches that they train, and their values in windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from yolo_gradwatch.diagnose.graph import BOXES, SCORES
from yolo_gradwatch.measure.loss_items import RATE, TOTAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from yolo_gradwatch.measure.loss_items import LossItem
    from yolo_gradwatch.measure.windows import Window

_GAINS = {
    "box_loss": "box",
    "cls_loss": "cls",
    "dfl_loss": "dfl",
    "l1_loss": "dfl",
    "seg_loss": "box",
    "pose_loss": "pose",
    "kobj_loss": "kobj",
    "rle_loss": "rle",
    "angle_loss": "angle",
}
"""The option that multiplies each of Ultralytics' own loss items."""

_OF_SCORES = ("cls", "class")
"""Parts of the names of items that batches without objects have too."""

_OF_BOXES = ("box_loss", "dfl_loss", "l1_loss", "giou_loss")
"""Items that train the box branches."""


NOTHING = 1e-2
"""Ratio of mean box loss to mean class loss below which boxes learn nothing even where they learn.

Windows in which no box counts are left out. Healthy: at least 0.17 in short trainings of 16 models;
0.55 to 4 where 83 to 99 % of the images are background, but 0.01 over all of their windows. Objects
of less than 2 pixels: 4e-4.
"""


class Empty(NamedTuple):
    """Batches of a window from which the boxes learned nothing.

    Attributes:
        batches: Number of such batches.
        is_by_step: Whether each applied step of the window is one batch.
    """

    batches: int
    is_by_step: bool


def steps_of(windows: Iterable[Window]) -> int:
    """Return the number of applied steps in windows."""
    return sum(window.steps - window.skipped for window in windows)


def terms(window: Window) -> list[LossItem]:
    """Return the loss items of a window, without their sum and the learning rates."""
    return [i for i in window.losses if i.item != TOTAL and not i.item.startswith(RATE)]


def by_name(windows: Iterable[Window]) -> dict[str, list[LossItem]]:
    """Return the items by name, one for each window that knows it, without rates and the sum."""
    found: dict[str, list[LossItem]] = {}
    for item in (item for window in windows for item in terms(window)):
        found.setdefault(item.item, []).append(item)
    return found


def always_zero(windows: Iterable[Window]) -> list[str]:
    """Return the items that are exactly 0 in every batch of the windows."""
    known = by_name(windows)
    return [name for name, found in known.items() if all(i.zero == i.steps for i in found)]


def empty_batches(window: Window) -> Empty | None:
    """Return the batches in which every box item is 0; None if no such item is known."""
    known = [item for item in terms(window) if item.item in _OF_BOXES]
    if not known:
        return None
    is_by_step = not window.skipped and all(item.steps == window.steps for item in known)
    return Empty(min(item.zero for item in known), is_by_step)


def has_boxes(window: Window) -> bool:
    """Return whether the box loss of a batch is known to be nonzero."""
    return any(item.item == "box_loss" and item.zero < item.steps for item in window.losses)


def has_objects(window: Window) -> bool | None:
    """Return whether the losses show that a batch had an object; None if they cannot tell.

    Without objects, only items of the scores are nonzero.
    """
    items = by_name([window])
    others = [found[0] for name, found in items.items() if not is_of_scores(name)]
    if not items or not others:
        return True if items else None
    return any(item.zero < item.steps for item in others)


def is_of_scores(name: str) -> bool:
    """Return whether a loss item is one that batches without objects have too."""
    return any(word in name.lower() for word in _OF_SCORES)


def gains_of_zero(training: Mapping[str, object], windows: Sequence[Window]) -> dict[str, str]:
    """Return the items that are always 0 because of a gain of 0, each with that option."""
    return {
        name: gain
        for name in always_zero(windows)
        if (gain := _GAINS.get(name)) and is_zero(training.get(gain))
    }


def is_zero(option: object) -> bool:
    """Return whether an option is the number 0."""
    return isinstance(option, (int, float)) and not isinstance(option, bool) and option == 0


def trains(item: str, family: str) -> bool:
    """Return whether an item trains a family of the head: boxes, scores, or one added by a task."""
    if family.endswith(BOXES):
        return item in _OF_BOXES
    if family.endswith(SCORES):
        return is_of_scores(item)
    return item not in _OF_BOXES and not is_of_scores(item)


def mean(found: Iterable[LossItem]) -> float | None:
    """Return the mean over the batches of some windows; None if no value is finite."""
    known = [(one.mean, one.steps - one.nonfinite) for one in found if one.mean is not None]
    batches = sum(count for _, count in known)
    return sum(value * count for value, count in known) / batches if batches else None


def mean_of_others(found: Iterable[LossItem]) -> float | None:
    """Return the mean over the batches with a nonzero value; None if no such value is finite."""
    known = [(o.mean, o.steps - o.nonfinite, o.zero) for o in found if o.mean is not None]
    batches = sum(count - zero for _, count, zero in known)
    return sum(value * count for value, count, _ in known) / batches if batches else None


def are_boxes_nothing(recent: Sequence[Window]) -> bool:
    """Return whether the box loss is negligible next to the class loss, where boxes count."""
    known = by_name([window for window in recent if has_boxes(window)])
    boxes = mean_of_others(known.get("box_loss", ()))
    scores = mean([one for n, found in known.items() if is_of_scores(n) for one in found])
    return boxes is not None and scores is not None and boxes < NOTHING * scores
