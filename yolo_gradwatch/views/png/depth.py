"""Matplotlib picture of numbers by depth of the network, at a few traces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.views.depth import PANELS
from yolo_gradwatch.views.heatmap import COLOURS
from yolo_gradwatch.views.png.look import DARK, Picture, log_axis, own_look, save, short

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.measure.arrays import Floats
    from yolo_gradwatch.views.depth import Depth

WIDTH = 13.0
_PANEL, _GAP, _TOP, _NAMES = 2.0, 0.35, 0.95, 1.25  # inches
_LEFT, _RIGHT = 0.8, 0.2


def write(picture: Depth, report: Report, path: Path) -> None:
    """Write the picture as a PNG file; see `save`."""
    save(lambda: draw(picture, report), path)


def draw(picture: Depth, report: Report) -> Figure:
    """Draw the picture as a figure outside matplotlib's global state."""
    height = _TOP + len(PANELS) * (_PANEL + _GAP) + _NAMES
    figure = Picture(WIDTH, height)
    x = _LEFT / WIDTH
    figure.text(x, 1 - 0.12 / height, short(report.name), va="top", fontsize=11, weight="bold")
    figure.text(x, 1 - 0.36 / height, report.verdict, va="top", fontsize=9)
    if picture.curves:
        _panels(figure, picture, height)
    else:
        figure.text(0.5, 0.5, "no batch was traced through the modules", ha="center")
    figure.text(x, 0.1 / height, "▼ exactly zero   x not finite", fontsize=8, color=DARK)
    own_look(figure)
    return figure


def _panels(figure: Figure, picture: Depth, height: float) -> None:
    width = 1 - (_LEFT + _RIGHT) / WIDTH
    bottom = height - _TOP
    for name, title in PANELS.items():
        bottom -= _PANEL
        axes = figure.add_axes((_LEFT / WIDTH, bottom / height, width, _PANEL / height))
        _panel(axes, picture, name, title)
        bottom -= _GAP
    names = [short(label) for label in picture.labels]
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axes.tick_params(axis="x", bottom=True, labelbottom=True)
    figure.axes[0].legend(
        loc="lower right", bbox_to_anchor=(1, 1.02), ncols=4, fontsize=8, frameon=False
    )


def _panel(axes: Axes, picture: Depth, name: str, title: str) -> None:
    levels = [_levels(curve.levels[name]) for curve in picture.curves]
    known = np.concatenate([found[np.isfinite(found)] for found in levels])
    low, high = (known.min(), known.max()) if known.size else (-1.0, 1.0)
    log_axis(axes, float(low), float(high))
    for curve, found, colour in zip(picture.curves, levels, picture.colours, strict=True):
        places = np.flatnonzero(~np.isnan(curve.levels[name]))  # 0 and Inf interrupt the line
        style = "o--" if curve.is_finding else "o-"
        axes.plot(places, found[places], style, c=colour, label=curve.label, lw=1.3, markersize=3)
        _odd(axes, curve.levels[name], colour)
    for block in picture.found:
        axes.axvspan(block - 0.5, block + 0.5, color=COLOURS["critical"], alpha=0.08, linewidth=0)
    axes.set_xlim(-0.5, len(picture.blocks) - 0.5)
    axes.set_xticks(range(len(picture.blocks)))
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    axes.grid(axis="x", color="#eeeeee", linewidth=0.6)
    axes.set_title(title, loc="left", fontsize=9, color=DARK)


def _levels(values: Floats) -> Floats:
    """Return log10 of values; NaN where it is not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        levels: Floats = np.log10(values)
    return np.where(np.isfinite(levels), levels, np.nan)


def _odd(axes: Axes, values: Floats, colour: str) -> None:
    """Mark exact zeros at the lower edge, and values that are not finite at the upper edge."""
    edges = axes.get_xaxis_transform()
    for places, height, mark in (
        (np.flatnonzero(values == 0), 0.03, "v"),
        (np.flatnonzero(np.isinf(values)), 0.97, "x"),
    ):
        axes.plot(places, np.full(len(places), height), mark, color=colour, transform=edges)
