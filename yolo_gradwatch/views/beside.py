"""What a picture of two runs shows: the norms of both at the same share of their trainings."""

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
"""Of equal shares of the training; in some of them a short run has one and the same window."""

STRETCHES = 10
"""Parts of the training in each of which the median difference of a row is looked at."""

APART = 1.0
"""Decades from which on a block is named as different: healthy runs of one model that differ in
seed alone are a few times apart in single windows."""

DIVERGING = "PuOr_r"
"""Colours of the difference, purple where B is weaker and orange where it is stronger: readers who
do not tell red from green see them apart."""

MISSING = "not trained, or not in this model"
"""Words for a part of the picture in which a run has nothing."""

WHOLE_LABEL = "whole model"

_SPAN = (1.0, 6.0)  # decades to either side that the colours of the difference tell apart


@dataclass(frozen=True, slots=True)
class Span:
    """Where an episode of a finding lies in the picture.

    Attributes:
        finding: What was found.
        rows: The rows that it concerns, its own first.
        begin: Share of the training at which it began.
        end: Share at which it was over, or at which the run ends.
    """

    finding: Finding
    rows: tuple[int, ...]
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs: R rows by C columns.

    Attributes:
        letter: A, or that of the other run.
        report: Its outcome.
        share: Where its windows lie in its training.
        levels: (R, C) log10 of the norm; NaN in a cell that is not `heatmap.FINE`.
        states: (R, C) as in a `Heatmap`; `heatmap.UNKNOWN` where the run has nothing.
        has: (R,) whether its model has the module.
        there: (C,) whether it was trained then.
        spans: Of the findings that are alarms, in the order in which they began.
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
        """A finding of the run as the picture names it: ``B1``."""
        return f"{self.letter}{span.finding.number}"


@dataclass(frozen=True, slots=True)
class Farthest:
    """Where a row is farthest apart.

    Attributes:
        row: Which.
        decades: log10 of the norm in B over that in A, in the median of a stretch.
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
        names: (R,) of the modules, the whole model first.
        labels: (R,) as a reader knows them, with both classes where they differ.
        sides: A and B.
        apart: (R, C) log10 of the norm in B over that in A; NaN where one of them has none.
        limits: Lowest and highest level that the colours tell apart.
        span: Decades to either side that the colours of ``apart`` tell apart.
        farthest: Of each row that both have, by row; none where no cell has a norm in both.
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
        """Shares of the training between which both have been trained; the same if nowhere."""
        begin = max(side.share.begin for side in self.sides)
        return begin, max(min(side.share.end for side in self.sides), begin)

    @property
    def states_apart(self) -> NDArray[np.uint8]:
        """(R, C) `heatmap.FINE` where both have a norm, else the state of the one that has none."""
        a, b = (side.states for side in self.sides)
        found: NDArray[np.uint8] = np.where(b == FINE, a, b)
        found[(a == UNKNOWN) | (b == UNKNOWN)] = UNKNOWN
        return found

    @property
    def both(self) -> Flags:
        """(C,) whether both have been trained then."""
        a, b = self.sides
        return a.there & b.there


def beside(
    runs: tuple[Run, Run],
    reports: tuple[Report, Report],
    names: Mapping[str, Sequence[str]],
    letter: str = "B",
) -> Beside:
    """Two runs beside each other.

    Args:
        runs: A and B.
        reports: Theirs.
        names: The modules to show, with their class in each run; "" where a run lacks it.
        letter: Of the second run.
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
    """A picture with the whole model as its first row, which marks without a row then have."""
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
    """A run in the rows of the picture."""
    share = share_of(run)
    begin, end, there = share.columns(COLUMNS)
    levels, states = merged(picture.levels, picture.states, begin, end)
    levels[:, ~there], states[:, ~there] = np.nan, UNKNOWN
    place = {name: row for row, name in enumerate(picture.names)}
    levels = np.concatenate([levels, np.full((1, COLUMNS), np.nan)])  # the last row: not there
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
    """The marks of a picture in those of its rows that are shown."""
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
    """The label in the run that has the module, with both classes where they differ."""
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
    """Decades that the colours tell apart, but for single cells."""
    known = np.abs(apart[np.isfinite(apart)])
    return float(np.clip(np.percentile(known, 99), *_SPAN)) if known.size else _SPAN[0]


def _farthest(apart: Floats) -> dict[int, Farthest]:
    """The stretch of the training in which each row is farthest apart."""
    found = {}
    for row, decades in enumerate(apart):
        parts = [part[np.isfinite(part)] for part in np.split(decades, STRETCHES)]
        enough = max(map(len, parts)) / 2  # a stretch with a cell or two says little
        medians = [
            (float(np.median(part)), i)
            for i, part in enumerate(parts)
            if len(part) and len(part) >= enough
        ]
        if medians:
            most, i = max(medians, key=lambda one: (abs(one[0]), -one[1]))
            found[row] = Farthest(row, most, i / STRETCHES, (i + 1) / STRETCHES)
    return found
