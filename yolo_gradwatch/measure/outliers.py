"""Detects steps that differ so much from the past that they get a window of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.measure.clipping import CLIP_OVERFLOW
from yolo_gradwatch.measure.past import Past

if TYPE_CHECKING:
    from yolo_gradwatch.measure.arrays import Flags, Floats
    from yolo_gradwatch.measure.layout import Members

SKIPS_IN_A_ROW = 4
"""Consecutive steps skipped by AMP after which the last is anomalous: more than a calibration."""

HISTORY_LEAST = 19
"""Steps of history before the first step is judged."""

LEVEL_JUMP = 1.0
"""Decades beyond the highest or lowest past level that make a step anomalous."""


SOUND, TOO_LARGE, NONFINITE = range(3)
"""How badly an applied step is damaged."""


class Outliers:
    """Judges steps in order, by the levels of the trunk's blocks.

    Args:
        members: Parameters that make up each block of the trunk.
    """

    def __init__(self, members: Members) -> None:
        sizes = np.array([len(found) for found in members.trunk], np.int64)
        self._weights = np.full((len(sizes), max(sizes, default=0)), -1)
        for row, found in zip(self._weights, members.trunk, strict=True):
            row[: len(found)] = found
        self._low, self._high = (sizes - 1) // 2, sizes // 2
        self._past = Past(len(sizes))
        self._skips = 0
        self._damage = SOUND

    def found(self, norms: Floats, totals: Floats, applied: Flags) -> tuple[Flags, Flags]:
        """Return which steps are anomalous, and which of these begin a streak of damaged ones.

        A step is damaged if it is applied with a gradient that is not finite, or so large that
        clipping multiplies it by 0. All other applied steps join the history. After a gradient
        that is too large, one that is not finite begins a new streak.

        Args:
            norms: (S, P) norms of the parameters.
            totals: (S,) norms of the whole model.
            applied: (S,) whether AMP did not skip the step.

        Returns:
            (S,) flags of each kind.
        """
        sound = totals <= CLIP_OVERFLOW  # not NaN
        damage = np.where(sound, SOUND, np.where(np.isfinite(totals), TOO_LARGE, NONFINITE))
        anomalous, first = np.zeros((2, len(applied)), np.bool_)
        anomalous[applied & sound] = self._jumped(norms[applied & sound])
        for i, (is_applied, kind) in enumerate(zip(applied, damage.tolist(), strict=True)):
            self._skips = 0 if is_applied else self._skips + 1
            if is_applied:
                first[i] = kind > self._damage
                self._damage = kind
            anomalous[i] |= first[i] or self._skips == SKIPS_IN_A_ROW
        return anomalous, first

    def restart(self) -> None:
        """Count the next damaged step as the first again."""
        self._damage = SOUND

    def _jumped(self, norms: Floats) -> Flags:
        """(S,) whether any level of (S, P) norms is far beyond those of the past."""
        levels = self._levels(norms)
        jumped = np.zeros(len(levels), np.bool_)
        begin = 0
        while begin < len(levels):
            part = levels[begin : begin + self._past.room]
            if self._past.seen < HISTORY_LEAST or self._is_away(part).any():
                part = part[:1]  # each step is judged by all before it
                jumped[begin] = self._past.seen >= HISTORY_LEAST and self._is_away(part).any()
            self._past.add(part, part)
            begin += len(part)
        return jumped

    def _is_away(self, levels: Floats) -> Flags:
        low, high = self._past.band()
        beyond = (levels > high + LEVEL_JUMP) | (levels < low - LEVEL_JUMP)
        away: Flags = np.logical_or.reduce(beyond, axis=1)
        return away

    def _levels(self, norms: Floats) -> Floats:
        """(S, B) log10 of the median weight norm in each trunk block; -Inf where that is 0."""
        # Blocks differ in size: the -1 that fills a row picks an Inf, which sorts to the end.
        padded = np.concatenate([norms, np.full((len(norms), 1), np.inf)], axis=1)
        ordered = np.sort(padded[:, self._weights], axis=2)
        blocks = np.arange(len(self._low))
        middle = (ordered[:, blocks, self._low] + ordered[:, blocks, self._high]) / 2
        with np.errstate(divide="ignore"):
            levels: Floats = np.log10(middle)
        return levels
