"""Gates and branches: blocks whose weights get little, while the gradient passes beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose.messages import Message, significant
from yolo_gradwatch.diagnose.reading import REACH, medians
from yolo_gradwatch.diagnose.rules.history import Hit, begin, finite, first_over, over

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.reading import Reading
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.arrays import Flags, Floats
    from yolo_gradwatch.measure.trace import Flow

WINDOWS = (10, 5)
"""Windows whose median decides how much a block loses, and how many are enough."""

PASSES = 0.5
"""Decades by which all blocks behind a block must lie below those that read it, if the gradient is
lost on its way through. Gates and branches: -0.1 at the most. A gradient that is cut, shrunk or
saturated: 0.7 at the least, mostly 3."""

FACTOR = 0.5
"""Decades by which a factor of a branch, such as gamma, lies above everything else in its block.
Layer scales and zero-initialized factors: 0.9 at the least, and 4 at the start."""

SLOW_LEAST = 3
"""Windows with measured updates that are enough for their median."""

_BOUNDS = {"Concat": 1.0, "Upsample": 2.0}
"""By how much what reads a block may at most multiply the norm of a gradient, where that is known.

Of an upsampled map, four gradients are summed up to one.
"""


def passed(history: History, recent: Sequence[Reading], limit: float) -> Flags:
    """(B,) whether the gradient passes a block, or passes beside it, though it gets little.

    What decides are the blocks whose every path leads through it. Where there are none, because
    the blocks behind it are read by others too: that it is far smaller than its neighbours, that a
    factor in it gets far more than all the rest, or a trace.

    Args:
        history: With the graph of the blocks.
        recent: W readings.
        limit: Decades that a block may lose.
    """
    graph = history.graph
    lost = finite(np.stack([reading.lost for reading in recent]))
    best = medians(finite(np.stack([reading.best for reading in recent])))
    arriving = medians(finite(np.stack([reading.arriving for reading in recent])))
    found = np.zeros(len(graph.blocks), np.bool_)
    for b in np.flatnonzero((lost > limit).any(axis=0)):
        behind = arriving[list(graph.behind[b])]
        if not np.isnan(behind).all():
            found[b] = np.nanmax(behind) > best[b] - PASSES
        else:
            since = recent[first_over(lost[:, b], limit)].window.step_first
            found[b] = (
                graph.gates[b]
                or _has_factor(history, recent, int(b))
                or _is_traced_past(history, graph.blocks[b], since)
            )
    return found


def slow_branch(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Blocks that the gradient passes, but whose weights get little of it and hardly move.

    What moves them is compared with the median of the trunk. Value and limit: that share.
    """
    recent = history.readings[-WINDOWS[0] :]
    if len(recent) < WINDOWS[1] or not history.graph.blocks:
        return
    lost = finite(np.stack([reading.lost for reading in recent]))
    if not (lost > limits.vanishing).any():
        return
    moved = _moved(history)
    beside = passed(history, recent, limits.vanishing)
    for b in over(lost, limits.vanishing, WINDOWS[1]):
        if beside[b] and moved[b] < limits.slow_branch:
            since = begin(recent[first_over(lost[:, b], limits.vanishing)].window)
            yield Hit(history.graph.blocks[b], float(moved[b]), limits.slow_branch, since)


def slow_branch_words(case: Case) -> Message:
    """A branch that hardly learns."""
    return Message(
        what=f"{case.where}: its weights move {significant(1 / case.finding.value, 2)} times less "
        "than those of the other blocks",
        since=f"{case.since}, while the gradient passes beside it, so nothing is lost for the "
        "blocks before it",
        why="Its branch is scaled by a gate or a factor near zero: a gamma or layer scale, a "
        "zero-initialized layer. That is usual at the start.",
        remedy="If it lasts, try AdamW, which moves such weights as it does others, or a larger "
        "first value of that factor.",
    )


def _moved(history: History) -> Floats:
    """(B,) how far the weights of a block move, as a share of what the trunk's do; NaN if unknown.

    Decay alone moves weights at a rate that says nothing of learning, but far less.
    """
    graph = history.graph
    read = [reading.window.update_ratio for reading in history.readings]
    ratios = finite(np.stack(read).astype(np.float64))
    usual = medians(ratios[:, graph.trunk_weights].T)
    shares = ratios[usual > 0] / usual[usual > 0, None]
    if len(shares) < SLOW_LEAST:
        return np.full(len(graph.blocks), np.nan)
    lately = medians(shares[-WINDOWS[1] :], SLOW_LEAST)
    rows = graph.weights[: len(graph.blocks)]
    return np.array([medians(lately[own][:, None])[0] if len(own) else np.nan for own in rows])


def _has_factor(history: History, recent: Sequence[Reading], block: int) -> bool:
    """Whether a parameter that is neither weight nor norm gets far more than the whole block."""
    graph, layout = history.graph, history.layout
    inside = [m for m, of in enumerate(layout.block_of) if of == graph.blocks[block]]
    factors = [m for m in inside if layout.roles[m] == "other"]
    if not factors:
        return False
    norms = np.stack([10.0**reading.modules for reading in recent])
    arriving = medians(finite(np.stack([reading.arriving for reading in recent])))[block]
    for m in factors:
        name = f"{layout.modules[m]}."
        parts = [k for k in inside if layout.roles[k] and layout.modules[k].startswith(name)]
        squares = norms[:, m] ** 2 - (norms[:, parts] ** 2).sum(axis=1)
        own = medians(finite(np.sqrt(np.maximum(squares, 0.0)))[:, None])[0]
        if own > 10.0 ** (arriving + FACTOR):
            return True
    return False


def _is_traced_past(history: History, block: str, since: int) -> bool:
    """Whether a trace since then shows that what arrives at a block goes on to one of its inputs.

    The gradient of an input that others read too is a sum, of which they send at most what arrives
    at them: what is more than that has passed the block.
    """
    flow = history.flow
    if flow is None or flow.step < since:
        return False
    norms, kinds = _outputs(flow, history), dict(history.layout.blocks)
    if block not in norms:
        return False
    for source, target in history.layout.edges:
        if target == block and source in norms:
            others = [t for s, t in history.layout.edges if s == source and t != block]
            sent = [
                norms.get(t, np.inf) * _BOUNDS.get(kinds[t], np.inf) if norms.get(t) != 0 else 0
                for t in others
            ]
            if norms[source] - sum(sent) > norms[block] * 10.0**-REACH > 0:
                return True
    return False


def _outputs(flow: Flow, history: History) -> dict[str, float]:
    """The norm of the gradient at the output of each block that has one."""
    blocks = {name for name, _ in history.layout.blocks}
    return {
        call.module: call.gradient_norm
        for call in flow.calls
        if call.module in blocks and call.gradient_norm is not None
    }
