"""What the forward pass of a traced batch shows: flat activations, and outputs of another size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.graph import is_in
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.diagnose.route import Calls
    from yolo_gradwatch.measure.trace import Call

RANK = 5
"""Rank of every reason from a trace: above those of the judges."""

SATURATED = 0.5
"""Minimum share of saturated outputs for an activation to count as saturated. Tanh in healthy
models: 0; injected: 0.99 to 1."""

ZERO = 0.9
"""Minimum share of exact zeros for an activation's output to count as zero. SiLU: 0; a ReLU that
learns: 0.48 to 0.55; one that has died: 1."""

SMALL = 0.005
"""RMS below which an output of the trunk has collapsed, norms included. Healthy: 0.47 to 1.9;
injected: at most 2e-3."""

USUAL = 0.03
"""The smallest RMS in healthy trainings, in the head of a pose model."""

MOST = 12.0
"""The largest RMS in healthy trainings, in the last layers of the class branches."""

LARGE = 120.0
"""RMS above which an output that no normalization follows is too large. Healthy: see `MOST`."""

ACTIVATIONS = (
    *("SiLU", "ReLU", "ReLU6", "LeakyReLU", "GELU", "Mish", "ELU", "PReLU", "Hardswish"),
    *("Sigmoid", "Tanh", "Hardsigmoid", "Hardtanh", "LogSigmoid", "Softsign", "Softplus"),
)

FLAT = {"saturated": SATURATED, "zero": ZERO}
"""Ways in which an activation has no slope, each with the minimum share for it to count."""


def share_of(call: Call, kind: str) -> float:
    """Return the share of an activation's output that is flat in this way; 0 for other modules."""
    share = call.output_saturated if kind == "saturated" else call.output_zero
    return share if share is not None and call.type in ACTIVATIONS else 0.0


def silenced(call: Call, least: float = 1.0) -> Reason | None:
    """Return an activation with almost no slope anywhere; ``least`` lowers the limits."""
    for kind, limit in FLAT.items():
        share = share_of(call, kind)
        if share >= min(limit, least):
            return Reason(kind, (call.module, call.type), (share, 1.0), RANK)
    return None


def lost_signal(calls: Calls) -> Reason | None:
    """Return where the signal is first lost: in an activation that passes nothing, or elsewhere.

    After an output of zeros, activations output zeros too.
    """
    quiet = (c for c in calls.points if c.output_zero == 1.0 or c.output_saturated == 1.0)
    silent = next((found for call in quiet if (found := silenced(call))), None)
    small = small_before(calls, WHOLE)
    if silent is None or small is None:
        return silent or small
    is_later = calls.order_of(silent.names[0]) > calls.order_of(small.names[-1])
    return small if is_later else silent


def small_before(calls: Calls, module: str) -> Reason | None:
    """Return where the signal has collapsed, in a module or before it."""
    inside = calls.inside(module)
    end = inside[-1].order if inside and module != WHOLE else len(calls.calls)
    usual = None
    for call in calls.points:
        if call.order > end or is_in(calls.layout.head, call.module):
            return None
        rms = call.output_rms
        if rms is not None and rms < SMALL and usual:
            return _scaled(calls, usual, call)
        usual = call if rms is not None and rms >= USUAL else usual
    return None


def large_in(points: Sequence[Call], calls: Calls) -> Reason | None:
    """Return the first of some points with an output far above healthy ones."""
    usual = None
    for call in points:
        rms = call.output_rms
        if rms is None or not math.isfinite(rms):
            continue
        if rms > LARGE and usual:
            return _scaled(calls, usual, call)
        usual = call if rms <= MOST else usual
    return None


def zeroed(calls: Calls, before: Call, after: Call, place: str = "") -> Reason:
    """Return the reason for a zero gradient at an output whose successor has a gradient.

    The value is the share of zeros in the output of ``after``, or in the input of its
    normalization. Only if all of it is zero, the output was multiplied by zero.
    """
    outputs = (calls.raw_of(after), after)
    shares = (1.0 if one.output_rms == 0 else one.output_zero or 0.0 for one in outputs)
    return Reason("zeroed", calls.names(before, after, place), (max(shares),), RANK)


def _scaled(calls: Calls, before: Call, after: Call) -> Reason:
    """Return the two outputs between which the size changes, and the module with the code."""
    place = calls.between(before, after)
    if after.output_rms == 0:
        return zeroed(calls, before, after, place)
    values = (before.output_rms or 0.0, after.output_rms or 0.0)
    return Reason("scaled_forward", calls.names(before, after, place), values, RANK)
