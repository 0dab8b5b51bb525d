"""Text tables that never cut a cell: columns if they fit, else a paragraph per row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from yolo_gradwatch.views.terminal.glyphs import number, state_style
from yolo_gradwatch.views.terminal.lines import status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.views.live import BlockRow, Board

_GAP = "  "
_LOG_WIDTH = 80


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        heading: Heading of the column.
        cells: Text of each row.
        style: Style of each cell; none by default.
        is_left: Whether cells are aligned to the left, as names are; numbers are to the right.
    """

    heading: str
    cells: Sequence[str]
    style: Sequence[str] = ()
    is_left: bool = False


def columns(table: Sequence[Column], width: int | None, *, wraps: bool = False) -> Text:
    """Format a table as lines.

    Args:
        table: Columns of the table; the first names the rows.
        width: Cells per line; None for no limit, as in a file.
        wraps: Whether the cells of the last column may be wrapped between words.
    """
    widths = [max(map(cell_len, (column.heading, *column.cells))) for column in table]
    if width is not None and sum(widths) + len(_GAP) * (len(table) - 1) > width:
        *others, _ = widths
        room = width - sum(others) - len(_GAP) * len(others)
        if not wraps or room < _longest_word(table[-1]):
            return _paragraphs(table, width)
        widths = [*others, room]
    heading = _line([_padded(c.heading, w, c) for c, w in zip(table, widths, strict=True)])
    heading.stylize("dim")
    rows = [line for i in range(len(table[0].cells)) for line in _row(table, widths, i)]
    return Text("\n").join([heading, *rows])


def _row(table: Sequence[Column], widths: Sequence[int], row: int) -> list[Text]:
    """Return the lines of a row: one, unless the cell of the last column is wrapped."""
    *others, last = table
    first, *more = _wrapped(last.cells[row], widths[-1])
    cells = [_padded(c.cells[row], w, c, row) for c, w in zip(others, widths, strict=False)]
    indent = sum(widths[:-1]) + len(_GAP) * len(others)
    return [
        _line([*cells, _padded(first, widths[-1], last, row)]),
        *(Text(" " * indent + part) for part in more),
    ]


def _longest_word(column: Column) -> int:
    return max(cell_len(word) for text in (column.heading, *column.cells) for word in text.split())


def _wrapped(text: str, room: int) -> list[str]:
    """Wrap a text to lines of at most ``room`` cells; no word is longer than that."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and cell_len(longer) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _line(cells: list[Text]) -> Text:
    line = Text(_GAP).join(cells)
    line.rstrip()
    return line


def _padded(text: str, width: int, column: Column, row: int | None = None) -> Text:
    cell = Text(text, column.style[row] if column.style and row is not None else "")
    space = Text(" " * (width - cell.cell_len))
    return cell + space if column.is_left else space + cell


def _paragraphs(table: Sequence[Column], width: int) -> Text:
    """Format each row as its name, followed by its numbers, each after its heading."""
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


def epoch_table(board: Board) -> Text:
    """Format the blocks at the end of an epoch in up to three columns, for logs."""
    rows = board.rows()
    tables = (_in_columns(rows, count) for count in (3, 2, 1))
    fitting = (lines for lines in tables if all(line.cell_len <= _LOG_WIDTH for line in lines))
    lines = next(fitting, None) or _in_columns(rows, 1)
    return Text("\n").join([Text(f"GradWatch {status(board)}", style="bold"), *lines])


def _in_columns(rows: Sequence[BlockRow], count: int) -> list[Text]:
    """Lay out label, norm and state of each block, column by column."""
    depth = max(math.ceil(len(rows) / count), 1)
    lines = [Text() for _ in range(depth)]
    for begin in range(0, len(rows), depth):
        part = rows[begin : begin + depth]
        label = max(cell_len(row.label) for row in part)
        state = max(len(row.state) for row in part) if begin + depth < len(rows) else 0
        for line, row in zip(lines, part, strict=False):
            line.append(f"{'   ' if begin else ''}{set_cell_size(row.label, label)}")
            line.append(f" {number(row.norm):>7} ")
            line.append(f"{row.state:{state}}", state_style(row.state, row.severity))
    return lines
