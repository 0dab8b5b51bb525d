"""The rules about modules that get no gradient: exactly zero, none at all, or frozen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose.causes import RECTIFYING, first_of, now
from yolo_gradwatch.diagnose.graph import BOXES, SCORES, is_in
from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.rules.history import Hit, begin, is_frozen, last, names
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.arrays import Counts
    from yolo_gradwatch.measure.windows import Window


FROZEN_WINDOWS = 3
"""Windows in a row in which a layer was frozen before that is reported."""


def dead(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Modules of the trunk whose gradient has been exactly zero for several windows.

    The head is left out: on a scale on which no object lands, zero is healthy there. Value and
    limit: windows.
    """
    yield from _silent(history, limits, lambda window: window.zero)


def dead_words(case: Case) -> Message:
    """A gradient of exactly zero."""
    relu = first_of(case.layout, case.finding.module, RECTIFYING)
    why = (
        f"its {relu} units have died: they put out zero for every input"
        if relu
        else "its output is multiplied by zero behind it: units that died, a gain or weight that "
        "is zero, a mask"
    )
    return Message(
        what=f"{case.where}: gradient exactly zero",
        since=f"{case.since}{case.others()}, so it does not learn",
        why=f"Probably {why}{case.moment}.",
        remedy="Try SiLU or LeakyReLU with BatchNorm, a non-zero initialization, and "
        f"{case.lower_rate}.",
    )


def no_gradient(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Modules of the trunk that no gradient has reached at all for several windows."""
    yield from _silent(history, limits, lambda window: window.none)


def no_gradient_words(case: Case) -> Message:
    """No gradient at all."""
    return Message(
        what=f"{case.where}: no gradient at all",
        since=f"{case.since}{case.others()}, so it is not trained",
        why="Probably its output does not lead to the loss: unused in forward, or cut off by "
        "detach(), torch.no_grad() or .data.",
        remedy="Try to connect it, or freeze it if that is meant.",
    )


def dead_branch(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Families of the head, scores aside, that have had a zero gradient at every scale for long.

    Value and limit: windows.
    """
    windows = limits.dead_branch_windows
    for family, silent in _silent_branches(history, limits).items():
        units = history.graph.families[family]
        if len(silent) == len(units):
            since = begin(history.readings[-windows].window)
            yield Hit(f"{history.layout.head}.{family}", windows, windows, since, units)


def dead_branch_words(case: Case) -> Message:
    """A family of the head without a gradient at any scale."""
    return Message(
        what=f"{case.where}: gradient exactly zero at every scale of the head for "
        f"{case.finding.value:,.0f} windows,",
        since=case.since,
        why="Either no image has an object that it could learn from, or its output is cut off from "
        "the loss.",
        remedy="Look at the labels first (train_batch0.jpg, and the 'backgrounds' that Ultralytics "
        "counts); if they are right, look for a gain of zero or a detach() behind this branch.",
    )


def starved_scale(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Scales of the head whose boxes have had a zero gradient for long, while others learn.

    No object lands there. One family alone may be silent for long: of the pair that YOLO26 trains,
    one gets a single box an object. Value and limit: windows.
    """
    windows = limits.dead_branch_windows
    silent = {f: s for f, s in _silent_branches(history, limits).items() if f.endswith(BOXES)}
    if any(len(s) == len(history.graph.families[f]) for f, s in silent.items()):
        return
    for branches in zip(*(history.graph.families[f] for f in silent), strict=True):
        if all(branch in s for branch, s in zip(branches, silent.values(), strict=True)):
            since = begin(history.readings[-windows].window)
            yield Hit(branches[0], windows, windows, since, branches[1:])


def starved_scale_words(case: Case) -> Message:
    """A scale of the head on which no object lands."""
    size = now(case.training, "imgsz")
    return Message(
        what=f"{case.where}: no object lands on this scale of the head",
        since=f"{case.since}; the other scales learn, so this branch is not dead",
        why="That is normal where objects have one size.",
        remedy=f"If they do not, check {size} and the sizes of the boxes.",
    )


def frozen(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Layers that were frozen after the training had begun, for several windows.

    A frozen layer has no norm, and is not counted as without a gradient. Value and limit: windows.
    """
    del limits
    recent = last(history, FROZEN_WINDOWS)
    if not recent:
        return
    quiet = [is_frozen(window) for window in recent]
    for name in names(history.layout, history.graph.leaves & np.all(quiet, axis=0)):
        yield Hit(name, FROZEN_WINDOWS, FROZEN_WINDOWS, begin(recent[0]))


def frozen_words(case: Case) -> Message:
    """A layer that was frozen after the training had begun."""
    option = now(case.training, "freeze")
    is_asked_for = _freezes(case.training.get("freeze"), case.finding.module)
    why = (
        f"The option {option} asks for that."
        if is_asked_for
        else f"The option {option} does not name it: a callback or the model's own code set "
        "requires_grad=False."
    )
    remedy = "" if is_asked_for else "Fine if that is meant."
    since = f"{case.since}{case.others()}"
    return Message(what=f"{case.where}: frozen", since=since, why=why, remedy=remedy)


def _silent(
    history: History, limits: Thresholds, count: Callable[[Window], Counts]
) -> Iterator[Hit]:
    """Leaf modules of the trunk with the count in every applied step of the last windows."""
    recent = last(history, limits.dead_windows)
    if not recent:
        return
    always = [count(window) == window.steps - window.skipped for window in recent]
    still = history.graph.leaves & history.graph.trunk & np.all(always, axis=0)
    for name in names(history.layout, still):
        yield Hit(name, float(len(recent)), float(limits.dead_windows), begin(recent[0]))


def _silent_branches(history: History, limits: Thresholds) -> dict[str, set[str]]:
    """For each family of the head but scores, its branches without a gradient for long."""
    recent = last(history, limits.dead_branch_windows)
    families = {f: units for f, units in history.graph.families.items() if not f.endswith(SCORES)}
    rows = history.graph.rows
    silent = {unit for units in families.values() for unit in units} if recent else set()
    for window in reversed(recent):
        if not silent:
            break
        applied = window.steps - window.skipped
        without = window.zero + window.none
        silent = {unit for unit in silent if without[rows[unit]] == applied}
    return {family: silent.intersection(units) for family, units in families.items()}


def _freezes(freeze: object, name: str) -> bool:
    """Whether the option ``freeze`` names the block of a module."""
    layers = range(freeze) if isinstance(freeze, int) else freeze
    return isinstance(layers, Iterable) and any(is_in(f"{WHOLE}.{i}", name) for i in layers)
