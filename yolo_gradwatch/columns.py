"""Columns of text that lose nothing: a table where it fits, else a paragraph for each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

_GAP = "  "


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        heading: Its name.
        cells: One a row.
        style: Of each cell; none by default.
        is_left: Whether its cells begin on the left, as names do; numbers end on the right.
    """

    heading: str
    cells: Sequence[str]
    style: Sequence[str] = ()
    is_left: bool = False


def columns(table: Sequence[Column], width: int | None) -> Text:
    """The rows of a table as lines.

    Args:
        table: Its columns; the first names the rows.
        width: Cells of a line; None for as many as are needed, as in a file.
    """
    widths = [max(map(_width, (column.heading, *column.cells))) for column in table]
    if width is not None and sum(widths) + len(_GAP) * (len(table) - 1) > width:
        return _paragraphs(table, width)
    heading = _line([_padded(c.heading, w, c) for c, w in zip(table, widths, strict=True)])
    heading.stylize("dim")
    rows = [
        _line([_padded(c.cells[i], w, c, i) for c, w in zip(table, widths, strict=True)])
        for i in range(len(table[0].cells))
    ]
    return Text("\n").join([heading, *rows])


def _line(cells: list[Text]) -> Text:
    line = Text(_GAP).join(cells)
    line.rstrip()
    return line


def _padded(text: str, width: int, column: Column, row: int | None = None) -> Text:
    cell = Text(text, column.style[row] if column.style and row is not None else "")
    space = Text(" " * (width - cell.cell_len))
    return cell + space if column.is_left else space + cell


def _paragraphs(table: Sequence[Column], width: int) -> Text:
    """A row as its name, and below it its numbers, each behind its heading."""
    names, *others = table
    lines: list[Text] = []
    for i, name in enumerate(names.cells):
        lines.append(Text(name, "bold"))
        line = Text()
        for column in others:
            style = column.style[i] if column.style else ""
            part = Text.assemble((f"{column.heading} ", "dim"), (column.cells[i], style))
            if line and line.cell_len + len(_GAP) + part.cell_len > width:
                lines.append(line)
                line = Text()
            line = Text.assemble(line or "", _GAP, part)
        lines.append(line)
    return Text("\n").join(lines)


def _width(text: str) -> int:
    return Text(text).cell_len
