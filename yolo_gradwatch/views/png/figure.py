"""Matplotlib picture of a run: a heat map of norms above strips of the whole run."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.patches import Patch

from yolo_gradwatch.diagnose.messages import course
from yolo_gradwatch.views.heatmap import COLOURS, FINE, STATES, WEAK, WEAK_ZERO, ZERO, decade
from yolo_gradwatch.views.merged import merged
from yolo_gradwatch.views.png.look import DARK, DPI, Picture, own_look, save, short
from yolo_gradwatch.views.png.marks import finding_frames, moment_lines, moment_words
from yolo_gradwatch.views.png.strips import strips
from yolo_gradwatch.views.timeline import Timeline

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.views.heatmap import Heatmap

WIDTH = 13.0
"""Width in inches."""

_FEW_ROWS = 60  # up to this many rows, rows and their names are large
_MOST_LISTED = 10  # most findings in the heading
_TALLEST = 85.0  # largest height of the heat map in inches
_LETTERS = 0.1  # height of a name in inches
_SIDE, _GAP, _LANE, _LINE, _LOWEST, _WORDS = 1.75, 0.12, 0.24, 0.2, 0.55, 0.3  # inches


def write(picture: Heatmap, report: Report, path: Path) -> None:
    """Write the picture as a PNG file; see `save`."""
    save(lambda: draw(picture, report), path)


def draw(picture: Heatmap, report: Report) -> Figure:
    """Draw the picture as a figure outside matplotlib's global state."""
    rows, columns = picture.levels.shape
    heading = _heading(picture, report)
    heat = min(max(0.26 if rows <= _FEW_ROWS else 0.11, 1.5 / max(rows, 1)) * rows, _TALLEST)
    below = strips(picture)
    top = 0.72 + _LINE * len(heading)
    height = top + heat + _LANE + sum(size + _GAP for size, _ in below) - _GAP + _LOWEST
    figure = Picture(WIDTH, height)
    _title(figure, report, heading, height)
    if rows and columns:
        _body(figure, picture, height - top, heat)
    else:
        figure.text(0.5, 0.5, "no optimizer step was watched", ha="center")
    own_look(figure)
    return figure


def _body(figure: Figure, picture: Heatmap, top: float, heat: float) -> None:
    """Draw the heat map, with upper edge and height in inches, and the strips below it."""
    letter = 0.075 if len(picture.labels) <= _FEW_ROWS else 0.052
    left = 0.5 + letter * max(map(len, map(short, picture.labels)))
    box = _Box(left, WIDTH - left - _SIDE, figure.get_figheight())
    timeline = Timeline(picture.step_first, picture.step_last)
    lowest = top - heat
    heat_axes = box.axes(figure, lowest, heat)
    scale = _heat(heat_axes, picture, timeline, round(box.width * DPI))
    _names(heat_axes, picture, heat)
    lowest -= _LANE - _GAP
    below = []
    for size, fill in strips(picture):
        lowest -= size + _GAP
        below.append(box.axes(figure, lowest, size))
        fill(below[-1], picture, timeline)
    for axes in (heat_axes, *below):
        _common(axes, picture, timeline)
    finding_frames(heat_axes, below[0], picture, timeline)
    moment_words(heat_axes, picture, timeline, -_LANE / 2 / heat)
    _epochs(heat_axes, picture, timeline)
    _steps(below[-1], timeline, -_WORDS / size)
    _legend(figure, box, picture, scale, top)


class _Box:
    """Stacks axes vertically, in inches.

    Args:
        left: Left edge of all axes.
        width: Width of all axes.
        height: Height of the figure.
    """

    def __init__(self, left: float, width: float, height: float) -> None:
        self.left = left
        self.right = left + width
        self.width = width
        self.height = height

    def axes(self, figure: Figure, bottom: float, height: float) -> Axes:
        """Add axes with their lower edge at ``bottom``."""
        place = (self.left / WIDTH, bottom / self.height, self.width / WIDTH, height / self.height)
        return figure.add_axes(place)


def _title(figure: Figure, report: Report, heading: list[tuple[str, str]], height: float) -> None:
    name = short(report.name)
    figure.text(0.01, 1 - 0.12 / height, name, va="top", fontsize=11, fontweight="bold")
    for i, (line, colour) in enumerate(heading):
        y = 1 - (0.36 + _LINE * i) / height
        figure.text(0.01, y, line, va="top", fontsize=9, color=colour)


def _heat(axes: Axes, picture: Heatmap, timeline: Timeline, columns: int) -> ScalarMappable:
    """Draw the levels of all rows; cells without a level are coloured by their state."""
    low, high = picture.limits
    scale = ScalarMappable(Normalize(low, high), colormaps["viridis"])
    levels, states = merged(picture.levels, picture.states, *timeline.columns(columns))
    colours = scale.to_rgba(np.nan_to_num(levels, nan=low))
    for state, (_, colour) in STATES.items():
        colours[states == state] = to_rgba(colour)
    is_weak = picture.weak[:, None]
    colours[is_weak & (states == ZERO)] = to_rgba(WEAK_ZERO[1])
    faded = is_weak & (states == FINE)
    share = np.clip(levels[faded] - low, 0, 1)[:, None]  # of the last decade above the limit
    colours[faded] = share * colours[faded] + (1 - share) * np.array(to_rgba(WEAK[1]))
    rows = len(picture.labels)
    axes.imshow(
        colours, aspect="auto", interpolation="nearest", extent=(0, 1, rows - 0.5, -0.5), zorder=1
    )
    axes.set_yticks([])
    return scale


def _names(axes: Axes, picture: Heatmap, height: float) -> None:
    """Write the labels of the rows, or of some if there are many; coloured if in a finding."""
    concerned = _severities(picture)
    rows = len(picture.labels)
    size = 8 if rows <= _FEW_ROWS else 5.5
    for row in range(0, rows, math.ceil(_LETTERS * rows / height)):
        colour = COLOURS[concerned[row]] if row in concerned else "#000000"
        text = axes.text(-0.005, row, short(picture.labels[row]), fontsize=size, color=colour)
        text.set(ha="right", va="center")


def _severities(picture: Heatmap) -> dict[int, str]:
    """Row -> severity of the worst finding on it."""
    own = [(mark.rows[0], mark.finding.severity) for mark in picture.marks if mark.rows]
    return dict(sorted(own, key=lambda one: one[1] == "critical"))


def _common(axes: Axes, picture: Heatmap, timeline: Timeline) -> None:
    """Set up what all axes share: limits, the break, and lines at moments."""
    axes.set_xlim(0, 1)
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    moment_lines(axes, picture, timeline)
    if timeline.gap:
        left, right = timeline.gap
        axes.axvspan(left, right, facecolor="#ffffff", edgecolor="none", zorder=3.5)
        for side in timeline.gap:
            axes.axvline(side, color="#000000", linewidth=0.8, zorder=4)
        for height in (0, 1):
            (line,) = axes.plot(timeline.gap, [height] * 2, transform=axes.transAxes)
            line.set(color="#ffffff", linewidth=3, clip_on=False, zorder=6)


def _epochs(axes: Axes, picture: Heatmap, timeline: Timeline) -> None:
    """Write the numbers of some epochs above their first steps."""
    above = axes.secondary_xaxis("top")
    ticks = timeline.epochs(picture.epoch, 12)
    above.set_xticks(list(ticks.values()), [str(epoch) for epoch in ticks])
    above.tick_params(labelsize=7, length=3)
    above.set_xlabel("epoch", fontsize=8, labelpad=2)


def _steps(axes: Axes, timeline: Timeline, below: float) -> None:
    """Write step numbers below the lowest strip, and the axis titles at a height below it."""
    ticks = timeline.ticks(9)
    axes.set_xticks(list(timeline.at(np.array(ticks))), [f"{tick:,}" for tick in ticks])
    axes.tick_params(axis="x", bottom=True, labelbottom=True, labelsize=7)
    axes.set_xlabel("optimizer step", fontsize=8)
    if timeline.gap:
        left, right = timeline.gap
        axes.xaxis.set_label_coords((1 + right) / 2, below)
        axes.text(
            left / 2,
            below,
            f"first {timeline.dense:,} steps",
            transform=axes.transAxes,
            fontsize=8,
            ha="center",
            va="top",
        )


def _legend(figure: Figure, box: _Box, picture: Heatmap, scale: ScalarMappable, top: float) -> None:
    """Draw the colour bar, and the legend of cells without a level, on the right."""
    low, high = scale.get_clim()
    size = 1.4
    place = ((box.right + 0.2) / WIDTH, (top - size) / box.height, 0.15 / WIDTH, size / box.height)
    bar = figure.colorbar(scale, cax=figure.add_axes(place))
    ticks = np.arange(np.ceil(low), np.floor(high) + 1)
    ticks = ticks[:: -(-len(ticks) // 6)]
    bar.set_ticks(list(ticks), labels=[decade(tick) for tick in ticks])
    bar.ax.tick_params(labelsize=7)
    bar.ax.set_title("gradient\nnorm (L2)", fontsize=7.5, loc="left")
    is_weak = picture.weak[:, None]
    shown = np.where(is_weak & (picture.states == ZERO), FINE, picture.states)
    there = [STATES[state] for state in STATES if (shown == state).any()]
    if (is_weak & (picture.levels < low)).any():
        there.append(WEAK)
    if (shown != picture.states).any():
        there.append(WEAK_ZERO)
    if there:
        figure.legend(
            handles=[Patch(color=colour, label=word) for word, colour in there],
            loc="upper left",
            bbox_to_anchor=((box.right + 0.1) / WIDTH, (top - size - 0.1) / box.height),
            fontsize=7,
            frameon=False,
            borderpad=0,
        )


def _heading(picture: Heatmap, report: Report) -> list[tuple[str, str]]:
    """Return lines with their colours: the verdict, and a line for each of the first findings."""
    lines = [(line, "#000000") for line in textwrap.wrap(report.verdict, 125)]
    marks = list({mark.finding.number: mark for mark in picture.marks}.values())
    for mark in marks[:_MOST_LISTED]:
        f = mark.finding
        text = f"{f.number}  {f.severity} {f.rule} in {short(f.module)} {course(f)}"
        others = len(mark.rows[1:])
        more = f", {others} more affected (thin frame)" if others else ""
        lines.append((text + more, COLOURS[f.severity]))
    hidden = len(marks) - _MOST_LISTED
    return [*lines, (f"… and {hidden} more", DARK)] if hidden > 0 else lines
