"""Common parts of the pictures: colours, axis labels, and isolation from the user's settings."""

from __future__ import annotations

import math
import warnings
from io import BytesIO
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from yolo_gradwatch.runs.atomic import replacing
from yolo_gradwatch.views.heatmap import COLOURS, decade

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from matplotlib.axes import Axes

DPI = 100

GREY, DARK = "#8a8a8a", "#444444"
LINES = ("#08519c", "#b8560f", "#2b8a3e", "#7b3f99", "#5a5a5a")
"""Colours of the curves in a strip, in this order."""

_INKS = {*COLOURS.values(), "#ffffff", GREY, DARK, *LINES}
_LONGEST_NAME = 48


class Picture(Figure):
    """A figure outside matplotlib's global state that a notebook can display.

    Args:
        width: Width in inches.
        height: Height in inches.
    """

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), dpi=DPI)
        FigureCanvasAgg(self)

    def _repr_mimebundle_(self, **_wanted: object) -> dict[str, bytes]:
        """Render for a notebook cell, even if pyplot's display of figures is not set up."""
        drawn = BytesIO()
        _write(self, drawn)
        return {"image/png": light(drawn)}


def light(picture: Path | BytesIO) -> bytes:
    """Reduce a PNG file to 256 colours and a third of its size, because notebooks store it.

    Raises:
        OSError: The file cannot be read.
    """
    packed = BytesIO()
    with Image.open(picture) as opened:
        few = opened.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(packed, "png", optimize=True)
    return packed.getvalue()


def save(draw: Callable[[], Figure], path: Path) -> None:
    """Draw a figure and write it as a PNG file, atomically replacing an earlier one.

    Raises:
        OSError: The file cannot be written.
    """
    with replacing(path) as draft:
        _write(draw(), draft)


def _write(figure: Figure, file: Path | BytesIO) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a missing one is drawn as a box
        figure.savefig(file, format="png", dpi=DPI, facecolor="white")


def short(name: str) -> str:
    """Shorten a long name in its middle."""
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"


def _number(digit: int, power: int) -> str:
    """Format 1 to 9 times a power of ten."""
    return f"{digit * 10.0**power:g}" if -4 < power < 4 else f"{digit}e{power}"


def log_axis(axes: Axes, low: float, high: float) -> None:
    """Label a vertical axis of log10 values at whole decades, or at 1, 2 and 5 if it is short.

    Matplotlib's own logarithmic scale overflows at values that diverging trainings do reach.

    Args:
        axes: Axes to label.
        low: Lowest level that is drawn.
        high: Highest level that is drawn.
    """
    spare = max((high - low) * 0.07, 0.05)
    low, high = low - spare, high + spare
    axes.set_ylim(low, high)
    powers = range(math.floor(low), math.ceil(high) + 1)
    inside = [power for power in powers if low <= power <= high]
    if len(inside) >= 2:
        ticks = inside[:: -(-len(inside) // 4)]
        axes.set_yticks(ticks, [decade(power) for power in ticks])
    else:
        fine = [(p + math.log10(m), m, p) for p in powers for m in (1, 2, 5)]
        fine = [one for one in fine if low <= one[0] <= high]
        axes.set_yticks([level for level, _, _ in fine], [_number(m, p) for _, m, p in fine])


def own_look(figure: Figure) -> None:
    """Make a figure black on white and without TeX, regardless of the user's matplotlib settings.

    Each element is set separately, because `rc_context` would affect other threads. Formulas are
    turned off, because a name from a file may contain a dollar sign.
    """
    figure.set_facecolor("white")
    children = [child for axes in figure.axes for child in axes.child_axes]
    for axes in (*figure.axes, *children):
        axes.set_facecolor("white")
        axes.tick_params(which="both", color="black", labelcolor="black")
        for spine in axes.spines.values():
            spine.set_edgecolor("black")
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_ticklabels()  # creates the labels that would otherwise be created on drawing
    for text in figure.findobj(Text):
        text.set_usetex(False)
        text.set_parse_math(False)
        if text.get_color() not in _INKS:
            text.set_color("black")
