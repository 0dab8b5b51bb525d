"""Checks the tables of a run and finds the first line that does not belong."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.runs.schema import (
    COUNTS,
    FLOW_NUMBERS,
    LATER_COUNTS,
    ORDINALS,
    RESTORE,
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
"""Upper limit of all counts."""

LONGEST = 40
"""Characters of a cell that an error message shows."""

_NUMBER = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?|[-+]?inf"
_CELLS = {"int64": "[0-9]{1,18}", "float32": f"({_NUMBER})?", "float64": _NUMBER}
_PATTERNS = {
    **{name: _CELLS[kind] for name, kind in TYPES.items() if kind in _CELLS},
    **dict.fromkeys(ORDINALS, "[1-9][0-9]{0,17}"),
    **dict.fromkeys(LATER_COUNTS, "([0-9]{1,18})?"),
    **dict.fromkeys(("reported", "since"), "([1-9][0-9]{0,17})?"),
    **dict.fromkeys(FLOW_NUMBERS, f"({_NUMBER}|nan)?"),
}
"""Regular expression that a cell must match, by column."""


def checked_header(path: Path, header: bytes, needed: Sequence[str]) -> tuple[str, ...]:
    """Return the column names in the first line of a file.

    Raises:
        FormatError: A required column is missing, one appears twice, or it is another file.
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
    """Return whether all lines have the same number of cells; pandas pads short ones silently.

    A NUL counts as damage: before pandas 3 it terminates a number, and text never holds one.
    """
    if b"\0" in content:
        return False
    if b'"' in content:
        return all(len(row) == columns for _, row in _rows(content))
    return content.count(b",") == (columns - 1) * content.count(b"\n")


def is_possible(table: pd.DataFrame) -> bool:
    """Return whether every count is in the range of its column: at least 0 or 1, within int64.

    For numbers above int64, pandas 2.0 makes a uint64 column; later versions refuse them.
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
    """Refuse rows in which the steps go back: the steps of a run only increase.

    Args:
        path: The file.
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
    """Refuse rows out of call order: each trace follows the one before it, call by call."""
    places = table[["step", "order"]].to_numpy()
    steps, orders = np.diff(places[:, 0]), np.diff(places[:, 1])
    rows = np.flatnonzero((steps < 0) | ((steps == 0) & (orders <= 0))) + 1
    if rows.size:
        step, line = places[rows[0], 0], int(rows[0]) + 2
        what = f"line {line}: step {step} is repeated"
        remedy = "two runs in one file? keep the lines of one"
        raise FormatError(path, f"{what}; {remedy}", line=line, column="step")


def steps_back(table: pd.DataFrame, row: str = "module") -> Counts:
    """Return rows that step back from the row above, or repeat a window and module."""
    # A window has one row per module, so equal steps are normal, and the two faults are separate:
    # rows of an earlier step after a later one, and a second copy of rows already seen. The result
    # is not sorted, and a row may appear twice in it; callers use its size and minimum.
    again = np.flatnonzero(table.duplicated(["step_first", row]))
    return np.concatenate([np.flatnonzero(np.diff(table["step_first"]) < 0) + 1, again])


def first_damage(path: Path, content: bytes, columns: Sequence[str]) -> FormatError:
    """Return the error for the first unusable line."""
    for line, row in _rows(content):
        if line > 1 and row == list(columns):
            what = f"line {line} is a second header: two runs in one file; keep the lines of one"
            return FormatError(path, what, line=line)
        if len(row) != len(columns):
            return wrong_length(path, line, len(row), len(columns))
        for name, text in zip(columns, row, strict=True) if line > 1 else ():
            if not re.fullmatch(_PATTERNS.get(name, r"[^\0]*"), text):
                return wrong_cell(path, line, name, text)
    return FormatError(path, f"not a table; {RESTORE}")


def wrong_length(path: Path, line: int, found: int, expected: int) -> FormatError:
    """Return the error for a line with too few or too many cells."""
    what = f"line {line} has {found} cells instead of {expected}; {RESTORE}"
    return FormatError(path, what, line=line)


def wrong_cell(path: Path, line: int, column: str, text: str) -> FormatError:
    """Return the error for a cell that is not a value of its column."""
    cell = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    what = f"line {line}: {cell!r} is not a valid value of {column}; {RESTORE}"
    return FormatError(path, what, line=line, column=column)


def _rows(content: bytes) -> Iterator[tuple[int, list[str]]]:
    """Yield each line's number and cells."""
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        yield number, cells(line)
