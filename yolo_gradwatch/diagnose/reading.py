"""What a window says about each unit of the model: log10 of L2 gradient norms, and the hops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from yolo_gradwatch.measure.arrays import Counts, Floats, Singles
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.windows import Window

REACH = 1.5
"""Maximum decades by which a block's level counts above its own consumers: higher levels are cut,
so that the block before an explosion is not called vanishing."""

BYPASSED = 2.0
"""Decades below its own consumers at which a consumer says nothing about what passes: healthy
blocks lose at most 1.6. The units that read it then stand in for it."""


FLOOR, CEILING = -45.0, 39.0
"""Levels for a trunk without any gradient, and for a norm beyond float32."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The levels of a window; every level is log10 of a mean L2 norm.

    Attributes:
        window: The window that was read.
        modules: (M,) level of each module; -Inf for a norm of 0, NaN without a finite step.
        weights: (U,) median over the weights of a unit.
        arriving: (B,) level of the gradient that arrives at a block: the median over its weights or
            its largest norm layer, whichever is higher.
        best: (B,) the highest of its consumers, looking through those far below their own; NaN
            without any.
        lost: (B,) decades lost from the consumers to the block, the *hop*.
        apart: (2, K) decades by which each weight of the trunk is above its siblings and above the
            blocks that read it, whichever is less; and the same below. NaN without siblings.
        trunk: Median over all weights of the trunk; ``FLOOR`` for a norm of 0.
        trunk_peak: The same for the highest norms in the window.
        without: For each family of the head, (S,) applied steps without a gradient, by scale.
        is_counted: Whether exact zeros were counted in it.
        is_weighed: Whether norms of weights were taken in it.
        is_moved: Whether updates were measured in it.
    """

    window: Window
    modules: Floats
    weights: Floats
    arriving: Floats
    best: Floats
    lost: Floats
    apart: Floats
    trunk: float
    trunk_peak: float
    without: Mapping[str, Counts]
    is_counted: bool
    is_weighed: bool
    is_moved: bool


class Reader:
    """Reads windows of one model.

    Args:
        layout: Layout of the model.
    """

    def __init__(self, layout: Layout) -> None:
        self.graph = Graph(layout)
        self._weights = _Padded(self.graph.weights)
        self._norms = _Padded(self.graph.norms[: len(self.graph.blocks)])
        self._consumers = _Padded([np.array(c, np.int64) for c in self.graph.consumers])
        self._trunk = _Padded([self.graph.trunk_weights])
        self._siblings = _Padded(self.graph.siblings)
        families = self.graph.families.items()
        self._families = {name: [self.graph.rows[unit] for unit in own] for name, own in families}

    def read(self, window: Window) -> Reading:
        """Return the levels of a window."""
        count = len(self.graph.blocks)
        modules = _log10(window.norm_mean)
        weights = self._weights.medians(modules)
        arriving = np.fmax(weights[:count], self._norms.highest(modules))
        sent = np.concatenate([arriving, weights[count:]])
        best = self._consumers.highest(sent)
        # If a block explodes, the healthy block before it gets far less in comparison, and would
        # look as if it lost gradient. So `_lost` cuts levels at REACH above their own consumers.
        lost = self._lost(sent, best, arriving)
        # A consumer far below its own consumers may be bypassed, so it hides how much passes.
        if ((lost > BYPASSED) & np.isfinite(lost)).any():
            sent, best = self._through(sent, best)
            lost = self._lost(sent, best, arriving)
        return Reading(
            window=window,
            modules=modules,
            weights=weights,
            arriving=arriving,
            best=best,
            lost=lost,
            apart=self._apart(modules, best),
            trunk=self._whole(modules),
            trunk_peak=self._whole(_log10(window.norm_max)),
            without=self._without(window),
            is_counted=not np.isnan(window.zero_fraction).all(),
            is_weighed=not np.isnan(window.weight_norm).all(),
            is_moved=not np.isnan(window.update_ratio).all(),
        )

    def _without(self, window: Window) -> dict[str, Counts]:
        counts = window.zero + window.none
        return {name: counts[rows] for name, rows in self._families.items()}

    def _lost(self, sent: Floats, best: Floats, arriving: Floats) -> Floats:
        """Return (B,) decades lost from the consumers of each block to the block."""
        cut = sent.copy()
        cut[: len(best)] = np.minimum(sent[: len(best)], _reach(best))
        with np.errstate(invalid="ignore"):  # -Inf - -Inf: both are zero
            lost: Floats = self._consumers.highest(cut) - arriving
        return lost

    def _through(self, sent: Floats, best: Floats) -> tuple[Floats, Floats]:
        """Return what units send, and each block's highest consumer, looking through low ones."""
        sent, best = sent.copy(), best.copy()
        cut = sent.copy()
        for b in reversed(range(len(best))):  # consumers come after what they read
            own = list(self.graph.consumers[b])
            best[b] = np.fmax.reduce(sent[own], initial=np.nan)
            passing = np.fmax.reduce(cut[own], initial=np.nan)
            if -np.inf < sent[b] < passing - BYPASSED:  # a dead consumer is not looked through
                sent[b] = passing
            cut[b] = min(sent[b], _reach(best[b : b + 1])[0])
        return sent, best

    def _apart(self, modules: Floats, best: Floats) -> Floats:
        levels, block = modules[self.graph.trunk_weights], self.graph.block_of_weight
        alike = np.append(self._siblings.medians(modules), np.nan)[self.graph.group_of_weight]
        with np.errstate(invalid="ignore"):  # -Inf - -Inf: all of it is zero
            above = np.stack([levels - alike, levels - best[block]])
        apart: Floats = np.array([np.fmin.reduce(above), np.fmin.reduce(-above)])
        apart[:, self.graph.group_of_weight < 0] = np.nan
        return apart

    def _whole(self, modules: Floats) -> float:
        level = self._trunk.medians(modules)[0]
        return float(np.maximum(level, FLOOR))  # NaN stays NaN


def _reach(best: Floats) -> Floats:
    """Return the highest level that counts for a block, given the level of its consumers."""
    return np.where(np.isnan(best), np.inf, best + REACH)


class _Padded:
    """Groups of indices as one matrix, so that one call computes all groups."""

    def __init__(self, groups: Sequence[Counts]) -> None:
        self._index = np.full((len(groups), max(map(len, groups), default=0) or 1), -1)
        for row, group in zip(self._index, groups, strict=True):
            row[: len(group)] = group
        sizes = np.array([len(group) for group in groups], np.int64)
        ends = np.array([(sizes - 1) // 2, sizes // 2, sizes - 1])
        self._ends = np.maximum(ends, 0) + np.arange(len(groups)) * self._index.shape[1]
        self._has_any = sizes > 0

    def _values(self, values: Floats) -> Floats:
        """Return (G, K) the values of each group, padded with NaN."""
        padded: Floats = np.append(values, np.nan)[self._index]
        return padded

    def highest(self, values: Floats) -> Floats:
        """Return (G,) the highest value of each group, ignoring NaN; NaN for an empty group."""
        found: Floats = np.fmax.reduce(self._values(values), axis=1)
        return found

    def medians(self, values: Floats) -> Floats:
        """Return (G,) the median of each group, ignoring NaN; NaN for an empty group."""
        found = self._values(values)
        low, high, last = np.sort(found, axis=1).ravel()[self._ends]  # NaN comes last
        if (np.isnan(last) & self._has_any).any():
            return medians(found.T)
        return _middle(low, high)


def medians(values: Floats, least: int = 1) -> Floats:
    """Return (N,) medians of (W, N) columns, ignoring NaN; NaN with fewer than ``least`` values."""
    if not len(values):
        return np.full(values.shape[1], np.nan)
    ordered = np.sort(values, axis=0)  # NaN last
    size = len(values)
    if size >= least and not np.isnan(ordered[-1]).any():
        return _middle(ordered[(size - 1) // 2], ordered[size // 2])
    count = (~np.isnan(ordered)).sum(axis=0)
    columns = np.arange(values.shape[1])
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, size - 1)
    middle = _middle(ordered[low, columns], ordered[high, columns])
    return np.where(count >= least, middle, np.nan)


def _middle(low: Floats, high: Floats) -> Floats:
    with np.errstate(invalid="ignore"):  # between -Inf and Inf there is no median
        return (low + high) / 2


def _log10(norms: Singles) -> Floats:
    with np.errstate(divide="ignore"):  # a norm of 0: -Inf
        levels: Floats = np.minimum(np.log10(norms.astype(np.float64)), CEILING)
    return levels
