"""Where a gradient must pass on its way through the blocks, and which blocks only weight it.

A gradient that is small in the weights of a block need not be lost there: an attention scales its
input by weights near one, and a branch scaled by a factor of 0 has a connection around it. The
gradient is lost *through* the block only if the blocks upstream whose every path leads through it
get as little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.measure.arrays import Flags
    from yolo_gradwatch.measure.layout import Layout

GATE_SHARE = 0.05
"""A block without a norm layer and with less than this share of the parameters of its largest
neighbour is a gate. Squeeze-and-excitation of ratio 16 and CBAM have 0.005 to 0.03, of ratio 4
0.042. Blocks of Ultralytics' models may be as small (0.019 in YOLOv6n), but all have a norm layer.
"""

WITHIN_SHARE = 0.02
"""The same for a weight within its block, with no norm layer next to it. Convolutions may be as
small (84 of 209 in YOLOv9t), but have one."""


def only_through(consumers: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Return (B,) for each block the earlier ones whose every path to the loss leads through it.

    Args:
        consumers: (B,) the units that read each block, all of them later.
    """
    found = []
    for block in range(len(consumers)):
        caught = {block}
        for before in reversed(range(block)):
            if consumers[before] and caught.issuperset(consumers[before]):
                caught.add(before)
        found.append(tuple(sorted(caught - {block})))
    return tuple(found)


def small_blocks(
    layout: Layout, blocks: Sequence[str], consumers: Sequence[Sequence[int]]
) -> Flags:
    """Return (B,) whether a block is a gate: without a norm layer, small, and not the first."""
    parameters = dict(zip(layout.modules, layout.parameters, strict=True))
    sizes = np.array([parameters[block] for block in blocks], np.float64)
    largest = np.zeros(len(blocks))
    is_fed = np.zeros(len(blocks), np.bool_)
    for block, readers in enumerate(consumers):
        for reader in readers:
            if reader < len(blocks):
                largest[block] = max(largest[block], sizes[reader])
                largest[reader] = max(largest[reader], sizes[block])
                is_fed[reader] = True
    normed = {of for of, role in zip(layout.block_of, layout.roles, strict=True) if role == "norm"}
    is_plain = np.array([block not in normed for block in blocks], np.bool_)
    found: Flags = is_fed & is_plain & (sizes < GATE_SHARE * largest)
    return found


def small_weights(layout: Layout, gates: Sequence[str]) -> Flags:
    """Return (M,) whether a module is in a block that is a gate, or is a gate within its block."""
    parameters = dict(zip(layout.modules, layout.parameters, strict=True))
    inside = set(gates)
    parents = [name.rpartition(".")[0] for name in layout.modules]
    normed = {p for p, role in zip(parents, layout.roles, strict=True) if role == "norm"}
    places = zip(layout.block_of, layout.parameters, parents, strict=True)
    return np.array(
        [
            block in inside
            or (parent not in normed and own < WITHIN_SHARE * parameters.get(block or WHOLE, 0))
            for block, own, parent in places
        ]
    )
