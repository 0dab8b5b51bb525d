"""The picture of a run (matplotlib): a heat map of norms above strips of the whole model."""

from __future__ import annotations

import textwrap
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

from yolo_gradwatch.heatmap import COLOURS, STATES
from yolo_gradwatch.runlog import replacing

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from yolo_gradwatch.heatmap import Heatmap, Mark
    from yolo_gradwatch.records import Floats
    from yolo_gradwatch.report import Report

DPI = 100
WIDTH = 13.0
"""Inches."""

_INKS = {*COLOURS.values(), "#ffffff", "#8a8a8a", "#444444"}
_RANKS = np.array([1, 4, 3, 2, 0])  # by state: which is shown where columns are merged
_FEW_ROWS = 60  # up to so many, rows and their names are large
_MOST_COLUMNS = 900
_MOST_LISTED = 10
_LONGEST_NAME = 48
_SPAN = 2.0  # decades that the colours span at least, so that noise is not blown up
_TALLEST = 85.0  # inches of the heat map
_STRIP, _SHARES, _GAP, _LINE, _LOWEST = 1.1, 0.5, 0.18, 0.2, 0.55  # inches


def write(picture: Heatmap, report: Report, path: Path) -> None:
    """Write the picture as a PNG file, replacing an earlier one whole.

    Raises:
        OSError: It cannot be written.
    """
    with replacing(path) as draft, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a box stands for it
        draw(picture, report).savefig(draft, format="png", dpi=DPI, facecolor="white")


def draw(picture: Heatmap, report: Report) -> Figure:
    """The picture as a figure of its own, which no global state of matplotlib knows of."""
    rows, columns = picture.levels.shape
    heading = _heading(picture, report)
    heat = min(max(0.26 if rows <= _FEW_ROWS else 0.11, 1.5 / max(rows, 1)) * rows, _TALLEST)
    top = 0.7 + _LINE * len(heading)
    height = top + heat + _STRIP + _SHARES + 2 * _GAP + _LOWEST
    figure = Figure(figsize=(WIDTH, height), dpi=DPI)
    FigureCanvasAgg(figure)
    _title(figure, report, heading, height)
    if rows and columns:
        _body(figure, picture, heat)
    else:
        figure.text(0.5, 0.5, "no optimizer step was watched", ha="center")
    _own_look(figure)
    return figure


def _body(figure: Figure, picture: Heatmap, heat: float) -> None:
    """The heat map, so many inches high, with the strips below it."""
    letter = 0.075 if len(picture.labels) <= _FEW_ROWS else 0.052
    left = 0.5 + letter * max(map(len, map(_short, picture.labels)))
    box = _Box(left, WIDTH - left - 1.75, figure.get_figheight())
    bottom = _LOWEST + _SHARES + _GAP + _STRIP + _GAP
    map_axes = box.axes(figure, bottom, heat)
    scale = _heat(map_axes, picture)
    total = box.axes(figure, _LOWEST + _SHARES + _GAP, _STRIP, share=map_axes)
    _total(total, picture)
    shares = box.axes(figure, _LOWEST, _SHARES, share=map_axes)
    _shares(shares, picture)
    for mark in picture.marks:
        _mark(map_axes if mark.rows else total, picture, mark)
    _legend(figure, box, picture, scale, bottom + heat)
    _steps(shares, picture)


class _Box:
    """Places axes above each other, in inches.

    Args:
        left: Of all of them.
        width: Of all of them.
        height: Of the figure.
    """

    def __init__(self, left: float, width: float, height: float) -> None:
        self.left = left
        self.right = left + width
        self._width = width
        self.height = height

    def axes(self, figure: Figure, bottom: float, height: float, share: Axes | None = None) -> Axes:
        """New axes with their lower edge at ``bottom``."""
        place = (self.left / WIDTH, bottom / self.height, self._width / WIDTH, height / self.height)
        return figure.add_axes(place, sharex=share)


def _title(figure: Figure, report: Report, heading: list[tuple[str, str]], height: float) -> None:
    name = _short(report.name)
    figure.text(0.01, 1 - 0.12 / height, name, va="top", fontsize=11, fontweight="bold")
    for i, (line, colour) in enumerate(heading):
        y = 1 - (0.36 + _LINE * i) / height
        figure.text(0.01, y, line, va="top", fontsize=9, color=colour)


def _heat(axes: Axes, picture: Heatmap) -> ScalarMappable:
    """The levels of all rows, and cells that have none in colours of their own."""
    low, high = _limits(picture.levels)
    scale = ScalarMappable(Normalize(low, high), colormaps["viridis"])
    levels, states, width = _merged(picture)
    colours = scale.to_rgba(np.nan_to_num(levels, nan=low))
    for state, (_, colour) in STATES.items():
        colours[states == state] = to_rgba(colour)
    rows = len(picture.labels)
    right = levels.shape[1] * width - 0.5
    axes.imshow(
        colours,
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, right, rows - 0.5, -0.5),
    )
    axes.set_xlim(-0.5, picture.levels.shape[1] - 0.5)
    axes.set_yticks(range(rows), [_short(label) for label in picture.labels])
    axes.tick_params(axis="y", labelsize=8 if rows <= _FEW_ROWS else 5.5, length=0)
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    _epochs(axes, picture)
    return scale


def _merged(picture: Heatmap) -> tuple[Floats, Any, int]:
    """Levels and states with at most so many columns that none is lost, and how many are one."""
    width = -(-picture.levels.shape[1] // _MOST_COLUMNS)
    if width == 1:
        return picture.levels, picture.states, 1
    spare = -picture.levels.shape[1] % width
    levels = np.pad(picture.levels, ((0, 0), (0, spare)), constant_values=np.nan)
    states = np.pad(picture.states, ((0, 0), (0, spare)), mode="edge")
    levels = levels.reshape(len(levels), -1, width)
    states = states.reshape(len(states), -1, width)
    worst = _RANKS[states].argmax(axis=2)[..., None]
    known = ~np.isnan(levels)
    total = np.where(known, levels, 0.0).sum(axis=2)
    mean = np.where(known.any(axis=2), total / np.maximum(known.sum(axis=2), 1), np.nan)
    return mean, np.take_along_axis(states, worst, axis=2)[..., 0], width


def _limits(levels: Floats) -> tuple[float, float]:
    """Lowest and highest level that is coloured, at least two decades apart."""
    finite = levels[np.isfinite(levels)]
    if not finite.size:
        return -1.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    spare = max(_SPAN - (high - low), 0.0) / 2
    return low - spare, high + spare


def _epochs(axes: Axes, picture: Heatmap) -> None:
    """The number of each epoch above its first column; of many, some."""
    begins = np.flatnonzero(np.diff(picture.epoch, prepend=0))
    begins = begins[:: -(-len(begins) // 20)]
    above = axes.secondary_xaxis("top")
    above.set_xticks(begins - 0.5, [str(picture.epoch[i]) for i in begins])
    above.tick_params(labelsize=7, length=3)
    above.set_xlabel("epoch", fontsize=8, labelpad=2)


def _total(axes: Axes, picture: Heatmap) -> None:
    """The norm of the whole model, with the limit above which it is clipped."""
    low, mean, high = np.where(picture.totals > 0, picture.totals, np.nan)
    x = np.arange(len(mean))
    axes.set_yscale("log")
    axes.fill_between(x, low, high, step="mid", color="#9ecae1", linewidth=0)
    axes.plot(x, mean, drawstyle="steps-mid", color="#08519c", linewidth=1, marker=_dot(mean))
    axes.axhline(picture.clip, color="#444444", linestyle="--", linewidth=0.8)
    axes.text(
        1.005,
        picture.clip,
        f"clipped above {picture.clip:g}",
        transform=axes.get_yaxis_transform(),
        fontsize=7,
        va="center",
    )
    axes.set_ylabel("norm of the\nwhole model", fontsize=8)
    axes.yaxis.set_major_formatter(lambda norm, _: _decade(np.log10(norm)))
    axes.tick_params(labelsize=7, labelbottom=False)
    axes.grid(axis="y", linewidth=0.3, color="#b0b0b0")


def _dot(values: Floats) -> str:
    """A marker, where a line would not show a value between two that are missing."""
    return "." if len(values) < 2 or np.isnan(values).any() else ""


def _shares(axes: Axes, picture: Heatmap) -> None:
    """The shares of the steps that were clipped, and that AMP skipped."""
    edges = np.arange(len(picture.clipped) + 1) - 0.5
    axes.stairs(picture.clipped, edges, fill=True, color="#c6c6c6")
    axes.stairs(picture.skipped, edges, fill=True, color="#e07b00")
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 1], ["0%", "100%"])
    axes.tick_params(labelsize=7)
    for height, word, colour in ((0.75, "clipped", "#8a8a8a"), (0.2, "AMP skipped", "#e07b00")):
        text = axes.text(1.005, height, word, transform=axes.transAxes, fontsize=7, va="center")
        text.set_color(colour)


def _mark(axes: Axes, picture: Heatmap, mark: Mark) -> None:
    """The number of a finding where it began, and a frame over the columns in which it stood."""
    colour = COLOURS[mark.finding.severity]
    halo = [withStroke(linewidth=2.6, foreground="white")]
    if mark.rows:
        size = mark.last - mark.first + 1
        frame = Rectangle((mark.first - 0.5, mark.rows[0] - 0.5), size, 1, fill=False)
        frame.set(edgecolor=colour, linewidth=1.3, path_effects=halo, clip_on=False)
        axes.add_patch(frame)
        others = mark.rows[1:]
        axes.plot([mark.first] * len(others), others, ">", color=colour, ms=3, mec="white", mew=0.4)
        place: tuple[float, float] = (mark.first, mark.rows[0])
    else:
        total = picture.totals[1, mark.first]
        place = (mark.first, total if total > 0 else picture.clip)
    axes.text(
        *place,
        str(mark.finding.number),
        fontsize=6.5,
        color="#ffffff",
        ha="center",
        va="center",
        bbox={"boxstyle": "circle,pad=0.25", "facecolor": colour, "edgecolor": "white"},
    )


def _legend(figure: Figure, box: _Box, picture: Heatmap, scale: ScalarMappable, top: float) -> None:
    """The colours of the levels, and of cells that have none, on the right."""
    low, high = scale.get_clim()
    size = 1.4
    place = ((box.right + 0.2) / WIDTH, (top - size) / box.height, 0.15 / WIDTH, size / box.height)
    bar = figure.colorbar(scale, cax=figure.add_axes(place))
    ticks = np.arange(np.ceil(low), np.floor(high) + 1)
    ticks = ticks[:: -(-len(ticks) // 6)]
    bar.set_ticks(list(ticks), labels=[_decade(tick) for tick in ticks])
    bar.ax.tick_params(labelsize=7)
    bar.ax.set_title("gradient\nnorm (L2)", fontsize=7.5, loc="left")
    there = [state for state in STATES if (picture.states == state).any()]
    if there:
        figure.legend(
            handles=[Patch(color=STATES[state][1], label=STATES[state][0]) for state in there],
            loc="upper left",
            bbox_to_anchor=((box.right + 0.1) / WIDTH, (top - size - 0.1) / box.height),
            fontsize=7,
            frameon=False,
            borderpad=0,
        )


def _steps(axes: Axes, picture: Heatmap) -> None:
    """Numbers of steps below the lowest strip."""
    columns = len(picture.step_first)
    at = np.unique(np.linspace(0, columns - 1, min(columns, 9)).round().astype(int))
    axes.set_xticks(at, [f"{picture.step_first[i]:,}" for i in at])
    widths = picture.step_last - picture.step_first
    more = " (a column is a window of steps: single ones at first, later more)"
    axes.set_xlabel(f"optimizer step{more if widths.any() else ''}", fontsize=8)


def _heading(picture: Heatmap, report: Report) -> list[tuple[str, str]]:
    """Lines and their colours: the verdict, and a line a finding; of many, the first ones."""
    lines = [(line, "#000000") for line in textwrap.wrap(report.verdict, 125)]
    for mark in picture.marks[:_MOST_LISTED]:
        f = mark.finding
        end = "" if f.step_end is None else f" until step {f.step_end:,}"
        text = f"{f.number}  {f.severity} {f.rule} in {_short(f.module)} since step {f.step:,}{end}"
        others = len(mark.rows[1:])
        more = f", {others} more affected (▹)" if others else ""
        lines.append((text + more, COLOURS[f.severity]))
    hidden = len(picture.marks) - _MOST_LISTED
    return [*lines, (f"… and {hidden} more", "#444444")] if hidden > 0 else lines


def _decade(level: float) -> str:
    return f"1e{level:+.0f}"


def _short(name: str) -> str:
    """A long name without its middle."""
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"


def _own_look(figure: Figure) -> None:
    """Black on white and without TeX, whatever the user's settings of matplotlib say.

    Done piece by piece, because `rc_context` would change them for other threads too. A name from a
    file may hold a dollar sign, so that no text is a formula either.
    """
    figure.set_facecolor("white")
    children = [child for axes in figure.axes for child in axes.child_axes]
    for axes in (*figure.axes, *children):
        axes.set_facecolor("white")
        axes.tick_params(which="both", color="black", labelcolor="black")
        for spine in axes.spines.values():
            spine.set_edgecolor("black")
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_ticklabels()  # makes those that drawing would make
    for text in figure.findobj(Text):
        text.set_usetex(False)
        text.set_parse_math(False)
        if text.get_color() not in _INKS:
            text.set_color("black")
