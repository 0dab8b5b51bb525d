"""What a picture of a run shows: modules by windows, the total norm, and where findings stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.records import FLOAT32_MAX, WHOLE
from yolo_gradwatch.telemetry import block_labels, block_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from yolo_gradwatch.records import Counts, Finding, Floats, Grid, Layout
    from yolo_gradwatch.report import Report
    from yolo_gradwatch.review import Run

FINE, NONFINITE, ZERO, NONE, UNKNOWN = range(5)
"""Of a cell: a norm above 0; NaN or Inf in a step; exactly 0, or no gradient, in most steps;
nothing to tell, because AMP skipped every step of the window or the module was frozen."""

STATES = {
    NONFINITE: ("NaN or Inf", "#e4002b"),
    ZERO: ("exactly zero", "#000000"),
    NONE: ("no gradient", "#707070"),
    UNKNOWN: ("skipped or frozen", "#dddddd"),
}
"""Words and colour for a cell that is not `FINE`."""

COLOURS = {"critical": "#d1001c", "warning": "#e07b00"}
"""By severity of an alarm."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a finding stands in the picture.

    Attributes:
        finding: What was found.
        rows: The rows that it concerns, its own first; none for the whole model.
        first: Column in which it began.
        last: Last column in which it stood.
    """

    finding: Finding
    rows: tuple[int, ...]
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Heatmap:
    """R modules by W windows, in forward order and in the order of the steps.

    A norm beyond float32, which is Inf in the files, stands as the largest number of float32.

    Attributes:
        names: (R,) of the modules.
        labels: (R,) as a reader knows them: number and class of a block, else the name.
        epoch: (W,)
        step_first: (W,)
        step_last: (W,)
        norms: (R, W) mean L2 norm of the gradient; NaN where there is none.
        levels: (R, W) its log10; NaN in a cell that is not `FINE`.
        states: (R, W) `FINE`, `NONFINITE`, `ZERO`, `NONE` or `UNKNOWN`.
        totals: (3, W) lowest, mean and highest norm of the whole model; NaN where there is none.
        clip: Norm of the whole model above which the trainer clips.
        clipped: (W,) share of the steps that were clipped; of a window in which some were, only
            that its mean was above the clip or not is known, as 1 or 0.
        skipped: (W,) share of the steps that AMP skipped.
        marks: Of the findings that are alarms, in the order in which they began.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    epoch: Counts
    step_first: Counts
    step_last: Counts
    norms: Floats
    levels: Floats
    states: NDArray[np.uint8]
    totals: Floats
    clip: float
    clipped: Floats
    skipped: Floats
    marks: tuple[Mark, ...]


def heatmap(run: Run, report: Report, *, modules: bool = False) -> Heatmap:
    """What a picture of a run shows.

    Args:
        run: Its tables.
        report: Its findings.
        modules: Every module in forward order instead of the top-level blocks.
    """
    grid, layout = run.grid, run.layout
    rows = list(range(1, len(layout.modules))) if modules else block_rows(layout)
    norms = np.minimum(grid.norm_mean[:, rows].T.astype(np.float64), FLOAT32_MAX)
    totals = np.stack([grid.norm_min[:, 0], grid.norm_mean[:, 0], grid.norm_max[:, 0]])
    states = _states(grid, rows)
    with np.errstate(divide="ignore"):
        levels = np.where(states == FINE, np.log10(norms), np.nan)
    names = tuple(layout.modules[row] for row in rows)
    return Heatmap(
        names=names,
        labels=names if modules else tuple(block_labels(layout)),
        epoch=grid.epoch,
        step_first=grid.step_first,
        step_last=grid.step_last,
        norms=norms,
        levels=levels,
        states=states,
        totals=np.minimum(totals.astype(np.float64), FLOAT32_MAX),
        clip=report.clip,
        clipped=(grid.norm_mean[:, 0] > report.clip).astype(np.float64),
        skipped=grid.skipped / np.maximum(grid.steps, 1),
        marks=tuple(_mark(grid, layout, names, finding) for finding in report.alarms),
    )


def _states(grid: Grid, rows: list[int]) -> NDArray[np.uint8]:
    """(R, W) of each cell: NaN or Inf if in any step, zero or none if in most of them."""
    mean = grid.norm_mean[:, rows]
    half = (grid.steps - grid.skipped)[:, None] / 2
    states = np.full(mean.shape, UNKNOWN, np.uint8)
    states[mean > 0] = FINE
    states[(grid.none[:, rows] > half) | ((grid.none[:, rows] > 0) & np.isnan(mean))] = NONE
    states[(grid.zero[:, rows] > half) | (mean == 0)] = ZERO
    states[grid.nonfinite[:, rows] > 0] = NONFINITE
    return states.T


def _mark(grid: Grid, layout: Layout, names: tuple[str, ...], finding: Finding) -> Mark:
    """A finding, on the rows of its modules or of the blocks that these belong to."""
    place = {name: row for row, name in enumerate(names)}
    block_of = dict(zip(layout.modules, layout.block_of, strict=True))
    own = [
        place.get(name, place.get(block_of[name])) for name in (finding.module, *finding.modules)
    ]
    rows = tuple(dict.fromkeys(row for row in own if row is not None))
    end = len(grid.steps) if finding.step_end is None else _column(grid, finding.step_end)
    first = min(_column(grid, finding.step), len(grid.steps) - 1)
    return Mark(
        finding=finding,
        rows=() if finding.module == WHOLE else rows,
        first=first,
        last=max(end - 1, first),
    )


def _column(grid: Grid, step: int) -> int:
    """The window with a step; one more than there are for a step after the last."""
    return int(np.searchsorted(grid.step_last, step))
