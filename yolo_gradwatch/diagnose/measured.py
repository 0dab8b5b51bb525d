"""What a traced batch says about the cause of a finding: in which call, and by what.

A finding knows which block gets too little gradient, or too much, or none. A trace has the gradient
at every output within that block, so it shows between which two outputs it is lost, and what the
forward did there. Where the trace shows nothing, because the fault was over by then, there is no
reason: nothing is invented.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.graph import is_in
from yolo_gradwatch.diagnose.measured_finite import not_finite
from yolo_gradwatch.diagnose.measured_forward import (
    ACTIVATIONS,
    RANK,
    SHARES,
    large_in,
    lost_signal,
    silenced,
    small_before,
)
from yolo_gradwatch.diagnose.route import (
    Calls,
    Route,
    Step,
    around,
    is_absent,
    is_endless,
    is_zero,
    size,
    steps,
    total,
)
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.trace import Flow

KINDS = (
    *("saturated", "zero", "falls", "shrinks", "multiplied", "grows", "cut", "uncalled", "zeroed"),
    *("scaled_forward", "not_finite", "not_finite_gradient", "head_room"),
)
"""Of the reasons that come from here. ``names`` begin with the module that is to be changed and its
class; behind them are, as far as there are any, the two outputs between which it happens."""

LOST = 1.5
"""Decades that the gradient loses, or wins, for good between two outputs. Healthy, in 82 traces of
four generations of models and five tasks: 0.31 in 99 % of the routes, 0.78 at the most, and 1.02
where a scale has no object. Planted: 3.4 at the least."""

SLACK = 1.0
"""Decades by which the forward may change less, if it is to explain what the gradient loses."""

STACK = 2.0
"""Decades that a block and what reads it lose, or win, altogether. Healthy: 0.91 in 99 % of the
routes, 1.62 at the most, in branches of the head. Planted stacks: 4.7 at the least."""

ALONE = 0.5
"""Share of the lost decades from which on a single place is named."""

PARTLY = 0.6
"""Share of zeros, or of saturated outputs, behind a layer whose gradient is mostly zero. A ReLU
that learns: 0.48 to 0.55; one with dead units: 0.64."""

PART = 0.2
"""Decades that a layer of a stack, or an activation, must lose itself to be counted. Layers of
planted stacks: 0.24 to 0.9."""

NEARLY_ALL = 0.8
"""Share of the decades lost in a stack that lies in the module that is named for it."""


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

    @classmethod
    def on(cls, route: Route, *, rises: bool) -> _Lost:
        """What is lost, or won, on a route of two points or more."""
        own = steps(route, rises=rises)
        return cls(own, max(own, key=lambda step: step.decades), total(route, rises=rises))

    @property
    def decades(self) -> float:
        """The larger of both."""
        return max(self.total, self.most.decades)


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
    return judge(finding, Calls(layout, flow), training)


def _lost(finding: Finding, calls: Calls, _training: Mapping[str, object]) -> Reason | None:
    """Too little gradient."""
    if finding.module == WHOLE and (lost := lost_signal(calls)):
        return lost
    found = _most(finding, calls, rises=False)
    if found is None:
        return small_before(calls, finding.module)
    return _activation(found) or _in(found, calls, "falls", "shrinks")


def _won(finding: Finding, calls: Calls, _training: Mapping[str, object]) -> Reason | None:
    """Too much gradient: behind a signal that has collapsed, norms multiply noise."""
    is_whole = finding.module == WHOLE
    if is_whole and (lost := lost_signal(calls)):
        return lost
    found = _most(finding, calls, rises=True)
    small = small_before(calls, finding.module) if found else None
    if small or found is None:
        return small or (large_in(calls) if is_whole else None)
    return _in(found, calls, "multiplied", "grows")


def _in(found: _Lost, calls: Calls, alone: str, many: str) -> Reason:
    stack = None if _is_alone(found) else _many(found, calls, many)
    return stack or _between(found, calls, alone)


def _most(finding: Finding, calls: Calls, *, rises: bool) -> _Lost | None:
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
        lost = [_Lost.on(route, rises=rises) for route in known if len(route.points) > 1]
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


def _is_alone(found: _Lost) -> bool:
    """Whether one step loses at least half of it."""
    return found.most.decades >= max(LOST, ALONE * found.total)


def _activation(found: _Lost) -> Reason | None:
    """Activations that have saturated or put out zeros, if they lose at least half of it."""
    for kind, share_of, limit in SHARES:
        own = [s for s in found.steps if (share_of(s.behind) or 0.0) >= limit and s.alone > PART]
        if own and sum(step.alone for step in own) >= ALONE * found.decades:
            worst = max(own, key=lambda step: step.alone).behind
            values = (share_of(worst) or 0.0, float(len(own)))
            return Reason(kind, (worst.module, worst.type), values, RANK)
    return None


def _between(found: _Lost, calls: Calls, kind: str) -> Reason:
    """One place: the forward changes as much there, or the gradient alone."""
    step = found.most
    sign = 1.0 if kind == "falls" else -1.0
    forward = sign * (size(step.before) - size(step.behind))
    names = calls.names(step.before, step.behind)
    if is_zero(step.before):
        return Reason("zeroed", names, (), RANK)
    if forward >= max(step.decades - SLACK, SLACK):
        values = (step.before.output_rms or 0.0, step.behind.output_rms or 0.0)
        return Reason("scaled_forward", names, values, RANK)
    return Reason(kind, names, (step.decades,), RANK)


def _many(found: _Lost, calls: Calls, kind: str) -> Reason | None:
    """A stack, each of whose layers loses a part; None if it is none."""
    parts = [step for step in found.steps if step.alone > PART and step.decades > 0]
    place = _around_most(parts)
    if not place:
        return None
    own = [step for step in parts if is_in(place, step.behind.module)]
    names = (place, calls.type_of(place), own[0].behind.module, own[-1].behind.module)
    return Reason(kind, names, (found.total, float(len(own))), RANK)


def _around_most(parts: Sequence[Step]) -> str:
    """The smallest module with nearly all of what some steps lose; "" if there is none."""
    outer = {name for step in parts for name in around(step.behind.module) if name != WHOLE}
    whole = sum(step.alone for step in parts)
    shares = {
        name: sum(step.alone for step in parts if is_in(name, step.behind.module)) / whole
        for name in outer
    }
    large = [name for name in outer if shares[name] >= NEARLY_ALL]
    most = sorted(outer, key=lambda name: shares[name])[-1:]
    return max(large or most, key=len, default="")


def _dead(finding: Finding, calls: Calls, _training: Mapping[str, object]) -> Reason | None:
    """A gradient of exactly zero, of a whole module or of most of its elements."""
    for route in (one for routes in _routes(finding, calls) for one in routes):
        pairs = list(zip(route.points, route.points[1:], strict=False))
        for before, behind in reversed(pairs):
            if is_zero(before) and not is_zero(behind) and not is_absent(behind):
                return silenced(behind) or Reason("zeroed", calls.names(before, behind), (), RANK)
    if finding.rule != "partly_dead":
        found = (silenced(call) for call in calls.inside(finding.module))
        return next(filter(None, found), None)
    act = calls.activation_of(finding.module, ACTIVATIONS)
    if act is None:
        return None
    return silenced(act) or small_before(calls, finding.module) or silenced(act, PARTLY)


def _overflow(_finding: Finding, calls: Calls, _training: Mapping[str, object]) -> Reason | None:
    """Statistics beyond half precision, behind outputs that are too large."""
    return large_in(calls)


def _absent(finding: Finding, calls: Calls, _training: Mapping[str, object]) -> Reason | None:
    """No gradient at all: the outputs are cut off, or nobody computes them with one."""
    name, layout = finding.module, calls.layout
    called = {call.module for call in calls.calls}
    own = zip(layout.modules, layout.roles, strict=True)
    if called.isdisjoint(module for module, role in own if role and is_in(name, module)):
        return Reason("uncalled", (name, calls.type_of(name)), (), RANK)
    without = [call for call in calls.inside(name) if is_absent(call)]
    last = without[-1] if without else None
    if last is None:
        return None
    behind = [call for call in calls.points if call.order > last.order]
    reader = next((call for call in behind if not is_absent(call)), None)
    if reader is None:
        return None
    block = layout.block_of[layout.modules.index(name)]
    if block == layout.head:  # the next call may be that of another branch
        whole = (c for c in calls.calls if c.module == block and not is_absent(c))
        names = calls.names(last, next(whole, reader), calls.outer_of(name))
        return Reason("cut", names, (), RANK)
    between = [last, *(c for c in calls.calls if last.order < c.order < reader.order)]
    suspect = next((call.module for call in between if calls.is_suspect(call.module)), "")
    place = suspect or calls.place(last, reader)
    if not calls.is_suspect(place):
        place = block
    return Reason("cut", calls.names(last, reader, place), (), RANK)


_JUDGES: dict[str, Callable[[Finding, Calls, Mapping[str, object]], Reason | None]] = {
    **dict.fromkeys(("vanishing", "leaf_vanishing", "collapse", "total_low"), _lost),
    **dict.fromkeys(("exploding", "leaf_exploding", "spike", "total_high"), _won),
    **dict.fromkeys(("dead", "partly_dead", "dead_branch"), _dead),
    "no_gradient": _absent,
    "weight_overflow": _overflow,
    **dict.fromkeys(("nonfinite", "amp_overflow"), not_finite),
}
"""By rule."""

RULES_WITH_A_CAUSE = tuple(_JUDGES)
"""Of the findings that a trace may explain."""
