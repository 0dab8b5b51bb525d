"""The rules about gradient that is lost or gained from block to block, or by one weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose import causes
from yolo_gradwatch.diagnose.messages import Message, described
from yolo_gradwatch.diagnose.phrases import factor
from yolo_gradwatch.diagnose.reading import REACH, medians
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules.beside import WINDOWS, passed
from yolo_gradwatch.diagnose.rules.history import (
    Hit,
    begin,
    finite,
    first_over,
    newest,
    over,
    risen,
    run_up,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.reading import Reading
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.arrays import Flags, Floats


HOPS = WINDOWS
"""Windows whose median decides about a vanishing block, and how many of them are enough."""

JUMPS = (5, 3)
"""The same for an exploding block and for a weight within its block."""


def vanishing(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield blocks that get far less gradient than their readers, and pass on as little.

    Of several on one path, the one nearest to the loss is the cause. Value and limit: decades.
    """
    recent = newest(history, *HOPS)
    if not recent or not history.graph.blocks:
        return
    lost = finite(np.stack([reading.lost for reading in recent]))
    if not (lost > limits.vanishing).any():  # then no median is either
        return
    lost = np.where(passed(history, recent, limits.vanishing), np.nan, lost)
    best = medians(finite(np.stack([reading.best for reading in recent])))
    arriving = medians(finite(np.stack([reading.arriving for reading in recent])))
    low = arriving[:, None] < best - REACH
    least = min(HOPS[1], len(recent))
    yield from _origins(history, lost, (limits.vanishing, least), low, lambda r: r.lost)


def vanishing_words(case: Case) -> Message:
    """Describe a block that loses the gradient."""
    message = Message(
        what=f"{case.where}: its gradient is {factor(case.finding.value)} weaker than that of the "
        f"blocks it feeds ({case.decades}),",
        since=f"{case.since}{case.affected()}",
    )
    return case.explained(message, causes.of_loss(case.layout, case.finding.module))


def exploding(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield blocks with far more gradient in their weights than the blocks that read them.

    Value and limit: decades.
    """
    recent = history.readings[-JUMPS[0] :]
    if len(recent) < JUMPS[1] or not history.graph.blocks:
        return
    count = len(history.graph.blocks)
    weights = finite(np.stack([reading.weights[:count] for reading in recent]))
    best = finite(np.stack([reading.best for reading in recent]))

    def gain(reading: Reading) -> Floats:
        return finite(reading.weights[:count]) - finite(reading.best)

    gained = np.where(history.graph.feeds_trunk, weights - best, np.nan)
    if not (gained > limits.exploding).any():
        return
    high = medians(weights)[:, None] > medians(best) + REACH
    yield from _origins(history, gained, (limits.exploding, JUMPS[1]), high, gain)


def exploding_words(case: Case) -> Message:
    """Describe a block that multiplies the gradient."""
    message = Message(
        what=f"{case.where}: the gradient of its weights is {factor(case.finding.value)} stronger "
        f"than that of the blocks it feeds ({case.decades}),",
        since=f"{case.since}{case.affected()}",
        why="Clipping then leaves almost nothing for the other blocks.",
    )
    cause = causes.of_gain(case.layout, case.training, case.finding.module)
    return case.explained(message, cause)


def leaf_vanishing(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield weights far below the rest of their block, and below the blocks that read it.

    Value and limit: decades.
    """
    yield from _outliers(history, limits, side=1)


def leaf_vanishing_words(case: Case) -> Message:
    """Describe a weight far below its block."""
    cause = "shrinks its gradient: a gate, a gain near zero, or a saturated activation"
    return _leaf(case, "weaker", cause, "shrinks")


def leaf_exploding(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield weights far above the rest of their block, and above the blocks that read it."""
    yield from _outliers(history, limits, side=0)


def leaf_exploding_words(case: Case) -> Message:
    """Describe a weight far above its block."""
    cause = "amplifies its gradient: a gain, or a normalization of a very small input"
    return _leaf(case, "stronger", cause, "amplifies")


def _outliers(history: History, limits: Thresholds, *, side: int) -> Iterator[Hit]:
    """Yield weights far from their block and from the blocks that read it, on one side."""
    recent = history.readings[-JUMPS[0] :]
    if len(recent) < JUMPS[1]:
        return
    apart = finite(np.stack([reading.apart[side] for reading in recent]))
    found = over(apart, limits.leaf, JUMPS[1])
    earlier = finite(_before(history, len(recent), lambda r: r.apart[side])) if found else apart
    for i, value in found.items():
        since = _since(history, earlier[:, i], apart[:, i], limits.leaf)
        name = history.layout.modules[history.graph.trunk_weights[i]]
        yield Hit(name, risen(apart[:, i], value), limits.leaf, since)


def _origins(
    history: History,
    excess: Floats,
    limit: tuple[float, int],
    suffers: Flags,
    read: Callable[[Reading], Floats],
) -> Iterator[Hit]:
    """Yield blocks with an excess, except those that only suffer from another block.

    Args:
        history: History with the graph of the blocks.
        excess: (W, B) judged values in the newest windows.
        limit: Limit on the median of ``excess``, and the number of windows that are enough for it.
        suffers: (B, B) whether a block suffers with another one if it is upstream of it.
        read: Returns the (B,) judged values of an earlier reading.
    """
    found = over(excess, *limit)
    earlier = finite(_before(history, len(excess), read)) if found else excess
    suffering: set[int] = set()
    # Blocks are in forward order, so this starts nearest to the loss. The first one on a path is
    # the origin; blocks upstream that suffer with it count as affected and get no hit of their own.
    for b in sorted(found, reverse=True):
        if b in suffering:
            continue
        affected = [a for a in history.graph.upstream(b) if suffers[a, b]]
        suffering.update(affected)
        since = _since(history, earlier[:, b], excess[:, b], limit[0])
        names = tuple(history.graph.blocks[a] for a in affected)
        value = risen(excess[:, b], found[b])
        yield Hit(history.graph.blocks[b], value, limit[0], since, names)


def _before(history: History, count: int, read: Callable[[Reading], Floats]) -> Floats:
    """Return (V, N) values of the windows before the newest ones."""
    values = [read(reading) for reading in history.readings[:-count]]
    return np.stack(values) if values else np.empty((0, len(read(history.readings[-1]))))


def _since(history: History, before: Floats, values: Floats, limit: float) -> tuple[int, int]:
    """Return where (W,) values, after (V,) earlier ones, began to rise above the limit."""
    at = len(before) + first_over(values, limit) - run_up(before, values, limit)
    return begin(history.readings[at].window)


def _leaf(case: Case, comparison: str, cause: str, verb: str) -> Message:
    """Describe a weight far from the others of its block."""
    block = case.layout.block_of[case.layout.modules.index(case.finding.module)]
    likely = causes.Cause(
        f"something right after this layer {cause}",
        f"remove what {verb} it, and put a BatchNorm after the layer",
    )
    message = Message(
        what=f"{case.where}: its gradient is {factor(case.finding.value)} {comparison} than that "
        f"of its neighbours in {described(case.layout, block)} ({case.decades}),",
        since=case.since,
    )
    return case.explained(message, likely)


VANISHING = Rule(
    name="vanishing",
    kind="vanishing",
    severity="critical",
    threshold="vanishing",
    unit="decades",
    judge=vanishing,
    needs=lambda _: HOPS[1],
    words=vanishing_words,
    meaning="a block gets 100 times less gradient than the blocks it feeds",
    not_meaning="a small gradient: what counts is the drop from block to block",
    remedy="a residual connection, BatchNorm, SiLU or ReLU instead of Sigmoid or Tanh",
    healthy=1.6,
    blocks="origin",
    explains=("leaf_vanishing", "leaf_exploding", "collapse", "total_low"),
)


EXPLODING = Rule(
    name="exploding",
    kind="exploding",
    severity="critical",
    threshold="exploding",
    unit="decades",
    judge=exploding,
    needs=lambda _: JUMPS[1],
    words=exploding_words,
    meaning="a block's weights get 300 times more gradient than the blocks it feeds",
    not_meaning="a total gradient norm above the clip, which is normal",
    remedy="BatchNorm, a smaller initialization, no gain above 1, lower `lr0`",
    healthy=1.2,
    blocks="origin",
    explains=("leaf_vanishing", "leaf_exploding", "spike", "total_high", "weight_growth"),
)


LEAF_VANISHING = Rule(
    name="leaf_vanishing",
    kind="vanishing",
    severity="warning",
    threshold="leaf",
    unit="decades",
    judge=leaf_vanishing,
    needs=lambda _: JUMPS[1],
    words=leaf_vanishing_words,
    meaning="one weight lies two decades below its neighbours in the block",
    not_meaning="that the whole block is unhealthy",
    remedy="look for a gate, a gain near zero or a saturated activation after that layer",
    healthy=1.3,
    state="leaf low",
)


LEAF_EXPLODING = Rule(
    name="leaf_exploding",
    kind="exploding",
    severity="warning",
    threshold="leaf",
    unit="decades",
    judge=leaf_exploding,
    needs=lambda _: JUMPS[1],
    words=leaf_exploding_words,
    meaning="one weight lies two decades above its neighbours in the block",
    not_meaning="that the whole block is unhealthy",
    remedy="look for a gain, or a normalization of a very small input, after that layer",
    healthy=1.3,
    state="leaf high",
    explains=("spike", "total_high"),
)
