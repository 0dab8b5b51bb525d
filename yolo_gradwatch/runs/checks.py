"""What a table of a run must be, and its first line that is something else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.runs.schema import (
    COUNTS,
    FLOW_NUMBERS,
    LATER_COUNTS,
    ORDINALS,
    TYPES,
    FormatError,
    cells,
    column_names,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pandas as pd

    from yolo_gradwatch.measure.arrays import Counts

_MOST = 10**18
"""No count is larger."""

LONGEST = 40
"""Characters of a cell that an error shows."""

RESTORE = "restore the file from a copy"

_NUMBER = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?|[-+]?inf"
_CELLS = {"int64": "[0-9]{1,18}", "float32": f"({_NUMBER})?", "float64": _NUMBER}
_PATTERNS = {
    **{name: _CELLS[kind] for name, kind in TYPES.items() if kind in _CELLS},
    **dict.fromkeys(ORDINALS, "[1-9][0-9]{0,17}"),
    **dict.fromkeys(LATER_COUNTS, "([0-9]{1,18})?"),
    **dict.fromkeys(("reported", "since"), "([1-9][0-9]{0,17})?"),
    **dict.fromkeys(FLOW_NUMBERS, f"({_NUMBER}|nan)?"),
}
"""What a cell must look like, by its column."""


def checked_header(path: Path, header: bytes, needed: Sequence[str]) -> tuple[str, ...]:
    """The names of the columns in the first line of a file.

    Raises:
        FormatError: A column that is needed is missing, one is there twice, or it is another file.
    """
    found = column_names(header)
    missing = [name for name in needed if name not in found]
    is_other = f"line 1 is not the header of {path.name}"
    if len(missing) > len(needed) / 2:
        raise FormatError(path, f"{is_other}; was it written by another tool?", line=1)
    if missing:
        what = f"line 1: column {missing[0]!r} is missing; {RESTORE} with all its columns"
        raise FormatError(path, what, line=1, column=missing[0])
    if len(set(found)) < len(found) or not all(map(str.isprintable, found)):
        raise FormatError(path, f"{is_other}; {RESTORE} with its own columns", line=1)
    return found


def is_even(content: bytes, columns: int) -> bool:
    """Whether every line has as many cells; pandas fills up short ones without a word.

    A NUL counts as damage: before pandas 3 a number ends there, and text never holds one.
    """
    if b"\0" in content:
        return False
    if b'"' in content:
        return all(len(row) == columns for _, row in _rows(content))
    return content.count(b",") == (columns - 1) * content.count(b"\n")


def is_possible(table: pd.DataFrame) -> bool:
    """Whether no count is negative or above int64, and none of those 0 that begin at 1.

    Of numbers above int64 pandas 2.0 makes a column of uint64, later ones refuse them.
    """
    counts = [table[name] for name in COUNTS if name in table]
    later = [table[name].dropna() for name in LATER_COUNTS if name in table]
    return all(
        column.dtype == "int64" and (column >= (column.name in ORDINALS)).all() for column in counts
    ) and all(
        (column.between(column.name in ORDINALS, _MOST) & (column % 1 == 0)).all()
        for column in later
    )


def check_steps(path: Path, table: pd.DataFrame, row: str = "module") -> None:
    """Refuse rows in which the steps go back: a run only ever goes on.

    Args:
        path: Of the file.
        table: Its rows.
        row: The column that distinguishes the rows of a window.
    """
    rows = steps_back(table, row)
    if rows.size:
        step, line = table["step_first"].iloc[rows.min()], int(rows.min()) + 2
        again = f"line {line}: the steps begin again at {step}"
        remedy = "two runs in one file? keep the lines of one"
        raise FormatError(path, f"{again}; {remedy}", line=line, column="step_first")


def check_calls(path: Path, table: pd.DataFrame) -> None:
    """Refuse rows that are not in the order of their calls: a trace begins after the one before."""
    places = table[["step", "order"]].to_numpy()
    steps, orders = np.diff(places[:, 0]), np.diff(places[:, 1])
    rows = np.flatnonzero((steps < 0) | ((steps == 0) & (orders <= 0))) + 1
    if rows.size:
        step, line = places[rows[0], 0], int(rows[0]) + 2
        what = f"line {line}: step {step} is repeated"
        remedy = "two runs in one file? keep the lines of one"
        raise FormatError(path, f"{what}; {remedy}", line=line, column="step")


def steps_back(table: pd.DataFrame, row: str = "module") -> Counts:
    """Rows with a step before that of the row above, or with a window and module once more."""
    again = np.flatnonzero(table.duplicated(["step_first", row]))
    return np.concatenate([np.flatnonzero(np.diff(table["step_first"]) < 0) + 1, again])


def first_damage(path: Path, content: bytes, columns: Sequence[str]) -> FormatError:
    """The first line that cannot be used."""
    for line, row in _rows(content):
        if line > 1 and row == list(columns):
            what = f"line {line} is a second header: two runs in one file; keep the lines of one"
            return FormatError(path, what, line=line)
        if len(row) != len(columns):
            what = f"line {line} has {len(row)} cells instead of {len(columns)}; {RESTORE}"
            return FormatError(path, what, line=line)
        for name, text in zip(columns, row, strict=True) if line > 1 else ():
            if not re.fullmatch(_PATTERNS.get(name, r"[^\0]*"), text):
                cell = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
                what = f"line {line}: {cell!r} is no {name}; {RESTORE}"
                return FormatError(path, what, line=line, column=name)
    return FormatError(path, f"not a table; {RESTORE}")


def _rows(content: bytes) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line, with its number."""
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        yield number, cells(line)
