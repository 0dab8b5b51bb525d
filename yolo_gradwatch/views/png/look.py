"""What all parts of a picture share: colours, words for numbers, and no settings of the user."""

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
"""Of the curves of a strip, in this order."""

_INKS = {*COLOURS.values(), "#ffffff", GREY, DARK, *LINES}
_LONGEST_NAME = 48


class Picture(Figure):
    """A figure that no global state of matplotlib knows of, and that a cell of a notebook shows.

    Args:
        width: Inches.
        height: Inches.
    """

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), dpi=DPI)
        FigureCanvasAgg(self)

    def _repr_mimebundle_(self, **_wanted: object) -> dict[str, bytes]:
        """As a cell shows it, also where pyplot's way to show figures is not set up."""
        drawn = BytesIO()
        _write(self, drawn)
        return {"image/png": light(drawn)}


def light(picture: Path | BytesIO) -> bytes:
    """A PNG file with 256 colours, a third of the size: a notebook keeps what its cells show.

    Raises:
        OSError: It cannot be read.
    """
    packed = BytesIO()
    with Image.open(picture) as opened:
        few = opened.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(packed, "png", optimize=True)
    return packed.getvalue()


def save(draw: Callable[[], Figure], path: Path) -> None:
    """Draw a figure and write it as a PNG file, replacing an earlier one whole.

    Raises:
        OSError: It cannot be written.
    """
    with replacing(path) as draft:
        _write(draw(), draft)


def _write(figure: Figure, file: Path | BytesIO) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # it is drawn as a box
        figure.savefig(file, format="png", dpi=DPI, facecolor="white")


def short(name: str) -> str:
    """A long name without its middle."""
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"


def _number(digit: int, power: int) -> str:
    """1 to 9 times a power of ten."""
    return f"{digit * 10.0**power:g}" if -4 < power < 4 else f"{digit}e{power}"


def log_axis(axes: Axes, low: float, high: float) -> None:
    """Labels for levels, log10 of values: at whole decades, or at 1, 2 and 5 within one or two.

    Matplotlib's logarithmic scale overflows at values that a training which diverges does reach.

    Args:
        axes: Whose vertical axis it is.
        low: Lowest level that is drawn.
        high: Highest level.
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
    """Black on white and without TeX, whatever the user's settings of matplotlib say.

    Done piece by piece, because `rc_context` would change them for other threads too. A name from a
    file may hold a dollar sign, so that no text is a formula either.
    """
    figure.set_facecolor("white")
    children = [child for axes in figure.axes for child in axes.child_axes]
    for axes in (*figure.axes, *children):
        axes.set_facecolor("white")
        axes.tick_params(which="both", color="black", labelcolor="black")
        for spine in axes.spines.values():
            spine.set_edgecolor("black")
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_ticklabels()  # makes those that drawing would make
    for text in figure.findobj(Text):
        text.set_usetex(False)
        text.set_parse_math(False)
        if text.get_color() not in _INKS:
            text.set_color("black")
