"""How much gradient is lost or gained from one output of a route to the next."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from yolo_gradwatch.measure.trace import Call

NEAR = 2
"""Points in a row that must have a level for it to count."""

_LEAST = -400.0
"""Placeholder for the logarithm of zero."""


class Route(NamedTuple):
    """The points of a block and of a unit that reads it, in forward order."""

    points: tuple[Call, ...]


class Step(NamedTuple):
    """The step from one point of a route to the next, which is nearer to the loss.

    Attributes:
        before: The output that the other one reads.
        after: The output nearer to the loss.
        decades: Lasting fall, or rise, of the gradient: all earlier points are beyond it too.
        alone: Fall, or rise, between these two outputs.
    """

    before: Call
    after: Call
    decades: float
    alone: float


def steps(route: Route, *, rises: bool = False) -> list[Step]:
    """Return how much is lost, or gained, for good from each point to the next.

    A branch of a block with less gradient, or more, does not count, because the points before it
    are back at the usual level.
    """
    levels = _levels(route, rises=rises)
    found = []
    for i in range(len(levels) - 1):
        decades = min(levels[i + 1 : i + 1 + NEAR]) - max(levels[: i + 1])
        alone = levels[i + 1] - levels[i]
        found.append(Step(route.points[i], route.points[i + 1], decades, alone))
    return found


def total(route: Route, *, rises: bool = False) -> float:
    """Return how much is lost, or gained, from the best point of a route to its start."""
    levels = _levels(route, rises=rises)
    return max(min(levels[i : i + NEAR]) for i in range(len(levels))) - levels[0]


def _levels(route: Route, *, rises: bool) -> list[float]:
    sign = -1.0 if rises else 1.0
    return [sign * level(call) for call in route.points]


def level(call: Call) -> float:
    """Return log10 of the gradient's norm at an output."""
    norm = call.gradient_norm
    if norm is None or norm == 0:
        return _LEAST
    return math.log10(norm) if math.isfinite(norm) else -_LEAST


def size(call: Call) -> float:
    """Return log10 of the norm of an output."""
    rms = call.output_rms
    if not rms or not math.isfinite(rms):
        return _LEAST if not rms else -_LEAST
    return math.log10(rms * math.sqrt(call.elements or 1))


def is_absent(call: Call) -> bool:
    """Return whether no gradient arrives at an output."""
    return call.gradient_norm is None


def is_zero(call: Call) -> bool:
    """Return whether the gradient at an output is exactly zero."""
    return call.gradient_norm == 0


def is_nonfinite(call: Call) -> bool:
    """Return whether the gradient at an output is NaN or Inf."""
    return call.gradient_norm is not None and not math.isfinite(call.gradient_norm)
