"""Characters, colours and short numbers for values in a few cells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from yolo_gradwatch.diagnose.finding import Severity
    from yolo_gradwatch.measure.arrays import Floats

STYLES: dict[Severity | None, str] = {
    None: "green",
    "notice": "cyan",
    "warning": "yellow",
    "critical": "bold red",
}
"""Severity of a finding -> style; None for healthy."""

DEPTH = 6.0
"""Decades below the highest norm that a bar can show."""

_SPARKS = "▁▂▃▄▅▆▇█"
_PARTS = " ▏▎▍▌▋▊▉"
_SPAN = 2.0  # decades: a history that moves less is drawn flat instead of as noise


def number(value: float | None) -> str:
    """Format a norm in at most 7 cells."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Inf"
    if value and not 0.01 <= value < 99_999:
        return f"{value:.1e}"
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def norm_text(value: float | None) -> str:
    """Format a norm for a table, in which NaN means that there is none."""
    return "-" if value is None or math.isnan(value) else number(float(value))


def bar(norm: float | None, high: float, width: int) -> str:
    """Draw a horizontal bar over `DEPTH` decades.

    Args:
        norm: Norm to show; there is no bar if it is None, 0 or not finite.
        high: log10 of the norm at which the bar is full.
        width: Cells of a full bar.
    """
    if norm is None or not math.isfinite(norm) or norm <= 0:
        return ""
    share = min(max((math.log10(norm) - high + DEPTH) / DEPTH, 0.0), 1.0)
    whole, part = divmod(round(share * width * 8), 8)
    return "█" * whole + (_PARTS[part] if part else "")


def sparkline(history: Floats, width: int) -> str:
    """Draw log10 levels as a line of block characters, over at least two decades.

    Args:
        history: (H,) levels, oldest first; NaN is drawn as ``!``, -Inf as ``·``.
        width: Most cells; the newest point is on the right.
    """
    if not history.size:
        return ""
    points = resampled(history, width)
    is_finite = np.isfinite(points)
    cells = np.where(points == -np.inf, "·", "!")
    if is_finite.any():
        low, high = points[is_finite].min(), points[is_finite].max()
        span = max(high - low, _SPAN)
        shares = (points[is_finite] - (high + low) / 2) / span + 0.5
        levels = np.clip((shares * len(_SPARKS)).astype(int), 0, len(_SPARKS) - 1)
        cells[is_finite] = np.array(list(_SPARKS))[levels]
    return "".join(cells.tolist())


def resampled(history: Floats, width: int) -> Floats:
    """Reduce a history to at most ``width`` points, each the mean of consecutive ones."""
    if history.size <= width:
        return history
    parts = np.arange(width + 1)
    begins = parts * (history.size // width) + np.minimum(parts, history.size % width)
    means: Floats = np.add.reduceat(history, begins[:-1]) / np.diff(begins)
    return means


def cut(text: str, width: int) -> str:
    """Shorten a text that is too long with an ellipsis at its end."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def encodable(text: Text, console: Console) -> Text:
    """Replace characters that the encoding of a log does not have by "?"."""
    encoding = console.encoding
    try:
        shown = text.plain.encode(encoding, "replace").decode(encoding)
    except LookupError:  # a replaced stream may report any encoding
        return text
    if shown != text.plain:
        text = text.copy()
        text.plain = shown  # as many characters, so that colours stay in their places
    return text
