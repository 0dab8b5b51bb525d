"""Strip above the heat map: the norm of the whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

if TYPE_CHECKING:
    from yolo_gradwatch.measure.arrays import Floats
    from yolo_gradwatch.views.heatmap import Heatmap


_GAP = np.array([np.nan])
"""Separator between two parts of a trace; also keeps a trace without points from being empty."""


def strip(picture: Heatmap, sides: Floats) -> list[go.Scatter]:
    """Draw the norm of the whole model: a band from lowest to highest, and a line for the mean.

    Plotly's step line does not cover the last window before a gap, so `_tails` adds those parts.

    Args:
        picture: Data with W windows.
        sides: (W + 1,) edges of the columns on the axis.
    """
    shown = np.where(picture.totals > 0, picture.totals, np.nan).astype(np.float32)
    low, mean, high = shown
    whole = {"yaxis": "y2", "showlegend": False, "mode": "lines"}
    skipped = {**whole, "hoverinfo": "skip"}
    line = {"width": 1.2, "color": "#08519c"}
    band, tails = _polygons(low, high, sides), _tails(mean, sides)
    return [
        go.Scatter(**band, line={"width": 0}, fill="toself", fillcolor="#9ecae1", **skipped),
        go.Scatter(**tails, line=line, **skipped),
        go.Scatter(
            x=sides,
            y=np.append(mean, mean[-1:]),
            line={"shape": "hv", **line},
            hoverinfo="none",
            **whole,
        ),
        # Plotly draws the axis of the epochs only if a trace uses it.
        go.Scatter(x=sides[:1], y=[None], xaxis="x2", yaxis="y2", showlegend=False),
    ]


def _polygons(low: Floats, high: Floats, sides: Floats) -> dict[str, Floats]:
    """Return a polygon around each stretch of windows with a norm, separated by NaN."""
    x, y = [_GAP], [_GAP]
    known = np.isfinite(low) & np.isfinite(high)
    ends = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]])))
    for first, last in ends.reshape(-1, 2):
        corners = np.repeat(sides[first : last + 1], 2)[1:-1]
        above, below = np.repeat(high[first:last], 2), np.repeat(low[first:last], 2)
        x += [corners, corners[::-1], _GAP]
        y += [above, below[::-1], _GAP]
    return {"x": np.concatenate(x), "y": np.concatenate(y)}


def _tails(mean: Floats, sides: Floats) -> dict[str, Floats]:
    """Return the line in each window before a gap, separated by NaN."""
    at = np.flatnonzero(np.isfinite(mean[:-1]) & np.isnan(mean[1:]))
    gap = np.full(len(at), np.nan)
    x, y = (sides[at], sides[at + 1], gap), (mean[at], mean[at], gap)
    return {"x": np.append(np.stack(x, axis=1), _GAP), "y": np.append(np.stack(y, axis=1), _GAP)}
