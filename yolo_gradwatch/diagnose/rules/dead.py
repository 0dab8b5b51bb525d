"""The rules about modules without a gradient: exactly zero, absent, or frozen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.causes import RECTIFYING, first_of, now
from yolo_gradwatch.diagnose.graph import BOXES, is_in
from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules.history import Hit, begin, is_frozen, last, names
from yolo_gradwatch.diagnose.rules.items import has_objects
from yolo_gradwatch.diagnose.rules.rates import RATE_OF_CODE, rate_of_code, rate_words
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.arrays import Flags
    from yolo_gradwatch.measure.windows import Window


_WITHOUT = ("dead_branch", "starved_scale", "partly_dead", "vanishing", "leaf_vanishing")
_STILL = (*_WITHOUT, "leaf_exploding", "exploding", "collapse", "total_low")

FROZEN_WINDOWS = 3
"""Windows in a row in which a layer must be frozen before it is reported."""


def dead(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield modules of the trunk whose gradient has been exactly zero for several windows.

    The head is left out: a scale without objects may have zeros in a healthy run. Value and limit:
    windows. A learning rate far above every option is the reason: it destroys the weights.
    """
    found = [*_without(history, limits, lambda window: window.zero == _applied(window))]
    reason = rate_of_code(history, history.recent[-1]) if found else None
    yield from (hit._replace(reason=reason) for hit in found)


def dead_words(case: Case) -> Message:
    """Describe a gradient of exactly zero."""
    relu = first_of(case.layout, case.finding.module, RECTIFYING)
    why = (
        f"its {relu} units have died: they output zero for every input"
        if relu
        else "something after it multiplies its output by zero: dead units, a zero gain or weight, "
        "or a mask"
    )
    remedy = (
        f"Put a BatchNorm with a bias of 0 before {relu}, or replace {relu} with SiLU or "
        "LeakyReLU, and try"
        if relu
        else "Find what multiplies its output by zero, and try a non-zero initialization and"
    )
    message = Message(
        what=f"{case.where}: gradient exactly zero",
        since=f"{case.since}{case.others()}, so it does not learn",
        why=case.changed,
        likely=f"{why}{'' if case.changed else case.moment}.",
        remedy=f"{remedy} {case.lower_rate}.",
    )
    reason = case.finding.reason
    if reason is None or reason.kind != RATE_OF_CODE:
        return message
    likely = "the learning rate has destroyed the weights."
    return replace(message, why="", likely=likely, remedy=rate_words(reason))


def no_gradient(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield modules that no gradient at all has reached for several windows.

    The head is included: unlike a zero gradient, an absent one does not depend on the labels.
    Exceptions are RT-DETR's denoising parts if a batch has no object, and a part of YOLOE that text
    prompts do not use. In short trainings of 16 other models and tasks, half of them on background
    alone, no head had a step with an absent gradient.
    """
    yield from _without(history, limits, _without_gradient)
    recent = last(history, limits.dead_windows)
    leaves = history.graph.leaves & history.graph.trained_head
    still = names(history.layout, _always(leaves, recent, _without_gradient))
    if not still or not all(_shows_objects(history, window) for window in recent):
        return
    for name in still:
        yield Hit(name, float(len(recent)), float(limits.dead_windows), begin(recent[0]))


def no_gradient_words(case: Case) -> Message:
    """Describe a module that no gradient reaches."""
    return Message(
        what=f"{case.where}: no gradient at all",
        since=f"{case.since}{case.others()}, so it is not trained",
        why=case.changed,
        likely="its output does not reach the loss: it is unused in forward(), or cut off by "
        "detach(), torch.no_grad() or .data.",
        remedy="Use its output, or remove the detach(), no_grad() or .data after it. If this is "
        "intentional, freeze the module.",
    )


def frozen(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield layers that were frozen after the training had begun, for several windows.

    A frozen layer has no norm, and does not count as one without a gradient. Value and limit:
    windows.
    """
    del limits
    recent = last(history, FROZEN_WINDOWS)
    for name in names(history.layout, _always(history.graph.leaves, recent, is_frozen)):
        yield Hit(name, FROZEN_WINDOWS, FROZEN_WINDOWS, begin(recent[0]))


def frozen_words(case: Case) -> Message:
    """Describe a layer that was frozen after the training had begun."""
    option = now(case.training, "freeze")
    is_asked_for = _freezes(case.training.get("freeze"), case.finding.module)
    why = (
        f"The option {option} asks for it."
        if is_asked_for
        else f"The option {option} does not name it: a callback or the model's own code set "
        "requires_grad=False."
    )
    remedy = "" if is_asked_for else "Fine if intentional; otherwise remove that code."
    since = f"{case.since}{case.others()}"
    return Message(what=f"{case.where}: frozen", since=since, why=why, remedy=remedy)


def _without(
    history: History, limits: Thresholds, is_hit: Callable[[Window], Flags]
) -> Iterator[Hit]:
    """Yield leaf modules of the trunk for which ``is_hit`` holds in each of the last windows."""
    recent = last(history, limits.dead_windows)
    leaves = history.graph.leaves & history.graph.trunk
    for name in names(history.layout, _always(leaves, recent, is_hit)):
        yield Hit(name, float(len(recent)), float(limits.dead_windows), begin(recent[0]))


def _always(chosen: Flags, recent: Sequence[Window], is_hit: Callable[[Window], Flags]) -> Flags:
    """Return (M,) the chosen modules that ``is_hit`` marks in every window; none if no window."""
    found = chosen & bool(recent)
    for window in reversed(recent):
        if not found.any():
            break
        found &= is_hit(window)
    return found


def _without_gradient(window: Window) -> Flags:
    """Return (M,) whether a module had no gradient in any applied step."""
    found: Flags = window.none == _applied(window)
    return found


def _applied(window: Window) -> int:
    return window.steps - window.skipped


def _shows_objects(history: History, window: Window) -> bool:
    """Return whether a batch of a window had an object, by its losses or else its box branches."""
    known = has_objects(window)
    if known is not None:
        return known
    families = (units for f, units in history.graph.families.items() if f.endswith(BOXES))
    rows = [history.graph.rows[unit] for units in families for unit in units]
    return bool(((window.zero + window.none)[rows] < _applied(window)).any())


def _freezes(freeze: object, name: str) -> bool:
    """Return whether the option ``freeze`` names the block of a module."""
    layers = range(freeze) if isinstance(freeze, int) else freeze
    return isinstance(layers, Iterable) and any(is_in(f"{WHOLE}.{i}", name) for i in layers)


DEAD = Rule(
    name="dead",
    kind="dead",
    severity="critical",
    threshold="dead_windows",
    unit="windows",
    judge=dead,
    needs=lambda limits: limits.dead_windows,
    words=dead_words,
    meaning="a layer of the trunk has had a gradient of exactly zero for that many windows",
    not_meaning="a scale of the head that gets no objects",
    remedy="SiLU or LeakyReLU with BatchNorm, a non-zero initialization",
    blocks="entire",
    explains=(*_STILL, "no_gradient"),
    starves_readers=True,
)


NO_GRADIENT = Rule(
    name="no_gradient",
    kind="dead",
    severity="critical",
    threshold="dead_windows",
    unit="windows",
    judge=no_gradient,
    needs=lambda limits: limits.dead_windows,
    words=no_gradient_words,
    meaning="no gradient reaches a layer at all: unused, or cut off by `detach()`",
    not_meaning="a frozen layer",
    remedy="connect it or freeze it",
    state="no grad",
    blocks="entire",
    explains=(*_STILL, "dead"),
    stays_in_head=True,
)


FROZEN = Rule(
    name="frozen",
    severity="notice",
    unit="windows",
    judge=frozen,
    needs=lambda _: FROZEN_WINDOWS,
    words=frozen_words,
    meaning="something other than `freeze=` froze a layer",
    not_meaning="a fault",
    remedy="nothing, if intentional",
)
