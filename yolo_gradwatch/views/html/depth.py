"""Plotly figure of numbers by depth of the network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.views.depth import PANELS
from yolo_gradwatch.views.heatmap import COLOURS
from yolo_gradwatch.views.html.figure import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yolo_gradwatch.views.depth import Depth

_PANEL, _GAP = 180, 0.07  # pixels of a panel; gap between two as a share of the height
_ABOVE, _BELOW = 70, 130  # pixels


def figure(picture: Depth) -> dict[str, Any]:
    """Return the figure for Plotly's script: a panel per quantity, a line per trace."""
    size = (1 - _GAP * (len(PANELS) - 1)) / len(PANELS)
    layout: dict[str, Any] = {
        "height": _PANEL * len(PANELS) + _ABOVE + _BELOW,
        "margin": {"t": _ABOVE, "b": _BELOW, "l": 60, "r": 20},
        "hovermode": "x unified",
        "legend": {"orientation": "h", "y": 1.1, "x": 1, "xanchor": "right"},
        "xaxis": {
            "tickvals": list(range(len(picture.blocks))),
            "ticktext": [plain(label) for label in picture.labels],
            "tickangle": -60,
            "anchor": f"y{len(PANELS)}",
            "zeroline": False,
        },
        "shapes": [_band(block) for block in picture.found],
        "annotations": [],
    }
    for n, title in enumerate(PANELS.values()):
        top = 1 - n * (size + _GAP)
        layout[f"yaxis{n + 1}"] = {
            "domain": [max(top - size, 0.0), top],
            "type": "log",
            "exponentformat": "power",
        }
        layout["annotations"].append(
            {
                "text": title,
                "x": 0,
                "xref": "paper",
                "xanchor": "left",
                "y": top,
                "yref": "paper",
                "yanchor": "bottom",
                "showarrow": False,
            }
        )
    return {"data": list(_lines(picture)), "layout": layout}


def _lines(picture: Depth) -> Iterator[dict[str, Any]]:
    """Yield a line per curve and panel, and marks for values that a log axis cannot show."""
    for n, name in enumerate(PANELS):
        for curve, colour in zip(picture.curves, picture.colours, strict=True):
            known = {b: v for b, v in enumerate(curve.levels[name].tolist()) if not math.isnan(v)}
            axis = {"yaxis": f"y{n + 1}", "legendgroup": curve.label, "name": curve.label}
            yield {
                **axis,
                "x": list(known),
                "y": [v if _is_shown(v) else None for v in known.values()],
                "showlegend": n == 0,
                "mode": "lines+markers",
                "line": {"color": colour, "dash": "dash" if curve.is_finding else "solid"},
                "marker": {"size": 5},
                "hovertemplate": "%{y:.3g}",
            }
            odd = {b: v for b, v in known.items() if not _is_shown(v)}
            if odd:
                yield {
                    **axis,
                    "x": list(odd),
                    "y": [_edge(picture, name, is_low=v == 0) for v in odd.values()],
                    "text": ["exactly zero" if v == 0 else "not finite" for v in odd.values()],
                    "showlegend": False,
                    "mode": "markers",
                    "marker": {
                        "size": 8,
                        "color": colour,
                        "symbol": ["triangle-down" if v == 0 else "x" for v in odd.values()],
                    },
                    "hovertemplate": "%{text}",
                }


def _is_shown(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _edge(picture: Depth, name: str, *, is_low: bool) -> float:
    """Return the height of a mark: the lowest or the highest value of its panel."""
    values = (v for curve in picture.curves for v in curve.levels[name].tolist() if _is_shown(v))
    return (min if is_low else max)(values, default=1.0)


def _band(block: int) -> dict[str, Any]:
    return {
        "type": "rect",
        "x0": block - 0.5,
        "x1": block + 0.5,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "fillcolor": COLOURS["critical"],
        "opacity": 0.08,
        "line": {"width": 0},
    }
