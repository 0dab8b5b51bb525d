"""What a picture of a run shows: modules by windows, strips of the whole run, and its findings."""

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
"""Of a cell: a norm above 0; NaN or Inf in a step; exactly 0, or no gradient, in most steps;
unknown, because AMP skipped every step of the window or the module was frozen."""

STATES = {
    NONFINITE: ("NaN or Inf", "#e4002b"),
    ZERO: ("exactly zero", "#000000"),
    NONE: ("no gradient", "#707070"),
    UNKNOWN: ("skipped or frozen", "#dddddd"),
}
"""Words and colour for a cell that is not `FINE`."""

WEAK = ("below the scale", "#cbbfda")
"""Words and colour for a level below the colours' in a row that is `Heatmap.weak`."""

WEAK_ZERO = ("exactly zero, in no finding", "#a99dba")
"""Words and colour for a cell that is `ZERO` in such a row."""

COLOURS = {"critical": "#d1001c", "warning": "#e07b00"}
"""By severity of an alarm."""


_SPAN = 2.0  # decades that the colours span at least, so that noise is not blown up
_WEAK = 2.2  # decades below the median row; healthy blocks that are trained are within 1.7
_OUTLIERS = 1.0  # per cent of what is alive, at either end, that the colours do not tell apart
_LOOKS = 200  # places on the axis at which the levels are looked at for that
_THREE_SCALES = ("P3", "P4", "P5")
_RESTARTS = {
    "resume": "resumed",
    "nan_recovery": "NaN recovery",
    "oom_restart": "out of memory, restarted",
    "thaw": "layers thawed",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """A point of the training at which something else than the model changed.

    Attributes:
        step: The first optimizer step after it.
        word: What happened.
    """

    step: int
    word: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Where an episode of a finding lies in the picture.

    Attributes:
        finding: What was found.
        rows: The rows that it concerns, its own first; none for the whole model.
        first: Column in which the episode began.
        last: Its last column.
    """

    finding: Finding
    rows: tuple[int, ...]
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Heatmap:
    """R modules by W windows, in forward order and in the order of the steps.

    A norm beyond float32, which is Inf in the files, is shown as the largest float32.

    Attributes:
        names: (R,) of the modules.
        labels: (R,) as a reader knows them: number and class of a block, else the name; and the
            scale of the head that it feeds or belongs to.
        epoch: (W,)
        step_first: (W,)
        step_last: (W,)
        norms: (R, W) mean L2 norm of the gradient; NaN where there is none.
        levels: (R, W) its log10; NaN in a cell that is not `FINE`.
        states: (R, W) `FINE`, `NONFINITE`, `ZERO`, `NONE` or `UNKNOWN`.
        totals: (3, W) lowest, mean and highest norm of the whole model; NaN where there is none.
        clip: Norm of the whole model above which the trainer clips.
        limits: Lowest and highest level that the colours tell apart, by the rows that are alive.
        weak: (R,) whether a row is far below the others and in no finding, as the box branch of a
            scale without objects: it does not stretch the colours.
        clipped: (2, W) share of the steps that were clipped, at least and at most: two numbers
            where only the lowest and the highest norm of a window are known.
        skipped: (W,) share of the steps that AMP skipped.
        marks: Of every episode of the findings that are alarms, in the order in which they began.
        moments: By step.
        curves: What Ultralytics wrote of each epoch.
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
    """A power of ten: 1e-2, 1e-1, 1, 10, 100, 1000, 1e4."""
    power = round(level)
    return str(10**power) if 0 <= power <= 3 else f"1e{power}"


def _labels(layout: Layout, names: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Names of the rows, with the scale of those that feed the head and of its branches.

    Three inputs of a head have strides of 8, 16 and 32, in this order; others are counted.
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
    """Whether a module is one of these or lies in one."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return bool(name)


def _scale(grid: Grid, levels: Floats, is_found: Flags) -> tuple[tuple[float, float], Flags]:
    """Limits of the colours, and which rows these leave out.

    Args:
        grid: With W windows.
        levels: (R, W)
        is_found: (R,) whether a finding is about it, so that its levels count in any case.
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
    """(2, W) steps that were clipped, at least and at most, which are one where it was counted."""
    doubtful = grid.nonfinite[:, 0]
    finite = grid.steps - grid.skipped - doubtful
    low, high = grid.norm_min[:, 0] > clip, grid.norm_max[:, 0] > clip
    least = np.where(low, finite, np.where(high, 1, 0))
    most = np.where(low, finite, np.where(high, finite - 1, 0)) + doubtful
    is_counted = grid.clipped >= 0
    found: Floats = np.where(is_counted, grid.clipped, np.stack([least, most])).astype(np.float64)
    return found


def _moments(run: Run) -> tuple[Moment, ...]:
    """Restarts, and the end of the mosaic."""
    restarts = (event for event in run.meta.events if event.kind in _RESTARTS)
    found = [Moment(event.step, _RESTARTS[event.kind]) for event in restarts]
    closes = mosaic_closes(run.meta.options.training)
    if closes is not None:
        begins = run.grid.step_first[run.grid.epoch == closes]
        found += [Moment(int(step), "mosaic closed") for step in begins[:1]]
    return tuple(sorted(found, key=lambda moment: moment.step))


def states_of(grid: Grid, rows: list[int]) -> NDArray[np.uint8]:
    """(R, W) of each cell: NaN or Inf if in any step, zero or none if in most of them."""
    mean = grid.norm_mean[:, rows]
    half = (grid.steps - grid.skipped)[:, None] / 2
    states = np.full(mean.shape, UNKNOWN, np.uint8)
    states[mean > 0] = FINE
    states[(grid.none[:, rows] > half) | ((grid.none[:, rows] > 0) & np.isnan(mean))] = NONE
    states[(grid.zero[:, rows] > half) | (mean == 0)] = ZERO
    states[grid.nonfinite[:, rows] > 0] = NONFINITE
    return states.T


def _marks(grid: Grid, layout: Layout, names: tuple[str, ...], finding: Finding) -> list[Mark]:
    """The episodes of a finding, on the rows of its modules or of the blocks of these."""
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
    """First and last column of an episode."""
    end = len(grid.steps) if episode.step_end is None else _column(grid, episode.step_end)
    first = min(_column(grid, episode.step), len(grid.steps) - 1)
    return first, max(end - 1, first)


def _column(grid: Grid, step: int) -> int:
    """The window with a step; one more than there are for a step after the last."""
    return int(np.searchsorted(grid.step_last, step))
