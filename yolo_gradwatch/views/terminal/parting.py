"""Sentences on where two runs diverge, in which number first, and by how much."""

from __future__ import annotations

import math
from dataclasses import asdict
from string import ascii_uppercase
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.phrases import significant
from yolo_gradwatch.diagnose.record import plain
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.loss_items import TOTAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.views.paired import Apart, Kind
    from yolo_gradwatch.views.parting import Parting

_SHOWN = 3
"""Most items, rates or blocks that a sentence names."""

_LITTLE = 1e-2
"""Relative difference up to which values are shown with more digits."""

_BEGINNING = {
    "weights": "the weights",
    "loss": "the loss",
    "gradient": "the gradient",
    "rate": "the learning rate",
    "update": "the optimizer step",
}
"""Kind of number -> its name in a sentence."""


_NAMES = {
    "model": "the whole model",
    TOTAL: "their sum",
    "weights": "norm",
    "update": "weight change relative to the weight norm",
}
"""Kind, or name in the files -> name in a sentence, where the latter differs."""


def sentences(found: Parting, letter: str) -> list[str]:
    """Describe how a run compares with A step by step.

    Args:
        found: Divergence of the run from A.
        letter: Letter of the run.
    """
    if found.outcome == "unknown":
        return [f"Not compared step by step: {found.why}."]
    said = [_silent(found)] if found.silent else []
    if found.outcome in {"same", "losses"}:
        return [*said, *_equal(found)]
    return [*said, _before(found, letter), *_parted(found)]


def parting_record(run: int, found: Parting) -> dict[str, object]:
    """Return a divergence for JSON, with its sentences.

    Args:
        run: Position of the run, from 1.
        found: Divergence of the run from the first.
    """
    words = " ".join(sentences(found, ascii_uppercase[run - 1]))
    record: dict[str, object] = plain(asdict(found))
    return {"run": run, **record, "first": found.first, "sentence": words}


def _silent(found: Parting) -> str:
    """Say that losses differ without any effect on the gradients."""
    when = f"From step {found.silent_since:,} on"
    if found.outcome != "losses":
        when = f"From step {found.silent_since:,} up to step {found.same:,}"
    return (
        f"{when}, the losses differ but the gradients do not: {_named(_items(found.silent))}. The "
        "difference does not reach the weights: a constant, a detached term, or only the reported "
        "number."
    )


def _equal(found: Parting) -> list[str]:
    steps = f"up to step {found.last:,}, the last step in both runs"
    if found.outcome == "losses":
        return [f"The gradients are the same{_rounded(found)} {steps}."]
    what = "Losses and gradients are" if found.items else "The gradients are"
    unknown = "" if found.items else "; the losses of at least one run are missing"
    if found.exact == found.last:
        return [f"{what} bit-identical {steps}{unknown}."]
    return [f"{what} the same{_rounded(found)} {steps}{unknown}."]


def _before(found: Parting, letter: str) -> str:
    """Say where the runs diverge, and how far they agree before."""
    low, high = found.since
    when = f"at step {high:,}" if low == high else f"in steps {low:,} to {high:,}"
    if found.outcome == "drift":
        return (
            f"{letter} is the same as A{_rounded(found)} up to step {found.same:,}. From step "
            f"{low:,} on it drifts away without a jump, as the same training does on another "
            "machine."
        )
    if not found.same:
        since = "the first step" if high == 1 else f"step {high:,}, the first step in both runs"
        return f"{letter} differs from A from {since} on."
    if found.exact == found.same:
        how = f"; up to step {found.same:,} both are bit-identical"
    elif found.silent:
        how = ""
    else:
        how = f"; up to step {found.same:,} both are the same{_rounded(found)}"
    return f"{letter} diverges from A {when}{how}."


def _rounded(found: Parting) -> str:
    if not found.rounding:
        return ""
    return f" apart from rounding (relative difference at most {significant(found.rounding, 1)})"


def _parted(found: Parting) -> list[str]:
    """Say which numbers differ first, and whether the gradient follows."""
    first = found.first
    if first is None:
        return []
    values = f"{_BEGINNING[first]}: {_named(_items(found.of(first)))}"
    lines = [f"First difference in {values}{_why(found, first)}"]
    if found.outcome == "drift":
        lines = [f"First visible in {values}."]
    rest = [one for one in found.of("gradient") if first != "gradient"]
    if rest:
        lines.append(f"The gradient then differs too: {_named(_items(rest))}.")
    return lines


def _why(found: Parting, first: Kind) -> str:
    """Suggest the cause."""
    if first == "weights":
        began = ". The initial weights differ: a different file, seed or initialization."
        return ". Something changed the weights before that step." if found.same else began
    if first == "rate":
        return ". Likely a different lr0, optimizer or schedule, or a callback that sets the rate."
    if first == "update":
        return ", from the same gradient. Likely a different optimizer, momentum or weight decay."
    if first == "gradient":
        same = "The losses are still the same, so it arises " if found.items else "It may arise "
        return f". {same}in the backward pass: a hook, a detach, or a scaled or frozen branch."
    differing = {one.name for one in found.of("loss")}
    if all(name in differing for name in found.items):
        return (
            ". All items differ: different batches (data, order, augmentation) or a different "
            "forward()."
        )
    return ". The other items are the same: check the gain and the targets of those that differ."


def _items(apart: Sequence[Apart]) -> list[Apart]:
    """Put the whole model first; keep the sum of the loss items only if no item differs."""
    named = [one for one in apart if one.name != TOTAL] or list(apart)
    return sorted(named, key=lambda one: one.name != WHOLE)


def _named(apart: Sequence[Apart]) -> str:
    more = len(apart) - _SHOWN
    rest = [f"{more:,} more"] if more > 0 else []
    return ", ".join([*map(_values, apart[:_SHOWN]), *rest])


def _values(one: Apart) -> str:
    """Format a number in A and in the other run, and the ratio or difference of the two."""
    a, b = one.values
    name = _NAMES.get(one.kind) or _NAMES.get(one.name, one.name)
    if not (math.isfinite(a) and math.isfinite(b)):
        shown = [significant(v, 3) if math.isfinite(v) else "not finite or missing" for v in (a, b)]
        return f"{name} {shown[0]} vs. {shown[1]}"
    if one.difference <= _LITTLE:
        little = f"{significant(100 * one.difference, 2)}% apart"
        return f"{name} {significant(a, 6)} vs. {significant(b, 6)} ({little})"
    times = f" (factor {significant(b / a, 3)})" if a > 0 else ""
    return f"{name} {significant(a, 3)} vs. {significant(b, 3)}{times}"
