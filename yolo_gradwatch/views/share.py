"""Which share of its training a run has behind it at a step, by the epochs that were planned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from yolo_gradwatch.measure.arrays import Counts, Flags, Floats
    from yolo_gradwatch.measure.windows import Grid
    from yolo_gradwatch.runs.run import Run

_ROUNDING = 1e-9
"""Of a share; a window that begins where a column ends does not reach into it."""


@dataclass(frozen=True, slots=True)
class Share:
    """Where the W windows of a run lie in its training, from 0, its beginning, to 1, its end.

    Attributes:
        edges: (W + 1,) shares at which the windows begin, and where the last one ends; (1,) of 0
            without a window.
        planned: Epochs that the training should have had; 0 if that is not known, so that what was
            watched counts as all of it.
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
        """The windows in each of ``count`` equally wide columns of the whole training.

        Returns:
            (C,) the first of each, (C,) one past its last, and (C,) whether there is any; of a
            column without one, the nearest window.
        """
        sides = np.linspace(0, 1, count + 1)
        windows = len(self.edges) - 1
        low, high = sides[:-1] + _ROUNDING, sides[1:] - _ROUNDING
        begin = np.clip(np.searchsorted(self.edges, low, "right") - 1, 0, max(windows - 1, 0))
        end = np.clip(np.searchsorted(self.edges, high, "left"), begin + 1, max(windows, 1))
        return begin, end, (low < self.end) & (high > self.begin)


def share_of(run: Run) -> Share:
    """Where the windows of a run lie in its training.

    By epochs, because the first ones have more optimizer steps in warm-up. Of an epoch that was
    repeated, the last pass counts. A training that did not finish ended within its last epoch: as
    far as the steps in it reach, compared with the epoch before.
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
    """By epoch the step at which its last pass begins, of those that the run has not gone back."""
    is_new = np.append(True, np.diff(grid.epoch) != 0)
    passes = zip(grid.epoch[is_new].tolist(), grid.step_first[is_new].tolist(), strict=True)
    found: dict[int, int] = {}
    for epoch, step in reversed(list(passes)):
        if not found or epoch < min(found):
            found[epoch] = step
    return dict(reversed(found.items()))


def _done(run: Run, epochs: Counts, firsts: Counts, end: float) -> float:
    """Share of its last epoch that a run has behind it; all of it where that is not known."""
    if run.status == "finished" or len(epochs) < 2:
        return 1.0
    usual = (firsts[-1] - firsts[-2]) / (epochs[-1] - epochs[-2])
    return min(float((end - firsts[-1]) / usual), 1.0)
