"""The modules of a model as values, and how its parameters add up to them.

Axes: P parameters in the order of ``model.named_parameters()``, M modules in the order of
``model.named_modules()`` with the whole model first, T tensors: the P parameters, then the other
parameters and the floating-point buffers that modules hold.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from yolo_gradwatch.measure.arrays import Counts, Floats

Role = Literal["", "weight", "norm", "other"]

WHOLE = "model"
"""Name of the whole model's row."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

_ATTENTION = {"attention", "attn", "att", "mha", "mhsa"}


@dataclass(frozen=True, slots=True)
class Layout:
    """The modules that own a trainable parameter in their subtree, and how the blocks connect.

    Attributes:
        modules: (M,) names, the whole model (``model``) first.
        types: (M,) class names.
        parameters: (M,) number of trainable elements in the subtree, shared ones counted once.
        block_of: (M,) name of the top-level block that a module belongs to; "" for the whole model.
        roles: (M,) what the module itself owns: a ``weight`` (two or more dimensions above 1), the
            parameters of a ``norm`` layer, some ``other`` parameter, or nothing (""): a container.
        blocks: Name and class of every top-level block in forward order; in an Ultralytics model,
            also of those without parameters.
        inside: For each block, the classes of its modules without parameters, such as its
            activations.
        head: Name of the block next to the loss.
        edges: Pairs of block names, from the producer to the consumer of an activation.
        kernels: (M,) positions in the kernel of the module's own weight, 9 for 3x3; 1 for others.
        since: (M,) optimizer step from which each module is watched: later than the first for one
            that was frozen and has thawed. Empty if all are watched from the beginning.
        attentions: Names of the modules whose class is, or inherits from, an attention; empty in
            files of older versions.
        sources: Names of user-defined classes with the file and line of each, as in
            ``blocks.py:19``; empty in files of older versions.
    """

    modules: tuple[str, ...]
    types: tuple[str, ...]
    parameters: tuple[int, ...]
    block_of: tuple[str, ...]
    roles: tuple[Role, ...]
    blocks: tuple[tuple[str, str], ...]
    inside: tuple[tuple[str, ...], ...]
    head: str
    edges: tuple[tuple[str, str], ...]
    kernels: tuple[int, ...]
    since: tuple[int, ...] = ()
    attentions: tuple[str, ...] = ()
    sources: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Members:
    """Parameters and other tensors of each module, as flat lists cut into stretches.

    Attributes:
        indices: Parameter indices of module 0, then of module 1, ...
        starts: (M,) where the stretch of each module begins in ``indices``.
        elements: (P,) number of elements in each parameter.
        weights: (W, 2) pairs of a module and a parameter of two or more dimensions that it owns.
        trunk: For each block except the head, the parameter indices of its weights (two or more
            dimensions); blocks without any are left out.
        held: Tensor indices of module 0, then of module 1, ...
        held_starts: (M,) where the stretch of each module begins in ``held``.
        names: (T,) names of the tensors.
    """

    indices: Counts
    starts: Counts
    elements: Counts
    weights: Counts
    trunk: tuple[Counts, ...]
    held: Counts
    held_starts: Counts
    names: tuple[str, ...]


def module_norms(norms: Floats, members: Members) -> Floats:
    """Return the L2 norm of each module's gradient from those of its parameters.

    Args:
        norms: (..., P) norms of the parameters, 0 without a gradient.
        members: Parameters that make up each module.

    Returns:
        (..., M) float64; NaN or Inf where a parameter has one.
    """
    squares = np.square(norms)[..., members.indices]
    summed: Floats = np.sqrt(np.add.reduceat(squares, members.starts, axis=-1))
    return summed


def module_largest(largest: Floats, members: Members) -> Floats:
    """(M,) largest value in each module, from the (T,) values of its tensors; NaN prevails."""
    found: Floats = np.maximum.reduceat(largest[members.held], members.held_starts)
    return found


def dated(layout: Layout, earlier: Layout, step: int) -> Layout:
    """Return a layout with the step from which each module is watched.

    Args:
        layout: The current layout.
        earlier: The previous layout; its modules keep their step.
        step: Step from which the modules that are new in ``layout`` are watched.
    """
    since = dict(zip(earlier.modules, earlier.since or [1] * len(earlier.modules), strict=True))
    return replace(layout, since=tuple(since.get(name, step) for name in layout.modules))


def watched_at(layout: Layout, step: int) -> Layout:
    """Return the part of a layout that is watched at an optimizer step, usually all of it."""
    if max(layout.since, default=0) <= step:
        return layout
    rows = [m for m, since in enumerate(layout.since) if since <= step]
    columns = ("modules", "types", "parameters", "block_of", "roles", "kernels", "since")
    part = {name: tuple(getattr(layout, name)[m] for m in rows) for name in columns}
    return replace(layout, **part)  # type: ignore[arg-type]


def is_attention(kind: str) -> bool:
    """Whether a class name says that it is an attention, as ``AAttn`` does."""
    return not _ATTENTION.isdisjoint(words(kind))


def words(kind: str) -> set[str]:
    """Return the lowercase words of a class name, such as ``ms``, ``deform`` and ``attn``."""
    return {word.lower() for word in _WORD.findall(kind)}
