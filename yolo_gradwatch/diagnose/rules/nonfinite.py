"""The rule about NaN or Inf gradients, and what was measured about where they began."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules.amp import endless_overflow
from yolo_gradwatch.diagnose.rules.history import Hit, begin, is_frozen, names
from yolo_gradwatch.diagnose.rules.items import terms
from yolo_gradwatch.diagnose.rules.loss import bad_items, has_bad_loss
from yolo_gradwatch.diagnose.rules.nonfinite_words import nonfinite_words
from yolo_gradwatch.diagnose.rules.origin import has_bad_weights, has_read_weights, trail
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.arrays import Flags
    from yolo_gradwatch.measure.windows import Window

CALL, FORWARD, LOSS, ALL = 4, 3, 2, 1
"""Ranks of reasons: a traced call names the place itself, buffers a section, the loss a term."""


def nonfinite(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield modules with a NaN or Inf gradient in a step that was applied, or that AMP cannot help.

    AMP's scaler skips a step with an overflow and lowers its scale. With a finite loss, that is
    calibration, until it happens more often than any scale explains. A non-finite loss is not a
    matter of the scale, so it counts from the first step on. Value: bad steps, limit: how many are
    allowed.
    """
    newest, leaves = history.newest, history.graph.leaves
    if newest.nonfinite.any():
        counts = newest.nonfinite * leaves
        found = {history.layout.modules[m]: float(counts[m]) for m in np.flatnonzero(counts)}
        reason = _reason(history)
        yield from _hits(found, 0.0, begin(newest), reason, _place(history, reason))
    elif newest.skipped and has_bad_loss(newest):
        bad = names(history.layout, _without_norm(history)) or [WHOLE]
        found = dict.fromkeys(bad, float(newest.skipped))
        reason = _reason(history)
        yield from _hits(found, 0.0, begin(newest), reason, _place(history, reason))
    elif overflow := endless_overflow(history, limits):
        in_a_row = overflow.skips == overflow.steps
        bad = names(history.layout, _without_norm(history)) if in_a_row else []
        found = dict.fromkeys(bad or [WHOLE], float(overflow.skips))
        share = (float(overflow.skips), float(overflow.steps))
        reason = _reason(history) if in_a_row else Reason("often", values=share)
        yield from _hits(found, float(limits.amp_grace), overflow.since, reason)


def _hits(
    found: dict[str, float],
    limit: float,
    since: tuple[int, int],
    reason: Reason | None,
    place: str = "",
) -> Iterator[Hit]:
    """Yield a hit for each module; for a place in the forward pass, only one for that place."""
    if place:
        others = tuple(name for name in found if name != WHOLE)
        yield Hit(place, max(found.values()), limit, since, others, reason)
        return
    for name, value in found.items():
        yield Hit(name, value, limit, since, reason=reason)


def _reason(history: History) -> Reason | None:
    """Return what was measured about the cause; None if the loss is unknown.

    ``values`` has a 1 if AMP skipped the step, so that no weight was damaged. For weights damaged
    before it, a second 1 says that earlier steps were finite.
    """
    newest = history.newest
    is_first = not any(window.nonfinite.any() for window in _before(history))
    if not newest.skipped and is_first and has_bad_weights(history):
        return Reason("weights", (), (0.0, float(history.was_finite)), ALL)
    if not terms(newest):
        return None
    if not bad_items(newest):
        return Reason("slope", values=_was_skipped(newest), rank=LOSS)
    return _in_forward(history) or _in_loss(newest)


def _in_forward(history: History) -> Reason | None:
    """Return a place before the loss; None if nothing shows one."""
    was_skipped = _was_skipped(history.newest)
    if call := _first_call(history):
        return Reason("call", call, was_skipped, CALL)
    found = trail(history)
    if found is None:
        return None
    if not found.suspects:
        return Reason("input", (found.spoiled,), was_skipped, FORWARD)
    place = _module_of(history, found.suspects, found.spoiled)
    return Reason("forward", (place, *found[:2], *found.suspects), was_skipped, FORWARD)


def _in_loss(newest: Window) -> Reason:
    """Return the loss items if the forward pass shows nothing: bad names first, then the others."""
    bad = [item.item for item in bad_items(newest)]
    sound = [item.item for item in terms(newest) if not item.nonfinite]
    if sound or len(bad) == 1:
        return Reason("loss items", (*bad, "", *sound), _was_skipped(newest), LOSS)
    values = (*_was_skipped(newest), float(has_read_weights(newest)))
    return Reason("loss", (), values, ALL)


def _before(history: History) -> list[Window]:
    """Return the applied windows before the newest one, since the run began or restarted."""
    return [r.window for r in history.readings if r.window is not history.newest]


def _was_skipped(window: Window) -> tuple[float]:
    return (float(window.skipped > 0),)


def _place(history: History, reason: Reason | None) -> str:
    """Return the watched module in whose forward pass it arose, if one is known; else ""."""
    if not reason or reason.kind not in {"forward", "call"}:
        return ""
    if reason.names[0] in history.graph.rows:
        return reason.names[0]
    found = trail(history)
    return _module_of(history, found.suspects, found.spoiled) if found and found.suspects else ""


def _module_of(history: History, suspects: tuple[str, ...], spoiled: str) -> str:
    """Return what to name the finding after: the watched suspect nearest to what is not finite."""
    named = [name for name in suspects if name in history.graph.rows]
    return named[-1] if named else spoiled


def _first_call(history: History) -> tuple[str, ...]:
    """Return the first call that output a NaN or Inf in the newest window; () if unknown.

    The result is its module, its class and the last module before it, "" if it was the first. A
    trace after a step that was applied says nothing: by then, all weights are NaN.
    """
    flow, newest = history.flow, history.newest
    has_followed = any(window.nonfinite.any() for window in _before(history))
    if not flow or flow.step < newest.step_first or has_followed:
        return ()
    call = flow.first_not_finite
    if not call:
        return ()
    before = next((c.module for c in reversed(flow.calls[: call.order - 1]) if c.is_finite), "")
    return call.module, call.type, before


def _without_norm(history: History) -> Flags:
    """Return (M,) whether a leaf with a gradient had no finite norm in the newest window."""
    bad: Flags = history.graph.leaves & np.isnan(history.newest.norm_mean)
    return bad & ~_without_gradient(history)


def _without_gradient(history: History) -> Flags:
    """Return (M,) whether a module had no gradient, or was frozen, in the last applied window."""
    if not history.readings:
        return np.zeros(len(history.newest.none), np.bool_)
    last = history.readings[-1].window
    without: Flags = (last.none == last.steps - last.skipped) | is_frozen(last)
    return without


NONFINITE = Rule(
    name="nonfinite",
    kind="nonfinite",
    severity="critical",
    threshold="amp_grace",
    unit="steps",
    judge=nonfinite,
    needs=lambda _: 1,
    words=nonfinite_words,
    meaning="NaN or Inf in a gradient that was applied, or in the loss of a step that AMP skipped; "
    "or AMP skipped more captured steps than the limit, in a row or half of them",
    not_meaning="a step with a finite loss that AMP skips now and then",
    remedy="an epsilon in the operation or loss item that the message names, or float32 there",
    state="NaN",
    keeps_evidence=True,
    spreads=True,
    ends_at_restart=True,
)
