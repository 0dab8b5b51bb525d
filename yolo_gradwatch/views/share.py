"""Share of the planned training that a run has completed at each of its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from yolo_gradwatch.measure.arrays import Counts, Flags, Floats
    from yolo_gradwatch.measure.windows import Grid
    from yolo_gradwatch.runs.run import Run

_ROUNDING = 1e-9
"""Tolerance of a share: a window that begins where a column ends is not in that column."""


@dataclass(frozen=True, slots=True)
class Share:
    """Positions of the W windows of a run in its training, from 0 (begin) to 1 (planned end).

    Attributes:
        edges: (W + 1,) shares at which the windows begin, and at which the last one ends; a single
            0 without windows.
        planned: Planned number of epochs; 0 if unknown: the recorded part then counts as the whole.
    """

    edges: Floats
    planned: int

    @property
    def begin(self) -> float:
        """Share at which the first window begins: above 0 if a training was resumed elsewhere."""
        return float(self.edges[0])

    @property
    def end(self) -> float:
        """Share at which the last window ends: below 1 if the training ended early."""
        return float(self.edges[-1])

    def columns(self, count: int) -> tuple[Counts, Counts, Flags]:
        """Assign windows to ``count`` equally wide columns of the whole training.

        Returns:
            (C,) first window of each column, (C,) one past its last, and (C,) whether the column
            has any; a column without windows gets the nearest one.
        """
        sides = np.linspace(0, 1, count + 1)
        windows = len(self.edges) - 1
        low, high = sides[:-1] + _ROUNDING, sides[1:] - _ROUNDING
        begin = np.clip(np.searchsorted(self.edges, low, "right") - 1, 0, max(windows - 1, 0))
        end = np.clip(np.searchsorted(self.edges, high, "left"), begin + 1, max(windows, 1))
        return begin, end, (low < self.end) & (high > self.begin)


def share_of(run: Run) -> Share:
    """Locate the windows of a run in its training.

    Shares are measured in epochs, because warm-up epochs have more optimizer steps than later ones.
    If an epoch was repeated, its last pass counts. For a training that did not finish, the share of
    its last epoch is estimated from the number of steps in the epoch before.
    """
    grid = run.grid
    if not len(grid.steps):
        return Share(np.zeros(1), 0)
    begins = _begins(grid)
    epochs, firsts = np.array(list(begins)), np.array(list(begins.values()))
    end = float(grid.step_last[-1]) + 1
    reached = epochs[-1] - 1 + _done(run, epochs, firsts, end)
    known = 0 if run.meta.options.training.get("time") else run.meta.options.epochs
    planned = max(known, int(epochs[-1]))
    whole = planned if known else reached
    shares = np.append(epochs - 1, reached) / whole
    steps = np.append(grid.step_first, end)
    edges: Floats = np.interp(steps, np.append(firsts, end), shares)
    return Share(edges, planned if known else 0)


def _begins(grid: Grid) -> dict[int, int]:
    """Epoch -> first step of its last pass, without epochs that the run went back beyond."""
    is_new = np.append(True, np.diff(grid.epoch) != 0)
    passes = zip(grid.epoch[is_new].tolist(), grid.step_first[is_new].tolist(), strict=True)
    found: dict[int, int] = {}
    for epoch, step in reversed(list(passes)):
        if not found or epoch < min(found):
            found[epoch] = step
    return dict(reversed(found.items()))


def _done(run: Run, epochs: Counts, firsts: Counts, end: float) -> float:
    """Return the completed share of the last epoch; 1 if it is unknown."""
    if run.status == "finished" or len(epochs) < 2:
        return 1.0
    usual = (firsts[-1] - firsts[-2]) / (epochs[-1] - epochs[-2])
    return min(float((end - firsts[-1]) / usual), 1.0)
