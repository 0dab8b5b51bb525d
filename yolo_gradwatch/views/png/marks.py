"""Marks on a picture: frames of findings, and lines at changes of the conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from yolo_gradwatch.views.heatmap import COLOURS
from yolo_gradwatch.views.png.look import DARK
from yolo_gradwatch.views.rows import inside, stretches

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from yolo_gradwatch.views.heatmap import Heatmap, Mark
    from yolo_gradwatch.views.timeline import Timeline

_MOST_MOMENTS, _MOST_MARKS = 30, 300
_NARROWEST = 0.003  # share of the axis: least width of a visible frame
_NUMBER = 0.013  # share of the axis: width of a number in its circle


def finding_frames(heat: Axes, total: Axes, picture: Heatmap, timeline: Timeline) -> None:
    """Draw a frame for each finding; without a row, a bar in the strip of the total norm."""
    placed: list[tuple[float, float]] = []
    for mark in picture.marks[:_MOST_MARKS]:
        _mark(heat if mark.rows else total, picture, timeline, mark, placed)


def moment_lines(axes: Axes, picture: Heatmap, timeline: Timeline) -> None:
    """Draw a line at each moment."""
    for moment in picture.moments[:_MOST_MOMENTS]:
        place = float(timeline.at(np.array(moment.step)))
        axes.axvline(place, color=DARK, linewidth=0.9, linestyle=(0, (3, 2)), zorder=3)


def moment_words(axes: Axes, picture: Heatmap, timeline: Timeline, height: float) -> None:
    """Label the lines at a height below the heat map, as far as there is room."""
    end = -1.0
    for moment in picture.moments[:_MOST_MOMENTS]:
        place = float(timeline.at(np.array(moment.step)))
        if place < end:
            continue
        is_late = place > 0.9
        axes.text(
            place + (-0.004 if is_late else 0.004),
            height,
            moment.word,
            transform=axes.transAxes,
            fontsize=7,
            color=DARK,
            ha="right" if is_late else "left",
            va="center",
        )
        end = place + 0.0065 * len(moment.word)


def _mark(
    axes: Axes,
    picture: Heatmap,
    timeline: Timeline,
    mark: Mark,
    placed: list[tuple[float, float]],
) -> None:
    """Draw a frame over the steps in which a finding was open, with its number at the beginning.

    Args:
        axes: The heat map, or the strip of the norm for a finding on the whole model.
        picture: Data of the picture.
        timeline: Axis of the picture.
        mark: Episode to draw.
        placed: Row and place of the numbers drawn so far; this one is appended.
    """
    colour = COLOURS[mark.finding.severity]
    left, right = float(timeline.left[mark.first]), float(timeline.right[mark.last])
    width = max(right - left, _NARROWEST)
    if mark.rows:
        own = inside(picture.names, mark.rows[0])
        frame(axes, (left, width), own, colour, 1.6)
        others = {row for one in mark.rows[1:] for row in inside(picture.names, one)}
        for rows in stretches(others - {*own}):
            frame(axes, (left, width), rows, colour, 0.9)
        height: float = mark.rows[0]
    else:
        bottom, top = axes.get_ylim()
        height = top - 0.1 * (top - bottom)
        (line,) = axes.plot([left, left + width], [height] * 2, solid_capstyle="butt")
        line.set(color=colour, linewidth=3.5, zorder=5)
    place = max(left, _NUMBER)  # keeps off the label of the row
    while any(row == height and abs(place - other) < _NUMBER for row, other in placed):
        place += _NUMBER
    placed.append((height, place))
    axes.text(
        place,
        height,
        str(mark.finding.number),
        fontsize=7,
        color="#ffffff",
        ha="center",
        va="center",
        zorder=8,
        bbox={"boxstyle": "circle,pad=0.25", "facecolor": colour, "edgecolor": "white"},
    )


def frame(
    axes: Axes, span: tuple[float, float], rows: range, colour: str, linewidth: float
) -> None:
    """Draw a frame with a white halo around neighbouring rows."""
    frame = Rectangle((span[0], rows[0] - 0.5), span[1], len(rows), fill=False, clip_on=False)
    halo = withStroke(linewidth=linewidth + 1, foreground="white")
    frame.set(edgecolor=colour, linewidth=linewidth, path_effects=[halo], zorder=7)
    axes.add_patch(frame)
