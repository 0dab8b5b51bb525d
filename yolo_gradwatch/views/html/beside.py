"""Plotly figure of two runs: A, B, and B relative to A at the same share of training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from yolo_gradwatch.views.apart import factor, ticks
from yolo_gradwatch.views.beside import APART, COLUMNS, DIVERGING, MISSING
from yolo_gradwatch.views.heatmap import COLOURS, STATES, decade
from yolo_gradwatch.views.html.figure import plain
from yolo_gradwatch.views.rows import inside, stretches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from yolo_gradwatch.views.beside import Beside, Side

COVERS = (*STATES.values(), (MISSING, "#ececec"))
"""Legend text and colour of each cover of a cell, numbered from 1."""

_AXES = ("", "2", "3")  # axis suffixes of A, B, and B relative to A
_FEW_ROWS, _ROW, _LOW_ROW = 60, 22, 12  # up to this many rows are high; pixels of a high, a low row
_ABOVE, _BELOW, _BETWEEN = 40, 96, 72  # pixels above the first, below the last, between panels
_WIDE, _GAP = 0.32, 0.02  # shares of the width: a panel, and the gap between two


def figure(picture: Beside) -> dict[str, Any]:
    """Return the figure for JSON, with a layout for wide windows and one for narrow ones."""
    drawn = go.Figure(data=[*_levels(picture), *_covered(picture)]).to_plotly_json()
    return {"data": drawn["data"], "wide": _wide(picture), "narrow": _narrow(picture)}


def covers(picture: Beside) -> list[NDArray[np.uint8]]:
    """(R, C) for each panel: number of the cover over a cell, see `COVERS`; 0 for none."""
    shown = []
    for side in picture.sides:
        own = side.states.copy()
        own[~side.has] = own[:, ~side.there] = len(COVERS)
        shown.append(own)
    both = picture.states_apart
    both[(shown[0] == len(COVERS)) | (shown[1] == len(COVERS))] = len(COVERS)
    return [*shown, both]


def _levels(picture: Beside) -> Iterator[go.Heatmap]:
    low, high = picture.limits
    powers = range(int(np.ceil(low)), int(np.floor(high)) + 1)
    norms = {"zmin": low, "zmax": high, "colorscale": "Viridis"}
    bars: tuple[dict[str, Any], ...] = (
        {**norms, "colorbar": _bar("norm (L2)", [*powers], [decade(p) for p in powers])},
        {**norms, "showscale": False},
        {
            "zmin": -picture.span,
            "zmax": picture.span,
            "colorscale": DIVERGING,
            "colorbar": _factors(picture),
        },
    )
    levels = (*(side.levels for side in picture.sides), picture.apart)
    for axis, values, look in zip(_AXES, levels, bars, strict=True):
        yield go.Heatmap(z=values.astype(np.float32), **_across(axis), **look, hoverinfo="none")


def _covered(picture: Beside) -> Iterator[go.Heatmap]:
    count = len(COVERS) + 1
    colours = ["rgba(0,0,0,0)", *(colour for _, colour in COVERS)]
    scale = [(i + side) / count for i in range(count) for side in (0, 1)]
    for axis, cells in zip(_AXES, covers(picture), strict=True):
        yield go.Heatmap(
            z=cells,
            zmin=-0.5,
            zmax=count - 0.5,
            colorscale=list(zip(scale, np.repeat(colours, 2).tolist(), strict=True)),
            showscale=False,
            hoverinfo="skip",
            **_across(axis),
        )


def _across(axis: str) -> dict[str, Any]:
    """Return the axes of a panel, and its columns as shares."""
    return {"x0": 0.5 / COLUMNS, "dx": 1 / COLUMNS, "xaxis": f"x{axis}", "yaxis": f"y{axis}"}


def _factors(picture: Beside) -> dict[str, Any]:
    named = ticks(picture.span)
    return _bar("B / A", named, [factor(tick) for tick in named])


def _bar(title: str, ticks: list[int], words: list[str]) -> dict[str, Any]:
    return {
        "title": {"text": title, "side": "top", "font": {"size": 11}},
        "tickvals": ticks,
        "ticktext": words,
        "tickfont": {"size": 10},
        "orientation": "h",
        "thickness": 10,
        "xpad": 0,
    }


def _wide(picture: Beside) -> dict[str, Any]:
    """Lay out the three panels side by side, names on the left and differences on the right."""
    height = _height(picture)
    layout = {**_common(picture), "height": height + _ABOVE + _BELOW}
    for i, axis in enumerate(_AXES):
        begin = i * (_WIDE + _GAP)
        layout[f"xaxis{axis}"] |= {"domain": [begin, begin + _WIDE], "anchor": f"y{axis}"}
        layout[f"yaxis{axis}"] |= {"domain": [0, 1], "anchor": f"x{axis}", "showticklabels": i != 1}
    layout["yaxis3"] |= {"side": "right", "ticktext": [_far(picture, r) for r in _rows(picture)]}
    layout["titles"] = [[i * (_WIDE + _GAP), 1] for i in range(3)]
    below = -60 / height
    layout["bars"] = {"0": [0, below, 2 * _WIDE + _GAP], "2": [2 * (_WIDE + _GAP), below, _WIDE]}
    return _titled(picture, layout)


def _narrow(picture: Beside) -> dict[str, Any]:
    """Lay out the three panels one below the other, the difference first, each with row names."""
    height = _height(picture)
    inner = 3 * height + 2 * _BETWEEN
    layout = {**_common(picture), "height": inner + _ABOVE + _BELOW + 50}
    tops = {"3": 1.0, "": 1 - (height + _BETWEEN) / inner, "2": height / inner}
    for axis, top in tops.items():
        layout[f"xaxis{axis}"] |= {"domain": [0, 1], "anchor": f"y{axis}"}
        domain = [max(top - height / inner, 0), top]
        layout[f"yaxis{axis}"] |= {"domain": domain, "anchor": f"x{axis}"}
    layout["yaxis3"]["ticktext"] = [
        f"{plain(picture.labels[row])}  {_far(picture, row)}" for row in _rows(picture)
    ]
    layout["titles"] = [[0, tops[axis]] for axis in _AXES]
    layout["bars"] = {"0": [0, -110 / inner, 1], "2": [0, -60 / inner, 1]}
    return _titled(picture, layout)


def _common(picture: Beside) -> dict[str, Any]:
    rows = _rows(picture)
    shares = {
        "tickvals": [0, 0.25, 0.5, 0.75, 1],
        "ticktext": ["0", "25%", "50%", "75%", "100%"],
        "tickfont": {"size": 10},
        "range": [0, 1],
        "showgrid": False,
        "zeroline": False,
    }
    names = {
        "range": [len(rows) - 0.5, -0.5],
        "tickvals": [*rows],
        "ticktext": [plain(label) for label in picture.labels],
        "tickfont": {"size": 11 if len(rows) <= _FEW_ROWS else 9},
        "showgrid": False,
        "zeroline": False,
        "automargin": True,
    }
    return {
        "margin": {"l": 10, "r": 24, "t": _ABOVE, "b": _BELOW},
        "shapes": [*_frames(picture)],
        "annotations": [*_numbers(picture)],
        **{f"xaxis{axis}": {**shares, **({"matches": "x"} if axis else {})} for axis in _AXES},
        **{f"yaxis{axis}": {**names, **({"matches": "y"} if axis else {})} for axis in _AXES},
    }


def _titled(picture: Beside, layout: dict[str, Any]) -> dict[str, Any]:
    """Add the name of each panel to a layout."""
    words = [f"<b>{side.letter}</b> {plain(side.report.name)}" for side in picture.sides]
    for text, (x, y) in zip([*words, "<b>B relative to A</b>"], layout.pop("titles"), strict=True):
        layout["annotations"].append(
            {
                "text": text,
                "xref": "paper",
                "yref": "paper",
                "x": x,
                "y": y,
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
                "yshift": 2,
            }
        )
    return layout


def _far(picture: Beside, row: int) -> str:
    """Return the largest difference of a row as a factor, in bold from `APART`."""
    one = picture.farthest.get(row)
    if one is None:
        return ""
    words = factor(one.decades)
    return f"<b>{words}</b>" if abs(one.decades) >= APART else words


def _frames(picture: Beside) -> Iterator[dict[str, Any]]:
    """Yield frames around the rows of each finding, for its run's panel and for the difference."""
    for axis, side in _panels(picture):
        for span in side.spans:
            own = inside(picture.names, span.rows[0])
            others = stretches({*span.rows[1:]} - {*own})
            for i, rows in enumerate((own, *others)):
                yield {
                    "type": "rect",
                    "xref": f"x{axis}",
                    "yref": f"y{axis}",
                    "x0": span.begin,
                    "x1": span.end,
                    "y0": rows.start - 0.5,
                    "y1": rows.stop - 0.5,
                    "line": {"color": COLOURS[span.finding.severity], "width": 1 if i else 2},
                }


def _numbers(picture: Beside) -> Iterator[dict[str, Any]]:
    """Yield the label of each finding at the place where it begins."""
    for axis, side in _panels(picture):
        for span in side.spans:
            yield {
                "text": side.number(span),
                "x": span.begin,
                "y": span.rows[0],
                "xanchor": "left",
                "showarrow": False,
                "xref": f"x{axis}",
                "yref": f"y{axis}",
                "font": {"color": "#ffffff", "size": 10},
                "bgcolor": COLOURS[span.finding.severity],
            }


def _panels(picture: Beside) -> list[tuple[str, Side]]:
    """Return the panels in which the findings of each run are marked."""
    a, b = picture.sides
    return [("", a), ("2", b), ("3", a), ("3", b)]


def _rows(picture: Beside) -> range:
    return range(len(picture.names))


def _height(picture: Beside) -> int:
    """Return the height of a panel in pixels."""
    rows = len(picture.names)
    return max(rows * (_ROW if rows <= _FEW_ROWS else _LOW_ROW), 60)
