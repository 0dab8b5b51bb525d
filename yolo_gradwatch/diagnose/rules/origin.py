"""Where the first NaN or Inf of a step arose, judged by what was still finite.

BatchNorm writes the statistics of its input into its buffers. At a step whose forward pass produces
a NaN, they are non-finite after the place where it arises and finite before it, while the weights,
which the step has not reached yet, are finite everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np

from yolo_gradwatch.diagnose.graph import is_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from yolo_gradwatch.diagnose.graph import Graph
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.measure.arrays import Flags
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.windows import Window

State: TypeAlias = Literal["clean", "mixed", "spoiled"]
"""State of the statistics in a block: all are finite, some, or none."""

PASSING = ("Upsample", "Concat", "Identity", "MaxPool2d", "ZeroPad2d", "Index", "Input")
"""Classes of blocks that pass on their input: they produce no NaN from finite values."""

USUAL = (
    *("Conv", "DWConv", "GhostConv", "Focus", "RepConv", "ConvTranspose", "LightConv"),
    *("Bottleneck", "BottleneckCSP", "C1", "C2", "C2f", "C3", "C3k2", "C3x", "C3Ghost", "C3TR"),
    *("C2fCIB", "C2fAttn", "C2PSA", "C2fPSA", "PSA", "SPP", "SPPF", "SPPELAN", "SCDown", "A2C2f"),
    *("RepC3", "RepNCSPELAN4", "ELAN1", "AConv", "ADown", "HGStem", "HGBlock", "CBFuse"),
    *("CBLinear", "AIFI", "ResNetLayer", "GhostBottleneck"),
)
"""Blocks of Ultralytics: of two blocks that may have made a NaN, suspect one of another class
first."""


class Trail(NamedTuple):
    """What is finite before the place where a NaN arose, and what is not after it.

    Attributes:
        spoiled: The first block whose statistics are not finite; if only some of them are not, the
            first such layer.
        clean: The last block before it whose statistics are finite; "" if there is none.
        suspects: Blocks, or branches of the head, that may have made it, in forward order; empty if
            it came with the input.
    """

    spoiled: str
    clean: str
    suspects: tuple[str, ...]


def statistics(layout: Layout) -> Flags:
    """Return (M,) whether a module keeps the statistics of its input."""
    kinds = zip(layout.roles, layout.types, strict=True)
    return np.array([role == "norm" and "BatchNorm" in kind for role, kind in kinds], np.bool_)


def has_read_weights(window: Window) -> bool:
    """Return whether weights and buffers were read in a window."""
    return not bool(np.isnan(np.fmax.reduce(window.weight_max)))


def spoiled_buffers(window: Window) -> Flags:
    """Return (M,) whether a module has a non-finite buffer, though its parameters are finite."""
    spoiled: Flags = np.isinf(window.weight_max) & np.isfinite(window.weight_norm)
    return spoiled


def has_bad_weights(history: History) -> bool:
    """Return whether parameters were already not finite when the newest window began."""
    newest = history.newest
    leaves = history.graph.leaves
    return has_read_weights(newest) and not bool(np.isfinite(newest.weight_norm[leaves]).all())


def trail(history: History) -> Trail | None:
    """Return where the newest window's first forward pass made a NaN; None if unknown."""
    layout, kept = history.layout, statistics(history.layout)
    if not has_read_weights(history.newest):
        return None
    bad = spoiled_buffers(history.newest) & kept & ~_spoiled_before(history)
    if not bad.any():
        return None
    states = _states(layout, bad, kept)
    order = [name for name, _ in layout.blocks]
    first = next((name for name in order if states.get(name, "clean") != "clean"), "")
    if not first:
        return None
    before = order[: order.index(first)]
    clean = next((name for name in reversed(before) if states.get(name) == "clean"), "")
    if first == layout.head:
        suspects, is_input = _in_head(history.graph, layout, bad, states)
        return Trail(_first_of(layout, bad, first), clean, () if is_input else suspects)
    if states[first] == "mixed":
        return Trail(_first_of(layout, bad, first), clean, (first,))
    suspects, is_input = _before(layout, [first], states)
    return Trail(first, clean, () if is_input else suspects or (first,))


def _spoiled_before(history: History) -> Flags:
    """Return (M,) which buffers an earlier step made non-finite, as far as they were read."""
    windows = [*(r.window for r in history.readings), *history.skipped]
    known = (w for w in reversed(windows) if w is not history.newest and has_read_weights(w))
    before = next(known, None)
    if before is None:
        return np.zeros(len(history.layout.modules), np.bool_)
    return spoiled_buffers(before)


def _states(layout: Layout, bad: Flags, kept: Flags) -> Mapping[str, State]:
    """Return the state of each block that keeps statistics."""
    states: dict[str, State] = {}
    for block in dict.fromkeys(layout.block_of):
        rows = [m for m, own in enumerate(layout.block_of) if own == block and kept[m]]
        if rows:
            count = int(bad[rows].sum())
            states[block] = "mixed" if 0 < count < len(rows) else "spoiled" if count else "clean"
    return states


def _first_of(layout: Layout, bad: Flags, block: str) -> str:
    return next(name for m, name in enumerate(layout.modules) if bad[m] and is_in(block, name))


def _before(
    layout: Layout, targets: Iterable[str], states: Mapping[str, State]
) -> tuple[tuple[str, ...], bool]:
    """Find blocks without statistics between non-finite blocks and the finite ones before them.

    If there are none, find user-defined blocks after whose last normalization nothing is finite.

    Returns:
        The suspects, and whether nothing at all precedes them, so that the input is a suspect.
    """
    kinds = dict(layout.blocks)
    pending, found, ends = list(targets), set(), set()
    passed = set(pending)
    is_open = False
    while pending:
        target = pending.pop()
        sources = [source for source, reader in layout.edges if reader == target]
        is_open |= not sources
        for source in sources:
            if source in passed:
                continue
            passed.add(source)
            if source in states:
                ends.update([source] if states[source] == "clean" else [])
                continue
            pending.append(source)
            if kinds.get(source) not in PASSING:
                found.add(source)
    found = {name for name in found if _is_all_spoiled(layout, name, states)}
    own = {n for n in ends if kinds.get(n) not in USUAL and _is_all_spoiled(layout, n, states)}
    suspects = [name for name, _ in layout.blocks if name in (found or own)]
    return _own_first(suspects, kinds), is_open and not suspects and not ends


def _own_first(names: Sequence[str], kinds: Mapping[str, str]) -> tuple[str, ...]:
    """Return those of several suspects that are not Ultralytics' own, if any; else all."""
    own = tuple(name for name in names if kinds.get(name) not in USUAL)
    return own or tuple(names)


def _is_all_spoiled(layout: Layout, block: str, states: Mapping[str, State]) -> bool:
    """Return whether nothing that reads a block, through others without statistics, is clean."""
    pending, passed = [block], {block}
    while pending:
        source = pending.pop()
        for reader in (target for name, target in layout.edges if name == source):
            if states.get(reader) == "clean":
                return False
            if reader not in states and reader not in passed:
                passed.add(reader)
                pending.append(reader)
    return True


def _in_head(
    graph: Graph, layout: Layout, bad: Flags, states: Mapping[str, State]
) -> tuple[tuple[str, ...], bool]:
    """Find suspects if only the head is non-finite: branches of it, or what a scale reads.

    If a single family is affected, its branches are the suspects; if several are, what they read
    was not finite.
    """
    rows = {unit: [graph.rows[n] for n in layout.modules if is_in(unit, n)] for unit in graph.units}
    touched = {unit for unit, own in rows.items() if bad[own].any()}
    inputs = [source for source, target in layout.edges if target == layout.head]
    families = {f: units for f, units in graph.families.items() if touched.intersection(units)}
    if not families:
        return (layout.head,), False
    if len(families) == 1:
        return tuple(
            unit for units in families.values() for unit in units if unit in touched
        ), False
    scales = [
        j for j in range(len(inputs)) if any(units[j] in touched for units in families.values())
    ]
    sources = [inputs[j] for j in scales]
    without = [source for source in sources if source not in states]
    suspects, is_input = _before(layout, without, states) if without else ((), False)
    own = [source for source in without if dict(layout.blocks).get(source) not in PASSING]
    return tuple(dict.fromkeys((*suspects, *own, *([] if without else sources)))), is_input
