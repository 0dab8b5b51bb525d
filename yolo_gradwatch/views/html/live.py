"""Live report for a notebook, as HTML and as plain text."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from yolo_gradwatch.diagnose.html import SHADES, coloured, finding_html, report_html
from yolo_gradwatch.diagnose.report import finding_line
from yolo_gradwatch.views.html.table import table
from yolo_gradwatch.views.live import highest
from yolo_gradwatch.views.terminal.glyphs import DEPTH, bar, number, resampled
from yolo_gradwatch.views.terminal.lines import clip_line, status
from yolo_gradwatch.views.terminal.table import epoch_table

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.measure.arrays import Floats
    from yolo_gradwatch.views.live import BlockRow, Board

_BAR = 16  # letters
_WIDTH, _HEIGHT, _MARGIN = 120, 18, 2  # pixels of a history
_POINTS = 60
_SPAN = 2.0  # decades: a history that moves less is drawn flat instead of as noise
_SEVERITIES = ("critical", "warning", "notice")


class Page(NamedTuple):
    """Content of a notebook display.

    Attributes:
        html: Content as HTML; names in it are escaped.
        text: Content for front ends that do not show HTML.
    """

    html: str
    text: str


def waiting() -> Page:
    """Return the page before the training begins."""
    text = "GradWatch is waiting for a training run."
    return Page(f"<p>{text}</p>", text)


def running(board: Board, findings: Iterable[Finding], note: str = "") -> Page:
    """Return the page of a running training.

    Args:
        board: Current numbers.
        findings: Findings so far, in any order; open and critical ones are shown first.
        note: Sentence on why the training may have stopped; "" if there is none.
    """
    shown = sorted(findings, key=_urgency)
    said = [note] if note else []
    html = [
        "<div>",
        f"<p><b>GradWatch</b> &nbsp;{_line(status(board))}</p>",
        *(f"<p>{escape(line)}</p>" for line in said),
        blocks(board),
        *(map(finding_html, shown) if shown else ["<p>No findings so far.</p>"]),
        "</div>",
    ]
    text = [epoch_table(board).plain, *said, *(map(finding_line, shown))]
    return Page("\n".join(html), "\n".join(text))


def ended(report: Report, board: Board | None = None, picture: Path | None = None) -> Page:
    """Return the page of a finished training.

    Args:
        report: Outcome of the training.
        board: Last numbers of the training.
        picture: PNG file of the run.

    Raises:
        OSError: The picture cannot be read.
    """
    html = [report_html(report)]
    if picture:
        html.append(_image(picture))
    if board:
        html += [f"<p>At the end: {_line(status(board))}</p>", blocks(board)]
    return Page(f"<div>{''.join(html)}</div>", f"{report}\n  {report.path}")


def _image(picture: Path) -> str:
    from yolo_gradwatch.views.png.look import light  # noqa: PLC0415  # loads matplotlib

    packed = b64encode(light(picture)).decode()
    return f'<p><img alt="the run as a picture" src="data:image/png;base64,{packed}"></p>'


def _line(text: str) -> str:
    """Escape a text and preserve its double spaces."""
    return escape(text).replace("  ", " &nbsp;")


def blocks(board: Board) -> str:
    """Render the clipping line, and a table with a row per block."""
    rows = board.rows()
    high = highest(rows)
    scale = f"1e{high - DEPTH:+.0f} to 1e{high:+.0f}"
    heads = ((("block"), True), ("norm", False), ("state", True), (scale, True), ("history", True))
    clipping = f"<p>{_line(clip_line(board))}</p>" if board.total is not None else ""
    return clipping + table(heads, (_cells(row, high) for row in rows))


def _cells(row: BlockRow, high: float) -> list[tuple[str, bool]]:
    style = f"font-family:monospace;color:{SHADES[row.severity]}"
    return [
        (escape(row.label), True),
        (number(row.norm), False),
        (coloured(row.state, row.severity), True),
        (f'<span style="{style}">{bar(row.norm, high, _BAR)}</span>', True),
        (history(row.history), True),
    ]


def history(levels: Floats) -> str:
    """Draw a curve as inline SVG, over at least two decades.

    If a notebook removes the SVG, its title remains: the first and the last norm.

    Args:
        levels: (H,) log10 norms, oldest first; NaN is a cross above the curve, -Inf a dot below.
    """
    if not levels.size:
        return ""
    points = resampled(levels, _POINTS)
    known = points[np.isfinite(points)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    span = max(high - low, _SPAN)
    shares = 0.5 - (points - (high + low) / 2) / span
    y = _MARGIN + shares * (_HEIGHT - 2 * _MARGIN)
    x = _MARGIN + np.arange(points.size) * (_WIDTH - 2 * _MARGIN) / max(points.size - 1, 1)
    title = " to ".join(_norm(level) for level in (levels[0], levels[-1]))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'fill="none" stroke="#3b86c8" stroke-width="1.5"><title>{title}</title>'
        f"{''.join(_curves(x, y))}</svg>"
    )


def _curves(x: Floats, y: Floats) -> Iterable[str]:
    """Yield a line per run of finite points, and a mark for each point that is not finite."""
    places = [f"{a:.0f},{b:.1f}" for a, b in zip(x, y, strict=True)]
    is_known = np.isfinite(y)
    for part in np.split(np.arange(y.size), np.flatnonzero(np.diff(is_known)) + 1):
        if is_known[part[0]]:
            ends = [*part.tolist(), part[-1]] if len(part) == 1 else part.tolist()
            line = " ".join(places[i] for i in ends)
            yield f'<polyline points="{line}" stroke-linecap="round"/>'
            continue
        for i in part:
            if np.isnan(y[i]):
                yield f'<path d="M{x[i] - 2:.0f},1l4,4m0,-4l-4,4" stroke="#d93636"/>'
            else:
                yield f'<circle cx="{x[i]:.0f}" cy="{_HEIGHT - 2}" r="1" stroke="#d93636"/>'


def _norm(level: float) -> str:
    """Format a norm given as log10."""
    return number(10.0**level if level < 300 else float("inf"))  # NaN too is shown as Inf


def _urgency(finding: Finding) -> tuple[bool, int, int]:
    is_over = finding.step_end is not None
    return is_over, _SEVERITIES.index(finding.severity), finding.number
