"""Plotly figure of a run: a heat map of norms below the norm of the whole model.

Plotly interprets tags, entities and formulas in labels, so names from files are escaped. The figure
has no text per cell, which would make the page several times as large.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from yolo_gradwatch.views.heatmap import COLOURS, STATES, WEAK, WEAK_ZERO, ZERO, decade
from yolo_gradwatch.views.html.strip import strip

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from yolo_gradwatch.measure.arrays import Floats
    from yolo_gradwatch.views.heatmap import Heatmap, Mark

COVERS = (*STATES.values(), WEAK, WEAK_ZERO)
"""Legend text and colour of each cover of a cell, numbered from 1."""

_ESCAPED = str.maketrans({sign: f"&#{ord(sign)};" for sign in "&<>$"})
_ABOVE, _GAP, _AROUND = 110, 30, 100  # pixels: strip above, gap below it, both margins together
_FEW_ROWS = 60  # up to this many rows, rows and their names are large
_LEAST = 60  # least height of the heat map in pixels


def figure(picture: Heatmap, sides: Floats) -> go.Figure:
    """Return the figure of a run with at least one window.

    Args:
        picture: Data with W windows.
        sides: (W + 1,) edges of the columns on the axis.
    """
    lines, words = _clip(picture)
    return go.Figure(
        data=[
            _levels(picture, sides),
            _covers(picture, sides),
            *strip(picture, sides),
            _affected(picture, sides),
        ],
        layout={
            "template": {},
            **_sizes(picture),
            **_horizontal(sides),
            **_vertical(picture),
            "shapes": [*_frames(picture, sides), *lines],
            "annotations": [*_numbers(picture, sides), *words],
        },
    )


def covers(picture: Heatmap) -> NDArray[np.uint8]:
    """(R, W) number of the cover over a cell, see `COVERS`; 0 if the colour of its level shows."""
    found = picture.states.copy()
    is_weak = picture.weak[:, None]
    found[is_weak & (picture.states == ZERO)] = len(COVERS)
    found[is_weak & (picture.levels < picture.limits[0])] = len(COVERS) - 1
    return found


def plain(name: str) -> str:
    """Escape a name so that Plotly's labels show it unchanged."""
    return name.translate(_ESCAPED)


def _levels(picture: Heatmap, sides: Floats) -> go.Heatmap:
    """Return log10 of every norm; the page reads numbers from it even below a cover."""
    low, high = picture.limits
    with np.errstate(divide="ignore"):
        levels = np.log10(picture.norms).astype(np.float32)
    ticks = _decades(low, high, 8)
    height = _height(picture)
    bar = {
        "title": {"text": "norm (L2)"},
        "tickvals": ticks,
        "ticktext": [decade(tick) for tick in ticks],
        "thickness": 14,
        "lenmode": "pixels",
        "len": 240,
        "y": height / _inner(height),
        "yanchor": "top",
    }
    return go.Heatmap(
        x=sides,
        z=levels,
        zmin=low,
        zmax=high,
        colorscale="Viridis",
        colorbar=bar,
        hoverinfo="none",
    )


def _covers(picture: Heatmap, sides: Floats) -> go.Heatmap:
    """Return the layer of covers over cells without a level."""
    count = len(COVERS) + 1
    colours = ["rgba(0,0,0,0)", *(colour for _, colour in COVERS)]
    scale = [(i + side) / count for i in range(count) for side in (0, 1)]
    return go.Heatmap(
        x=sides,
        z=covers(picture),
        zmin=-0.5,
        zmax=count - 0.5,
        colorscale=list(zip(scale, np.repeat(colours, 2).tolist(), strict=True)),
        showscale=False,
        hoverinfo="skip",
    )


def _affected(picture: Heatmap, sides: Floats) -> go.Scatter:
    """Return marks in the other rows that a finding affects, at its beginning."""
    marks = [(mark, row) for mark in picture.marks for row in mark.rows[1:]]
    return go.Scatter(
        x=[float(sides[mark.first]) for mark, _ in marks],
        y=[row for _, row in marks],
        mode="markers",
        marker={
            "symbol": "triangle-right",
            "size": 10,
            "color": [_colour(mark) for mark, _ in marks],
            "line": {"color": "#ffffff", "width": 1},
        },
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )


def _frames(picture: Heatmap, sides: Floats) -> list[dict[str, Any]]:
    """Return frames around the row of each finding, over the time it is open."""
    return [
        {
            "type": "rect",
            "x0": sides[mark.first],
            "x1": sides[mark.last + 1],
            "y0": mark.rows[0] - 0.5,
            "y1": mark.rows[0] + 0.5,
            "line": {"color": _colour(mark), "width": 2},
        }
        for mark in picture.marks
        if mark.rows
    ]


def _numbers(picture: Heatmap, sides: Floats) -> list[dict[str, Any]]:
    """Return the number of each finding at its beginning; without a row, on the model's norm."""
    return [
        {
            "text": str(mark.finding.number),
            "x": sides[mark.first],
            "xanchor": "left",
            **({"y": mark.rows[0]} if mark.rows else {"y": _norm_at(picture, mark), "yref": "y2"}),
            "font": {"color": "#ffffff", "size": 10},
            "bgcolor": _colour(mark),
            "showarrow": False,
        }
        for mark in picture.marks
    ]


def _norm_at(picture: Heatmap, mark: Mark) -> float:
    """Return log10 of the model's norm where a finding begins; of the clip if there is none."""
    norms = (float(picture.totals[1, mark.first]), picture.clip, 1.0)
    return math.log10(next(norm for norm in norms if norm > 0))


def _colour(mark: Mark) -> str:
    return COLOURS[mark.finding.severity]


def _clip(picture: Heatmap) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a line at the norm above which the trainer clips, and its label."""
    if picture.clip <= 0:
        return [], []
    line = {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "yref": "y2",
        "y0": picture.clip,
        "y1": picture.clip,
        "line": {"color": "#444", "dash": "dash", "width": 1},
    }
    word = {
        "text": f" clipped above {picture.clip:g}",
        "xref": "paper",
        "x": 1,
        "xanchor": "left",
        "yref": "y2",
        "y": math.log10(picture.clip),
        "font": {"size": 11},
        "showarrow": False,
    }
    return [line], [word]


def _sizes(picture: Heatmap) -> dict[str, Any]:
    inner = _inner(_height(picture))
    return {
        "height": inner + _AROUND,
        "margin": {"l": 20, "r": 20, "t": 50, "b": _AROUND - 50},
    }


def _horizontal(sides: Floats) -> dict[str, Any]:
    """Return the axes of steps and epochs; the page labels them by the visible range."""
    both = {"range": [sides[0], sides[-1]], "zeroline": False, "showgrid": False}
    above = {"side": "top", "overlaying": "x", "matches": "x", "anchor": "y2", "ticks": "outside"}
    return {
        "xaxis": {**both, "title": {"text": "optimizer step", "standoff": 4}},
        "xaxis2": {**both, **above, "title": {"text": "epoch", "standoff": 4}},
    }


def _vertical(picture: Heatmap) -> dict[str, Any]:
    """Return the axes of the rows and of the norm of the whole model."""
    rows, height = len(picture.labels), _height(picture)
    known = np.log10([*picture.totals[picture.totals > 0], max(picture.clip, 1e-3)])
    ticks = _decades(math.floor(known.min()), math.ceil(known.max()), 4)
    heat = {
        "domain": [0, height / _inner(height)],
        "range": [rows - 0.5, -0.5],
        "tickvals": list(range(rows)),
        "ticktext": [plain(label) for label in picture.labels],
        "tickfont": {"size": 12 if rows <= _FEW_ROWS else 9},
        "showgrid": False,
        "automargin": True,
    }
    total = {
        "domain": [1 - _ABOVE / _inner(height), 1],
        "type": "log",
        "title": {"text": "whole model", "standoff": 4},
        "tickvals": [10.0**tick for tick in ticks],
        "ticktext": [decade(tick) for tick in ticks],
        "automargin": True,
    }
    return {"yaxis": heat, "yaxis2": total}


def _height(picture: Heatmap) -> int:
    """Return the height of the heat map in pixels."""
    rows = len(picture.labels)
    return max(rows * (22 if rows <= _FEW_ROWS else 12), _LEAST)


def _inner(height: int) -> int:
    """Return the height between the margins in pixels."""
    return _ABOVE + _GAP + height


def _decades(low: float, high: float, most: int) -> list[int]:
    """Return about ``most`` whole decades in a range of levels."""
    apart = math.ceil((high - low) / most) or 1
    return list(range(math.ceil(low), math.floor(high) + 1, apart))
