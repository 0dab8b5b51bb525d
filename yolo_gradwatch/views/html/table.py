"""Plain HTML tables, readable even if a notebook removes their style."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from yolo_gradwatch.views.terminal.table import Column


def table_html(columns: Sequence[Column]) -> str:
    """Render the columns of a text table as an HTML table."""
    heads = [(column.heading, column.is_left) for column in columns]
    rows = zip(*(column.cells for column in columns), strict=True)
    cells = (
        [(escape(cell), is_left) for cell, (_, is_left) in zip(row, heads, strict=True)]
        for row in rows
    )
    return table(heads, cells)


def table(heads: Iterable[tuple[str, bool]], rows: Iterable[Sequence[tuple[str, bool]]]) -> str:
    """Render a table from pairs of content and whether it is aligned to the left, as names are.

    Args:
        heads: Headings, as text.
        rows: Cells of each row, as HTML.
    """
    top = "".join(_cell("th", escape(text), is_left=is_left) for text, is_left in heads)
    body = ("".join(_cell("td", html, is_left=is_left) for html, is_left in row) for row in rows)
    lines = "\n".join(f"<tr>{row}</tr>" for row in body)
    return f"<table><thead><tr>{top}</tr></thead><tbody>\n{lines}</tbody></table>"


def _cell(tag: str, html: str, *, is_left: bool) -> str:
    side = "left" if is_left else "right"
    return f'<{tag} style="text-align:{side}">{html}</{tag}>'
