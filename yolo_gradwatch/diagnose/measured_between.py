"""Where on a route the gradient is lost or won: in one place, in activations, or in a stack."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.graph import is_in
from yolo_gradwatch.diagnose.measured_forward import (
    ACTIVATIONS,
    FLAT,
    RANK,
    USUAL,
    large_in,
    share_of,
    zeroed,
)
from yolo_gradwatch.diagnose.measured_steps import Route, Step, is_zero, level, size, steps, total
from yolo_gradwatch.diagnose.measured_upstream import read_by
from yolo_gradwatch.diagnose.route import NORM, Calls, around
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.measure.trace import Call

LOST = 1.5
"""Decades that the gradient loses, or wins, for good between two outputs. Healthy, in 82 traces of
four generations of models and five tasks: 0.31 in 99 % of the routes, 0.78 at the most, and 1.02
where a scale has no object. Planted: 3.4 at the least."""

SLACK = 1.0
"""Decades by which the forward may change less, if it is to explain what the gradient loses."""

ALONE = 0.5
"""Share of the lost decades from which on a single place is named, or a class of activation."""

PART = 0.2
"""Decades that a layer of a stack, or an activation, must lose itself to be counted. Layers of
planted stacks: 0.24 to 0.9."""

NEARLY_ALL = 0.8
"""Share of the decades lost in a stack that lies in the module that is named for it."""


class Lost(NamedTuple):
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
    def on(cls, route: Route, *, rises: bool) -> Lost:
        """What is lost, or won, on a route of two points or more."""
        own = steps(route, rises=rises)
        return cls(own, max(own, key=lambda step: step.decades), total(route, rises=rises))

    @property
    def decades(self) -> float:
        """The larger of both."""
        return max(self.total, self.most.decades)


def lost_in(found: Lost, calls: Calls) -> Reason:
    """What loses it: activations without a slope, a place or a stack."""
    return _activation(found) or _in(found, calls, "falls", "shrinks")


def won_in(found: Lost, calls: Calls) -> Reason:
    """What multiplies it: a place or a stack."""
    return _in(found, calls, "multiplied", "grows")


def _in(found: Lost, calls: Calls, alone: str, many: str) -> Reason:
    """A place if one step has at least half of it, else a stack."""
    is_alone = found.most.decades >= max(LOST, ALONE * found.total)
    stack = None if is_alone else _many(found, calls, many)
    return stack or _between(found.most, calls, alone)


def _activation(found: Lost) -> Reason | None:
    """Activations that have saturated or put out zeros, if they lose at least half of it."""
    for kind, limit in FLAT.items():
        own = [s for s in found.steps if share_of(s.behind, kind) >= limit and s.alone > PART]
        if own and sum(step.alone for step in own) >= ALONE * found.decades:
            worst = max(own, key=lambda step: step.alone).behind
            values = (share_of(worst, kind), float(len(own)))
            return Reason(kind, (worst.module, worst.type), values, RANK)
    return None


def _between(step: Step, calls: Calls, kind: str) -> Reason:
    """One place: the forward changes as much there, or the gradient alone.

    What is said of two outputs is the ratio of exactly these two.
    """
    names = calls.names(step.before, step.behind)
    if is_zero(step.before):
        return zeroed(calls, step.before, step.behind)
    if kind == "falls" and _is_working_norm(step.behind):
        large = large_in(read_by(calls, step.behind), calls)
        by = (step.behind.module,)
        falls = Reason(kind, names, (step.alone,), RANK)
        return replace(large, names=(*large.names, *by)) if large else falls
    sign = 1.0 if kind == "falls" else -1.0
    forward = sign * (size(step.before) - size(step.behind))
    if forward >= max(step.decades - SLACK, SLACK):
        values = (step.before.output_rms or 0.0, step.behind.output_rms or 0.0)
        return Reason("scaled_forward", names, values, RANK)
    return Reason(kind, names, (step.alone,), RANK)


def _is_working_norm(call: Call) -> bool:
    """Whether an output is that of a normalization, of its usual size: it divides by its input."""
    return NORM in call.type and (call.output_rms or 0.0) >= USUAL


def _many(found: Lost, calls: Calls, kind: str) -> Reason | None:
    """A stack, each of whose layers loses a part; None if it is none.

    The names are those of the module, its class, and the outputs in front of the first of these
    layers and of the last; the values are the decades between these two, and how many layers with
    weights and how many calls lie between them. Where one class of activation loses at least half
    of that, its name follows, and how many there are and the decades that they lose together.
    """
    parts = [step for step in found.steps if step.alone > PART and step.decades > 0]
    place = _around_most(parts)
    if not place:
        return None
    own = [step for step in found.steps if is_in(place, step.behind.module)]
    losing = [n for n, step in enumerate(own) if step in parts]
    own = own[losing[0] : losing[-1] + 1]
    first, last = own[0].before, own[-1].behind
    decades = abs(level(last) - level(first))
    layers = calls.weights_between(first, last, place)
    act, *lost = _act_of(own, decades) if kind == "shrinks" else ("",)
    names = (place, calls.type_of(place), first.module, last.module, act)
    values = (decades, float(layers), float(len(own)), *lost)
    return Reason(kind, names if act else names[:4], values, RANK)


def _act_of(own: Sequence[Step], decades: float) -> tuple[str, float, float] | tuple[str]:
    """The class of activation that loses at least half, how many there are, and what they lose."""
    lost: dict[str, list[float]] = {}
    for step in own:
        if step.behind.type in ACTIVATIONS:
            lost.setdefault(step.behind.type, []).append(step.alone)
    worst = max(lost, key=lambda kind: sum(lost[kind]), default="")
    if not worst or sum(lost[worst]) < ALONE * decades:
        return ("",)
    return worst, float(len(lost[worst])), sum(lost[worst])


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
