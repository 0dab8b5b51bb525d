"""Data for a picture of two runs: the norms of both at the same share of their trainings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.views.heatmap import FINE, UNKNOWN, heatmap, states_of
from yolo_gradwatch.views.merged import merged
from yolo_gradwatch.views.share import share_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.measure.arrays import Flags, Floats
    from yolo_gradwatch.runs.run import Run
    from yolo_gradwatch.views.heatmap import Heatmap
    from yolo_gradwatch.views.share import Share

COLUMNS = 200
"""Columns of the picture, each an equal share of the training.

Several columns show the same window if a run has fewer windows than that.
"""

STRETCHES = 10
"""Equal parts of the training over which the median difference of a row is taken."""

APART = 1.0
"""Difference in decades from which a block is reported.

Healthy runs of one model that differ only in their seed are a few times apart in single windows.
"""

DIVERGING = "PuOr_r"
"""Colour map of the difference: purple where B is weaker, orange where it is stronger.

Readers with red-green colour blindness can distinguish the two.
"""

MISSING = "not trained, or not in this model"
"""Legend text for cells in which a run has no data."""

WHOLE_LABEL = "whole model"

_SPAN = (1.0, 6.0)  # least and most decades to either side that the colours cover


@dataclass(frozen=True, slots=True)
class Span:
    """Place of one episode of a finding in the picture.

    Attributes:
        finding: The finding.
        rows: Rows that it affects, its own first.
        begin: Share of the training at which the episode began.
        end: Share at which it ended, or at which the run ends.
    """

    finding: Finding
    rows: tuple[int, ...]
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs: R rows by C columns.

    Attributes:
        letter: A for the first run, else the letter of the other one.
        report: Outcome of the run.
        share: Position of its windows within its training.
        levels: (R, C) log10 of the norm; NaN in a cell that is not `heatmap.FINE`.
        states: (R, C) as in a `Heatmap`; `heatmap.UNKNOWN` where the run has no data.
        has: (R,) whether its model has the module.
        there: (C,) whether the run was being trained at that share.
        spans: Episodes of its alarms, in the order in which they began.
    """

    letter: str
    report: Report
    share: Share
    levels: Floats
    states: NDArray[np.uint8]
    has: Flags
    there: Flags
    spans: tuple[Span, ...]

    def number(self, span: Span) -> str:
        """Return the label of a finding in the picture: ``B1``."""
        return f"{self.letter}{span.finding.number}"


@dataclass(frozen=True, slots=True)
class Farthest:
    """The stretch of the training in which a row is farthest apart.

    Attributes:
        row: Index of the row.
        decades: Median over the stretch of log10(norm in B / norm in A).
        begin: Share of the training at which the stretch begins.
        end: Share at which it ends.
    """

    row: int
    decades: float
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Beside:
    """Two runs at C equally wide shares of their trainings, R rows in forward order.

    Attributes:
        names: (R,) names of the modules, the whole model first.
        labels: (R,) labels for display, with both classes where they differ.
        sides: Data of A and of B.
        apart: (R, C) log10(norm in B / norm in A); NaN where either has no norm.
        limits: Lowest and highest level of the colour scale.
        span: Decades to either side of 0 that the colour scale of ``apart`` covers.
        farthest: Row -> its farthest stretch; only rows with a cell in which both have a norm.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    sides: tuple[Side, Side]
    apart: Floats
    limits: tuple[float, float]
    span: float
    farthest: Mapping[int, Farthest]

    @property
    def shared(self) -> tuple[float, float]:
        """Begin and end of the share of training that both runs cover; equal if there is none."""
        begin = max(side.share.begin for side in self.sides)
        return begin, max(min(side.share.end for side in self.sides), begin)

    @property
    def states_apart(self) -> NDArray[np.uint8]:
        """(R, C) `heatmap.FINE` where both have a norm, else the state of the run without one."""
        a, b = (side.states for side in self.sides)
        found: NDArray[np.uint8] = np.where(b == FINE, a, b)
        found[(a == UNKNOWN) | (b == UNKNOWN)] = UNKNOWN
        return found

    @property
    def both(self) -> Flags:
        """(C,) whether both runs were being trained at that share."""
        a, b = self.sides
        return a.there & b.there


def beside(
    runs: tuple[Run, Run],
    reports: tuple[Report, Report],
    names: Mapping[str, Sequence[str]],
    letter: str = "B",
) -> Beside:
    """Align two runs at equal shares of their trainings.

    Args:
        runs: Runs A and B.
        reports: Reports of A and B.
        names: Module -> its class in each run, "" where a run does not have it; these are shown.
        letter: Letter of the second run.
    """
    tops = [{WHOLE, *(name for name, _ in run.layout.blocks)} for run in runs]
    is_all = not set(names) <= tops[0] | tops[1]
    pictures = [
        with_whole(run, heatmap(run, report, modules=is_all))
        for run, report in zip(runs, reports, strict=True)
    ]
    known = {name for picture in pictures for name in picture.names}
    rows = [name for name in names if name in known]
    a, b = (
        _side(own, run, report, picture, rows)
        for own, run, report, picture in zip(("A", letter), runs, reports, pictures, strict=True)
    )
    apart = b.levels - a.levels
    lows, highs = zip(*(picture.limits for picture in pictures), strict=True)
    return Beside(
        names=tuple(rows),
        labels=tuple(_label(name, names[name], pictures) for name in rows),
        sides=(a, b),
        apart=apart,
        limits=(min(lows), max(highs)),
        span=_span(apart),
        farthest=_farthest(apart),
    )


def with_whole(run: Run, picture: Heatmap) -> Heatmap:
    """Prepend the whole model as a row; marks without a row move to it."""
    total = picture.totals[1:2]
    states = states_of(run.grid, [0])
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.where(states == FINE, np.log10(total), np.nan)
    marks = (replace(one, rows=tuple(row + 1 for row in one.rows) or (0,)) for one in picture.marks)
    return replace(
        picture,
        names=(WHOLE, *picture.names),
        labels=(WHOLE_LABEL, *picture.labels),
        levels=np.concatenate([levels, picture.levels]),
        states=np.concatenate([states, picture.states]),
        marks=tuple(marks),
    )


def _side(letter: str, run: Run, report: Report, picture: Heatmap, rows: Sequence[str]) -> Side:
    """Return the data of a run for the rows of the picture."""
    share = share_of(run)
    begin, end, there = share.columns(COLUMNS)
    levels, states = merged(picture.levels, picture.states, begin, end)
    levels[:, ~there], states[:, ~there] = np.nan, UNKNOWN
    place = {name: row for row, name in enumerate(picture.names)}
    levels = np.concatenate([levels, np.full((1, COLUMNS), np.nan)])  # index -1: module missing
    states = np.concatenate([states, np.full((1, COLUMNS), UNKNOWN, np.uint8)])
    own = [place.get(name, -1) for name in rows]
    return Side(
        letter=letter,
        report=report,
        share=share,
        levels=np.where(states[own] == FINE, levels[own], np.nan),
        states=states[own],
        has=np.array(own, np.int64) >= 0,
        there=there,
        spans=tuple(_spans(picture, share, rows)),
    )


def _spans(picture: Heatmap, share: Share, rows: Sequence[str]) -> list[Span]:
    """Return the marks of a run's picture, limited to the rows that are shown."""
    row_of = {name: row for row, name in enumerate(rows)}
    found = []
    for mark in picture.marks:
        own = [row_of.get(picture.names[row]) for row in mark.rows]
        shown = tuple(row for row in own if row is not None)
        begin, end = share.edges[mark.first], share.edges[mark.last + 1]
        if shown:
            found.append(Span(mark.finding, shown, float(begin), float(end)))
    return found


def _label(name: str, kinds: Sequence[str], pictures: Sequence[Heatmap]) -> str:
    """Return the label of a module, with both classes where they differ."""
    own = [dict(zip(one.names, one.labels, strict=True)).get(name, "") for one in pictures]
    label = own[0] or own[1]
    if not all(own) or kinds[0] == kinds[1] or name == WHOLE:
        return label
    is_named = label.split(" ")[1:2] == [kinds[0]]
    return (
        label.replace(kinds[0], f"{kinds[0]} | {kinds[1]}", 1)
        if is_named
        else (f"{label}  {kinds[0]} | {kinds[1]}")
    )


def _span(apart: Floats) -> float:
    """Return the decades that the colours cover, outliers excepted."""
    known = np.abs(apart[np.isfinite(apart)])
    return float(np.clip(np.percentile(known, 99), *_SPAN)) if known.size else _SPAN[0]


def _farthest(apart: Floats) -> dict[int, Farthest]:
    """Find the stretch of the training in which each row is farthest apart."""
    found = {}
    for row, decades in enumerate(apart):
        parts = [part[np.isfinite(part)] for part in np.split(decades, STRETCHES)]
        enough = max(map(len, parts)) / 2  # a stretch with a cell or two is not reliable
        medians = [
            (float(np.median(part)), i)
            for i, part in enumerate(parts)
            if len(part) and len(part) >= enough
        ]
        if medians:
            most, i = max(medians, key=lambda one: (abs(one[0]), -one[1]))
            found[row] = Farthest(row, most, i / STRETCHES, (i + 1) / STRETCHES)
    return found
