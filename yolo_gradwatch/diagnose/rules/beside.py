"""Gates and branches: blocks whose weights get little gradient, while the rest bypasses them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.phrases import significant
from yolo_gradwatch.diagnose.reading import REACH, medians
from yolo_gradwatch.diagnose.rule import Rule
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
"""Windows whose median decides how much a block loses, and how many of them are enough."""

PASSES = 0.5
"""Decades by which all blocks upstream of a block must be below those that read it for the gradient
to be lost on its way through. Gates and branches: at most -0.1. A gradient that is cut, shrunk or
saturated: at least 0.7, mostly 3."""

FACTOR = 0.0
"""Decades by which a factor of a branch, such as gamma, is above everything else in its block.
Layer scales and zero-initialized factors are 4 above at the start and 1 later, though -1 in single
steps, so the mean square of some windows decides."""

SURPLUS = (1.05, 1.1)
"""Factor between the gradient that arrives at an input of a block and what its other readers send:
at most the first if none has passed the block, at least the second if some has. Cut or saturated:
0.97 to 1.03. Gates and branches: 1.02 to 5,000, 98 % of them above 1.1."""

MOST_LOST = 4.0
"""Decades that a gate may lose if nothing shows whether the gradient passes it. CBAM: at most 3.3,
squeeze-and-excitation 2.3; a cut to 1e-4 in a small block: at least 4.2."""

GROWTH = 0.5
"""Decades that a block may lose beyond its loss at the time of a trace for the trace to hold."""

SLOW_LEAST = 3
"""Windows with measured updates that are enough for their median."""

_BOUNDS = {"Concat": 1.0, "Upsample": 2.0}
"""Upper bounds on how much a block without weights multiplies the norm of a gradient, where known.

Upsampling sums four gradients into one.
"""


class _Output(NamedTuple):
    """The gradient's norm at an output, and the number of elements there."""

    norm: float
    elements: int


def passed(history: History, recent: Sequence[Reading], limit: float) -> Flags:
    """Return (B,) whether the gradient passes or bypasses a block whose weights get little.

    The upstream blocks whose every path leads through it decide. If there are none, because all of
    them have other readers too, the block must be far smaller than its neighbours, have a factor
    that gets far more than all the rest, or be cleared by a trace.

    Args:
        history: History with the graph of the blocks.
        recent: W readings.
        limit: Decades that a block may lose.
    """
    graph = history.graph
    lost = finite(np.stack([reading.lost for reading in recent]))
    best = medians(finite(np.stack([reading.best for reading in recent])))
    arriving = medians(finite(np.stack([reading.arriving for reading in recent])))
    found = np.zeros(len(graph.blocks), np.bool_)
    for b in np.flatnonzero((lost > limit).any(axis=0)):
        upstream = arriving[list(graph.dominated[b])]
        if not np.isnan(upstream).all():
            found[b] = np.nanmax(upstream) > best[b] - PASSES
        else:
            since = recent[first_over(lost[:, b], limit)].window.step_first
            found[b] = _is_bypassed(history, recent, int(b), since)
    return found


def slow_branch(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield blocks that the gradient passes, but whose weights get little of it and hardly move.

    Their updates are compared with the median of the trunk. Value and limit: that share.
    """
    recent = history.readings[-WINDOWS[0] :]
    if len(recent) < WINDOWS[1] or not history.graph.blocks:
        return
    lost = finite(np.stack([reading.lost for reading in recent]))
    if not (lost > limits.vanishing).any():
        return
    moved = _moved(history)
    bypassed = passed(history, recent, limits.vanishing)
    for b in over(lost, limits.vanishing, WINDOWS[1]):
        if bypassed[b] and moved[b] < limits.slow_branch:
            since = begin(recent[first_over(lost[:, b], limits.vanishing)].window)
            yield Hit(history.graph.blocks[b], float(moved[b]), limits.slow_branch, since)


def slow_branch_words(case: Case) -> Message:
    """Describe a branch that hardly learns."""
    less = significant(1 / max(case.finding.value, 1e-9), 2)
    return Message(
        what=f"{case.where}: its weights have moved {less} times less than those of the other "
        "blocks",
        since=f"{case.since}{case.others()}; the gradient bypasses it, so upstream blocks lose "
        "nothing",
        likely="a gate or a factor near zero scales its branch: a gamma, a layer scale, or a "
        "zero-initialized layer. This is usual early in training.",
        remedy="If it lasts, try AdamW, which scales the step for each weight, or a larger initial "
        "value of that factor.",
    )


def _is_bypassed(history: History, recent: Sequence[Reading], block: int, since: int) -> bool:
    """Return whether the gradient bypasses a block if all upstream have other readers too."""
    if _has_factor(history, recent, block):
        return True
    traced = _traced(history, block, since)
    if traced is None and history.graph.gates[block]:
        lost = medians(finite(np.stack([reading.lost for reading in recent])))[block]
        return bool(lost < MOST_LOST)
    return bool(traced)


def _moved(history: History) -> Floats:
    """Return (B,) how far a block's weights move, as a share of the trunk's; NaN if unknown.

    Weight decay alone also moves weights, which says nothing about learning, but far less.
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
    """Return whether a parameter that is neither weight nor norm gets far more than the block."""
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
        known = squares[~np.isnan(squares)]  # empty while it is frozen
        own = np.sqrt(max(known.mean(), 0.0)) if len(known) else 0.0  # one step may have hardly any
        if own > 10.0 ** (arriving + FACTOR):
            return True
    return False


def _traced(history: History, block: int, since: int) -> bool | None:
    """Return whether a trace shows that what arrives at a block reaches one of its inputs.

    The gradient of an input with other readers is a sum: what exceeds their share has passed the
    block. None if that cannot be decided, or if the block may have lost less when the trace was
    taken.
    """
    if history.flow is None or not _is_of_now(history, history.flow.step, block, since):
        return None
    name, edges = history.graph.blocks[block], history.layout.edges
    outputs, kinds = _outputs(history.flow, history), dict(history.layout.blocks)
    if name not in outputs:
        return None
    found: list[bool | None] = []
    for source in (s for s, t in edges if t == name and s in outputs):
        others = [t for s, t in edges if s == source and t != name]
        if all(t in outputs and kinds[t] in _BOUNDS for t in others):
            others_send = [_sent(outputs[source], outputs[t], _BOUNDS[kinds[t]]) for t in others]
            found.append(_reaches(outputs[name], outputs[source], math.hypot(*others_send)))
    return True if True in found else False if found and None not in found else None


def _sent(source: _Output, reader: _Output, bound: float) -> float:
    """Return the most that a reader without weights sends back for its share of the output."""
    share = min(1.0, source.elements / reader.elements)
    return bound * reader.norm * math.sqrt(share)


def _reaches(block: _Output, source: _Output, others: float) -> bool | None:
    """Return whether a block's gradient reaches an input that gets some from others too."""
    rest = math.sqrt(max(source.norm**2 - others**2, 0.0))
    if rest <= block.norm * 10.0**-REACH or source.norm < others * SURPLUS[0]:
        return False
    return True if source.norm > others * SURPLUS[1] else None


def _is_of_now(history: History, step: int, block: int, since: int) -> bool:
    """Return whether a block lost about as much at the step of a trace as it does now."""
    if step >= since:
        return True
    lost = [(r.window.step_first, r.lost[block]) for r in history.readings]
    then = [value for first, value in lost if first <= step][-WINDOWS[1] :]
    lately = [value for _, value in lost[-WINDOWS[1] :]]
    if not then:
        return False
    before, now = (medians(np.array(values)[:, None])[0] for values in (then, lately))
    return bool(before >= now - GROWTH)


def _outputs(flow: Flow, history: History) -> dict[str, _Output]:
    """Return the gradient at the output of each block that has one."""
    blocks = {name for name, _ in history.layout.blocks}
    return {
        call.module: _Output(call.gradient_norm, call.elements)
        for call in flow.calls
        if call.module in blocks and call.gradient_norm
    }


SLOW_BRANCH = Rule(
    name="slow_branch",
    severity="notice",
    threshold="slow_branch",
    unit="share",
    judge=slow_branch,
    needs=lambda _: WINDOWS[1],
    words=slow_branch_words,
    meaning="the weights of a gate, or of a branch scaled by a factor near zero, hardly move, "
    "while the gradient bypasses them",
    not_meaning="that upstream blocks get too little",
    remedy="AdamW, or a larger initial value of that factor",
    state="slow",
)
