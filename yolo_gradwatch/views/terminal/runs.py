"""Text of a table of runs, one line each if there is room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from yolo_gradwatch.views.runs import counts, metric, name_of, remarks, shown
from yolo_gradwatch.views.terminal import console
from yolo_gradwatch.views.terminal.glyphs import STYLES
from yolo_gradwatch.views.terminal.table import Column, columns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

    from yolo_gradwatch.runs.find import Tree
    from yolo_gradwatch.views.runs import Shown

_GAP = "  "
_ROOM = 36
"""Cells that a finding gets if it needs them; an optional column is left out to make room."""

_LEAST = 20
"""Fewest cells for a separate column of findings."""

_OPTIONAL = ("steps", "lr0", "optimizer", "clipped", "loss", "verdict")
"""Columns that are left out in a narrow terminal, in this order."""

_MOST = 8
"""Most remarks, and most names of one list, that are shown."""


def runs_text(
    whole: pd.DataFrame, table: pd.DataFrame, tree: Tree, above: Path, width: int | None
) -> list[Text]:
    """Return the paragraphs on the runs below a folder.

    Args:
        whole: All runs, as returned by `load_runs`.
        table: Runs to show, in their order.
        tree: Everything that was found below the folder.
        above: The folder.
        width: Cells per line; None for no limit, as in a file.
    """
    rows = shown(table, above)
    body = _lines(rows, metric(table), width) if rows else Text("No run is unhealthy.")
    notes = [*_remarks(whole, above), *_others(tree, above)]
    return [
        Text(f"GradWatch: {': '.join(counts(whole, above))}", "bold"),
        body,
        Text("\n").join(notes),
    ]


def _lines(rows: Sequence[Shown], score: str, width: int | None) -> Text:
    """Tabulate the rows, with the finding in the last column, which may take several lines."""
    table = _columns(rows, score)
    findings = [(row.finding, STYLES[row.severity]) for row in rows]  # type: ignore[index]
    for left_out in range(len(_OPTIONAL) + 1):
        names = [name for name in table if name not in _OPTIONAL[:left_out]]
        is_apart = "verdict" in names
        cells = findings if is_apart else _merged(rows)
        heading = "first finding" if is_apart else "verdict: first finding"
        left = list(columns([table[name] for name in names], None).split("\n"))
        used = max(line.cell_len for line in left) + len(_GAP)
        needed = max(len(heading), *(cell_len(cell) for cell, _ in cells))
        if width is None or used + min(needed, _ROOM) <= width:
            break
    room = needed if width is None else width - used
    if room < _LEAST:
        last = Column("first finding", [cell for cell, _ in findings], [s for _, s in findings])
        return columns([*table.values(), last], width)
    return Text("\n").join(_beside(left, [(heading, "dim"), *cells], used, room))


def _columns(rows: Sequence[Shown], score: str) -> dict[str, Column]:
    """Return all columns except the finding."""

    def column(name: str, heading: str = "", *, is_left: bool = False) -> Column:
        return Column(heading or name, [getattr(row, name) or "-" for row in rows], (), is_left)

    styles = [_style(row) for row in rows]
    return {
        "name": column("name", "run", is_left=True),
        "verdict": column("verdict", is_left=True)._replace(style=styles),
        "status": column("status", is_left=True),
        "epochs": column("epochs"),
        "score": column("score", score),
        "loss": column("loss"),
        "steps": column("steps"),
        "clipped": column("clipped"),
        "optimizer": column("optimizer", is_left=True),
        "lr0": column("lr0"),
    }


def _style(row: Shown) -> str:
    return "yellow" if row.verdict == "no verdict" else STYLES[row.severity]  # type: ignore[index]


def _merged(rows: Sequence[Shown]) -> list[tuple[str, str]]:
    """Return the finding of each run, or its verdict if there is none."""
    return [(row.finding or row.verdict, _style(row)) for row in rows]


def _beside(
    left: Sequence[Text], cells: Sequence[tuple[str, str]], used: int, room: int
) -> list[Text]:
    """Append a cell to each line; a cell longer than the room is wrapped below itself."""
    out = console.plain_console()
    lines: list[Text] = []
    for begin, (cell, style) in zip(left, cells, strict=True):
        parts = Text(cell, style).wrap(out, room) or [Text()]
        space = Text(" " * (used - begin.cell_len))
        lines.append(Text.assemble(begin, space, parts[0]))
        lines += [Text(" " * used).append_text(part) for part in parts[1:]]
    for line in lines:
        line.rstrip()
    return lines


def _remarks(table: pd.DataFrame, above: Path) -> list[Text]:
    """List the remarks on single runs, one per line."""
    found = remarks(table, above)
    lines = [Text(f"{_some(names)}: {said}", "yellow") for said, names in found[:_MOST]]
    rest = sum(len(names) for _, names in found[_MOST:])
    return [
        *lines,
        *([Text(f"{rest:,} more runs have remarks: see --json", "yellow")] * bool(rest)),
    ]


def _others(tree: Tree, above: Path) -> list[Text]:
    """List trainings that were not watched, and folders that cannot be read."""
    said = {"Not watched": tree.unwatched, "Cannot be read": tree.closed}
    return [
        Text(f"{what}: {_some([name_of(one, above) for one in folders])}", "dim")
        for what, folders in said.items()
        if folders
    ]


def _some(names: Sequence[str]) -> str:
    """Join the first names, and count the rest."""
    rest = f" and {len(names) - _MOST:,} more" if len(names) > _MOST else ""
    return f"{', '.join(names[:_MOST])}{rest}"
