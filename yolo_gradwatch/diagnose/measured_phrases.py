"""Phrases for the sentences on a measured cause: places, outputs and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.graph import is_in
from yolo_gradwatch.diagnose.messages import classed
from yolo_gradwatch.diagnose.phrases import counted, significant

if TYPE_CHECKING:
    from yolo_gradwatch.diagnose.finding import Reason
    from yolo_gradwatch.measure.layout import Layout

SMOOTH = ("SiLU", "LeakyReLU")
"""Activations that lose hardly any gradient."""


def norm_before(reason: Reason, layout: Layout) -> str:
    """Return the normalization right before an activation, if it has a bias; else ""."""
    own = dict(zip(layout.modules, layout.roles, strict=True))
    return next((name for name in reason.names[2:] if own.get(name) == "norm"), "")


def instead_of(kind: str) -> str:
    """Return what to use instead of an activation."""
    return f"{' or '.join(one for one in SMOOTH if one != kind)} instead of {kind}"


def changes(reason: Reason, layout: Layout, verb: str) -> str:
    """Return whose code changes the gradient, by how much and between which outputs."""
    place, kind, before, after = reason.names
    own = f"{place}{class_in(classed(layout, kind))}"
    if has_layers(place, layout):
        own = f"the forward() of {own} itself, not one of its layers,"
    return (
        f"{own} {verb} the gradient {fold(reason.values[0])} (from the output of {after} to that "
        f"of {before})"
    )


def is_normed(place: str, layout: Layout) -> bool:
    """Return whether a module has a norm layer."""
    own = zip(layout.modules, layout.roles, strict=True)
    return any(role == "norm" and is_in(place, name) for name, role in own)


def where(place: str, kind: str, layout: Layout) -> str:
    """Return whose code it is: a layer's own, or the forward() of a module around layers."""
    kind = classed(layout, kind)
    if has_layers(place, layout):
        return f"in the forward() of {place}{class_in(kind)} itself, not in one of its layers"
    return f"in {place}{class_in(kind)}"


def has_layers(place: str, layout: Layout) -> bool:
    """Return whether a module has submodules."""
    return any(name != place and is_in(place, name) for name in layout.modules)


def class_in(kind: str) -> str:
    """Return a class in parentheses, to follow the name of its module."""
    return f" ({kind})" if kind else ""


def so_are(reason: Reason) -> str:
    """Return how many more activations are affected."""
    more = int(reason.values[1]) - 1
    return f"; the same holds for {counted(more, 'more activation')}" if more > 0 else ""


def percent(share: float) -> str:
    """Format a share in percent; only the whole becomes 100 %."""
    return f"{share:.0%}" if share in {0, 1} else f"{min(100 * share, 99.9):.3g}%"


def fold(decades: float) -> str:
    """Format a factor that precedes what it applies to: ``31,000-fold``."""
    return f"{significant(10.0 ** min(decades, 300.0), 2)}-fold"
