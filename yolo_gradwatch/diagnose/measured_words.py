"""The cause of a finding in words, as a traced batch shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.causes import SATURATING, Cause, lower_rate
from yolo_gradwatch.diagnose.graph import is_in
from yolo_gradwatch.diagnose.measured_finite import HALF
from yolo_gradwatch.diagnose.messages import classed, significant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from yolo_gradwatch.diagnose.finding import Reason
    from yolo_gradwatch.measure.layout import Layout

NORM = "Norm"
"""Part of the names of the classes that normalize."""


def cause_of(reason: Reason, layout: Layout, training: Mapping[str, object]) -> Cause | None:
    """The cause and what to change.

    Args:
        reason: Of `measured.measured`.
        layout: Of the model.
        training: Options of the training.

    Returns:
        ``why`` is a sentence without a full stop, ``remedy`` continues after "Try"; None if the
        reason is none of `measured.KINDS`.
    """
    words = _WORDS.get(reason.kind)
    return words(reason, layout, training) if words else None


def _saturated(reason: Reason, _layout: Layout, _training: Mapping[str, object]) -> Cause:
    name, kind = reason.names[:2]
    why = (
        f"{_percent(reason.values[0])} of the outputs of {name} ({kind}) are saturated, where its "
        f"slope is near zero{_so_are(reason)}"
    )
    instead = "SiLU" if kind in SATURATING else "SiLU or LeakyReLU"
    return Cause(why, f"{instead} instead of {kind} there, or BatchNorm right in front of it")


def _zero(reason: Reason, _layout: Layout, training: Mapping[str, object]) -> Cause:
    name, kind = reason.names[:2]
    why = (
        f"{_percent(reason.values[0])} of the outputs of {name} ({kind}) are exactly zero, where "
        f"no gradient passes{_so_are(reason)}"
    )
    remedy = (
        f"SiLU or LeakyReLU instead of {kind} there, BatchNorm in front of it whose bias begins "
        f"at 0, and {lower_rate(training)}"
    )
    return Cause(why, remedy)


def _falls(reason: Reason, layout: Layout, _training: Mapping[str, object]) -> Cause:
    why = f"the gradient falls {_fold(reason.values[0])} {_between(reason, layout)}"
    return Cause(why, f"to find the small factor, gate or detach() {_there(reason, layout)}")


def _multiplied(reason: Reason, layout: Layout, _training: Mapping[str, object]) -> Cause:
    place, kind = reason.names[:2]
    why = f"the gradient grows {_fold(reason.values[0])} {_between(reason, layout)}"
    if NORM in kind:
        remedy = (
            f"a larger input of {place}: it divides by the spread of what it is given, which is "
            "near zero"
        )
        return Cause(why, remedy)
    return Cause(why, f"to find the large factor or division {_there(reason, layout)}")


def _shrinks(reason: Reason, layout: Layout, _training: Mapping[str, object]) -> Cause:
    place = reason.names[0]
    norm = "" if _is_normed(place, layout) else f"BatchNorm after each layer of {place}, "
    remedy = f"{norm}a residual connection around every two layers there, or fewer layers"
    return Cause(f"the gradient shrinks {_stack(reason, layout)}", remedy)


def _grows(reason: Reason, layout: Layout, training: Mapping[str, object]) -> Cause:
    place = reason.names[0]
    norm = "" if _is_normed(place, layout) else f"BatchNorm after each layer of {place}, "
    remedy = f"{norm}a smaller initialization of {place}, and {lower_rate(training)}"
    return Cause(f"the gradient grows {_stack(reason, layout)}", remedy)


def _cut(reason: Reason, layout: Layout, _training: Mapping[str, object]) -> Cause:
    place, kind, before, behind = reason.names
    why = (
        f"no gradient arrives at the output of {before}, though {behind} has one: "
        f"{_where(place, kind, layout)}"
    )
    remedy = (
        f"to look for detach(), torch.no_grad(), .data or an output that is not used in {place}, "
        f"or to freeze what is in front of it if that is meant"
    )
    return Cause(why, remedy)


def _uncalled(reason: Reason, _layout: Layout, _training: Mapping[str, object]) -> Cause:
    name = reason.names[0]
    why = f"{name} was not called in the forward of a traced batch, or under torch.no_grad()"
    return Cause(why, f"to call {name} in the forward outside torch.no_grad(), or to freeze it")


def _zeroed(reason: Reason, layout: Layout, _training: Mapping[str, object]) -> Cause:
    place, kind, before, behind = reason.names
    why = (
        f"what {before} puts out is multiplied by zero before it leaves {behind}: "
        f"{_where(place, kind, layout)}"
    )
    return Cause(why, f"a first value other than 0 for the gain, gate or mask in {place}")


def _scaled(reason: Reason, layout: Layout, _training: Mapping[str, object]) -> Cause:
    place, kind, before, behind = reason.names
    first, last = reason.values
    verb, size = ("falls", "larger") if last < first else ("grows", "smaller")
    why = (
        f"the RMS of the outputs {verb} from {significant(first, 2)} at {before} to "
        f"{significant(last, 2)} at {behind}: {_where(place, kind, layout)}"
    )
    remedy = (
        f"BatchNorm in or behind {place}, He initialization or a {size} one, and no constant "
        "factor there"
    )
    return Cause(why, remedy)


def _not_finite(reason: Reason, layout: Layout, _training: Mapping[str, object]) -> Cause:
    place, kind, before, call = reason.names
    why = (
        f"the first output that is NaN or Inf is that of {call}; that of {before} in front of it "
        f"was finite ({significant(reason.values[1], 2)} at the most): "
        f"{_where(place, kind, layout)}"
    )
    remedy = (
        f"to find the division, root, log or exp in {place}, and an epsilon or a clamp there, or "
        "float32"
    )
    return Cause(why, remedy)


def _not_finite_gradient(reason: Reason, layout: Layout, _training: Mapping[str, object]) -> Cause:
    place, kind, before, behind = reason.names
    why = (
        f"all outputs are finite, and so is the gradient at that of {behind}, but not at that of "
        f"{before}: {_where(place, kind, layout)}"
    )
    remedy = (
        f"an epsilon under the root, norm or division in {place}, or a clamp in front of it: its "
        "slope is not finite at 0"
    )
    return Cause(why, remedy)


def _head_room(reason: Reason, _layout: Layout, _training: Mapping[str, object]) -> Cause:
    name, kind = reason.names[:2]
    value, end = reason.values[1:]
    half = "half precision ends at 65,504" if end == HALF else "bfloat16 ends at 3.4e38"
    why = f"the largest output of {name} ({kind}) is {significant(value, 2)}, and {half}"
    first = "amp=False" if end != HALF else "amp=False or bfloat16"
    return Cause(why, f"{first}, or a normalization in front of {name}")


def _between(reason: Reason, layout: Layout) -> str:
    place, kind, before, behind = reason.names
    return f"between the output of {before} and that of {behind}: {_where(place, kind, layout)}"


def _stack(reason: Reason, layout: Layout) -> str:
    place, kind, first, last = reason.names
    decades, count = reason.values
    each = significant(10 ** min(decades / max(count, 1), 300), 2)
    without = "" if _is_normed(place, layout) else " without normalization"
    return (
        f"{_fold(decades)} in {count:.0f} layers from {first} to {last}, {each}-fold in each: "
        f"{place}{_class(classed(layout, kind))} is a stack{without}"
    )


def _is_normed(place: str, layout: Layout) -> bool:
    """Whether a module has a norm layer."""
    own = zip(layout.modules, layout.roles, strict=True)
    return any(role == "norm" and is_in(place, name) for name, role in own)


def _where(place: str, kind: str, layout: Layout) -> str:
    """In whose code: a layer's own, or the forward of a module around layers."""
    kind = classed(layout, kind)
    if _has_layers(place, layout):
        return f"in the forward of {place}{_class(kind)}, not in a layer"
    return f"in {place}{_class(kind)}"


def _there(reason: Reason, layout: Layout) -> str:
    """Where to look."""
    place, kind = reason.names[:2]
    forward = "the forward of " if _has_layers(place, layout) else ""
    return f"in {forward}{place}{_class(kind)}"


def _has_layers(place: str, layout: Layout) -> bool:
    return any(name != place and is_in(place, name) for name in layout.modules)


def _class(kind: str) -> str:
    return f" ({kind})" if kind else ""


def _so_are(reason: Reason) -> str:
    """How many more activations are alike."""
    more = int(reason.values[1]) - 1
    return f"; {more} more {'is' if more == 1 else 'are'} alike" if more > 0 else ""


def _percent(share: float) -> str:
    """A share in percent, of which only a whole is 100."""
    return f"{share:.0%}" if share in {0, 1} else f"{min(100 * share, 99.9):.3g}%"


def _fold(decades: float) -> str:
    """A factor before what it applies to: ``31,000-fold``."""
    return f"{significant(10.0 ** min(decades, 300.0), 2)}-fold"


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
"""By kind of the reason."""
