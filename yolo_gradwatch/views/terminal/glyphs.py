"""Characters, colours and short numbers for values in a few cells."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.views.states import AFFECTED

if TYPE_CHECKING:
    from collections.abc import Sequence

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
_CELLS = np.array(list(_SPARKS))
_PARTS = " ▏▎▍▌▋▊▉"
_SPAN = 2.0  # decades: a history that moves less is drawn flat instead of as noise


def state_style(state: str, severity: Severity | None) -> str:
    """Return the style of a block's state, which is faint if the fault is in another block."""
    style = STYLES[severity]
    return f"dim {style.removeprefix('bold ')}" if state in AFFECTED else style


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
    return sparklines([history], width)[0]


def sparklines(histories: Sequence[Floats], width: int) -> list[str]:
    """Draw histories of the same length, each as `sparkline` does."""
    if not histories:
        return []
    points = resampled(np.stack(histories, axis=1), width)
    is_finite = np.isfinite(points)
    high = points.max(axis=0, initial=-np.inf, where=is_finite)
    low = points.min(axis=0, initial=np.inf, where=is_finite)
    with np.errstate(invalid="ignore"):  # a column without a finite level is not drawn from these
        shares = (points - (high + low) / 2) / np.maximum(high - low, _SPAN) + 0.5
    levels = np.zeros(points.shape, np.int64)
    np.floor(shares * len(_SPARKS), out=levels, where=is_finite, casting="unsafe")
    cells = _CELLS[np.clip(levels, 0, len(_SPARKS) - 1)]
    cells = np.where(is_finite, cells, np.where(points == -np.inf, "·", "!"))
    return ["".join(column) for column in cells.T.tolist()]


def resampled(history: Floats, width: int) -> Floats:
    """Reduce a history (its first axis) to at most ``width`` points, means of consecutive ones."""
    size = len(history)
    if size <= width:
        return history
    parts = np.arange(width + 1)
    begins = parts * (size // width) + np.minimum(parts, size % width)
    counts = np.diff(begins).reshape(-1, *[1] * (history.ndim - 1))
    means: Floats = np.add.reduceat(history, begins[:-1]) / counts
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
