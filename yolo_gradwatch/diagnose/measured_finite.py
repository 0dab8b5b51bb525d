"""Where NaN or Inf starts in a traced batch: first output, or gradient nearest to the loss."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.causes import number_format
from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.graph import is_in
from yolo_gradwatch.diagnose.measured_forward import RANK
from yolo_gradwatch.diagnose.measured_steps import is_nonfinite
from yolo_gradwatch.measure.arrays import FLOAT16_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.diagnose.route import Calls

ENDS = {"float16": FLOAT16_MAX, "bfloat16": 3.3895314e38}
"""The largest numbers of the formats that AMP uses."""

CLOSE = 0.25
"""Share of the largest number above which an output is about to overflow, because sums of it do.
Healthy: at most 19, which is 0.0003 of float16's."""

_DIRECT = ("input", "weights", "loss items", "often")
"""Reasons of the judge that a later trace does not override."""

_SKIPS = ("call", "forward", "slope", "loss")
"""Reasons of the judge whose first value says whether AMP skipped the step."""


def not_finite(finding: Finding, calls: Calls, training: Mapping[str, object]) -> Reason | None:
    """Return the first non-finite output, or else the non-finite gradient nearest to the loss.

    The first value is that of the judge: 1 if AMP skipped the step.
    """
    known = finding.reason
    if known and known.kind in _DIRECT:
        return None
    if all(call.is_finite for call in calls.calls):
        is_forward = known is not None and known.kind in {"call", "forward"}
        found = None if is_forward else _in_backward(calls) or _head_room(calls, training)
    else:
        found = _in_forward(calls, training)
        found = found if found and _agrees(known, found) else None
    skipped = known.values[:1] if known and known.kind in _SKIPS else (0.0,)
    return found and replace(found, values=(*skipped, *found.values))


def _agrees(known: Reason | None, found: Reason) -> bool:
    """Return whether an output is one that the judge knows to be the first, or suspects."""
    if known is None or known.kind == "loss":
        return True
    if known.kind == "call":
        return known.names[0] == found.names[-1] or found.kind == "head_room"
    return known.kind == "forward" and any(is_in(n, found.names[0]) for n in known.names[3:])


def _in_forward(calls: Calls, training: Mapping[str, object]) -> Reason | None:
    """Return the first non-finite output; None if it is the first layer's, as after a bad step."""
    call = next(call for call in calls.calls if not call.is_finite)
    before = next((c for c in reversed(calls.calls[: call.order - 1]) if c.output_max), None)
    if before is None:
        return None
    largest, end = before.output_max or 0.0, end_of(training)
    if end and largest > CLOSE * end:
        return Reason("head_room", (before.module, before.type), (largest, end), RANK)
    return Reason("not_finite", calls.names(before, call), (largest,), RANK)


def _in_backward(calls: Calls) -> Reason | None:
    """Return the non-finite gradient nearest to the loss whose reader has a finite one.

    The order of the calls decides what is nearer: a module finishes after its parts.
    """
    known = [call for call in calls.calls if call.gradient_norm is not None]
    bad = [n for n, call in enumerate(known) if is_nonfinite(call)]
    if not bad or bad[-1] + 1 == len(known):
        return None
    before, after = known[bad[-1]], known[bad[-1] + 1]
    return Reason("not_finite_gradient", calls.names(before, after), (), RANK)


def _head_room(calls: Calls, training: Mapping[str, object]) -> Reason | None:
    """Return the largest output if it is close to the largest number of the format in use."""
    end = end_of(training)
    if end is None:
        return None
    largest = max(calls.calls, key=lambda call: call.output_max or 0.0)
    value = largest.output_max or 0.0
    if value <= CLOSE * end:
        return None
    return Reason("head_room", (largest.module, largest.type), (value, end), RANK)


def end_of(training: Mapping[str, object]) -> float | None:
    """Return the largest number of the format of the forward pass; None for float32."""
    return ENDS.get(number_format(training))
