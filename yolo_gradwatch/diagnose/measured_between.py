"""Where on a route the gradient is lost or gained: in one place, in activations, or in a stack."""

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
"""Minimum decades lost, or gained, for good between two outputs for the change to count. Healthy,
in 82 traces of four generations of models and five tasks: at most 0.31 in 99 % of the routes, 0.78
in all, and 1.02 where a scale has no object. Injected: at least 3.4."""

SLACK = 1.0
"""Decades by which the forward pass may change less than the gradient and still explain its
loss."""

ALONE = 0.5
"""Minimum share of the lost decades for a single place, or a class of activation, to be named."""

PART = 0.2
"""Decades that a layer of a stack, or an activation, must lose by itself to count. Layers of
injected stacks: 0.24 to 0.9."""

NEARLY_ALL = 0.8
"""Share of the decades lost in a stack that must be in the module named for it."""


class Lost(NamedTuple):
    """Where on a route the gradient is lost, or gained.

    Attributes:
        steps: All steps of the route.
        most: The step with the largest loss, or gain.
        total: Decades from the highest, or lowest, gradient on the route to its start.
    """

    steps: Sequence[Step]
    most: Step
    total: float

    @classmethod
    def on(cls, route: Route, *, rises: bool) -> Lost:
        """Return what is lost, or gained, on a route of at least two points."""
        own = steps(route, rises=rises)
        return cls(own, max(own, key=lambda step: step.decades), total(route, rises=rises))

    @property
    def decades(self) -> float:
        """The larger of ``total`` and the decades of ``most``."""
        return max(self.total, self.most.decades)


def lost_in(found: Lost, calls: Calls) -> Reason:
    """Return what loses the gradient: activations without a slope, a place or a stack."""
    return _activation(found) or _in(found, calls, "falls", "shrinks")


def gained_in(found: Lost, calls: Calls) -> Reason:
    """Return what multiplies the gradient: a place or a stack."""
    return _in(found, calls, "multiplied", "grows")


def _in(found: Lost, calls: Calls, alone: str, many: str) -> Reason:
    """Return a place if one step has at least half of the change, else a stack."""
    is_alone = found.most.decades >= max(LOST, ALONE * found.total)
    stack = None if is_alone else _many(found, calls, many)
    return stack or _between(found.most, calls, alone)


def _activation(found: Lost) -> Reason | None:
    """Return the saturated or zero activations if they lose at least half of the gradient."""
    for kind, limit in FLAT.items():
        own = [s for s in found.steps if share_of(s.after, kind) >= limit and s.alone > PART]
        if own and sum(step.alone for step in own) >= ALONE * found.decades:
            worst = max(own, key=lambda step: step.alone).after
            values = (share_of(worst, kind), float(len(own)))
            return Reason(kind, (worst.module, worst.type), values, RANK)
    return None


def _between(step: Step, calls: Calls, kind: str) -> Reason:
    """Return one place: the forward pass changes as much there, or only the gradient does.

    The ratio reported for two outputs is that of exactly these two.
    """
    names = calls.names(step.before, step.after)
    if is_zero(step.before):
        return zeroed(calls, step.before, step.after)
    if kind == "falls" and _is_working_norm(step.after):
        large = large_in(read_by(calls, step.after), calls)
        falls = Reason(kind, names, (step.alone,), RANK)
        return replace(large, names=(*large.names, step.after.module)) if large else falls
    sign = 1.0 if kind == "falls" else -1.0
    forward = sign * (size(step.before) - size(step.after))
    if forward >= max(step.decades - SLACK, SLACK):
        values = (step.before.output_rms or 0.0, step.after.output_rms or 0.0)
        return Reason("scaled_forward", names, values, RANK)
    return Reason(kind, names, (step.alone,), RANK)


def _is_working_norm(call: Call) -> bool:
    """Return whether a normalization's output has its usual size: it divides by its input."""
    return NORM in call.type and (call.output_rms or 0.0) >= USUAL


def _many(found: Lost, calls: Calls, kind: str) -> Reason | None:
    """Return a stack in which each layer loses a part; None if there is none.

    The names are the module, its class, the output before the first of these layers, and that of
    the last; the values are the decades between these two outputs, and how many layers with weights
    and how many calls are between them. If one class of activation loses at least half of that, its
    name follows, with the number of such calls and the decades that they lose together.
    """
    parts = [step for step in found.steps if step.alone > PART and step.decades > 0]
    place = _around_most(parts)
    if not place:
        return None
    own = [step for step in found.steps if is_in(place, step.after.module)]
    losing = [n for n, step in enumerate(own) if step in parts]
    own = own[losing[0] : losing[-1] + 1]
    first, last = own[0].before, own[-1].after
    decades = abs(level(last) - level(first))
    layers = calls.weights_between(first, last, place)
    act, *lost = _act_of(own, decades) if kind == "shrinks" else ("",)
    names = (place, calls.type_of(place), first.module, last.module, act)
    values = (decades, float(layers), float(len(own)), *lost)
    return Reason(kind, names if act else names[:4], values, RANK)


def _act_of(own: Sequence[Step], decades: float) -> tuple[str, float, float] | tuple[str]:
    """Return the activation class that loses at least half, its calls, and their loss."""
    lost: dict[str, list[float]] = {}
    for step in own:
        if step.after.type in ACTIVATIONS:
            lost.setdefault(step.after.type, []).append(step.alone)
    worst = max(lost, key=lambda kind: sum(lost[kind]), default="")
    if not worst or sum(lost[worst]) < ALONE * decades:
        return ("",)
    return worst, float(len(lost[worst])), sum(lost[worst])


def _around_most(parts: Sequence[Step]) -> str:
    """Return the smallest module with nearly all of what some steps lose; "" if there is none."""
    outer = {name for step in parts for name in around(step.after.module) if name != WHOLE}
    whole = sum(step.alone for step in parts)
    shares = {
        name: sum(step.alone for step in parts if is_in(name, step.after.module)) / whole
        for name in outer
    }
    large = [name for name in outer if shares[name] >= NEARLY_ALL]
    most = sorted(outer, key=lambda name: shares[name])[-1:]
    return max(large or most, key=len, default="")
