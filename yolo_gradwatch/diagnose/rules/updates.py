"""The rules about parameters that get a gradient but do not change."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.phrases import counted, listed
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules.history import Hit, begin, is_frozen, last, names
from yolo_gradwatch.measure.clipping import CLIP_NORM
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.loss_items import RATE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.arrays import Flags
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.windows import Window

ROOM = 1e-5
"""Relative update that a step should have made for its absence to count.

float32 loses what is below 6e-8 of a weight. Estimated as the lower of two: the learning rate times
the clipped gradient, as SGD moves a weight, and times 1 for each element, as Adam does.
"""


def not_updated(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield parameters that get a gradient and never change, while others do.

    If they are in no parameter group, this is known before the first step. If the optimizer is
    unknown, or skips them, their update is exactly 0 in the last windows in which updates were
    read. In healthy trainings, no trainable parameter is outside the optimizer, and no module with
    a gradient has an update of 0 except at a learning rate of 0. Value and limit: windows.
    """
    outside = history.optimizer.outside if history.optimizer else ()
    if outside:
        yield from _outside(history, outside)
        return
    windows = _read(history, limits.dead_windows)
    if len(windows) < limits.dead_windows:
        return
    still = np.logical_and.reduce([_rests(history, window) for window in windows])
    if not still.any():
        return
    due = np.logical_and.reduce([_is_due(history, window) for window in windows])
    blocks = np.array(history.layout.block_of)
    around = np.isin(blocks, blocks[still & due & history.graph.leaves])
    found = names(history.layout, still & around & history.graph.leaves)
    reason = Reason("still", tuple(found))
    for name in found:
        yield Hit(name, len(windows), limits.dead_windows, begin(windows[0]), reason=reason)


def not_updated_words(case: Case) -> Message:
    """Describe parameters that never change."""
    reason = case.finding.reason
    if reason is None or reason.kind == "still":
        return Message(
            what=f"{case.where}: has a gradient but has not changed",
            since=f"{case.since}{case.others()}, while other modules have",
            likely="the optimizer skips it: a custom step, or a parameter group of its own that "
            "is never stepped.",
            remedy="Put it into a parameter group that is stepped, or freeze it if this is "
            "intentional.",
        )
    count = len(reason.names)
    one = count == 1
    elements = f" ({reason.values[0]:,.0f} parameters)" if reason.values else ""
    return Message(
        what=f"{case.where}: {count} trainable tensor{'' if one else 's'}{elements} "
        f"{'is' if one else 'are'} in no parameter group of the optimizer and will never change "
        f"({listed(reason.names)}),",
        since=case.since,
        why="This happens when a custom build_optimizer collects parameters by module type or "
        "name. zero_grad() never clears "
        f"{'its gradient, so it accumulates' if one else 'their gradients, so they accumulate'}.",
        measured=f"{'it is not' if one else 'none of them is'} in optimizer.param_groups.",
        remedy="Pass all of model.parameters() to the optimizer, or freeze "
        f"{'it' if one else 'them'} if this is intentional.",
    )


def zero_rate(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield the owners of trainable parameters in a group whose learning rate stays 0.

    It is a notice, because that is also a way to freeze. Value and limit: windows.
    """
    del limits
    still = history.optimizer.zero_rate if history.optimizer else ()
    reason = Reason("zero rate", still, rank=len(still))
    for window in last(history, 1) if still else ():
        for owner in _owners(history.layout, still):
            yield Hit(owner, 1, 1, begin(window), reason=reason)


def zero_rate_words(case: Case) -> Message:
    """Describe parameters whose group has a learning rate of 0."""
    found = case.finding.reason.names if case.finding.reason else ()
    count = len(found)
    which = f": {listed(found)}" if found else ""
    moves = "it does" if count == 1 else "they do"
    tensors = counted(count, "trainable tensor") if count else "trainable tensors"
    return Message(
        what=f"{case.where}: {tensors} {'has' if count == 1 else 'have'} been in a parameter group "
        "with a learning rate of 0",
        since=f"{case.since}{case.others()}, so {moves} not change{which}",
        why="The group was given a rate of 0, and a schedule only multiplies it.",
        remedy="Fine if intentional; freezing also saves the gradient computation.",
    )


def _outside(history: History, outside: tuple[str, ...]) -> Iterator[Hit]:
    """Yield the modules that own parameters in no group, except those without any gradient."""
    rows = history.graph.rows
    elements = history.optimizer.elements_outside if history.optimizer else 0
    values = (float(elements),) if elements else ()
    reason = Reason("outside", outside, values, rank=len(outside))
    for window in last(history, 1):
        applied = window.steps - window.skipped
        for owner in _owners(history.layout, outside):
            if window.none[rows[owner]] < applied:
                yield Hit(owner, 1, 1, begin(window), reason=reason)


def _owners(layout: Layout, parameters: Sequence[str]) -> list[str]:
    """Return the modules that own these parameters, in forward order."""
    known = set(layout.modules)
    owners = {name.rpartition(".")[0] for name in parameters}
    found = {owner if owner in known else WHOLE for owner in owners}
    return [name for name in layout.modules if name in found]


def _read(history: History, count: int) -> list[Window]:
    """Return the newest windows with updates, at a learning rate above 0 in each group."""
    moved = (reading.window for reading in reversed(history.readings) if reading.is_moved)
    return [*islice((w for w in moved if _rate(history, w) > 0), count)][::-1]


def _rate(history: History, window: Window) -> float:
    """Return the lowest learning rate of a group in a window, except groups that stay at 0."""
    groups = history.optimizer.groups if history.optimizer else ()
    off = {f"{RATE}{n}" for n, group in enumerate(groups) if group.lr == 0}
    rates = [item for item in window.losses if item.item.startswith(RATE)]
    lowest = [0.0 if i.min is None or i.nonfinite else i.min for i in rates if i.item not in off]
    return min(lowest, default=0.0)


def _rests(history: History, window: Window) -> Flags:
    """Return (M,) whether a module with a gradient does not move in a window in which most do."""
    ratio = window.update_ratio
    counts = window.nonfinite + window.zero + window.none
    found: Flags = (ratio == 0) & (counts == 0)
    if not found.any():
        return found
    found &= ~is_frozen(window)
    found &= bool((ratio[history.graph.leaves] > 0).mean() > 1 / 2)
    still = history.optimizer.zero_rate if history.optimizer else ()
    found[[history.graph.rows[owner] for owner in _owners(history.layout, still)]] = False
    return found


def _is_due(history: History, window: Window) -> Flags:
    """Return (M,) whether the step should have moved a module by more than float32 loses."""
    clipped = min(1.0, CLIP_NORM / max(float(window.norm_max[0]), CLIP_NORM))
    with np.errstate(divide="ignore", invalid="ignore"):
        pull = np.minimum(window.norm_min * clipped, np.sqrt(history.graph.elements))
        found: Flags = _rate(history, window) * pull / window.weight_norm > ROOM
    return found


NOT_UPDATED = Rule(
    name="not_updated",
    kind="dead",
    severity="critical",
    threshold="dead_windows",
    unit="windows",
    judge=not_updated,
    needs=lambda limits: limits.dead_windows,
    words=not_updated_words,
    meaning="parameters get a gradient and never change; found at the first step for those in no "
    "parameter group",
    not_meaning="frozen, a learning rate of 0, or an update too small for float32",
    remedy="put them into a parameter group, or freeze them",
    state="no update",
    explains=("vanishing", "leaf_vanishing", "leaf_exploding", "exploding", "total_high"),
    one_cause=True,
)

ZERO_RATE = Rule(
    name="zero_rate",
    severity="notice",
    unit="windows",
    judge=zero_rate,
    needs=lambda _: 1,
    words=zero_rate_words,
    meaning="trainable parameters are in a parameter group whose learning rate stays 0",
    not_meaning="the start of a warm-up",
    remedy="nothing, if intentional; otherwise the group's `lr`",
    one_cause=True,
)
