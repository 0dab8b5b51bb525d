"""The rules: pure functions from the newest windows to the modules for which they hold.

All levels are decades, log10 of L2 norms. A rule compares within a window wherever it can, so that
warm-up, accumulation and loss scale cancel out; only those of the whole net look at their own past.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from yolo_gradwatch.arrays import FLOAT32_MAX
from yolo_gradwatch.clipping import CLIP_OVERFLOW
from yolo_gradwatch.graph import BOXES, SCORES
from yolo_gradwatch.layout import WHOLE
from yolo_gradwatch.levels import FLOOR, REACH, Reading, medians

if TYPE_CHECKING:
    from yolo_gradwatch.arrays import Counts, Flags, Floats, Singles
    from yolo_gradwatch.graph import Graph
    from yolo_gradwatch.layout import Layout
    from yolo_gradwatch.thresholds import Thresholds
    from yolo_gradwatch.windows import Window

HOPS = (10, 5)
"""Windows whose median decides about a vanishing block, and how many are enough."""

JUMPS = (5, 3)
"""The same for an exploding block and for a weight within its block."""

PARTLY_WINDOWS = 5
"""Windows in a row with many zero elements that make a weight partly dead."""

PADDING_TOLERANCE = 5e-4
"""By how much a share of zeros may differ from that of kernel positions that see padding."""

FROZEN_WINDOWS = 3
"""Windows in a row in which a layer was frozen before that is told."""

PEAK_WINDOWS, PEAK_LEAST = 100, 5
"""Windows that a spike is compared with, and how many are enough."""

COLLAPSE_BEFORE, COLLAPSE_WINDOWS = 20, 3
"""Windows that a collapse is compared with, and how many in a row it takes."""

HIGH_WINDOWS, LOW_WINDOWS = 3, 10
"""Windows in a row with a total norm that is too high, or too low."""

GROWTH_WINDOWS = 20
"""Windows in which the weights of a healthy training do not double."""

STANDS = 100
"""Windows for which a change of the whole net counts as news; later it is the new normal."""


class Mark(NamedTuple):
    """The whole net in a window.

    Attributes:
        epoch: Of the window.
        step: Its first step.
        trunk: Level of the trunk.
        peak: Level of the trunk's highest norms.
    """

    epoch: int
    step: int
    trunk: float
    peak: float


class Hit(NamedTuple):
    """A module for which a rule holds.

    Attributes:
        module: Its name.
        value: The number that was judged.
        limit: The threshold that it broke.
        since: First window of the evidence, as anything with ``epoch`` and first step.
        affected: Blocks that suffer from it, the module's own aside.
    """

    module: str
    value: float
    limit: float
    since: tuple[int, int]
    affected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """What a rule may look at.

    Attributes:
        layout: Of the model.
        graph: Its units and who feeds whom.
        newest: The newest window.
        readings: The newest windows with at least one step that AMP did not skip, oldest first.
        skipped: The windows since then, of which AMP skipped every step.
        marks: The whole net in the windows of ``readings`` and in those before, without those
            `beyond_clip`.
    """

    layout: Layout
    graph: Graph
    newest: Window
    readings: Sequence[Reading]
    skipped: Sequence[Window]
    marks: Sequence[Mark]


Judge: TypeAlias = Callable[[History, "Thresholds"], Iterator[Hit]]
"""From what there is to see and the limits to the hits."""


def nonfinite(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Modules with a NaN or Inf gradient in a step that was applied, or in too many skipped ones.

    AMP's scaler skips a step with an overflow and lowers its scale: calibration, until it has
    done so more often in a row than any scale explains. Value: bad steps, limit: how many are
    allowed.
    """
    newest, leaves = history.newest, history.graph.leaves
    for m in np.flatnonzero(newest.nonfinite * leaves):
        yield Hit(history.layout.modules[m], float(newest.nonfinite[m]), 0.0, _begin(newest))
    skips = sum(window.skipped for window in history.skipped)
    if skips > limits.amp_grace:
        bad = leaves & np.isnan(newest.norm_mean) & ~_without_gradient(history)
        for name in _names(history.layout, bad) or [WHOLE]:
            since = _begin(history.skipped[0])
            yield Hit(name, float(skips), float(limits.amp_grace), since)


def amp_overflow(history: History, limits: Thresholds) -> Iterator[Hit]:
    """The whole model, when AMP's scaler skipped a step to calibrate its scale.

    Value: steps skipped, limit: how many in a row would be an alarm.
    """
    newest = history.newest
    in_a_row = sum(window.skipped for window in history.skipped)
    if newest.skipped and in_a_row <= limits.amp_grace:
        yield Hit(WHOLE, float(newest.skipped), float(limits.amp_grace), _begin(newest))


def dead(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Modules of the trunk whose gradient has been exactly zero for several windows.

    The head is left out: on a scale on which no object lands, zero is healthy there. Value and
    limit: windows.
    """
    yield from _standing_still(history, limits, lambda window: window.zero)


def no_gradient(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Modules of the trunk that no gradient has reached at all for several windows."""
    yield from _standing_still(history, limits, lambda window: window.none)


def dead_branch(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Families of the head, scores aside, that have had a zero gradient at every scale for long.

    Value and limit: windows.
    """
    windows = limits.dead_branch_windows
    for family, silent in _silent_branches(history, limits).items():
        units = history.graph.families[family]
        if len(silent) == len(units):
            since = _begin(history.readings[-windows].window)
            yield Hit(f"{history.layout.head}.{family}", windows, windows, since, units)


def starved_scale(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Scales of the head whose boxes have had a zero gradient for long, while others learn.

    No object lands there. One family alone may be silent for long: of the pair that YOLO26 trains,
    one gets a single box an object. Value and limit: windows.
    """
    windows = limits.dead_branch_windows
    silent = {f: s for f, s in _silent_branches(history, limits).items() if f.endswith(BOXES)}
    if any(len(s) == len(history.graph.families[f]) for f, s in silent.items()):
        return
    for branches in zip(*(history.graph.families[f] for f in silent), strict=True):
        if all(branch in s for branch, s in zip(branches, silent.values(), strict=True)):
            since = _begin(history.readings[-windows].window)
            yield Hit(branches[0], windows, windows, since, branches[1:])


def partly_dead(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Weights of the trunk with many elements of exactly zero gradient for several windows.

    Not those of an attention: over a single position, queries and keys have a zero gradient.
    Value and limit: share of the elements, the lowest of these windows.
    """
    counted = [r.window for r in history.readings if r.is_counted][-PARTLY_WINDOWS:]
    if len(counted) < PARTLY_WINDOWS:
        return
    shares = np.stack([window.zero_fraction for window in counted])
    is_dead = (shares < 1).all(axis=0) & ~_only_padding(shares, history.layout)
    is_dead &= ~history.graph.attention
    lowest = np.where(is_dead, shares.min(axis=0), np.nan)
    for m in np.flatnonzero((lowest >= limits.zero_fraction) & history.graph.trunk):
        value = float(lowest[m])
        yield Hit(history.layout.modules[m], value, limits.zero_fraction, _begin(counted[0]))


def frozen(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Layers that were frozen after the training had begun, for several windows.

    A frozen layer has no norm, and is not counted as without a gradient. Value and limit: windows.
    """
    del limits
    told = _last(history, FROZEN_WINDOWS)
    if not told:
        return
    quiet = [_is_frozen(window) for window in told]
    for name in _names(history.layout, history.graph.leaves & np.all(quiet, axis=0)):
        yield Hit(name, FROZEN_WINDOWS, FROZEN_WINDOWS, _begin(told[0]))


def vanishing(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Blocks that receive far less gradient than the blocks that read them.

    Of several on one path, the one nearest to the loss is the cause. Value and limit: decades.
    """
    recent = history.readings[-HOPS[0] :]
    if len(recent) < HOPS[1] or not history.graph.blocks:
        return
    lost = _finite(np.stack([reading.lost for reading in recent]))
    if not (lost > limits.vanishing).any():  # neither is a median of it
        return
    best = medians(_finite(np.stack([reading.best for reading in recent])))
    arriving = medians(_finite(np.stack([reading.arriving for reading in recent])))
    low = arriving[:, None] < best - REACH
    yield from _origins(history, recent, lost, (limits.vanishing, HOPS[1]), low)


def exploding(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Blocks with far more gradient in their weights than the blocks that read them.

    Value and limit: decades.
    """
    recent = history.readings[-JUMPS[0] :]
    if len(recent) < JUMPS[1] or not history.graph.blocks:
        return
    count = len(history.graph.blocks)
    weights = _finite(np.stack([reading.weights[:count] for reading in recent]))
    best = _finite(np.stack([reading.best for reading in recent]))
    gained = np.where(history.graph.feeds_trunk, weights - best, np.nan)
    if not (gained > limits.exploding).any():
        return
    high = medians(weights)[:, None] > medians(best) + REACH
    yield from _origins(history, recent, gained, (limits.exploding, JUMPS[1]), high)


def leaf_vanishing(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Weights far below the rest of their block, and below the blocks that read it.

    Value and limit: decades.
    """
    yield from _outliers(history, limits, side=1)


def leaf_exploding(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Weights far above the rest of their block, and above the blocks that read it."""
    yield from _outliers(history, limits, side=0)


def spike(history: History, limits: Thresholds) -> Iterator[Hit]:
    """The whole net, while its trunk stands far above all that was before.

    Value: decades above the highest of the windows before it.
    """
    peaks = np.array([mark.peak for mark in history.marks])
    if not peaks.size or not peaks[-1] > np.fmin.reduce(peaks) + limits.spike:
        return
    for count in range(min(len(peaks) - PEAK_LEAST, STANDS), 0, -1):  # since the earliest
        before = peaks[: len(peaks) - count][-PEAK_WINDOWS:]
        highest = np.fmax.reduce(np.where(before > FLOOR, before, np.nan))
        rise = peaks[-count:].min() - highest
        if rise > limits.spike:
            since = history.marks[-count]
            yield Hit(WHOLE, float(rise), limits.spike, (since.epoch, since.step))
            return


def collapse(history: History, limits: Thresholds) -> Iterator[Hit]:
    """The whole net, while its trunk stands far below what it was before.

    Value: decades below the median of the windows before it.
    """
    levels = np.array([mark.trunk for mark in history.marks])
    if not levels.size or not levels[-1] < np.fmax.reduce(levels) - limits.collapse:
        return
    counts = np.arange(min(len(levels) - COLLAPSE_BEFORE, STANDS), COLLAPSE_WINDOWS - 1, -1)
    if not counts.size:
        return
    before = sliding_window_view(levels, COLLAPSE_BEFORE)[len(levels) - COLLAPSE_BEFORE - counts]
    falls = medians(before.T) - np.maximum.accumulate(levels[::-1])[counts - 1]
    earliest = int(np.argmax(falls > limits.collapse))
    if falls[earliest] > limits.collapse:
        since = history.marks[-counts[earliest]]
        yield Hit(WHOLE, float(falls[earliest]), limits.collapse, (since.epoch, since.step))


def total_high(history: History, limits: Thresholds) -> Iterator[Hit]:
    """The whole net, when the norm of its gradient is too high for several windows.

    One that clipping multiplies by 0 is found in its first window: nothing is learned there.
    """
    newest = [reading.window for reading in history.readings[-1:]]
    if newest and beyond_clip(newest[0]):
        highest = min(float(newest[0].norm_max[0]), FLOAT32_MAX)
        yield Hit(WHOLE, highest, limits.total_high, _begin(newest[0]))
        return
    totals = _totals(told := _last(history, HIGH_WINDOWS))
    if totals and min(totals) > limits.total_high:
        yield Hit(WHOLE, totals[-1], limits.total_high, _begin(told[0]))


def total_low(history: History, limits: Thresholds) -> Iterator[Hit]:
    """The whole net, when the norm of its gradient is too low for several windows."""
    totals = _totals(told := _last(history, LOW_WINDOWS))
    if totals and max(totals) < limits.total_low:
        yield Hit(WHOLE, totals[-1], limits.total_low, _begin(told[0]))


def weight_growth(history: History, limits: Thresholds) -> Iterator[Hit]:
    """The whole net, when the weights of its trunk have grown too much in a few windows.

    Value: decades, the median over the weights.
    """
    trunk = history.graph.trunk_weights
    recent = history.readings[-GROWTH_WINDOWS - 1 :]
    taken = [reading.window for reading in recent if reading.is_weighed]
    if len(taken) < 2 or not len(trunk):
        return
    norms = np.array([window.weight_norm[trunk] for window in taken], np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # weights of 0 or NaN say nothing
        grown = _finite(np.log10(norms[-1]) - np.log10(norms[0]))
    value = medians(grown[:, None], 1)[0]
    if value > limits.weight_growth:
        yield Hit(WHOLE, float(value), limits.weight_growth, _begin(taken[0]))


def beyond_clip(window: Window) -> bool:
    """Whether a step in it had a finite gradient that clipping multiplies by 0."""
    return bool(window.norm_max[0] > CLIP_OVERFLOW)


def _begin(window: Window) -> tuple[int, int]:
    return window.epoch, window.step_first


def _last(history: History, count: int) -> list[Window]:
    """The newest windows with an applied step, as many as are asked for, or none."""
    told = [reading.window for reading in history.readings[-count:]]
    return told if len(told) == count else []


def _names(layout: Layout, chosen: Flags) -> list[str]:
    return [layout.modules[m] for m in np.flatnonzero(chosen)]


def _without_gradient(history: History) -> Flags:
    """(M,) whether a module had no gradient, or was frozen, in the last window that was applied."""
    if not history.readings:
        return np.zeros(len(history.newest.none), np.bool_)
    last = history.readings[-1].window
    without: Flags = (last.none == last.steps - last.skipped) | _is_frozen(last)
    return without


def _is_frozen(window: Window) -> Flags:
    """(M,) whether a module was frozen: it has no norm, and no step counts."""
    counts = window.nonfinite + window.zero + window.none
    frozen: Flags = np.isnan(window.norm_mean) & (counts == 0)
    return frozen


def _standing_still(
    history: History, limits: Thresholds, count: Callable[[Window], Counts]
) -> Iterator[Hit]:
    """Leaf modules of the trunk with the count in every applied step of the last windows."""
    told = _last(history, limits.dead_windows)
    if not told:
        return
    always = [count(window) == window.steps - window.skipped for window in told]
    still = history.graph.leaves & history.graph.trunk & np.all(always, axis=0)
    for name in _names(history.layout, still):
        yield Hit(name, float(len(told)), float(limits.dead_windows), _begin(told[0]))


def _only_padding(shares: Singles, layout: Layout) -> Flags:
    """(M,) whether all zeros are those of kernel positions that only ever see padding.

    A kernel that is larger than its input has them: a 3x3 kernel on a single pixel, 8 of 9. Dead
    units seldom make such a multiple, as 32 of 48 would.
    """
    kernels = np.array(layout.kernels)
    off = np.abs(shares * kernels - np.rint(shares * kernels)) / kernels
    found: Flags = (kernels > 1) & (off < PADDING_TOLERANCE).all(axis=0)
    return found


def _silent_branches(history: History, limits: Thresholds) -> dict[str, set[str]]:
    """For each family of the head but scores, its branches without a gradient for long."""
    told = _last(history, limits.dead_branch_windows)
    families = {f: units for f, units in history.graph.families.items() if not f.endswith(SCORES)}
    rows = history.graph.rows
    silent = {unit for units in families.values() for unit in units} if told else set()
    for window in reversed(told):
        if not silent:
            break
        applied = window.steps - window.skipped
        without = window.zero + window.none
        silent = {unit for unit in silent if without[rows[unit]] == applied}
    return {family: silent.intersection(units) for family, units in families.items()}


def _outliers(history: History, limits: Thresholds, *, side: int) -> Iterator[Hit]:
    """Weights that stand out from their block and from the blocks that read it, to one side."""
    recent = history.readings[-JUMPS[0] :]
    if len(recent) < JUMPS[1]:
        return
    apart = _finite(np.stack([reading.apart[side] for reading in recent]))
    for i, value in _over(apart, limits.leaf, JUMPS[1]).items():
        since = _begin(recent[_first_over(apart[:, i], limits.leaf)].window)
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
    found = _over(excess, *limit)
    told: set[int] = set()
    for b in sorted(found, reverse=True):  # the nearest to the loss first
        if b in told:
            continue
        affected = [a for a in history.graph.upstream(b) if suffers[a, b]]
        told.update(affected)
        since = _begin(recent[_first_over(excess[:, b], limit[0])].window)
        names = tuple(history.graph.blocks[a] for a in affected)
        yield Hit(history.graph.blocks[b], found[b], limit[0], since, names)


def _finite(values: Floats) -> Floats:
    """The values, with NaN for those that stand for a norm of 0 or for no norm."""
    return np.where(np.isfinite(values), values, np.nan)


def _over(values: Floats, limit: float, least: int) -> dict[int, float]:
    """Columns whose median over (W, N) windows is above the limit, with that median."""
    if not (values > limit).any():
        return {}
    found = medians(values, least)
    return {int(i): float(found[i]) for i in np.flatnonzero(found > limit)}


def _first_over(values: Floats, limit: float) -> int:
    """The oldest window in which a value was above the limit."""
    return int(np.flatnonzero(values > limit)[0])


def _totals(windows: Sequence[Window]) -> list[float]:
    """Norm of the whole gradient in each window; none if one of them has no such norm."""
    totals = [min(float(window.norm_mean[0]), FLOAT32_MAX) for window in windows]
    return [] if np.isnan(totals).any() else totals
