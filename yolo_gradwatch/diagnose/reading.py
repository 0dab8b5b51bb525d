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
"""Decades by which a block may lie above its own consumers before its level is cut to that, so
that the block in front of an explosion is not called vanishing."""

BYPASSED = 2.0
"""Decades by which a consumer may lie below its own consumers before it says nothing about what
passes: healthy blocks lose 1.6 at the most. What reads it then speaks for it."""


FLOOR, CEILING = -45.0, 39.0
"""Levels that mean a trunk without any gradient, and for a norm beyond every float32."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The levels of a window; every level is log10 of a mean L2 norm.

    Attributes:
        window: Where they come from.
        modules: (M,) of each module; -Inf for a norm of 0, NaN without a finite step.
        weights: (U,) median over the weights of a unit.
        arriving: (B,) whether a gradient arrives at a block at all: the median over its weights
            or its largest norm layer, whichever is higher.
        best: (B,) the highest of its consumers, looking through those that lie far below theirs;
            NaN without any.
        lost: (B,) decades lost from the consumers to the block, the *hop*.
        apart: (2, K) decades by which each weight of the trunk lies above its siblings and above
            the blocks that read it, whichever is less; and the same below. NaN without siblings.
        trunk: Median over all weights of the trunk; ``FLOOR`` for a norm of 0.
        trunk_peak: The same of the highest norms in the window.
        without: For each family of the head (S,) applied steps without a gradient, by scale.
        is_counted: Whether exact zeros were counted in it.
        is_weighed: Whether norms of weights were taken in it.
        is_moved: Whether the change by a step was taken in it.
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
        layout: Of the model.
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
        """The levels of a window."""
        count = len(self.graph.blocks)
        modules = _log10(window.norm_mean)
        weights = self._weights.medians(modules)
        arriving = np.fmax(weights[:count], self._norms.highest(modules))
        sent = np.concatenate([arriving, weights[count:]])
        best = self._consumers.highest(sent)
        lost = self._lost(sent, best, arriving)
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
        """Decades from the consumers of each block to the block."""
        cut = sent.copy()
        cut[: len(best)] = np.minimum(sent[: len(best)], _reach(best))
        with np.errstate(invalid="ignore"):  # -Inf - -Inf: both are zero
            lost: Floats = self._consumers.highest(cut) - arriving
        return lost

    def _through(self, sent: Floats, best: Floats) -> tuple[Floats, Floats]:
        """What units send, and the highest of a block's consumers, looking through low ones."""
        sent, best = sent.copy(), best.copy()
        cut = sent.copy()
        for b in reversed(range(len(best))):  # consumers lie behind what they read
            own = list(self.graph.consumers[b])
            best[b] = np.fmax.reduce(sent[own], initial=np.nan)
            passing = np.fmax.reduce(cut[own], initial=np.nan)
            if -np.inf < sent[b] < passing - BYPASSED:  # a dead one is what it is
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
    """The highest level that counts of a block, from that of its consumers."""
    return np.where(np.isnan(best), np.inf, best + REACH)


class _Padded:
    """Groups of indices as one matrix, so that all groups are answered in one call."""

    def __init__(self, groups: Sequence[Counts]) -> None:
        self._index = np.full((len(groups), max(map(len, groups), default=0) or 1), -1)
        for row, group in zip(self._index, groups, strict=True):
            row[: len(group)] = group

    def _values(self, values: Floats) -> Floats:
        """(G, K) the values of each group, NaN where a group has no more."""
        padded: Floats = np.append(values, np.nan)[self._index]
        return padded

    def highest(self, values: Floats) -> Floats:
        """(G,) the highest of each group, NaN aside; NaN for a group without any."""
        found: Floats = np.fmax.reduce(self._values(values), axis=1)
        return found

    def medians(self, values: Floats) -> Floats:
        """(G,) the median of each group, NaN aside; NaN for a group without any."""
        return medians(self._values(values).T)


def medians(values: Floats, least: int = 1) -> Floats:
    """(N,) median of each column of (W, N) values, NaN aside; NaN with fewer than ``least``."""
    if not len(values):
        return np.full(values.shape[1], np.nan)
    ordered = np.sort(values, axis=0)  # NaN last
    count = (~np.isnan(ordered)).sum(axis=0)
    columns = np.arange(values.shape[1])
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(values) - 1)
    with np.errstate(invalid="ignore"):  # between -Inf and Inf there is no median
        middle = (ordered[low, columns] + ordered[high, columns]) / 2
    return np.where(count >= least, middle, np.nan)


def _log10(norms: Singles) -> Floats:
    with np.errstate(divide="ignore"):  # a norm of 0: -Inf
        levels: Floats = np.minimum(np.log10(norms.astype(np.float64)), CEILING)
    return levels
