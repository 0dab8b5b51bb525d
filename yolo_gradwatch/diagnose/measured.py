"""What a traced batch says about the cause of a finding: in which call, and by what.

A finding knows which block gets too little gradient, or too much, or none. A trace has the gradient
at every output within that block, so it shows between which two outputs it is lost, and what the
forward did there. Where the trace shows nothing, because the fault was over by then, there is no
reason: nothing is invented.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.measured_absent import absent
from yolo_gradwatch.diagnose.measured_between import LOST, Lost, lost_in, won_in
from yolo_gradwatch.diagnose.measured_finite import not_finite
from yolo_gradwatch.diagnose.measured_forward import (
    ACTIVATIONS,
    FLAT,
    large_in,
    lost_signal,
    silenced,
    small_before,
    zeroed,
)
from yolo_gradwatch.diagnose.measured_steps import Route, is_absent, is_endless, is_zero
from yolo_gradwatch.diagnose.measured_upstream import leading_to
from yolo_gradwatch.diagnose.route import Calls
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from yolo_gradwatch.diagnose.finding import Finding, Reason
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.trace import Flow

KINDS = (
    *("saturated", "zero", "falls", "shrinks", "multiplied", "grows", "cut", "uncalled", "zeroed"),
    *("scaled_forward", "not_finite", "not_finite_gradient", "head_room"),
)
"""Of the reasons that come from here. ``names`` begin with the module that is to be changed and its
class; after them are, as far as there are any, the two outputs between which it happens."""

ALONG = ("falls", "shrinks", "multiplied", "grows")
"""Kinds whose first value is the decades that the gradient loses, or wins, along a route."""

STACK = 2.0
"""Decades that a block and what reads it lose, or win, altogether. Healthy: 0.91 in 99 % of the
routes, 1.62 at the most, in branches of the head. Planted stacks: 4.7 at the least."""

EXPLAINED = 0.5
"""Share of a change of the whole net, in decades, that a place must lose or win to be its cause."""

PARTLY = 0.6
"""Share of zeros, or of saturated outputs, after a layer whose gradient is mostly zero. A ReLU
that learns: 0.48 to 0.55; one with dead units: 0.64."""


def measured(
    finding: Finding, layout: Layout, flow: Flow, training: Mapping[str, object]
) -> Reason | None:
    """The cause of a finding as a traced batch shows it.

    Args:
        finding: What was found; a reason that measures more directly is left to stand.
        layout: Of the model.
        flow: A batch of a step at which the finding lasted.
        training: Options of the training.

    Returns:
        A reason of one of `KINDS`; None where the trace shows no cause.
    """
    judge = _JUDGES.get(finding.rule)
    if judge is None or not flow.calls or finding.module not in layout.modules:
        return None
    calls = Calls(layout, flow)
    found = judge(finding, calls, training)
    if found is None or not _explains(found, finding):
        return None
    return _with_norm(found, calls)


def _explains(reason: Reason, finding: Finding) -> bool:
    """Whether what a place loses, or wins, is enough to be the cause of a finding.

    A stack that halves the gradient, as it always has, is not why that of the whole net collapsed.
    """
    if finding.module != WHOLE or reason.kind not in ALONG:
        return True
    value, limit = finding.value, finding.limit
    is_norm = finding.rule in {"total_low", "total_high"}
    change = abs(math.log10(value / limit)) if is_norm and 0 < value < math.inf else value
    return reason.values[0] >= EXPLAINED * change


def _with_norm(reason: Reason, calls: Calls) -> Reason:
    """Behind the name of an activation, that of the normalization right in front of it."""
    if reason.kind not in FLAT:
        return reason
    call = next(call for call in calls.calls if call.module == reason.names[0])
    norm = calls.norm_before(call)
    return replace(reason, names=(*reason.names, norm)) if norm else reason


def _lost(finding: Finding, calls: Calls, _training: Mapping[str, object]) -> Reason | None:
    """Too little gradient."""
    if finding.module == WHOLE and (lost := lost_signal(calls)):
        return lost
    found = _most(finding, calls, rises=False)
    if found is None:
        return small_before(calls, finding.module)
    return lost_in(found, calls)


def _won(finding: Finding, calls: Calls, _training: Mapping[str, object]) -> Reason | None:
    """Too much gradient: after a signal that has collapsed, norms multiply noise."""
    is_whole = finding.module == WHOLE
    if is_whole and (lost := lost_signal(calls)):
        return lost
    found = _most(finding, calls, rises=True)
    small = small_before(calls, finding.module) if found else None
    if small or found is None:
        return small or (large_in(calls.points, calls) if is_whole else None)
    return won_in(found, calls)


def _most(finding: Finding, calls: Calls, *, rises: bool) -> Lost | None:
    """The route on which most is lost, or won; None if it is not more than usual.

    What arrives at a block is a sum over those that read it: it may be far more than one of them
    sends, so that a gradient has risen only if it has on every route.
    """
    found = []
    for routes in _routes(finding, calls):
        known = [Route(tuple(c for c in one.points if not is_absent(c))) for one in routes]
        calls_of = [call for route in known for call in route.points]
        if any(map(is_endless, calls_of)) or (rises and any(map(is_zero, calls_of))):
            continue  # a NaN hides all else; a scale on which no object lands has zeros
        lost = [Lost.on(route, rises=rises) for route in known if len(route.points) > 1]
        if lost:
            found.append((min if rises else max)(lost, key=lambda one: one.decades))
    worst = max(found, key=lambda one: one.decades, default=None)
    return worst if worst and (worst.most.decades >= LOST or worst.total >= STACK) else None


def _routes(finding: Finding, calls: Calls) -> Iterator[list[Route]]:
    """From the block of a finding to each that reads it; from each block, of the whole model."""
    layout = calls.layout
    if finding.module == WHOLE:
        blocks = dict.fromkeys(b for b in layout.block_of if b not in {"", layout.head})
        yield from (calls.routes(block) for block in blocks)
        return
    block = layout.block_of[layout.modules.index(finding.module)]
    routes = calls.branches(finding.module) if block == layout.head else calls.routes(block)
    if finding.rule.startswith("leaf"):
        start = calls.order_of(finding.module)
        routes = [Route(tuple(c for c in one.points if c.order >= start)) for one in routes]
    yield routes


def _dead(finding: Finding, calls: Calls, _training: Mapping[str, object]) -> Reason | None:
    """A gradient of exactly zero, of a whole module or of most of its elements."""
    for route in (one for routes in _routes(finding, calls) for one in routes):
        pairs = list(zip(route.points, route.points[1:], strict=False))
        for before, after in reversed(pairs):
            if is_zero(before) and not is_zero(after) and not is_absent(after):
                return silenced(after) or zeroed(calls, before, after)
    if finding.rule != "partly_dead":
        found = (silenced(call) for call in calls.inside(finding.module))
        return next(filter(None, found), None)
    act = calls.activation_of(finding.module, ACTIVATIONS)
    if act is None:
        return None
    return silenced(act) or small_before(calls, finding.module) or silenced(act, PARTLY)


def _overflow(finding: Finding, calls: Calls, _training: Mapping[str, object]) -> Reason | None:
    """Values beyond half precision, after outputs that are too large.

    What lies after the first module that has them is not their cause.
    """
    judged = finding.judged if finding.is_traced else finding.reason
    named = judged.names if judged else finding.modules
    first = min(filter(calls.order_of, named), key=calls.order_of, default=finding.module)
    return large_in(leading_to(calls, first), calls)


_JUDGES: dict[str, Callable[[Finding, Calls, Mapping[str, object]], Reason | None]] = {
    **dict.fromkeys(("vanishing", "leaf_vanishing", "collapse", "total_low"), _lost),
    **dict.fromkeys(("exploding", "leaf_exploding", "spike", "total_high"), _won),
    **dict.fromkeys(("dead", "partly_dead", "dead_branch"), _dead),
    "no_gradient": absent,
    "weight_overflow": _overflow,
    **dict.fromkeys(("nonfinite", "amp_overflow"), not_finite),
}
"""By rule."""

RULES_WITH_A_CAUSE = tuple(_JUDGES)
"""Of the findings that a trace may explain."""
