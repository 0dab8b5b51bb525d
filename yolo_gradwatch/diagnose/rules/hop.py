"""The rules about gradient that is lost or gained from block to block, or by one weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose import causes
from yolo_gradwatch.diagnose.messages import Message, described, factor
from yolo_gradwatch.diagnose.reading import REACH, medians
from yolo_gradwatch.diagnose.rules.beside import WINDOWS, passed
from yolo_gradwatch.diagnose.rules.history import Hit, begin, finite, first_over, over

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.reading import Reading
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.arrays import Flags, Floats


HOPS = WINDOWS
"""Windows whose median decides about a vanishing block, and how many are enough."""

JUMPS = (5, 3)
"""The same for an exploding block and for a weight within its block."""


def vanishing(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Blocks that receive far less gradient than the blocks that read them, and pass on as little.

    Of several on one path, the one nearest to the loss is the cause. Value and limit: decades.
    """
    recent = history.readings[-HOPS[0] :]
    if len(recent) < HOPS[1] or not history.graph.blocks:
        return
    lost = finite(np.stack([reading.lost for reading in recent]))
    if not (lost > limits.vanishing).any():  # neither is a median of it
        return
    lost = np.where(passed(history, recent, limits.vanishing), np.nan, lost)
    best = medians(finite(np.stack([reading.best for reading in recent])))
    arriving = medians(finite(np.stack([reading.arriving for reading in recent])))
    low = arriving[:, None] < best - REACH
    yield from _origins(history, recent, lost, (limits.vanishing, HOPS[1]), low)


def vanishing_words(case: Case) -> Message:
    """A block that loses the gradient."""
    why, remedy = causes.of_loss(case.layout, case.finding.module)
    return Message(
        what=f"{case.where}: its gradient is {factor(case.finding.value)} weaker than that of the "
        f"blocks that read it ({case.decades}),",
        since=f"{case.since}{case.affected()}",
        why=f"Probably {why}{case.moment}.",
        remedy=f"Try {remedy}.",
    )


def exploding(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Blocks with far more gradient in their weights than the blocks that read them.

    Value and limit: decades.
    """
    recent = history.readings[-JUMPS[0] :]
    if len(recent) < JUMPS[1] or not history.graph.blocks:
        return
    count = len(history.graph.blocks)
    weights = finite(np.stack([reading.weights[:count] for reading in recent]))
    best = finite(np.stack([reading.best for reading in recent]))
    gained = np.where(history.graph.feeds_trunk, weights - best, np.nan)
    if not (gained > limits.exploding).any():
        return
    high = medians(weights)[:, None] > medians(best) + REACH
    yield from _origins(history, recent, gained, (limits.exploding, JUMPS[1]), high)


def exploding_words(case: Case) -> Message:
    """A block that multiplies the gradient."""
    why, remedy = causes.of_gain(case.layout, case.training, case.finding.module)
    return Message(
        what=f"{case.where}: the gradient of its weights is {factor(case.finding.value)} stronger "
        f"than that of the blocks that read it ({case.decades}),",
        since=f"{case.since}{case.affected()}",
        why="Clipping then leaves next to nothing for all other blocks. Probably "
        f"{why}{case.moment}.",
        remedy=f"Try {remedy}.",
    )


def leaf_vanishing(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Weights far below the rest of their block, and below the blocks that read it.

    Value and limit: decades.
    """
    yield from _outliers(history, limits, side=1)


def leaf_vanishing_words(case: Case) -> Message:
    """A weight far below its block."""
    cause = "shrinks its output: a gate, a gain near zero, a saturated activation"
    return _leaf(case, "weaker", cause, "that")


def leaf_exploding(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Weights far above the rest of their block, and above the blocks that read it."""
    yield from _outliers(history, limits, side=0)


def leaf_exploding_words(case: Case) -> Message:
    """A weight far above its block."""
    cause = "multiplies its output: a gain, a very small input"
    return _leaf(case, "stronger", cause, "that factor")


def _outliers(history: History, limits: Thresholds, *, side: int) -> Iterator[Hit]:
    """Weights far from their block and from the blocks that read it, to one side."""
    recent = history.readings[-JUMPS[0] :]
    if len(recent) < JUMPS[1]:
        return
    apart = finite(np.stack([reading.apart[side] for reading in recent]))
    for i, value in over(apart, limits.leaf, JUMPS[1]).items():
        since = begin(recent[first_over(apart[:, i], limits.leaf)].window)
        name = history.layout.modules[history.graph.trunk_weights[i]]
        yield Hit(name, value, limits.leaf, since)


def _origins(
    history: History,
    recent: Sequence[Reading],
    excess: Floats,
    limit: tuple[float, int],
    suffers: Flags,
) -> Iterator[Hit]:
    """Blocks with too much of something, but those that only suffer from another one.

    Args:
        history: With the graph of the blocks.
        recent: W readings.
        excess: (W, B) what is judged.
        limit: Of the median of ``excess``, and windows that are enough for it.
        suffers: (B, B) whether a block, if it is upstream of another one, suffers with it.
    """
    found = over(excess, *limit)
    suffering: set[int] = set()
    for b in sorted(found, reverse=True):  # the nearest to the loss first
        if b in suffering:
            continue
        affected = [a for a in history.graph.upstream(b) if suffers[a, b]]
        suffering.update(affected)
        since = begin(recent[first_over(excess[:, b], limit[0])].window)
        names = tuple(history.graph.blocks[a] for a in affected)
        yield Hit(history.graph.blocks[b], found[b], limit[0], since, names)


def _leaf(case: Case, comparison: str, cause: str, factor_to_remove: str) -> Message:
    """A weight far from the others of its block."""
    block = case.layout.block_of[case.layout.modules.index(case.finding.module)]
    return Message(
        what=f"{case.where}: its gradient is {factor(case.finding.value)} {comparison} than that "
        f"of its neighbours in {described(case.layout, block)} ({case.decades}),",
        since=case.since,
        why=f"Probably something behind this layer alone {cause}{case.moment}.",
        remedy=f"Try to remove {factor_to_remove}, and put a BatchNorm behind the layer.",
    )
