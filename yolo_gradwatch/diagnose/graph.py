"""How gradients flow between the blocks of a model, read from its layout.

A *unit* is a top-level block of the trunk that has parameters, or a branch of the head: one family
(``cv2``, ``cv3``, ...) at one scale. A block gets its gradient from its consumers, the units that
read its output.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import numpy as np

from yolo_gradwatch.diagnose.passage import only_through, small_blocks, small_weights
from yolo_gradwatch.measure.layout import is_attention

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from yolo_gradwatch.measure.arrays import Counts, Flags
    from yolo_gradwatch.measure.layout import Layout

DETACHED = "one2one_"
"""Prefix of head families whose input is detached: they send no gradient into the trunk."""

LEAST_WEIGHTS, MOST_WEIGHTS = 3, 40
"""Minimum and maximum number of weights in a module for one of them to be an outlier."""

PROMPTS = ("SAVPE",)
"""Classes in YOLOE's head that only visual prompts use."""

BOXES = "cv2"
"""Name suffix of the box families: without an object, their gradient is zero."""

SCORES = "cv3"
"""Name suffix of the score families: every image trains them."""


class Graph:
    """The units of a model and which of them read which.

    Args:
        layout: Layout of the model.

    Attributes:
        units: (U,) names: trunk blocks in forward order, then branches of the head.
        blocks: (B,) names of the trunk blocks among them, which come first.
        consumers: (B,) for each trunk block, the units that read it, looking through blocks without
            parameters.
        feeds_trunk: (B,) whether another trunk block is among its consumers.
        dominated: (B,) for each trunk block, the earlier ones whose paths to the loss all pass it.
        gates: (B,) whether a trunk block is so small that it can only weight what passes.
        small: (M,) whether a module is in a gate, or is a gate within its block.
        weights: (U,) for each unit, its modules that own a weight.
        norms: (U,) for each unit, its norm layers.
        trunk_weights: (K,) all modules of the trunk that own a weight.
        block_of_weight: (K,) the block of each.
        siblings: Groups of similar weights, see `_siblings`.
        group_of_weight: (K,) the group of each; -1 for none.
        leaves: (M,) whether a module owns parameters itself: containers only repeat their children.
        trained_head: (M,) whether a module is in the head, except parts that a training may leave
            out by design.
        trunk: (M,) whether a module is in a block before the head.
        attention: (M,) whether a module belongs to an attention, judged by class.
        families: Names of the head's families, each with its units by scale.
        rows: Each module's index in the layout.
        elements: (M,) number of trainable elements of each module, at least 1.
    """

    def __init__(self, layout: Layout) -> None:
        inputs = [source for source, target in layout.edges if target == layout.head]
        owners = [n for n, role in zip(layout.modules, layout.roles, strict=True) if role]
        self.blocks = tuple(
            name
            for name, _ in layout.blocks
            if name != layout.head and any(is_in(name, owner) for owner in owners)
        )
        self.families = _families(layout, len(inputs))
        self.elements = np.maximum(layout.parameters, 1)
        self.rows = {name: m for m, name in enumerate(layout.modules)}
        branches = [unit for units in self.families.values() for unit in units]
        head = [layout.head] if layout.head and not branches else []
        self.units = (*self.blocks, *branches, *head)
        readers = self._readers(layout, inputs, head)
        index = {unit: u for u, unit in enumerate(self.units)}
        self.consumers = tuple(
            tuple(sorted(index[unit] for unit in _reached(readers, block, index)))
            for block in self.blocks
        )
        self.feeds_trunk = np.array(
            [any(u < len(self.blocks) for u in found) for found in self.consumers], np.bool_
        )
        self.dominated = only_through(self.consumers)
        self.gates = small_blocks(layout, self.blocks, self.consumers)
        named = [self.blocks[b] for b in np.flatnonzero(self.gates)]
        self.small = small_weights(layout, named)
        self.weights = tuple(_rows(layout, unit, "weight") for unit in self.units)
        self.norms = tuple(_rows(layout, unit, "norm") for unit in self.units)
        trunk = self.weights[: len(self.blocks)]
        self.trunk_weights = np.concatenate([np.empty(0, np.int64), *trunk])
        self.block_of_weight = np.repeat(np.arange(len(trunk)), [len(rows) for rows in trunk])
        self.siblings, self.group_of_weight = _siblings(layout, self.trunk_weights)
        self.leaves = np.array(layout.roles) != ""
        self.attention = _in_attention(layout)
        self.trained_head = _trained_head(layout)
        self.trunk = np.array([block not in ("", layout.head) for block in layout.block_of])

    def upstream(self, block: int) -> list[int]:
        """Return the trunk blocks with a path to this one, nearest to the input first."""
        found: set[int] = set()
        pending = [block]
        while pending:
            target = pending.pop()
            new = [b for b, c in enumerate(self.consumers) if target in c and b not in found]
            found.update(new)
            pending += new
        return sorted(found)

    def _readers(
        self, layout: Layout, inputs: Sequence[str], head: list[str]
    ) -> dict[str, list[str]]:
        """Return for each block the blocks and branches that read its output."""
        readers: dict[str, list[str]] = {}
        for source, target in layout.edges:
            if target != layout.head:
                readers.setdefault(source, []).append(target)
        for scale, source in enumerate(inputs):
            branches = [units[scale] for f, units in self.families.items() if self._reads(f)]
            readers.setdefault(source, []).extend(branches or head)
        return readers

    def _reads(self, family: str) -> bool:
        """Return whether a family reads the trunk: others are detached, or read another family.

        For example, ``cv4_kpts`` of a pose head reads ``cv4``.
        """
        follows = any(family.startswith(f"{other}_") for other in self.families)
        return not (follows or family.startswith(DETACHED))


Place = Literal["inside", "upstream", "downstream", "elsewhere"]


class Paths:
    """Positions of modules relative to each other, along the paths of the gradient.

    Args:
        layout: Layout of the model.
    """

    def __init__(self, layout: Layout) -> None:
        graph = Graph(layout)
        self._block_of = dict(zip(layout.modules, layout.block_of, strict=True))
        self._head = layout.head
        self._upstream = {
            block: {graph.blocks[a] for a in graph.upstream(b)}
            for b, block in enumerate(graph.blocks)
        }
        self._upstream[self._head] = set(graph.blocks)

    def place(self, module: str, of: str) -> Place:
        """Return where a module is, seen from another one: ``inside`` means the same block."""
        one, other = self._block_of[module], self._block_of[of]
        if one == other:
            return "inside"
        if one in self._upstream.get(other, ()):
            return "upstream"
        return "downstream" if other in self._upstream.get(one, ()) else "elsewhere"

    def meet(self, module: str, others: Iterable[str]) -> bool:
        """Return whether one gradient passes through a module and one of the others.

        It does if one of the two is the whole model, or is in the head.
        """
        block = self._block_of[module]
        return any(self._meets(block, other) for other in {self._block_of[o] for o in others})

    def _meets(self, one: str, other: str) -> bool:
        if one == other or {one, other} & {"", self._head}:
            return True
        return one in self._upstream[other] or other in self._upstream[one]


def _families(layout: Layout, scales: int) -> dict[str, tuple[str, ...]]:
    """Return the lists of modules in the head with exactly one entry per scale."""
    pattern = re.compile(rf"{re.escape(layout.head)}\.(\w+)\.(\d+)")
    found: dict[str, list[str]] = {}
    for name in layout.modules:
        if match := pattern.fullmatch(name):
            found.setdefault(match[1], []).append(name)
    return {family: tuple(units) for family, units in found.items() if len(units) == scales}


def _reached(readers: dict[str, list[str]], block: str, units: Iterable[str]) -> set[str]:
    """Return the units that read a block, looking through blocks without parameters."""
    found: set[str] = set()
    pending, passed = list(readers.get(block, [])), set()
    while pending:
        name = pending.pop()
        if name in units:
            found.add(name)
        elif name not in passed:
            passed.add(name)
            pending += readers.get(name, [])
    return found


def _trained_head(layout: Layout) -> Flags:
    kinds = zip(layout.modules, layout.types, strict=True)
    unused = [name for name, kind in kinds if kind in PROMPTS]
    inside = [
        layout.head != ""
        and is_in(layout.head, name)
        and not any(is_in(outer, name) for outer in unused)
        for name in layout.modules
    ]
    return np.array(inside)


def is_in(outer: str, name: str) -> bool:
    """Return whether a module is ``outer`` or is inside it."""
    return f"{name}.".startswith(f"{outer}.")


def _siblings(layout: Layout, weights: Counts) -> tuple[tuple[Counts, ...], Counts]:
    """Group each weight with those of the smallest module around it that has enough of them.

    Weights of a large module, such as a whole backbone in one block, differ too much.

    Returns:
        Groups of rows of the layout, and for each weight the number of its group or -1.
    """
    inside: dict[str, list[int]] = {}
    for row in weights:
        for name in _around(layout.modules[row], layout.block_of[row]):
            inside.setdefault(name, []).append(int(row))
    groups: dict[str, int] = {}
    found = np.full(len(weights), -1)
    for k, row in enumerate(weights):
        for name in _around(layout.modules[row], layout.block_of[row]):
            if len(inside[name]) >= LEAST_WEIGHTS:
                if len(inside[name]) <= MOST_WEIGHTS:
                    found[k] = groups.setdefault(name, len(groups))
                break
    return tuple(np.array(inside[name], np.int64) for name in groups), found


def _in_attention(layout: Layout) -> Flags:
    """Return (M,) whether a module is an attention, or a child or grandchild of one."""
    named = zip(layout.modules, layout.types, strict=True)
    attentions = {*layout.attentions, *(name for name, kind in named if is_attention(kind))}
    parents = [name.rpartition(".")[0] for name in layout.modules]
    around = zip(layout.modules, parents, (p.rpartition(".")[0] for p in parents), strict=True)
    return np.array([not attentions.isdisjoint(names) for names in around])


def _around(module: str, block: str) -> Iterator[str]:
    """Yield a module and those around it, up to its block."""
    while module != block:
        yield module
        module = module.rpartition(".")[0]
    yield block


def _rows(layout: Layout, unit: str, role: str) -> Counts:
    found = [
        m
        for m, (name, own) in enumerate(zip(layout.modules, layout.roles, strict=True))
        if own == role and is_in(unit, name)
    ]
    return np.array(found, np.int64)
