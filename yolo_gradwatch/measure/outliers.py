"""Whether a step differs so much from the last ones that it gets a window of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from yolo_gradwatch.measure.clipping import CLIP_OVERFLOW

if TYPE_CHECKING:
    from yolo_gradwatch.measure.arrays import Flags, Floats
    from yolo_gradwatch.measure.layout import Members

HISTORY_STEPS = 100
"""Steps that the level of a block is compared with."""

SKIPS_IN_A_ROW = 4
"""Steps in a row that AMP skipped, of which the last is anomalous: more than a calibration."""

HISTORY_LEAST = 19
"""Steps of history before the first step is judged."""

LEVEL_JUMP = 1.0
"""Decades beyond the highest or lowest level of the history that make a step anomalous."""


SOUND, TOO_LARGE, NONFINITE = range(3)
"""Of a step that is applied: how badly it is spoiled."""


class Outliers:
    """Judges steps in their order, by the levels of the trunk's blocks.

    Args:
        members: Which parameters make up each block of the trunk.
    """

    def __init__(self, members: Members) -> None:
        sizes = np.array([len(found) for found in members.trunk], np.int64)
        self._weights = np.full((len(sizes), max(sizes, default=0)), -1)
        for row, found in zip(self._weights, members.trunk, strict=True):
            row[: len(found)] = found
        self._middle = np.stack([(sizes - 1) // 2, sizes // 2], axis=1)[None]
        self._history = np.full((HISTORY_STEPS, len(sizes)), np.nan)
        self._seen = 0
        self._skips = 0
        self._spoiled = SOUND

    def found(self, norms: Floats, totals: Floats, applied: Flags) -> tuple[Flags, Flags]:
        """Which steps are anomalous, and which of these begin a streak of spoiled ones.

        A step is spoiled if it is applied with a gradient that is not finite, or so large that
        clipping multiplies it by 0. All others that are applied join the history. A gradient that
        is not finite begins a streak of its own behind one that is too large.

        Args:
            norms: (S, P) of the parameters.
            totals: (S,) of the whole model.
            applied: (S,) whether AMP did not skip the step.

        Returns:
            (S,) and (S,)
        """
        sound = totals <= CLIP_OVERFLOW  # not NaN
        spoiled = np.where(sound, SOUND, np.where(np.isfinite(totals), TOO_LARGE, NONFINITE))
        anomalous, first = np.zeros((2, len(applied)), np.bool_)
        anomalous[applied & sound] = self._jumped(norms[applied & sound])
        for i, (is_applied, kind) in enumerate(zip(applied, spoiled.tolist(), strict=True)):
            self._skips = 0 if is_applied else self._skips + 1
            if is_applied:
                first[i] = kind > self._spoiled
                self._spoiled = kind
            anomalous[i] |= first[i] or self._skips == SKIPS_IN_A_ROW
        return anomalous, first

    def restart(self) -> None:
        """A spoiled step that follows is the first again."""
        self._spoiled = SOUND

    def _jumped(self, norms: Floats) -> Flags:
        """(S,) whether a level of (S, P) norms lies beyond those of the last steps before it."""
        levels = self._levels(norms)
        past = np.concatenate([self._history, levels])
        before = sliding_window_view(past, HISTORY_STEPS, axis=0)[: len(levels)]
        high = np.fmax.reduce(before, axis=-1) + LEVEL_JUMP
        low = np.fmin.reduce(before, axis=-1) - LEVEL_JUMP
        is_judged = self._seen + np.arange(len(levels)) >= HISTORY_LEAST
        self._history = past[-HISTORY_STEPS:]
        self._seen += len(levels)
        jumped: Flags = ((levels > high) | (levels < low)).any(axis=1) & is_judged
        return jumped

    def _levels(self, norms: Floats) -> Floats:
        """(S, B) log10 of the median of the weights of each trunk block; -Inf where that is 0."""
        padded = np.concatenate([norms, np.full((len(norms), 1), np.inf)], axis=1)
        ordered = np.sort(padded[:, self._weights], axis=2)
        middle = np.take_along_axis(ordered, self._middle, axis=2)
        with np.errstate(divide="ignore"):
            levels: Floats = np.log10(middle.mean(axis=2))
        return levels
