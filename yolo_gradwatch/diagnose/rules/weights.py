"""The rules about weights that were initialized with the wrong size.

The *scale* of a weight is its norm over the fourth root of its number of elements. A standard
initialization (by fan in, fan out or both, orthogonal) keeps it near 0.5, whatever the shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.messages import Message, described
from yolo_gradwatch.diagnose.phrases import significant
from yolo_gradwatch.diagnose.reading import medians
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules.history import Hit, begin
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.reading import Reading
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.arrays import Floats

NAMED = 4
"""Maximum number of blocks that a message names one by one."""


def large_weights(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield the whole model while the weights of its trunk are far too large, as at the start.

    Value: scale of the weights, the median over the trunk.
    """
    first, newest = _weighed(history)
    if first is None or newest is None or not len(history.graph.trunk_weights):
        return
    trunk = history.graph.trunk_weights
    now = _median(_scales(history, newest)[trunk])
    if now <= limits.large_weights:
        return
    low = np.fmin(now, _median(_scales(history, first)[trunk]))  # unknown for unfrozen weights
    if low > limits.large_weights:
        rms = float(np.nanmedian(_sizes(history, newest)[trunk]))
        reason = Reason("rms", values=(rms,))
        yield Hit(WHOLE, float(low), limits.large_weights, begin(first.window), reason=reason)


def large_weights_words(case: Case) -> Message:
    """Describe weights that begin far too large."""
    rms = _rms(case)
    found = f"the weights have an RMS of {rms} in the median layer" if rms else _WRONG
    return Message(
        what=f"the whole model: {found}, {significant(case.finding.value / _USUAL, 2)} times "
        "larger than usual at initialization,",
        since=case.since,
        why="The initial weights are too large. BatchNorm rescales the activations, but each step "
        "then changes the weights proportionally less, and outputs without BatchNorm are far off.",
        remedy="Try Ultralytics' initialization, or one that scales with each layer's fan-in "
        "(Kaiming, Xavier, orthogonal).",
    )


def small_weights(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield trunk blocks whose weights are all far too small, or the whole model if most are.

    Weights that are exactly 0, or began so, are small on purpose and do not count.

    Value: scale of the largest weight in the block; for the whole model, of the median block.
    """
    first, newest = _weighed(history)
    if newest is None:
        return
    scales = _scales(history, newest)
    if first is not None:
        scales = np.where(_sizes(history, first) == 0, 0.0, scales)
    trunk = scales[history.graph.trunk_weights]
    if not ((trunk > 0) & (trunk < limits.small_weights)).any():
        return
    small: dict[str, float] = {}
    known = 0
    for block, rows in zip(history.graph.blocks, history.graph.weights, strict=False):
        own = scales[rows][scales[rows] > 0]
        known += len(own) > 0
        if len(own) and own.max() < limits.small_weights:
            small[block] = float(own.max())
    since, limit, sizes = begin(newest.window), limits.small_weights, _sizes(history, newest)
    rms = {block: _median(sizes[history.graph.weights[b]]) for b, block in _places(history, small)}
    if 2 * len(small) > known:
        reason = Reason("rms", tuple(small), (_median(np.array([*rms.values()])),))
        yield Hit(WHOLE, _median(np.array([*small.values()])), limit, since, reason=reason)
        return
    for block, scale in small.items():
        yield Hit(block, scale, limit, since, reason=Reason("rms", (block,), (rms[block],)))


def small_weights_words(case: Case) -> Message:
    """Describe weights that are far too small."""
    finding = case.finding
    blocks = finding.reason.names if finding.reason else ()
    who = described(case.layout, finding.module)
    if finding.module == WHOLE and blocks:
        named = ", ".join(blocks) if len(blocks) <= NAMED else f"{blocks[0]} to {blocks[-1]}"
        who = f"the whole model, {len(blocks)} blocks ({named})"
    rms = _rms(case)
    found = f"the weights have an RMS of {rms}" if rms else _WRONG
    return Message(
        what=f"{who}: {found}, {significant(_USUAL / finding.value, 2)} times smaller than usual "
        "at initialization,",
        since=case.since,
        why="The initial weights are too small: the variance of the signal is far below "
        "BatchNorm's eps, which swamps it, so signal and gradient fade from block to block.",
        remedy="Try Ultralytics' initialization, or one that scales with each layer's fan-in "
        "(Kaiming, Xavier, orthogonal).",
    )


_USUAL = 0.4
"""Scale of the median weight in a newly created Ultralytics model."""

_WRONG = "the median layer's weights have the wrong order of magnitude"
"""Said if the RMS is unknown."""


def _rms(case: Case) -> str:
    """Return the RMS of the weights; "" if unknown."""
    reason = case.finding.reason
    return significant(reason.values[0], 2) if reason else ""


def _weighed(history: History) -> tuple[Reading | None, Reading | None]:
    """Return the run's first reading if it has weights, and the newest reading that does."""
    first = history.opening[0] if history.opening and history.opening[0].is_weighed else None
    return first, next((one for one in reversed(history.readings) if one.is_weighed), None)


def _sizes(history: History, reading: Reading) -> Floats:
    """Return (M,) RMS of the parameters of each module; NaN if unknown."""
    norms = reading.window.weight_norm.astype(np.float64)
    norms[~np.isfinite(norms)] = np.nan
    sizes: Floats = norms / np.sqrt(history.graph.elements)
    return sizes


def _scales(history: History, reading: Reading) -> Floats:
    """Return (M,) scale of the parameters of each module."""
    scales: Floats = _sizes(history, reading) * history.graph.elements**0.25
    return scales


def _places(history: History, names: dict[str, float]) -> Iterator[tuple[int, str]]:
    return ((b, block) for b, block in enumerate(history.graph.blocks) if block in names)


def _median(values: Floats) -> float:
    return float(medians(values[:, None], 1)[0])


SMALL_WEIGHTS = Rule(
    name="small_weights",
    kind="vanishing",
    severity="warning",
    threshold="small_weights",
    unit="scale",
    judge=small_weights,
    needs=lambda _: 1,
    words=small_weights_words,
    meaning="all weights of a block, or of most, are 30 times smaller than usual",
    not_meaning="weights of exactly zero, with which a branch may begin",
    remedy="Ultralytics' initialization, or one that scales with the fan-in",
    state="small init",
    explains=("vanishing", "exploding", "leaf_vanishing", "leaf_exploding", "total_low"),
)


LARGE_WEIGHTS = Rule(
    name="large_weights",
    kind="exploding",
    severity="warning",
    threshold="large_weights",
    unit="scale",
    judge=large_weights,
    needs=lambda _: 1,
    words=large_weights_words,
    meaning="the weights begin 10 times larger than usual",
    not_meaning="weights that grow",
    remedy="Ultralytics' initialization, or one that scales with the fan-in",
    state="large init",
    explains=("loss_imbalance", "initial_loss", "total_high", "dead_branch"),
)
