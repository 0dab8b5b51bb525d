"""Pictures of a run (matplotlib).

A picture leaves the user's matplotlib alone: no pyplot, no backend and no setting is touched. It
does not follow settings either; what they would change is said for each artist.
"""

from __future__ import annotations

import io
import textwrap
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import ListedColormap, Normalize, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.path import Path as Outline
from matplotlib.ticker import NullLocator

from yolo_gradwatch.heatmap import NONE, NONFINITE, UNKNOWN, ZERO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from yolo_gradwatch.heatmap import Heatmap, Mark
    from yolo_gradwatch.records import Finding, Flags, Floats
    from yolo_gradwatch.report import Report

DPI = 150
"""Pixels of an inch. Lengths are in pixels, sizes of text in points."""

COLOURS = {NONFINITE: "#ff2a2a", ZERO: "#000000", NONE: "#5f5f5f", UNKNOWN: "#dedede"}
"""Of the cells that have no place on the scale."""

SEVERITIES = {"critical": "#b00000", "warning": "#ff8c00", "notice": "#8a8a8a"}

_MEANINGS = {
    NONFINITE: "NaN or Inf",
    ZERO: "exactly zero",
    NONE: "no gradient at all",
    UNKNOWN: "unknown: AMP skipped the steps, or it was frozen",
}
_HATCH, _INK, _PALE, _LINE = "#b5b5b5", "#1a1a1a", "#666666", "#bbbbbb"
_MEAN, _BAND, _CLIPPED, _SKIPPED = "#1f5a94", "#a9c8e6", "#7a9cc0", "#9a5fb5"
_HEALTHY = "#2e7d32"

_PLAIN = Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
_BOLD = _PLAIN.with_name("DejaVuSans-Bold.ttf")
_SIZE = 8.0  # of text
_POINT = DPI / 72
_LINE_HEIGHT = 30

_MARGIN = 30
_GAP = 14
_NARROW = 1050  # all columns together are at least that wide
_WIDE = 6000  # and at most that
_HIGH = 8400  # all rows together are at most that high
_ROOM = 1440  # rows share that, as long as they stay between the two heights that follow
_LOW_ROW, _HIGH_ROW = 15, 36
_LABEL_ROW = 11  # the lowest that can have a label of its own
_TALL = 2000  # a map that has its steps at the top, too
_LABEL = 900  # the longest label of a row
_LONGEST = 300  # characters that are looked at of a name
_MARKER = 24
_LISTED = 10
_SPAN = 2.0  # decades that the scale has at least, so that noise is not blown up
_BORDERS = 60  # so many epochs have lines between them


def draw(picture: Heatmap, report: Report) -> Figure:
    """A picture of a run: heat map, norm of the whole gradient, clipping, and the findings.

    Args:
        picture: What it shows.
        report: Its verdict and its findings.
    """
    page = _page(picture)
    bands = [*_heading(page, report), *_charts(page, picture), _list(page, report)]
    height = 2 * _MARGIN + sum(band.above + band.height for band in bands)
    size = page.width / DPI, height / DPI
    figure = Figure(figsize=size, dpi=DPI, facecolor="white", edgecolor="white", layout="none")
    FigureCanvasAgg(figure)
    bottom = height - _MARGIN
    for band in bands:
        bottom -= band.above + band.height
        box = band.left, bottom, band.width, band.height
        axes = figure.add_axes(tuple(np.divide(box, (page.width, height) * 2)), label=band.name)
        _prepare(axes, band)
        band.paint(axes)
    return figure


def write(picture: Heatmap, report: Report, path: Path) -> None:
    """Draw a run into a PNG file, which a reader finds whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    content = io.BytesIO()
    FigureCanvasAgg(draw(picture, report)).print_png(content)
    draft = path.with_name(f"{path.name}.tmp")
    try:
        draft.write_bytes(content.getbuffer())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


class _Page(NamedTuple):
    """Where things lie.

    Attributes:
        left: Where the columns begin.
        columns: Width of all columns.
        column: Width of one; below 1 if there are very many.
        row: Height of a row.
        width: Of the page.
    """

    left: int
    columns: int
    column: float
    row: int
    width: int

    @property
    def inner(self) -> int:
        """Width between the margins."""
        return self.width - 2 * _MARGIN

    @property
    def every(self) -> int:
        """Every so many rows one has a label."""
        return -(-_LABEL_ROW // self.row)

    @property
    def label_size(self) -> float:
        """Of the labels of the rows."""
        return min(_SIZE, 0.8 * self.row * self.every / _POINT)


class _Band(NamedTuple):
    """A stretch of the page.

    Attributes:
        name: What it shows.
        left: Where it begins.
        width: Its width.
        height: Its height.
        above: Free space above it, for labels of its own and of the band before.
        paint: Draws it.
        is_chart: Whether it has a frame; if not, its axes count pixels from its top left.
    """

    name: str
    left: int
    width: int
    height: int
    above: int
    paint: Callable[[Axes], None]
    is_chart: bool = True


def _page(picture: Heatmap) -> _Page:
    rows, windows = max(len(picture.labels), 1), max(len(picture.epoch), 1)
    columns = min(windows * -(-_NARROW // windows), _WIDE)
    row = min(_HIGH_ROW, max(_LOW_ROW, _ROOM // rows), max(_HIGH // rows, 1))
    page = _Page(0, columns, columns / windows, row, 0)
    labels = [_pixels(name, page.label_size, _BOLD) for name in _row_labels(page, picture)]
    left = _MARGIN + _GAP + int(max([*labels, _pixels(_SHARES[1])]))
    right = _MARGIN + _GAP + int(_pixels(_clip_label(picture)))
    return page._replace(left=left, width=left + columns + right)


def _row_labels(page: _Page, picture: Heatmap) -> list[str]:
    shown = picture.labels[:: page.every]
    return [_fitted(name, _LABEL, page.label_size, _BOLD) for name in shown]


def _prepare(axes: Axes, band: _Band) -> None:
    """Bring axes into a state that does not depend on settings."""
    axes.set_facecolor("white")
    axes.grid(visible=False, which="both")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    sides = dict.fromkeys(("left", "right", "top", "bottom"), False)
    sides |= {f"label{side}": False for side in sides}
    axes.tick_params(which="both", direction="out", width=0.8, color=_PALE, **sides)
    axes.set(xticks=[], yticks=[], xmargin=0, ymargin=0)
    for spine in axes.spines.values():
        spine.set(visible=band.is_chart, edgecolor=_PALE, linewidth=0.8)
    if not band.is_chart:
        axes.patch.set_visible(False)
        axes.set(xlim=(0, band.width), ylim=(band.height, 0))


# --- words


def _style(size: float = _SIZE, colour: str = _INK, font: Path = _PLAIN) -> dict[str, Any]:
    """Of a text that is shown as it is: ``$`` in a name begins no formula."""
    return {
        "fontproperties": FontProperties(fname=str(font), size=size),
        "color": colour,
        "parse_math": False,
        "usetex": False,
    }


def _pixels(text: str, size: float = _SIZE, font: Path = _PLAIN) -> float:
    """How wide a line is."""
    properties = FontProperties(fname=str(font), size=size)
    width: float = RendererAgg(1, 1, DPI).get_text_width_height_descent(text, properties, False)[0]
    return width


def _drawable(text: str, font: Path = _PLAIN) -> str:
    """A text with a stand-in for what the font does not have."""
    face = get_font(str(font))
    return "".join(
        c if c.isprintable() and face.get_char_index(ord(c)) else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )
