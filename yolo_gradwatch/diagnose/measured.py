"""Measure the cause of a finding in a traced batch: which call, and by which mechanism.

A finding says which block gets too little gradient, too much, or none. A trace has the gradient at
every output in that block, so it shows between which two outputs the gradient is lost, and what the
forward pass does there. If the trace shows no cause, for example because the fault was over by
then, there is no reason.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.measured_absent import absent
from yolo_gradwatch.diagnose.measured_between import LOST, Lost, gained_in, lost_in
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
from yolo_gradwatch.diagnose.measured_steps import Route, is_absent, is_nonfinite, is_zero
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
"""Kinds of the reasons from this module. ``names`` start with the module to change and its class,
followed by the two outputs between which it happens, if any."""

ALONG = ("falls", "shrinks", "multiplied", "grows")
"""Kinds whose first value is the decades that the gradient loses, or gains, along a route."""

STACK = 2.0
"""Minimum decades lost, or gained, on a whole route for it to count. Healthy: at most 0.91 in 99 %
of the routes, and 1.62 in all, in branches of the head. Injected stacks: at least 4.7."""

EXPLAINED = 0.5
"""Minimum share of a change of the whole net, in decades, for a place to be its cause."""

PARTLY = 0.6
"""Minimum share of zeros, or of saturated outputs, in the activation after a layer whose gradient
is mostly zero. A ReLU that learns: 0.48 to 0.55; one with dead units: 0.64."""


def measured(
    finding: Finding, layout: Layout, flow: Flow, training: Mapping[str, object]
) -> Reason | None:
    """Return the cause of a finding that a traced batch shows.

    Args:
        finding: The finding; a reason that measures more directly is kept.
        layout: Layout of the model.
        flow: A traced batch from a step during the finding.
        training: Options of the training.

    Returns:
        A reason of one of `KINDS`; None if the trace shows no cause.
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
    """Return whether a place loses, or gains, enough to be the cause of a finding.

    A stack that halves the gradient does not explain a collapse of the whole net's gradient.
    """
    if finding.module != WHOLE or reason.kind not in ALONG:
        return True
    value, limit = finding.value, finding.limit
    is_norm = finding.rule in {"total_low", "total_high"}
    change = abs(math.log10(value / limit)) if is_norm and 0 < value < math.inf else value
    return reason.values[0] >= EXPLAINED * change


def _with_norm(reason: Reason, calls: Calls) -> Reason:
    """Append the normalization right before an activation to the names."""
    if reason.kind not in FLAT:
        return reason
    call = next(call for call in calls.calls if call.module == reason.names[0])
    norm = calls.norm_before(call)
    return replace(reason, names=(*reason.names, norm)) if norm else reason


def _lost(finding: Finding, calls: Calls, _training: Mapping[str, object]) -> Reason | None:
    """Return the cause of too little gradient."""
    if finding.module == WHOLE and (lost := lost_signal(calls)):
        return lost
    found = _most(finding, calls, rises=False)
    if found is None:
        return small_before(calls, finding.module)
    return lost_in(found, calls)


def _gained(finding: Finding, calls: Calls, _training: Mapping[str, object]) -> Reason | None:
    """Return the cause of too much gradient: norms after a collapsed signal multiply noise."""
    is_whole = finding.module == WHOLE
    if is_whole and (lost := lost_signal(calls)):
        return lost
    found = _most(finding, calls, rises=True)
    small = small_before(calls, finding.module) if found else None
    if small or found is None:
        return small or (large_in(calls.points, calls) if is_whole else None)
    return gained_in(found, calls)


def _most(finding: Finding, calls: Calls, *, rises: bool) -> Lost | None:
    """Return the route that loses, or gains, most; None if the change is not unusual.

    The gradient of a block is the sum over its readers and may be far larger than that from one of
    them. It has therefore risen only if it has risen on every route.
    """
    found = []
    for routes in _routes(finding, calls):
        known = [Route(tuple(c for c in one.points if not is_absent(c))) for one in routes]
        calls_of = [call for route in known for call in route.points]
        if any(map(is_nonfinite, calls_of)) or (rises and any(map(is_zero, calls_of))):
            continue  # a NaN hides everything else; a scale without an object has zeros
        lost = [Lost.on(route, rises=rises) for route in known if len(route.points) > 1]
        if lost:
            found.append((min if rises else max)(lost, key=lambda one: one.decades))
    worst = max(found, key=lambda one: one.decades, default=None)
    return worst if worst and (worst.most.decades >= LOST or worst.total >= STACK) else None


def _routes(finding: Finding, calls: Calls) -> Iterator[list[Route]]:
    """Yield the routes from a finding's block to its readers; for the whole model, all blocks."""
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
    """Return the cause of a gradient of exactly zero, in a module or in most of its elements."""
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
    """Return the cause of values too large for float16: too large outputs upstream.

    Outputs after the first affected module are not the cause.
    """
    judged = finding.judged if finding.is_traced else finding.reason
    named = judged.names if judged else finding.modules
    first = min(filter(calls.order_of, named), key=calls.order_of, default=finding.module)
    return large_in(leading_to(calls, first), calls)


_JUDGES: dict[str, Callable[[Finding, Calls, Mapping[str, object]], Reason | None]] = {
    **dict.fromkeys(("vanishing", "leaf_vanishing", "collapse", "total_low"), _lost),
    **dict.fromkeys(("exploding", "leaf_exploding", "spike", "total_high"), _gained),
    **dict.fromkeys(("dead", "partly_dead", "dead_branch"), _dead),
    "no_gradient": absent,
    "weight_overflow": _overflow,
    **dict.fromkeys(("nonfinite", "amp_overflow"), not_finite),
}
"""Functions that find a cause, by rule."""

RULES_WITH_A_CAUSE = tuple(_JUDGES)
"""Rules of the findings that a trace may explain."""
