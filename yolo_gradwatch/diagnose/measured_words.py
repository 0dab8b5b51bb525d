"""Wording of the causes that a traced batch shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.causes import SATURATING, Cause, lower_rate, wider_than
from yolo_gradwatch.diagnose.measured_phrases import (
    changes,
    class_in,
    fold,
    has_layers,
    instead_of,
    is_normed,
    norm_before,
    percent,
    so_are,
    where,
)
from yolo_gradwatch.diagnose.messages import classed
from yolo_gradwatch.diagnose.phrases import significant
from yolo_gradwatch.diagnose.route import NORM
from yolo_gradwatch.measure.arrays import FLOAT16_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from yolo_gradwatch.diagnose.finding import Reason
    from yolo_gradwatch.measure.layout import Layout

ALL = 0.99
"""Minimum share of zeros in an output for it to count as multiplied by zero."""


def cause_of(reason: Reason, layout: Layout, training: Mapping[str, object]) -> Cause | None:
    """Return the cause and what to change.

    Args:
        reason: Reason from `measured.measured`.
        layout: Layout of the model.
        training: Options of the training.

    Returns:
        Both without capital and full stop; None if the reason is none of `measured.KINDS`.
    """
    words = _WORDS.get(reason.kind)
    return words(reason, layout, training) if words else None


def _saturated(reason: Reason, layout: Layout, _training: Mapping[str, object]) -> Cause:
    name, kind = reason.names[:2]
    why = (
        f"{percent(reason.values[0])} of the outputs of {name} ({kind}) are saturated, so the "
        f"slope there is near zero{so_are(reason)}"
    )
    instead = "SiLU" if kind in SATURATING else "SiLU or LeakyReLU"
    norm = norm_before(reason, layout)
    spread = f"a reset of {norm} (weight 1, bias 0)" if norm else "BatchNorm"
    return Cause(why, f"try {instead} instead of {kind}, or {spread} right before it")


def _zero(reason: Reason, layout: Layout, training: Mapping[str, object]) -> Cause:
    name, kind = reason.names[:2]
    why = (
        f"{percent(reason.values[0])} of the outputs of {name} ({kind}) are exactly zero, so no "
        f"gradient passes there{so_are(reason)}"
    )
    norm = norm_before(reason, layout)
    first = f"set a bias of 0 in {norm}" if norm else "put a BatchNorm with a bias of 0"
    remedy = (
        f"{first} before {kind}, or replace {kind} with SiLU or LeakyReLU, and try "
        f"{lower_rate(training)}"
    )
    return Cause(why, remedy)


def _falls(reason: Reason, layout: Layout, _training: Mapping[str, object]) -> Cause:
    place, kind = reason.names[:2]
    why = changes(reason, layout, "shrinks")
    if NORM in kind:
        why = f"{why}, because it divides by the spread of its input"
        remedy = f"try a smaller input to {place}: the larger its spread, the less gradient passes"
        return Cause(why, remedy)
    return Cause(why, "look there for a small factor, a gate or a detach()")


def _multiplied(reason: Reason, layout: Layout, _training: Mapping[str, object]) -> Cause:
    place, kind = reason.names[:2]
    why = changes(reason, layout, "amplifies")
    if NORM in kind:
        remedy = (
            f"try a larger input to {place}: it divides by the spread of its input, which is near "
            "zero"
        )
        return Cause(why, remedy)
    return Cause(why, "look there for a large factor or a division")


def _shrinks(reason: Reason, layout: Layout, _training: Mapping[str, object]) -> Cause:
    place, acts = reason.names[0], reason.names[4:]
    has_norm = is_normed(place, layout)
    bypass = "a residual connection around every two layers there"
    first = bypass if has_norm else f"BatchNorm after each layer of {place}"
    smooth = [f"{instead_of(kind)} with BatchNorm before it" for kind in acts]
    then = [*smooth, *([] if has_norm else [bypass])]
    why = f"the gradient shrinks {_stack(reason, layout)}{_acts(reason)}"
    return Cause(why, f"try {', '.join([first, *then])}, or fewer layers")


def _grows(reason: Reason, layout: Layout, training: Mapping[str, object]) -> Cause:
    place = reason.names[0]
    norm = "" if is_normed(place, layout) else f"BatchNorm after each layer of {place}, "
    remedy = f"try {norm}a smaller initialization of {place}, and {lower_rate(training)}"
    return Cause(f"the gradient grows {_stack(reason, layout)}", remedy)


def _cut(reason: Reason, layout: Layout, _training: Mapping[str, object]) -> Cause:
    place, kind, before, after = reason.names
    why = (
        f"no gradient reaches the output of {before}, though {after} has one: it is cut "
        f"off {where(place, kind, layout)}"
    )
    remedy = (
        f"look for detach(), torch.no_grad(), .data or an unused output in {place}, or freeze the "
        "layers before it if this is intentional"
    )
    return Cause(why, remedy)


def _uncalled(reason: Reason, _layout: Layout, _training: Mapping[str, object]) -> Cause:
    name = reason.names[0]
    if reason.values == (1.0,):
        why = (
            f"{name} was called, but its output carries no gradient: torch.no_grad(), detach() or "
            ".data inside its forward()"
        )
        return Cause(why, f"remove that from the forward() of {name}, or freeze {name}")
    why = (
        f"{name} was not called in the forward pass of the traced batch, or only with gradients "
        "disabled"
    )
    return Cause(why, f"call {name} in forward() outside torch.no_grad(), or freeze it")


def _zeroed(reason: Reason, layout: Layout, _training: Mapping[str, object]) -> Cause:
    place, kind, before, after = reason.names
    if reason.values and reason.values[0] >= ALL:
        why = (
            f"the output of {before} is multiplied by zero before it leaves {after}, "
            f"{where(place, kind, layout)}"
        )
        return Cause(why, f"try a nonzero initial value for the gain, gate or mask in {place}")
    own = f"the forward() of {place}" if has_layers(place, layout) else place
    zeros = "".join(f" (itself zero in {percent(s)} of its values)" for s in reason.values)
    why = (
        f"the gradient is exactly zero at the output of {before} but not at that of {after}"
        f"{zeros}: {own}{class_in(kind)} has a slope of exactly zero (round, sign, floor, argmax, "
        "a comparison, or a gain of 0 in a branch)"
    )
    remedy = (
        f"try a straight-through estimator in {place}, as in x + (torch.round(x) - x).detach(), or "
        "a nonzero initial value for such a gain"
    )
    return Cause(why, remedy)


def _scaled(reason: Reason, layout: Layout, _training: Mapping[str, object]) -> Cause:
    place, kind, before, after, *norms = reason.names
    first, last = reason.values
    divided = "".join(f"; {norm} divides the gradient by that spread" for norm in norms)
    verb, size = ("falls", "larger") if last < first else ("grows", "smaller")
    why = (
        f"the RMS of the outputs {verb} from {significant(first, 2)} at {before} to "
        f"{significant(last, 2)} at {after}, {where(place, kind, layout)}{divided}"
    )
    remedy = (
        f"try BatchNorm in or after {place}, He or a {size} initialization, and no constant "
        "factor there"
    )
    return Cause(why, remedy)


def _not_finite(reason: Reason, layout: Layout, _training: Mapping[str, object]) -> Cause:
    place, kind, before, call = reason.names
    why = (
        f"the first NaN or Inf output is that of {call}; the output of {before} before it was "
        f"finite (at most {significant(reason.values[1], 2)}), so the NaN or Inf arises "
        f"{where(place, kind, layout)}"
    )
    remedy = (
        f"find the division, root, log or exp in {place}, and add an epsilon or a clamp, or "
        "compute it in float32"
    )
    return Cause(why, remedy)


def _not_finite_gradient(reason: Reason, layout: Layout, _training: Mapping[str, object]) -> Cause:
    place, kind, before, after = reason.names
    why = (
        f"all outputs are finite, and so is the gradient at the output of {after}, but not at "
        f"that of {before}, so the NaN or Inf arises {where(place, kind, layout)}"
    )
    remedy = (
        f"try an epsilon under the root, norm or division in {place}, or a clamp before it: its "
        "slope is not finite at 0, or a factor is so large that the gradient overflows"
    )
    return Cause(why, remedy)


def _head_room(reason: Reason, _layout: Layout, _training: Mapping[str, object]) -> Cause:
    name, kind = reason.names[:2]
    value, end = reason.values[1:]
    own, most = ("float16", "65,504") if end == FLOAT16_MAX else ("bfloat16", "3.4e+38")
    why = (
        f"the largest output of {name} ({kind}) is {significant(value, 2)}; the largest {own} "
        f"number is {most}"
    )
    return Cause(why, f"try {wider_than(own)}, or a normalization before {name}")


def _stack(reason: Reason, layout: Layout) -> str:
    """Describe a stack: its two outputs, and the layers between, or calls if it has no weights."""
    place, kind, first, last = reason.names[:4]
    decades, layers, calls = reason.values[:3]
    many, unit = (layers, "layers with weights") if layers > 1 else (calls, "calls")
    without = "" if is_normed(place, layout) else " without normalization"
    own = f"{place}{class_in(classed(layout, kind))}"
    return (
        f"{fold(decades)} over {many:.0f} {unit}, about {fold(decades / max(many, 1))} in each, "
        f"between the output of {first} and that of {last}: {own} is a stack of layers{without}"
    )


def _acts(reason: Reason) -> str:
    """Describe the class of activation that loses most of it."""
    if not reason.names[4:]:
        return ""
    count, decades = reason.values[3:]
    each, verb = (" each", "shrink") if count > 1 else ("", "shrinks")
    fraction = fold(decades / max(count, 1))
    plural = "s" if count > 1 else ""
    acts = f"{count:.0f} {reason.names[4]}{plural}"
    return f", and its {acts} {verb} the gradient about {fraction}{each}"


_WORDS: dict[str, Callable[[Reason, Layout, Mapping[str, object]], Cause]] = {
    "saturated": _saturated,
    "zero": _zero,
    "falls": _falls,
    "multiplied": _multiplied,
    "shrinks": _shrinks,
    "grows": _grows,
    "cut": _cut,
    "uncalled": _uncalled,
    "zeroed": _zeroed,
    "scaled_forward": _scaled,
    "not_finite": _not_finite,
    "not_finite_gradient": _not_finite_gradient,
    "head_room": _head_room,
}
"""Wording functions by kind of reason."""
