"""What a traced batch says about the cause of a finding: in which call, and by what.

A finding knows which block gets too little gradient, or too much, or none. A trace has the gradient
at every output within that block, so it shows between which two outputs it is lost, and what the
forward did there. Where the trace shows nothing, because the fault was over by then, there is no
reason: nothing is invented.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.measured_finite import not_finite
from yolo_gradwatch.diagnose.route import Calls, Route, Step, is_absent, is_zero, level, size, steps, total
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.trace import Call, Flow

KINDS = (
    *("saturated", "zero", "falls", "shrinks", "multiplied", "grows", "cut", "uncalled", "zeroed"),
    *("scaled_forward", "not_finite", "not_finite_gradient", "head_room"),
)
"""Of the reasons that come from here. ``names`` begin with the module that is to be changed and its
class; behind them are, as far as there are any, the two outputs between which it happens."""

RANK = 5
"""Above every reason that the judges give."""

LOST = 1.0
"""Decades that the gradient loses, or wins, for good between two outputs, or over a block."""

ALONE = 0.5
"""Share of the lost decades from which on a single place is named."""

SATURATED = 0.5
"""Share of the outputs of an activation that have saturated."""

ZERO = 0.9
"""Share of exact zeros in an activation's output."""

PART = 0.2
"""Decades that an activation must lose itself to be named."""

LARGE = 120.0
"""Root mean square of an output that goes into no normalization."""


class _Lost(NamedTuple):
    """Where on a route the gradient is lost, or won.

    Attributes:
        steps: Of the route on which it is most.
        most: The largest of them.
        total: Decades from where the gradient is highest, or lowest, to the beginning.
    """

    steps: Sequence[Step]
    most: Step
    total: float


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
    if judge is None or not flow.calls:
        return None
    return judge(finding, Calls(layout, flow), training)


def _lost(finding: Finding, calls: Calls, _training: Mapping[str, object]) -> Reason | None:
    """Too little gradient."""
    found = _most(finding, calls, rises=False)
    if found is None:
        return None
    return _activation(found) or (
        _between(found, calls, "falls") if _is_alone(found) else _many(found, calls, "shrinks")
    )


def _won(finding: Finding, calls: Calls, _training: Mapping[str, object]) -> Reason | None:
    """Too much gradient."""
    found = _most(finding, calls, rises=True)
    if found is None:
        return _large(calls) if finding.module == WHOLE else None
    if _is_alone(found):
        return _between(found, calls, "multiplied")
    return _many(found, calls, "grows")


def _most(finding: Finding, calls: Calls, *, rises: bool) -> _Lost | None:
    """The route on which most is lost, or won; None if it is not more than usual."""
    found = []
    for route in _routes(finding, calls):
        if rises and any(map(is_zero, route.points)):
            continue  # a scale on which no object lands
        own = steps(route, rises=rises)
        if own:
            most = max(own, key=lambda step: step.decades)
            found.append(_Lost(own, most, total(route, rises=rises)))
    if not found:
        return None
    worst = max(found, key=lambda one: max(one.total, one.most.decades))
    return worst if max(worst.total, worst.most.decades) >= LOST else None


def _routes(finding: Finding, calls: Calls) -> Iterator[Route]:
    """From the block of a finding to those that read it; from each block, of the whole model."""
    layout = calls.layout
    if finding.module == WHOLE:
        for block in dict.fromkeys(layout.block_of):
            if block and block != layout.head:
                yield from calls.routes(block)
        return
    block = layout.block_of[layout.modules.index(finding.module)]
    for route in calls.routes(finding.module if block == layout.head else block):
        if not finding.rule.startswith("leaf"):
            yield route
            continue
        start = calls.order_of(finding.module)
        points = tuple(call for call in route.points if call.order >= start)
        if len(points) > 1:
            yield Route(points, len(points) - 1)


def _is_alone(found: _Lost) -> bool:
    """Whether one step loses at least half of it."""
    return found.most.decades >= max(LOST, ALONE * found.total)


def _activation(found: _Lost) -> Reason | None:
    """Activations that have saturated or put out zeros, if they lose at least half of it."""
    for kind, share_of, limit in _SHARES:
        own = [s for s in found.steps if (share_of(s.behind) or 0.0) >= limit and s.alone > PART]
        if own and sum(step.alone for step in own) >= ALONE * max(found.total, found.most.decades):
            worst = max(own, key=lambda step: step.alone).behind
            values = (share_of(worst) or 0.0, float(len(own)))
            return Reason(kind, (worst.module, worst.type), values, RANK)
    return None


def _between(found: _Lost, calls: Calls, kind: str) -> Reason:
    """One place: the forward changes as much there, or the gradient alone."""
    step = found.most
    sign = 1.0 if kind == "falls" else -1.0
    forward = sign * (size(step.before) - size(step.behind))
    names = _names(step, calls)
    if forward >= max(step.decades - LOST, LOST):
        values = (step.before.output_rms or 0.0, step.behind.output_rms or 0.0)
        return Reason("scaled_forward", names, values, RANK)
    return Reason(kind, names, (step.decades,), RANK)


def _many(found: _Lost, calls: Calls, kind: str) -> Reason:
    """A stack, each of whose layers loses a part."""
    parts = [step for step in found.steps if step.alone > PART and step.decades > 0]
    if not parts:
        return _between(found, calls, kind)
    first, last = parts[0].behind, parts[-1].behind
    place = calls.around(first.module, last.module)
    names = (place, calls.type_of(place), first.module, last.module)
    return Reason(kind, names, (found.total, float(len(parts))), RANK)


def _large(calls: Calls) -> Reason | None:
    """An output far above that of healthy trainings, which no normalization brings back."""
    before = None
    for call in calls.points:
        rms = call.output_rms
        if rms and math.isfinite(rms) and rms > LARGE and before:
            place = calls.place(before, call)
            names = (place, calls.type_of(place), before.module, call.module)
            return Reason("scaled_forward", names, (before.output_rms or 0.0, rms), RANK)
        before = call
    return None


def _dead(finding: Finding, calls: Calls, _training: Mapping[str, object]) -> Reason | None:
    """A gradient of exactly zero."""
    for route in _routes(finding, calls):
        pairs = list(zip(route.points, route.points[1:], strict=False))
        for before, behind in reversed(pairs):
            if is_zero(before) and not is_zero(behind) and not is_absent(behind):
                return _silenced(behind) or _at("zeroed", before, behind, calls)
    inside = calls.inside(finding.module)
    return next((found for call in inside if (found := _silenced(call))), None)


def _silenced(call: Call) -> Reason | None:
    """An activation whose slope is zero nearly everywhere."""
    for kind, share_of, limit in _SHARES:
        share = share_of(call)
        if share is not None and share >= limit and call.type in _ACTIVATIONS:
            return Reason(kind, (call.module, call.type), (share, 1.0), RANK)
    return None


def _absent(finding: Finding, calls: Calls, _training: Mapping[str, object]) -> Reason | None:
    """No gradient at all."""
    inside = calls.inside(finding.module)
    if not inside:
        if any(call.module == finding.module for call in calls.calls):
            inside = [call for call in calls.calls if call.module == finding.module]
        else:
            name = finding.module
            return Reason("uncalled", (name, calls.type_of(name)), (), RANK)
    without = [call for call in inside if is_absent(call)]
    if not without:
        return None
    last = without[-1]
    block = calls.layout.block_of[calls.layout.modules.index(finding.module)]
    behind = [call for call in calls.points if call.order > last.order]
    reader = next((call for call in behind if not is_absent(call)), None)
    if reader is None:
        return None
    between = [c for c in calls.calls if last.order < c.order < reader.order]
    own = [c for c in (last, *between) if calls.is_suspect(c.module) and is_absent(c)]
    if own:
        return _named("cut", own[0].module, last, reader, calls)
    del block
    return _at("cut", last, reader, calls)


def _at(kind: str, before: Call, behind: Call, calls: Calls) -> Reason:
    return _named(kind, calls.place(before, behind), before, behind, calls)


def _named(kind: str, place: str, before: Call, behind: Call, calls: Calls) -> Reason:
    return Reason(kind, (place, calls.type_of(place), before.module, behind.module), (), RANK)


def _names(step: Step, calls: Calls) -> tuple[str, ...]:
    place = calls.place(step.before, step.behind)
    return (place, calls.type_of(place), step.before.module, step.behind.module)


_ACTIVATIONS = (
    *("SiLU", "ReLU", "ReLU6", "LeakyReLU", "GELU", "Mish", "ELU", "PReLU", "Hardswish"),
    *("Sigmoid", "Tanh", "Hardsigmoid", "Hardtanh", "LogSigmoid", "Softsign", "Softplus"),
)

_SHARES: tuple[tuple[str, Callable[[Call], float | None], float], ...] = (
    ("saturated", lambda call: call.output_saturated, SATURATED),
    ("zero", lambda call: call.output_zero, ZERO),
)

_JUDGES: dict[str, Callable[[Finding, Calls, Mapping[str, object]], Reason | None]] = {
    **dict.fromkeys(("vanishing", "leaf_vanishing", "collapse", "total_low"), _lost),
    **dict.fromkeys(("exploding", "leaf_exploding", "spike", "total_high"), _won),
    **dict.fromkeys(("dead", "partly_dead", "dead_branch", "starved_scale"), _dead),
    "no_gradient": _absent,
    **dict.fromkeys(("nonfinite", "amp_overflow"), not_finite),
}
"""By rule."""
