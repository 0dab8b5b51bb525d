"""Detects that the last steps all differ from the run's past, in the same direction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.measure.past import Past

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.measure.arrays import Flags, Floats
    from yolo_gradwatch.measure.layout import Members
    from yolo_gradwatch.measure.sample import Sample

STEPS_IN_A_ROW = 5
"""Steps that must all be beyond the past: one or two that stand out are noise."""

LEVEL_SHIFT = 0.75
"""Decades beyond what this many steps in a row have reached before.

Of 35 healthy recordings, 2,360 steps in all after their 60th, 4 open a stretch at 0.75, and 29
would at 0.5. A block that begins to vanish moves by 1.3 decades or more, from a median hop of 0.7
to one above 2; one that begins to explode, or a weight that leaves its block, by 2.
"""

FURTHER = 0.25
"""Decades by which a drift must continue before it counts again."""

RECENT = 5
"""Newest stretches that are not the past yet: the last 10 % of the steps, where a drift begins."""

LEAST_STEPS = 60
"""Steps before the first one is judged."""

RATE_JUMP = 2.0
"""Factor between the learning rates of two steps; a warm-up raises them gradually."""

FLOOR = -45.0
"""Level of a weight that gets no gradient."""


class Shifts:
    """Watches the level of every weight of the trunk, and the learning rates.

    The level of a weight is relative to the median of the trunk in the same step, so that loss
    scale and batch cancel out; that median is watched as one more level.

    Args:
        members: Parameters that make up each block of the trunk.
    """

    def __init__(self, members: Members) -> None:
        self._weights = np.concatenate([np.empty(0, np.int64), *members.trunk])
        size = len(self._weights) + 1 if len(self._weights) else 0
        self._newest = np.full((STEPS_IN_A_ROW - 1, size), np.nan)
        self._past = Past(size, RECENT)
        self._counted_low, self._counted_high = np.full(size, np.inf), np.full(size, -np.inf)
        self._rates: tuple[float, ...] = ()

    def found(self, samples: Sequence[Sample], norms: Floats, usable: Flags) -> Flags:
        """Return which steps complete a shift, or continue one.

        Args:
            samples: The next S steps.
            norms: (S, P) norms of the parameters.
            usable: (S,) whether a step is applied and its gradient finite.

        Returns:
            (S,) flags.
        """
        shifted = np.array([self._rate_jumps(sample.rates) for sample in samples])
        if len(self._weights) and usable.any():
            levels = self._levels(norms[usable][:, self._weights])
            shifted[usable] |= self._beyond(levels)
        return shifted

    def _rate_jumps(self, rates: tuple[float, ...]) -> bool:
        before, self._rates = self._rates, rates or self._rates
        return any(now > RATE_JUMP * was > 0 for was, now in zip(before, rates, strict=False))

    def _levels(self, norms: Floats) -> Floats:
        """(S, K) decades of each weight above the median, and last the median itself."""
        with np.errstate(divide="ignore"):
            levels = np.maximum(np.log10(norms), FLOOR)
        middle = np.sort(levels, axis=1)[:, levels.shape[1] // 2, None]
        above = np.where(levels > FLOOR, levels - middle, FLOOR)
        return np.concatenate([above, middle], axis=1)

    def _beyond(self, levels: Floats) -> Flags:
        """(S,) flags for (S, K) levels, one stretch of the past at a time."""
        low = high = np.concatenate([self._newest, levels])
        self._newest = low[1 - STEPS_IN_A_ROW :]
        for _ in range(STEPS_IN_A_ROW - 1):  # all of the last steps are below, and above
            low, high = np.maximum(low[1:], low[:-1]), np.minimum(high[1:], high[:-1])
        found = np.zeros(len(levels), np.bool_)
        begin = 0
        while begin < len(levels):
            part = slice(begin, begin + self._past.room)
            if self._past.seen >= LEAST_STEPS:
                found[part] = self._judged(low[part], high[part])
            self._past.add(low[part], high[part])
            begin = part.stop
        return found

    def _judged(self, low: Floats, high: Floats) -> Flags:
        """(S,) flags for steps with the same past: beyond it, and beyond what counted before."""
        least, most = self._past.band()
        falls, rises = low < least - LEVEL_SHIFT, high > most + LEVEL_SHIFT
        found: Flags = np.logical_or.reduce(falls | rises, axis=1)
        # While no shift lasts, nothing changes before the first step beyond the past.
        if self._counted_low.min() == np.inf and self._counted_high.max() == -np.inf:
            begin = int(found.argmax()) if found.any() else len(found)
        else:
            begin = 0
        # One by one: a shift that lasts counts again only if it goes further than when it last did.
        for i in range(begin, len(found)):
            self._counted_low[low[i] > least] = np.inf  # it has recovered, and may fall again
            self._counted_high[high[i] < most] = -np.inf
            falls[i] &= low[i] < self._counted_low - FURTHER
            rises[i] &= high[i] > self._counted_high + FURTHER
            self._counted_low = np.where(falls[i], low[i], self._counted_low)
            self._counted_high = np.where(rises[i], high[i], self._counted_high)
            found[i] = falls[i].any() or rises[i].any()
        return found
