"""The network from its first block to its last as a figure of the page (Plotly)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.views.depth import PANELS
from yolo_gradwatch.views.heatmap import COLOURS
from yolo_gradwatch.views.html.figure import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yolo_gradwatch.views.depth import Depth

_PANEL, _GAP = 180, 0.07  # pixels; share of the height
_ABOVE, _BELOW = 70, 130


def figure(picture: Depth) -> dict[str, Any]:
    """A figure as Plotly's script takes it: one panel a quantity, one line a trace."""
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
    for n, name in enumerate(PANELS):
        for curve, colour in zip(picture.curves, picture.colours, strict=True):
            values = curve.values[name].tolist()
            yield {
                "y": [value if math.isfinite(value) and value > 0 else None for value in values],
                "yaxis": f"y{n + 1}",
                "name": curve.label,
                "legendgroup": curve.label,
                "showlegend": n == 0,
                "connectgaps": True,
                "mode": "lines+markers",
                "line": {"color": colour, "dash": "dash" if curve.is_finding else "solid"},
                "marker": {"size": 5},
                "hovertemplate": "%{y:.3g}",
            }


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
