"""Horizontal axis of optimizer steps: linear, with the first steps of a long run widened.

A place is a number from 0, the left end of the axis, to 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from yolo_gradwatch.measure.arrays import Counts, Flags, Floats

DENSE = 50
"""First steps of a long run that get a separate, wider scale; each is a window of one step."""

_LONG = 400  # steps; in a longer run, the single first steps would be too narrow to see
_DENSE_SHARE, _BREAK = 0.12, 0.012  # shares of the axis: the first steps, the break after them
_NICE = (1, 2, 5)


class Timeline:
    """The horizontal axis of W windows, at least one.

    Args:
        step_first: (W,) first step of each window.
        step_last: (W,) last step of each window.

    Attributes:
        edges: (W + 1,) steps at which the windows begin, and at which the last one ends.
        left: (W,) place at which each window begins.
        right: (W,) place at which each window ends.
        gap: Left and right end of the break after the first steps; None if there is none.
        dense: Number of steps before the break.
    """

    def __init__(self, step_first: Counts, step_last: Counts) -> None:
        end = max(float(step_first[-1]), float(step_last[-1])) + 1
        self.edges: Floats = np.append(step_first.astype(np.float64), end) - 0.5
        first, last = float(self.edges[0]), float(self.edges[-1])
        cut = float(self.edges[np.searchsorted(self.edges[:-1], first + DENSE)])
        is_long = last - first > _LONG and cut - first < 2 * DENSE
        self.gap = (_DENSE_SHARE, _DENSE_SHARE + _BREAK) if is_long else None
        self._cut = cut if is_long else first
        self.dense = round(self._cut - first)
        self.left: Floats = self.at(self.edges[:-1])
        self.right: Floats = self._place(self.edges[1:], self.edges[1:] > self._cut)

    def at(self, steps: Floats | Counts) -> Floats:
        """Return the places of steps; steps outside the axis are placed at its ends."""
        steps = np.asarray(steps, np.float64)
        return self._place(steps, steps >= self._cut)

    def step(self, places: Floats) -> Floats:
        """Return the steps at these places; inside the break, the step of the break."""
        knots = (self._cut, self._cut) if self.gap else ()
        found: Floats = np.interp(
            places, (0, *(self.gap or ()), 1), (self.edges[0], *knots, self.edges[-1])
        )
        return found

    def columns(self, count: int) -> tuple[Counts, Counts]:
        """Assign windows to ``count`` equally wide columns, each window to at least one.

        Returns:
            (C,) first window of each column, and (C,) one past its last.
        """
        sides = self.step(np.linspace(0, 1, count + 1))
        windows = len(self.edges) - 1
        begin = np.clip(np.searchsorted(self.edges, sides[:-1], "right") - 1, 0, windows - 1)
        end = np.clip(np.searchsorted(self.edges, sides[1:], "left"), begin + 1, windows)
        return begin, end

    def ticks(self, most: int) -> list[int]:
        """Return about ``most`` round numbers of steps, and the first step."""
        first, last = self.edges[0] + 0.5, self.edges[-1] - 0.5
        dense = _round_numbers(first, self._cut, 3) if self.gap else []
        rest = _round_numbers(max(self._cut, first), last, most)
        return self._apart([int(first), *dense, *rest], 0.03)

    def epochs(self, epoch: Counts, most: int) -> dict[int, float]:
        """Return the first epoch and some round ones, each with the place at which it begins.

        Args:
            epoch: (W,) epoch of each window.
            most: Largest number of round ones.
        """
        begins: dict[int, float] = {}
        for number, place in zip(epoch.tolist(), self.left.tolist(), strict=True):
            begins.setdefault(number, place)
        first, last = min(begins), max(begins)
        found: dict[int, float] = {first: begins[first]}
        for number in _round_numbers(first, last, most):
            if number in begins and all(abs(begins[number] - p) > 0.025 for p in found.values()):
                found[number] = begins[number]
        return found

    def _place(self, steps: Floats, is_after: Flags) -> Floats:
        """Return the places of steps before or after the break; its own step has both.

        Args:
            steps: Steps to place.
            is_after: Whether to place each of them after the break.
        """
        first, last = self.edges[0], self.edges[-1]
        begin, width = (self.gap[1], 1 - self.gap[1]) if self.gap else (0.0, 1.0)
        front = (steps - first) / max(self._cut - first, 1) * _DENSE_SHARE
        rest = begin + (steps - self._cut) / max(last - self._cut, 1) * width
        found: Floats = np.clip(np.where(is_after, rest, front), 0, 1)
        return found

    def _apart(self, steps: list[int], distance: float) -> list[int]:
        """Drop steps that are too near to the previous one on the axis."""
        kept: list[int] = []
        for step in steps:
            if not kept or self.at(np.array(step)) - self.at(np.array(kept[-1])) > distance:
                kept.append(step)
        return kept


def _round_numbers(first: float, last: float, most: int) -> list[int]:
    """Return at most ``most`` multiples of 1, 2 or 5 times a power of ten in a range."""
    power = 1
    while True:
        for nice in _NICE:
            apart = nice * power
            if (last - first) / apart < most:
                return list(range(-int(-first // apart) * apart, int(last) + 1, apart))
        power *= 10
