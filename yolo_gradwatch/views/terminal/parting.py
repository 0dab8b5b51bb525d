"""In words: where two runs part, in what first, and by how much."""

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
"""Items, rates or blocks that a sentence names."""

_LITTLE = 1e-2
"""Relative difference up to which numbers are shown with more digits."""

_BEGINNING = {
    "weights": "the weights",
    "loss": "the loss",
    "gradient": "the gradient",
    "rate": "the learning rate",
    "update": "the step of the optimizer",
}
"""What differs first, in words."""


_NAMES = {
    "model": "the whole model",
    TOTAL: "the sum",
    "weights": "their norm",
    "update": "change of the weights by their norm",
}
"""Of what is named by its kind, or otherwise than in the files."""


def sentences(found: Parting, letter: str) -> list[str]:
    """What there is to say of a run beside A.

    Args:
        found: Where they part.
        letter: Of the run.
    """
    if found.outcome == "unknown":
        return [f"Not compared step by step: {found.why}."]
    said = [_silent(found)] if found.silent else []
    if found.outcome in {"same", "losses"}:
        return [*said, *_equal(found)]
    return [*said, _before(found, letter), *_parted(found)]


def parting_record(run: int, found: Parting) -> dict[str, object]:
    """The same as JSON has it.

    Args:
        run: Place of the run, from 1.
        found: Where it parts from the first.
    """
    words = " ".join(sentences(found, ascii_uppercase[run - 1]))
    record: dict[str, object] = plain(asdict(found))
    return {"run": run, **record, "first": found.first, "sentence": words}


def _silent(found: Parting) -> str:
    """That losses differ and nothing follows from it."""
    until = "" if found.outcome == "losses" else f" until step {found.same:,}"
    return (
        f"From step {found.silent_since:,} on the losses differ and the gradients do not{until}: "
        f"{_named(_items(found.silent))}. What differs does not reach the weights: a constant, a "
        "detached term, or only the number that is reported."
    )


def _equal(found: Parting) -> list[str]:
    steps = f"up to step {found.last:,}, the last that both have"
    if found.outcome == "losses":
        return [f"The gradients are the same{_rounded(found)} {steps}."]
    what = "Losses and gradients are" if found.items else "The gradients are"
    unknown = "" if found.items else "; the losses are not in the files of both"
    if found.exact == found.last:
        return [f"{what} equal bit for bit {steps}{unknown}."]
    return [f"{what} the same{_rounded(found)} {steps}{unknown}."]


def _before(found: Parting, letter: str) -> str:
    """From where on they differ, and how equal they were until then."""
    low, high = found.since
    when = f"at step {high:,}" if low == high else f"in steps {low:,} to {high:,}"
    if found.outcome == "drift":
        return (
            f"{letter} is the same as A{_rounded(found)} up to step {found.same:,}, and drifts "
            f"away from step {low:,} on without a jump, as the same training does on another "
            "machine."
        )
    if not found.same:
        since = "the first step" if high == 1 else f"step {high:,}, the first that both have,"
        return f"{letter} differs from A from {since} on."
    if found.exact == found.same:
        how = "; until then all is equal bit for bit"
    elif found.silent:
        how = ""
    else:
        how = f"; until then they are the same{_rounded(found)}"
    return f"{letter} parts from A {when}{how}."


def _rounded(found: Parting) -> str:
    if not found.rounding:
        return ""
    return f" but for rounding (at most {significant(found.rounding, 1)} apart)"


def _parted(found: Parting) -> list[str]:
    """What differs first, and what follows."""
    first = found.first
    if first is None:
        return []
    lines = [f"First in {_BEGINNING[first]}: {_named(_items(found.of(first)))}{_why(found, first)}"]
    if found.outcome == "drift":
        lines = [f"There, {_named(_items(found.of(first)))}."]
    rest = [one for one in found.of("gradient") if first != "gradient"]
    if rest:
        lines.append(f"The gradient follows: {_named(_items(rest))}.")
    return lines


def _why(found: Parting, first: Kind) -> str:
    """What may be behind it."""
    if first == "weights":
        began = ". Other weights to begin with: another file, seed or initialization."
        return ". Something changed the weights before that step." if found.same else began
    if first == "rate":
        return ". Another schedule, or a callback that changes it."
    if first == "update":
        return ", from the same gradient. Another optimizer, momentum or weight decay."
    if first == "gradient":
        same = (
            "The losses are the same there, so that it arises " if found.items else "It may arise "
        )
        return f". {same}in the backward pass: a hook, a detach, or a scaled or frozen branch."
    differing = {one.name for one in found.of("loss")}
    if all(name in differing for name in found.items):
        return ". All items differ: other batches (data, order, augmentation) or another forward."
    return ". The other items are the same: look at the gain and the targets of what differs."


def _items(apart: Sequence[Apart]) -> list[Apart]:
    """The whole model first; the sum of the items only where no item differs."""
    named = [one for one in apart if one.name != TOTAL] or list(apart)
    return sorted(named, key=lambda one: one.name != WHOLE)


def _named(apart: Sequence[Apart]) -> str:
    more = len(apart) - _SHOWN
    rest = [f"{more:,} more"] if more > 0 else []
    return ", ".join([*map(_values, apart[:_SHOWN]), *rest])


def _values(one: Apart) -> str:
    """A number in A and in the other run, and how many times as large it is there."""
    a, b = one.values
    name = _NAMES.get(one.kind) or _NAMES.get(one.name, one.name)
    if not (math.isfinite(a) and math.isfinite(b)):
        shown = [significant(v, 3) if math.isfinite(v) else "not finite or none" for v in (a, b)]
        return f"{name} {shown[0]} and {shown[1]}"
    if one.difference <= _LITTLE:
        little = f"{significant(100 * one.difference, 2)} % apart"
        return f"{name} {significant(a, 6)} and {significant(b, 6)} ({little})"
    times = f" ({significant(b / a, 3)} times)" if a > 0 else ""
    return f"{name} {significant(a, 3)} and {significant(b, 3)}{times}"
