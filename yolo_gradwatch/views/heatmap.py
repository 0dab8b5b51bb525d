"""Data for the picture of a run: modules by windows, strips of the whole run, and its findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose.causes import mosaic_closes
from yolo_gradwatch.diagnose.graph import Graph
from yolo_gradwatch.measure.arrays import FLOAT32_MAX
from yolo_gradwatch.measure.clipping import block_labels, block_rows
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.runs import results
from yolo_gradwatch.views.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from yolo_gradwatch.diagnose.finding import Episode, Finding
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.measure.arrays import Counts, Flags, Floats
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.windows import Grid
    from yolo_gradwatch.runs.results import Curves
    from yolo_gradwatch.runs.run import Run

FINE, NONFINITE, ZERO, NONE, UNKNOWN = range(5)
"""States of a cell: a norm above 0; NaN or Inf in any step; exactly 0 in most steps; no gradient
in most steps; unknown, because AMP skipped every step of the window or the module was frozen."""

STATES = {
    NONFINITE: ("NaN or Inf", "#e4002b"),
    ZERO: ("exactly zero", "#000000"),
    NONE: ("no gradient", "#707070"),
    UNKNOWN: ("skipped or frozen", "#dddddd"),
}
"""State other than `FINE` -> its legend text and colour."""

WEAK = ("below the scale", "#cbbfda")
"""Legend text and colour for a level below the colour scale in a row that is `Heatmap.weak`."""

WEAK_ZERO = ("exactly zero, in no finding", "#a99dba")
"""Legend text and colour for a cell that is `ZERO` in such a row."""

COLOURS = {"critical": "#d1001c", "warning": "#e07b00"}
"""Severity of an alarm -> colour."""


_SPAN = 2.0  # least decades that the colours span, so that noise is not blown up
_WEAK = 2.2  # decades below the median row; healthy trained blocks are within 1.7
_OUTLIERS = 1.0  # per cent of the levels, at either end, beyond the ends of the colour scale
_LOOKS = 200  # places on the axis at which levels are sampled for the colour scale
_THREE_SCALES = ("P3", "P4", "P5")
_RESTARTS = {
    "resume": "resumed",
    "nan_recovery": "NaN recovery",
    "oom_restart": "out of memory, restarted",
    "thaw": "layers unfrozen",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """A point of the training at which its conditions changed, such as a restart.

    Attributes:
        step: First optimizer step after the change.
        word: What changed, for display.
    """

    step: int
    word: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Place of one episode of a finding in the picture.

    Attributes:
        finding: The finding.
        rows: Rows that it affects, its own first; none for the whole model.
        first: First column of the episode.
        last: Last column of the episode.
    """

    finding: Finding
    rows: tuple[int, ...]
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Heatmap:
    """R modules in forward order by W windows in the order of the steps.

    A norm beyond float32, which is Inf in the files, is shown as the largest float32.

    Attributes:
        names: (R,) names of the modules.
        labels: (R,) labels for display: number and class of a block, else the name; and the scale
            of the head that it feeds or belongs to.
        epoch: (W,) epoch of each window.
        step_first: (W,) first step of each window.
        step_last: (W,) last step of each window.
        norms: (R, W) mean L2 norm of the gradient; NaN where there is none.
        levels: (R, W) log10 of ``norms``; NaN in a cell that is not `FINE`.
        states: (R, W) `FINE`, `NONFINITE`, `ZERO`, `NONE` or `UNKNOWN`.
        totals: (3, W) lowest, mean and highest norm of the whole model; NaN where there is none.
        clip: Norm of the whole model above which the trainer clips.
        limits: Lowest and highest level of the colour scale, from the rows that are not weak.
        weak: (R,) whether a row is far below the others and in no finding, such as the box branch
            of a scale without objects; these rows do not stretch the colour scale.
        clipped: (2, W) least and most possible share of clipped steps; the two differ where only
            the lowest and the highest norm of a window are known.
        skipped: (W,) share of the steps that AMP skipped.
        marks: Every episode of the alarms, in the order in which they began.
        moments: Changes of the conditions of the training, by step.
        curves: Losses, scores and rates that Ultralytics wrote for each epoch.
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
    limits: tuple[float, float]
    weak: Flags
    clip: float
    clipped: Floats
    skipped: Floats
    marks: tuple[Mark, ...]
    moments: tuple[Moment, ...]
    curves: Curves


def heatmap(run: Run, report: Report, *, modules: bool = False) -> Heatmap:
    """Collect the data for the picture of a run.

    Args:
        run: The run.
        report: Report with the findings of the run.
        modules: Show every module in forward order instead of the top-level blocks.
    """
    grid, layout = run.grid, run.layout
    rows = list(range(1, len(layout.modules))) if modules else block_rows(layout)
    norms = np.minimum(grid.norm_mean[:, rows].T.astype(np.float64), FLOAT32_MAX)
    totals = np.stack([grid.norm_min[:, 0], grid.norm_mean[:, 0], grid.norm_max[:, 0]])
    states = states_of(grid, rows)
    with np.errstate(divide="ignore"):
        levels = np.where(states == FINE, np.log10(norms), np.nan)
    names = tuple(layout.modules[row] for row in rows)
    marks = tuple(mark for one in report.alarms for mark in _marks(grid, layout, names, one))
    found = {names[row] for mark in marks for row in mark.rows}
    limits, weak = _scale(grid, levels, np.array([_is_inside(name, found) for name in names]))
    return Heatmap(
        names=names,
        labels=_labels(layout, names, names if modules else block_labels(layout)),
        epoch=grid.epoch,
        step_first=grid.step_first,
        step_last=grid.step_last,
        norms=norms,
        levels=levels,
        states=states,
        totals=np.minimum(totals.astype(np.float64), FLOAT32_MAX),
        limits=limits,
        weak=weak,
        clip=report.clip,
        clipped=_clipped(grid, report.clip) / np.maximum(grid.steps, 1),
        skipped=grid.skipped / np.maximum(grid.steps, 1),
        marks=marks,
        moments=_moments(run),
        curves=results.read(run.folder),
    )


def decade(level: float) -> str:
    """Format a power of ten: 1e-2, 1e-1, 1, 10, 100, 1000, 1e4."""
    power = round(level)
    return str(10**power) if 0 <= power <= 3 else f"1e{power}"


def _labels(layout: Layout, names: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Append the scale to the labels of rows that feed the head, and of the head's branches.

    Three inputs of a head have strides of 8, 16 and 32, in this order, and are named P3 to P5; any
    other number of inputs is counted.
    """
    inputs = [source for source, target in layout.edges if target == layout.head]
    counted = tuple(f"scale {i} of {len(inputs)}" for i in range(1, len(inputs) + 1))
    scales = _THREE_SCALES if len(inputs) == len(_THREE_SCALES) else counted
    families = (*Graph(layout).families.values(), inputs) if len(inputs) > 1 else ()
    scale_of = {
        unit: scale for units in families for unit, scale in zip(units, scales, strict=True)
    }
    return tuple(
        f"{label}  {scale_of[name]}" if name in scale_of else label
        for name, label in zip(names, labels, strict=True)
    )


def _is_inside(name: str, modules: set[str]) -> bool:
    """Return whether a module is one of these or inside one."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return bool(name)


def _scale(grid: Grid, levels: Floats, is_found: Flags) -> tuple[tuple[float, float], Flags]:
    """Return the limits of the colour scale, and which rows are weak and therefore left out.

    Args:
        grid: Grid with W windows.
        levels: (R, W) log10 norms.
        is_found: (R,) whether a row is in a finding; its levels then always count.
    """
    weak = np.zeros(len(levels), np.bool_)
    seen = levels[:, :0]
    if len(grid.steps):
        seen = levels[:, Timeline(grid.step_first, grid.step_last).columns(_LOOKS)[0]]
    is_known = np.isfinite(seen).any(axis=1)
    typical = np.array([np.nanmedian(row) for row in seen[is_known]])
    if typical.size:
        weak[is_known] = typical < np.median(typical) - _WEAK
        weak &= ~is_found
    alive = seen[~weak]
    alive = alive[np.isfinite(alive)]
    if not alive.size:
        return (-1.0, 1.0), weak
    low, high = np.percentile(alive, [_OUTLIERS, 100 - _OUTLIERS]).tolist()
    spare = max(_SPAN - (high - low), 0.0) / 2
    return (low - spare, high + spare), weak


def _clipped(grid: Grid, clip: float) -> Floats:
    """(2, W) least and most possible number of clipped steps, equal where they were counted."""
    doubtful = grid.nonfinite[:, 0]  # steps with a non-finite norm may or may not have been clipped
    finite = grid.steps - grid.skipped - doubtful
    low, high = grid.norm_min[:, 0] > clip, grid.norm_max[:, 0] > clip
    least = np.where(low, finite, np.where(high, 1, 0))
    most = np.where(low, finite, np.where(high, finite - 1, 0)) + doubtful
    is_counted = grid.clipped >= 0
    found: Floats = np.where(is_counted, grid.clipped, np.stack([least, most])).astype(np.float64)
    return found


def _moments(run: Run) -> tuple[Moment, ...]:
    """Return restarts, thawed layers, and the end of mosaic augmentation, by step."""
    restarts = (event for event in run.meta.events if event.kind in _RESTARTS)
    found = [Moment(event.step, _RESTARTS[event.kind]) for event in restarts]
    closes = mosaic_closes(run.meta.options.training)
    if closes is not None:
        begins = run.grid.step_first[run.grid.epoch == closes]
        found += [Moment(int(step), "mosaic closed") for step in begins[:1]]
    return tuple(sorted(found, key=lambda moment: moment.step))


def states_of(grid: Grid, rows: list[int]) -> NDArray[np.uint8]:
    """(R, W) state of each cell: NaN or Inf if in any step, zero or none if in most steps."""
    mean = grid.norm_mean[:, rows]
    half = (grid.steps - grid.skipped)[:, None] / 2
    states = np.full(mean.shape, UNKNOWN, np.uint8)  # a later line overrides an earlier one
    states[mean > 0] = FINE
    states[(grid.none[:, rows] > half) | ((grid.none[:, rows] > 0) & np.isnan(mean))] = NONE
    states[(grid.zero[:, rows] > half) | (mean == 0)] = ZERO
    states[grid.nonfinite[:, rows] > 0] = NONFINITE
    return states.T


def _marks(grid: Grid, layout: Layout, names: tuple[str, ...], finding: Finding) -> list[Mark]:
    """Place the episodes of a finding on the rows of its modules, or of their blocks."""
    place = {name: row for row, name in enumerate(names)}
    block_of = dict(zip(layout.modules, layout.block_of, strict=True))
    own = [
        place.get(name, place.get(block_of[name])) for name in (finding.module, *finding.modules)
    ]
    rows = tuple(dict.fromkeys(row for row in own if row is not None))
    shown = () if finding.module == WHOLE else rows
    spans = (_columns(grid, episode) for episode in finding.episodes)
    return [Mark(finding, shown, first, last) for first, last in spans]


def _columns(grid: Grid, episode: Episode) -> tuple[int, int]:
    """Return the first and last column of an episode."""
    end = len(grid.steps) if episode.step_end is None else _column(grid, episode.step_end)
    first = min(_column(grid, episode.step), len(grid.steps) - 1)
    return first, max(end - 1, first)


def _column(grid: Grid, step: int) -> int:
    """Return the window that contains a step; W for a step after the last window."""
    return int(np.searchsorted(grid.step_last, step))
