"""The rules about branches of the head: starved by labels, turned off by options, or cut off."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.causes import now
from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.graph import BOXES, SCORES
from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.phrases import joined, significant
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules import branches, items
from yolo_gradwatch.diagnose.rules.history import Hit, begin, last

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.windows import Window

SELDOM = 0.5
"""Minimum share of steps without a gradient at any scale for boxes to count as rarely learning.

Healthy: usually 0; 0.23 if half of the images are background, 0.81 if objects are rare. Objects of
less than 2 pixels: 0.84.
"""

LABELS = "Check the labels first (train_batch0.jpg, and the 'backgrounds' that Ultralytics"
"""What to try first if a branch gets no gradient; each use completes the sentence."""

POSE = "pose_loss"
"""The loss item that only visible keypoints contribute to."""


def dead_branch(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield families of the head that do not learn at any scale.

    A family is found at once if a gain of 0 turns it off. Otherwise, score families aside, it must
    have had a gradient of exactly zero for long, or be boxes that rarely learn, and then next to
    nothing. Value and limit: windows.
    """
    off = _turned_off(history)
    for family, reason in off.items():
        since, units = begin(last(history, 1)[0]), history.graph.families[family]
        yield Hit(branches.name(history, family), 1, 1, since, units, reason)
    count = limits.dead_branch_windows
    recent = last(history, count)
    for family in _dead_families(history, recent):
        if family not in off:
            why, units = _reason(history, recent, family), history.graph.families[family]
            yield Hit(branches.name(history, family), count, count, begin(recent[0]), units, why)


def dead_branch_words(case: Case) -> Message:
    """Describe a family of the head that does not learn at any scale."""
    reason = case.finding.reason
    if reason and reason.kind == "seldom":
        return _seldom_words(case, reason)
    if reason and reason.kind == "gain":
        options = joined([f"{gain}=0" for gain in reason.names])
        return Message(
            what=f"{case.where}: gradient exactly zero at every scale of the head,",
            since=f"{case.since}, because {options}",
            why="A gain of 0 switches this branch's loss off, so the branch learns nothing.",
            remedy="Set a gain above 0, or do not use this branch's output.",
        )
    message = Message(
        what=f"{case.where}: gradient exactly zero at every scale of the head for "
        f"{case.finding.value:,.0f} windows,",
        since=case.since,
    )
    if reason is None:
        return replace(
            message,
            likely="no image has an object it could learn from, or its output is cut off from the "
            "loss.",
            remedy=f"{LABELS} counts); if they are right, look for a gain of zero or a detach() "
            "after this branch.",
        )
    measured, remedy = _why_dead(case, reason)
    return replace(message, measured=measured, remedy=remedy)


def few_objects(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield box families that learn in at most half of the steps, but do learn then.

    Value and limit: windows.
    """
    count = limits.dead_branch_windows
    recent = last(history, count)
    for family, share in branches.shares(history, recent).items():
        if SELDOM <= share < 1 and not items.are_boxes_nothing(recent):
            reason, units = _seldom(history, recent, family), history.graph.families[family]
            yield Hit(branches.name(history, family), count, count, begin(recent[0]), units, reason)


def few_objects_words(case: Case) -> Message:
    """Describe boxes that learn in few steps."""
    return _seldom_words(case, case.finding.reason)


def zero_loss(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield loss items that are always 0 although their branch learns from others.

    If a gain of 0 is why, they are found at once. Otherwise only ``pose_loss`` is, after long: no
    keypoint is visible. ``sem_loss`` and ``kobj_loss`` are 0 in healthy trainings too. Value and
    limit: windows.
    """
    off = {name for reason in _turned_off(history).values() for name in reason.names}
    module = history.layout.head or history.layout.modules[0]
    newest, count = last(history, 1), limits.dead_branch_windows
    found = items.gains_of_zero(history.training, newest)
    rest = tuple(dict.fromkeys(gain for gain in found.values() if gain not in off))
    if rest:
        names = (*rest, *(item for item, gain in found.items() if gain in rest))
        reason = Reason("gains", names, (float(len(rest)),), rank=1)
        yield Hit(module, 1, 1, begin(newest[0]), reason=reason)
    recent = last(history, count)
    is_zero = POSE in items.always_zero(newest) and POSE in items.always_zero(recent)
    if not is_zero or POSE in found:
        return
    is_known = any(items.trains(POSE, family) for family in _dead_families(history, recent))
    if not is_known and all(s < SELDOM for s in branches.shares(history, recent).values()):
        yield Hit(module, count, count, begin(recent[0]), reason=Reason("labels", (POSE,)))


def zero_loss_words(case: Case) -> Message:
    """Describe loss items that are always 0."""
    reason = case.finding.reason
    if reason and reason.kind == "labels":
        zero = _subject(reason.names, "has", "have")
        return Message(
            what=f"{case.where}: {zero} been exactly 0 in every batch",
            since=f"{case.since}, while the boxes learn",
            why="No keypoint is labelled visible.",
            remedy="Check the third number of each keypoint in the labels: 0 means it does not "
            "count.",
        )
    count = int(reason.values[0]) if reason else 0
    names = reason.names if reason else ()
    options = joined([f"{gain}=0" for gain in names[:count]]) or "its gain is 0"
    zero = _subject(names[count:] or ["a loss item"], "has", "have")
    return Message(
        what=f"{case.where}: {zero} been exactly 0 in every batch",
        since=f"{case.since}, because {options}",
        why="A gain of 0 switches a loss item off.",
        remedy=f"Fine if intentional; otherwise set the gain{'s' if count > 1 else ''} above 0.",
    )


def _turned_off(history: History) -> dict[str, Reason]:
    """Return families without gradient in the newest window whose items have a gain of 0."""
    newest = last(history, 1)
    applied, gains = items.steps_of(newest), items.gains_of_zero(history.training, newest)
    found: dict[str, Reason] = {}
    for family in history.graph.families if gains else ():
        own = {item: gain for item, gain in gains.items() if items.trains(item, family)}
        if own and branches.silence(history, newest, family).most == applied:
            found[family] = Reason("gain", tuple(dict.fromkeys(own.values())), rank=2)
    return found


def _dead_families(history: History, recent: Sequence[Window]) -> list[str]:
    families = [f for f in history.graph.families if not f.endswith(SCORES)] if recent else []
    steps = items.steps_of(recent)
    shares = {f: branches.silence(history, recent, f).most / steps for f in families}
    is_seldom = any(f.endswith(BOXES) and SELDOM <= s < 1 for f, s in shares.items())
    is_nothing = is_seldom and items.are_boxes_nothing(recent)
    return [
        f for f, s in shares.items() if s == 1 or (f.endswith(BOXES) and is_nothing and s >= SELDOM)
    ]


def _reason(history: History, recent: Sequence[Window], family: str) -> Reason | None:
    """Return what the losses and the other branches show about a family that does not learn."""
    zero = items.always_zero(recent)
    if family.endswith(BOXES):
        if branches.shares(history, recent)[family] < 1:
            return _seldom(history, recent, family)
        kind = "no objects" if any(items.trains(item, family) for item in zero) else ""
        own = [item for item in zero if not items.is_of_scores(item)]
        return Reason(kind, tuple(own), rank=3) if kind else None
    learning = [f for f, share in branches.shares(history, recent).items() if share < 1 - SELDOM]
    if not learning:
        return None
    own = [item for item in zero if items.trains(item, family)]
    return Reason("others learn", (branches.name(history, learning[0]), *own))


def _seldom(history: History, recent: Sequence[Window], family: str) -> Reason:
    """Return bounds on the steps in which boxes learned, the number of steps, and their loss."""
    steps, silent = items.steps_of(recent), branches.silence(history, recent, family)
    found = items.by_name(recent)
    highest = [one.max for one in found.get("box_loss", ()) if one.max is not None]
    counts = (steps - silent.most, steps - silent.least, steps)
    return Reason("seldom", (), (*map(float, counts), *(highest and [max(highest)])), 3)


def _why_dead(case: Case, reason: Reason) -> tuple[str, str]:
    """Return the measured cause of a branch without a gradient, and what to try."""
    if reason.kind == "no objects":
        why = f"{_subject(reason.names)} exactly 0 in every batch while the scores learn"
        boxes = f"the box sizes at {now(case.training, 'imgsz')}"
        return f"{why}: no object is assigned in any image.", f"{LABELS} counts), then {boxes}."
    other, *own = reason.names
    if not own:
        why = f"{other} learns, so the labels are not the cause; the output of "
        remedy = "Look for a detach(), torch.no_grad() or a factor of zero after this branch."
        return f"{why}{case.finding.module} does not reach the loss.", remedy
    why = f"{other} learns, so boxes are not the cause: {_subject(own)} exactly 0 in every batch."
    remedy = "Check the labels of this item (keypoints all marked invisible, or empty masks), then "
    return why, f"{remedy}its code for a factor of zero."


def _seldom_words(case: Case, reason: Reason | None) -> Message:
    """Describe boxes that rarely learn, and then next to nothing or as usual."""
    least, most, steps, *highest = reason.values if reason else (0.0, 0.0, 0.0)
    often = (
        f"learned in {_between(least, most, steps)} of {steps:,.0f} steps"
        if reason
        else "has rarely learned"
    )
    what, size = f"{case.where}: the box branch {often}", now(case.training, "imgsz")
    if case.finding.rule == "few_objects":
        return Message(
            what=what,
            since=f"{case.since}; in the other steps no object was assigned to it",
            why="This is normal if most images are background.",
            remedy=f"If they are not, check the labels, {size} and the box sizes.",
        )
    loss = f", and box_loss was at most {significant(highest[0], 2)}" if highest else ""
    return Message(
        what=what,
        since=f"{case.since}{loss}, while the scores learn",
        likely=f"nearly all objects are too small for {size}, or their labels are missing.",
        remedy="Check the labels (train_batch0.jpg), then train with a larger imgsz or on tiles.",
    )


def _between(least: float, most: float, of: float) -> str:
    """Format an exact number of steps, or its bounds."""
    if least == most:
        return f"{least:,.0f}"
    if most < of:
        return f"{least:,.0f} to {most:,.0f}"
    return f"at least {least:,.0f}"


def _subject(found: Sequence[str], one: str = "is", many: str = "are") -> str:
    """Return names as the subject of a sentence, with its verb."""
    return f"{joined(found)} {one if len(found) == 1 else many}"


FEW_OBJECTS = Rule(
    name="few_objects",
    severity="notice",
    threshold="dead_branch_windows",
    unit="windows",
    judge=few_objects,
    needs=lambda limits: limits.dead_branch_windows,
    words=few_objects_words,
    meaning="the box branch learned in at most half of the steps of that many windows",
    not_meaning="a fault, if most images are background",
    remedy="check the labels and `imgsz`",
)

ZERO_LOSS = Rule(
    name="zero_loss",
    severity="notice",
    unit="windows",
    judge=zero_loss,
    needs=lambda _: 1,
    words=zero_loss_words,
    meaning="a loss item is exactly 0: its gain is 0, or no keypoint is labelled visible",
    not_meaning="a fault, if intentional",
    remedy="nothing, if intentional",
)


DEAD_BRANCH = Rule(
    name="dead_branch",
    kind="dead",
    severity="warning",
    threshold="dead_branch_windows",
    unit="windows",
    judge=dead_branch,
    needs=lambda limits: limits.dead_branch_windows,
    words=dead_branch_words,
    meaning="a branch of the head has had no gradient at any scale for that many windows, or "
    "the box branch rarely learned, and hardly anything; at once if a gain of 0 turns it off",
    not_meaning="one scale without objects",
    remedy="check the labels; look for a gain of zero or a `detach()` after it",
    explains=("starved_scale",),
)
