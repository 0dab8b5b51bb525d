"""Matplotlib picture of two runs: A, B, and B relative to A at the same share of training."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.patches import Patch

from yolo_gradwatch.diagnose.messages import course
from yolo_gradwatch.views.apart import ending, epochs, factor, sentences, ticks
from yolo_gradwatch.views.beside import APART, DIVERGING, MISSING
from yolo_gradwatch.views.heatmap import COLOURS, STATES, decade
from yolo_gradwatch.views.png.look import DARK, GREY, Picture, own_look, save, short
from yolo_gradwatch.views.png.marks import frame
from yolo_gradwatch.views.rows import inside, stretches

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from yolo_gradwatch.measure.arrays import Floats
    from yolo_gradwatch.views.beside import Beside, Side

WIDTH = 10.0
"""Width in inches: 1,000 pixels."""

_FEW_ROWS, _TALLEST = 60, 85.0  # as in the picture of one run
_MOST_LISTED = 6  # most findings of a run in the heading
_LINE, _BELOW, _LEGEND, _BETWEEN = 0.18, 0.85, 0.3, 0.12  # inches
_NUMBERS = 0.75  # inches for the factors on the right
_WRAP = 135  # characters per line
_HATCH = "#cccccc"
_EDGE = 0.15  # share of a colour bar; labels this near to an end are aligned inwards


def write(picture: Beside, path: Path) -> None:
    """Write the picture as a PNG file; see `save`."""
    save(lambda: draw(picture), path)


def draw(picture: Beside) -> Figure:
    """Draw the picture as a figure outside matplotlib's global state."""
    rows = len(picture.names)
    heading = [*_heading(picture)]
    heat = min(max((0.24 if rows <= _FEW_ROWS else 0.11) * rows, 0.5), _TALLEST)
    top = 0.2 + _LINE * len(heading) + 0.3
    figure = Picture(WIDTH, top + heat + _BELOW + _LEGEND)
    height = figure.get_figheight()
    for i, (line, colour, weight) in enumerate(heading):
        y = 1 - (0.12 + _LINE * i) / height
        figure.text(0.01, y, line, va="top", fontsize=8.5, color=colour, weight=weight)
    if any(side.there.any() for side in picture.sides):
        _body(figure, picture, height - top, heat)
    else:
        figure.text(0.5, 0.5, "no optimizer step was watched", ha="center")
    own_look(figure)
    return figure


def _body(figure: Figure, picture: Beside, top: float, heat: float) -> None:
    """Draw the three heat maps, with their upper edge and height in inches."""
    height, is_few = figure.get_figheight(), len(picture.names) <= _FEW_ROWS
    letter = 0.07 if is_few else 0.05
    left = 0.2 + letter * max(len(short(label)) for label in picture.labels)
    width = (WIDTH - left - _NUMBERS - 2 * _BETWEEN) / 3
    lefts = [left + i * (width + _BETWEEN) for i in range(3)]
    a, b, apart = (
        figure.add_axes((x / WIDTH, (top - heat) / height, width / WIDTH, heat / height))
        for x in lefts
    )
    levels = ScalarMappable(Normalize(*picture.limits), colormaps["viridis"])
    span = ScalarMappable(Normalize(-picture.span, picture.span), colormaps[DIVERGING])
    for axes, side in zip((a, b), picture.sides, strict=True):
        words = f"share of its {epochs(side)}" if side.share.planned else "share of its steps"
        _image(axes, _colours(side.levels, side.states, levels), words)
        _gaps(axes, picture, side)
        _frames(axes, picture, side)
        axes.set_title(f"{side.letter}  {short(side.report.name)}", fontsize=8.5, loc="left")
    _image(apart, _colours(picture.apart, picture.states_apart, span))
    for side in picture.sides:
        _gaps(apart, picture, side, is_named=False)
        _frames(apart, picture, side)
    apart.set_title("B relative to A", fontsize=8.5, loc="left", weight="bold")
    _names(a, picture, size=8 if is_few else 5)
    _numbers(apart, picture, size=8 if is_few else 5)
    bottom = (top - heat - 0.62) / height
    for axes_of, x, wide, words in (
        (levels, lefts[0], 2 * width + _BETWEEN, "gradient norm (L2)"),
        (span, lefts[2], width, "norm in B / norm in A"),
    ):
        place = (x / WIDTH, bottom, wide / WIDTH, 0.1 / height)
        _bar(figure, axes_of, place, words, is_ratio=axes_of is span)
    _legend(figure, picture, left)


def _image(axes: Axes, colours: Floats, words: str = "share of the training") -> None:
    rows = len(colours)
    extent = (0, 1, rows - 0.5, -0.5)
    axes.imshow(colours, aspect="auto", interpolation="nearest", extent=extent, zorder=1)
    axes.set_yticks([])
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    axes.tick_params(axis="x", labelsize=7)
    axes.get_xticklabels()[0].set(ha="left")
    axes.get_xticklabels()[-1].set(ha="right")
    axes.set_xlabel(words, fontsize=7.5, labelpad=1)
    if rows > 1:
        axes.axhline(0.5, color="white", linewidth=1.5, zorder=2)


def _colours(levels: Floats, states: NDArray[np.uint8], scale: ScalarMappable) -> Floats:
    """(R, C, 4) colours of the levels, and of the cells without one."""
    colours: Floats = scale.to_rgba(np.nan_to_num(levels, nan=0.0))
    for state, (_, colour) in STATES.items():
        colours[states == state] = to_rgba(colour)
    return colours


def _gaps(axes: Axes, picture: Beside, side: Side, *, is_named: bool = True) -> None:
    """Hatch the shares in which a run was not trained, and the rows missing from its model."""
    rows = len(picture.names)
    known = (side.share.begin, side.share.end) if side.there.any() else (0.0, 0.0)
    for begin, end in ((0.0, known[0]), (known[1], 1.0)):
        if end - begin > 1e-3:
            _hatch(axes, (begin, end), (-0.5, rows - 0.5))
    if is_named and 0.001 < known[1] < 0.999:
        where = {"x": known[1] - 0.01, "ha": "right"} if known[1] > 0.5 else {"x": known[1] + 0.02}
        axes.axvline(known[1], color=DARK, linewidth=1.2, zorder=6)
        words = ending(side).partition(" of its training")[0]
        text = axes.text(y=rows - 0.7, s=words, fontsize=7.5, va="bottom", zorder=9, **where)
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    for row in np.flatnonzero(~side.has).tolist():
        _hatch(axes, (0, 1), (row - 0.5, row + 0.5))
        if is_named:
            words = f"not in {side.letter}"
            text = axes.text(0.5, row, words, fontsize=7, ha="center", va="center", zorder=6)
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})


def _hatch(axes: Axes, across: tuple[float, float], down: tuple[float, float]) -> None:
    axes.fill_between(
        across, *down, facecolor="white", edgecolor=_HATCH, hatch="////", linewidth=0, zorder=3
    )


def _frames(axes: Axes, picture: Beside, side: Side) -> None:
    """Draw a frame around the rows of each finding, with its label."""
    for span in side.spans:
        colour = COLOURS[span.finding.severity]
        place = (span.begin, max(span.end - span.begin, 0.008))
        frame(axes, place, inside(picture.names, span.rows[0]), colour, 1.6)
        for rows in stretches({*span.rows[1:]}):
            frame(axes, place, rows, colour, 0.9)
        text = axes.text(
            *(min(span.begin + 0.04, 0.96), span.rows[0], side.number(span)),
            fontsize=7,
            color="#ffffff",
            ha="center",
            va="center",
            zorder=8,
        )
        text.set_bbox({"boxstyle": "round,pad=0.2", "facecolor": colour, "edgecolor": "white"})


def _names(axes: Axes, picture: Beside, *, size: float) -> None:
    """Write the labels of the rows, coloured if they have a finding."""
    found = [(s.rows[0], s.finding.severity) for side in picture.sides for s in side.spans]
    concerned = dict(sorted(found, key=lambda one: one[1] == "critical"))
    for row, label in enumerate(picture.labels):
        colour = COLOURS[concerned[row]] if row in concerned else "#000000"
        text = axes.text(-0.02, row, short(label), fontsize=size, color=colour)
        text.set(ha="right", va="center")


def _numbers(axes: Axes, picture: Beside, *, size: float) -> None:
    """Write the largest difference of each row as a factor."""
    head = axes.text(1.02, 1.0, "largest", fontsize=7.5, transform=axes.transAxes, color=DARK)
    head.set(va="bottom")
    for row, one in picture.farthest.items():
        is_far = abs(one.decades) >= APART
        text = axes.text(1.03, row, factor(one.decades), fontsize=size)
        text.set(va="center", color="#000000" if is_far else GREY)
        text.set_fontweight("bold" if is_far else "normal")


def _bar(
    figure: Figure,
    scale: ScalarMappable,
    place: tuple[float, float, float, float],
    words: str,
    *,
    is_ratio: bool,
) -> None:
    """Draw a colour bar below the heat maps."""
    bar = figure.colorbar(scale, cax=figure.add_axes(place), orientation="horizontal")
    low, high = scale.get_clim()
    powers = np.arange(np.ceil(low), np.floor(high) + 1)
    named = ticks(high) if is_ratio else powers[powers % -(-len(powers) // 9) == 0].tolist()
    words_of = factor if is_ratio else decade
    bar.set_ticks(named, labels=[words_of(one) for one in named])
    bar.ax.tick_params(labelsize=7, length=2, pad=1)
    for tick, text in zip(named, bar.ax.get_xticklabels(), strict=True):
        share = (tick - low) / (high - low)
        text.set(ha="left" if share < _EDGE else "right" if share > 1 - _EDGE else "center")
    bar.ax.set_title(words, fontsize=7.5, loc="left", pad=2)


def _legend(figure: Figure, picture: Beside, left: float) -> None:
    """Draw the legend of cells without a level."""
    states = np.concatenate(
        [side.states[side.has][:, side.there].ravel() for side in picture.sides]
    )
    there = [STATES[state] for state in STATES if (states == state).any()]
    handles = [Patch(color=colour, label=word) for word, colour in there]
    if not all(side.has.all() and side.there.all() for side in picture.sides):
        hatched = Patch(facecolor="white", edgecolor=_HATCH, label=MISSING)
        hatched.set_hatch("////")
        handles.append(hatched)
    if handles:
        figure.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(left / WIDTH, 0.0),
            ncols=len(handles),
            fontsize=7,
            frameon=False,
        )


def _heading(picture: Beside) -> Iterator[tuple[str, str, str]]:
    """Yield lines with colour and weight: where the runs differ, verdicts and findings."""
    for sentence in sentences(picture):
        for i, line in enumerate(textwrap.wrap(sentence, _WRAP - 15)):
            yield f"{'    ' if i else ''}{line}", "#000000", "bold"
    for side in picture.sides:
        verdict = f"{side.letter}  {side.report.name}: {side.report.verdict}"
        for i, line in enumerate(textwrap.wrap(verdict, _WRAP)):
            yield f"{'    ' if i else ''}{line}", "#000000", "normal"
        spans = {span.finding.number: span for span in side.spans}
        for span in [*spans.values()][:_MOST_LISTED]:
            f = span.finding
            text = f"{side.number(span)}  {f.severity} {f.rule} in {short(f.module)} {course(f)}"
            yield f"    {text}", COLOURS[f.severity], "normal"
        if len(spans) > _MOST_LISTED:
            yield f"    … and {len(spans) - _MOST_LISTED} more", DARK, "normal"
