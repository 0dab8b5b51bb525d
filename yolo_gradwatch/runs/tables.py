"""The CSV files of a run as checked tables, and as arrays over windows and modules."""

from __future__ import annotations

import io
import re
from codecs import BOM_UTF8
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from yolo_gradwatch.measure.layout import Layout
from yolo_gradwatch.measure.quantities import MEASURED, QUANTITIES
from yolo_gradwatch.measure.windows import SHARED, UNKNOWN, Grid
from yolo_gradwatch.runs import schema
from yolo_gradwatch.runs import writer as runlog
from yolo_gradwatch.runs.repair import whole_lines, whole_windows
from yolo_gradwatch.runs.schema import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from yolo_gradwatch.measure.arrays import Counts
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.quantities import Quantity

_FLOATS = tuple(row.name for row in QUANTITIES if not row.is_count)
_LATER = ("clipped", "reported", *(row.name for row in QUANTITIES if row.since > 1))
"""Columns that files of format version 1 lack: rows of before have an empty cell."""

_COUNTED = (*SHARED, "clipped", *(row.name for row in QUANTITIES if row.is_count))
_ALL_COUNTS = (*_COUNTED, "parameters", "finding", "step", "reported")
_COUNTS = tuple(name for name in _ALL_COUNTS if name not in _LATER)
_LATER_COUNTS = tuple(name for name in _ALL_COUNTS if name in _LATER)
_TYPES = {
    **dict.fromkeys(("module", "type", "rule", "severity", "event"), "category"),
    **dict.fromkeys(_COUNTS, "int64"),
    **dict.fromkeys(_LATER_COUNTS, "float64"),  # until they are checked
    **dict.fromkeys(_FLOATS, "float32"),
    **dict.fromkeys(("value", "limit"), "float64"),
}
_MOST = 10**18
"""No count is larger."""

_ORDINALS = ("epoch", "step_first", "step_last", "steps", "reported")
_RESTORE = "restore the file from a copy"


def read_windows(path: Path, layout: Layout) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows of ``gradwatch.csv``, whole windows only, and remarks on what is missing.

    Columns are found by their names: of ours, one that the file lacks is empty; others are kept
    behind ours, as text.

    Raises:
        FormatError: It is missing, or a line of it cannot be used.
    """
    content = _content(path)
    end = whole_windows(content, layout.modules[-1])
    table = _table(path, content, end, schema.WINDOW_NEEDED)
    _check_steps(path, table)
    remarks = (*_lacking(path, table, runlog.WINDOW_COLUMNS), *_torn(path, content, end))
    return _complete(table, runlog.WINDOW_COLUMNS), remarks


def read_alerts(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows of ``gradwatch_alerts.csv``, whole lines only, and remarks as in `read_windows`.

    ``reported`` is missing in every row of a file without that column.

    Raises:
        FormatError: It is missing, or a line of it cannot be used.
    """
    content = _content(path)
    end = whole_lines(content)
    table = _table(path, content, end, schema.ALERT_NEEDED)
    remarks = (*_lacking(path, table, schema.ALERT_COLUMNS), *_torn(path, content, end))
    return _complete(table, schema.ALERT_COLUMNS), remarks


def parse(content: bytes, names: Sequence[str] = runlog.WINDOW_COLUMNS) -> pd.DataFrame:
    """Rows of ``gradwatch.csv`` that follow its header.

    Args:
        content: Whole lines.
        names: Of the columns, from the header.

    Raises:
        ValueError: A line is not one of it, or the steps go back.
    """
    table = _parse(content, names, header=None)
    if not (_is_even(content, len(names)) and _is_possible(table)):
        raise ValueError("a line with too few or too many cells, or a negative count")
    if _steps_back(table).size:
        raise ValueError("the steps begin anew")
    return _complete(table, runlog.WINDOW_COLUMNS)


def grid_of(table: pd.DataFrame, layout: Layout) -> Grid:
    """The windows of a table by step; a module of the layout that has no row counts 0.

    Args:
        table: Rows of ``gradwatch.csv``.
        layout: Its modules are the columns; rows of other modules are left out.
    """
    firsts, where = np.unique(table["step_first"].to_numpy(), return_inverse=True)
    heads = table.iloc[np.unique(where, return_index=True)[1]]
    names = table["module"].astype("category").cat
    position = {name: m for m, name in enumerate(layout.modules)}
    places = np.array([position.get(name, -1) for name in names.categories], np.int64)
    columns = places[names.codes.to_numpy()] if len(table) else np.zeros(0, np.int64)
    known = columns >= 0
    cells = where[known], columns[known]
    shape = len(firsts), len(layout.modules)

    def spread(row: Quantity) -> Any:
        full = np.full(shape, row.empty, row.dtype)
        full[cells] = table[row.name].fillna(row.empty).to_numpy(row.dtype)[known]
        return full

    return Grid(
        **{name: heads[name].fillna(0).to_numpy(np.int64) for name in SHARED},
        clipped=heads["clipped"].fillna(UNKNOWN).to_numpy(np.int64),
        **{row.name: spread(row) for row in MEASURED},
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes().removeprefix(BOM_UTF8)  # which spreadsheets write
    except OSError as error:
        remedy = f"copy it from the run's folder, {schema.META_FILE} needs it beside it"
        raise FormatError(path, f"{error.strerror}; {remedy}") from None


def _table(path: Path, content: bytes, end: int, needed: Sequence[str]) -> pd.DataFrame:
    """The first ``end`` bytes of a CSV file with these columns at least."""
    if not end:
        raise FormatError(path, f"empty; {_RESTORE}")
    names = checked_header(path, content[: content.index(b"\n")], needed)
    whole = content[:end]
    try:
        table = _parse(whole, names, header=0) if _is_even(whole, len(names)) else None
    except ValueError:
        table = None
    if table is None or not _is_possible(table):
        raise _damage(path, whole, names)
    return table


def _complete(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """A checked table with these columns first, and empty ones for those that it lacks."""
    for name in columns:
        kind = _TYPES.get(name, "str")
        if name not in table:
            dtype: Any = "Int64" if kind == "int64" else kind
            empty = "" if kind in {"category", "str"} else np.nan
            table[name] = pd.Series(empty, table.index).astype(dtype)
        if name in _LATER_COUNTS:
            table[name] = table[name].astype("Int64")
    return table[[*columns, *(name for name in table if name not in columns)]]


def _lacking(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> tuple[str, ...]:
    """A sentence on columns that every version has and this file lacks."""
    lacking = [name for name in columns if name not in table and name not in _LATER]
    remark = f"{path.name} lacks {', '.join(lacking)}: what needs it is not judged"
    return (remark,) if lacking else ()


def _parse(content: bytes, names: Sequence[str], header: int | None) -> pd.DataFrame:
    types = {name: _TYPES.get(name, "str") for name in names}
    try:
        with np.errstate(invalid="ignore"):  # an infinite count is refused, not warned of
            table: pd.DataFrame = pd.read_csv(
                io.BytesIO(content),
                dtype=types,
                keep_default_na=False,
                na_values={name: [""] for name, kind in types.items() if kind.startswith("float")},
                names=list(names),
                header=header,
            )
    except OverflowError:
        raise ValueError("a number with too many digits") from None
    return table


def _is_even(content: bytes, columns: int) -> bool:
    """Whether every line has as many cells; pandas fills up short ones without a word.

    A NUL counts as damage: before pandas 3 a number ends there.
    """
    if b"\0" in content:
        return False
    if b'"' in content:
        return all(len(row) == columns for _, row in _rows(content))
    return content.count(b",") == (columns - 1) * content.count(b"\n")


def checked_header(path: Path, header: bytes, needed: Sequence[str]) -> tuple[str, ...]:
    """The names of the columns in the first line of a file.

    Raises:
        FormatError: A column that is needed is missing, one is there twice, or it is another file.
    """
    found = schema.column_names(header)
    missing = [name for name in needed if name not in found]
    is_other = f"line 1 is not the header of {path.name}"
    if len(missing) > len(needed) / 2:
        raise FormatError(path, f"{is_other}; is it a file of another tool?", line=1)
    if missing:
        what = f"line 1: column {missing[0]!r} is missing; {_RESTORE} with all its columns"
        raise FormatError(path, what, line=1, column=missing[0])
    if len(set(found)) < len(found) or not all(map(str.isprintable, found)):
        raise FormatError(path, f"{is_other}; {_RESTORE} with its own columns", line=1)
    return found


def _is_possible(table: pd.DataFrame) -> bool:
    """Whether no count is negative or above int64, and none of those 0 that begin at 1.

    Of numbers above int64 pandas 2.0 makes a column of uint64, later ones refuse them.
    """
    counts = [table[name] for name in _COUNTS if name in table]
    later = [table[name].dropna() for name in _LATER_COUNTS if name in table]
    return all(
        column.dtype == "int64" and (column >= (column.name in _ORDINALS)).all()
        for column in counts
    ) and all(
        (column.between(column.name in _ORDINALS, _MOST) & (column % 1 == 0)).all()
        for column in later
    )


def _damage(path: Path, content: bytes, columns: Sequence[str]) -> FormatError:
    """The first line that cannot be used."""
    for line, row in _rows(content):
        if line > 1 and row == list(columns):
            what = f"line {line} is a second header: two runs in one file; keep the lines of one"
            return FormatError(path, what, line=line)
        if len(row) != len(columns):
            what = f"line {line} has {len(row)} cells instead of {len(columns)}; {_RESTORE}"
            return FormatError(path, what, line=line)
        for name, text in zip(columns, row, strict=True) if line > 1 else ():
            if not re.fullmatch(_PATTERNS.get(name, ".*"), text):
                what = f"line {line}: {text!r} is no {name}; {_RESTORE}"
                return FormatError(path, what, line=line, column=name)
    return FormatError(path, f"not a table; {_RESTORE}")


def _rows(content: bytes) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line, with its number."""
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        yield number, schema.cells(line)


_NUMBER = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?|[-+]?inf"
_CELLS = {"int64": "[0-9]{1,18}", "float32": f"({_NUMBER})?", "float64": _NUMBER}
_PATTERNS = {
    **{name: _CELLS[kind] for name, kind in _TYPES.items() if kind in _CELLS},
    **dict.fromkeys(_ORDINALS, "[1-9][0-9]{0,17}"),
    **dict.fromkeys(_LATER_COUNTS, "([0-9]{1,18})?"),
    "reported": "([1-9][0-9]{0,17})?",
}
"""What a cell must look like, by its column."""


def _check_steps(path: Path, table: pd.DataFrame) -> None:
    """Refuse rows in which the steps go back: a run only ever goes on."""
    rows = _steps_back(table)
    if rows.size:
        step, line = table["step_first"].iloc[rows.min()], int(rows.min()) + 2
        again = f"line {line}: the steps begin again at {step}"
        remedy = "two runs in one file? keep the lines of one"
        raise FormatError(path, f"{again}; {remedy}", line=line, column="step_first")


def _steps_back(table: pd.DataFrame) -> Counts:
    """Rows with a step before that of the row above, or with a window and module once more."""
    firsts = table["step_first"].to_numpy()
    codes = table["module"].cat.codes.to_numpy()
    keys = firsts * (len(table["module"].cat.categories) + 1) + codes
    again = np.flatnonzero(pd.Series(keys).duplicated())
    return np.concatenate([np.flatnonzero(np.diff(firsts) < 0) + 1, again])


def _torn(path: Path, content: bytes, end: int) -> tuple[str, ...]:
    """A sentence on what follows the last whole part of a file, if anything does."""
    rest = content[end:]
    if not rest:
        return ()
    line = content.count(b"\n", 0, end) + 1
    lines = rest.count(b"\n") + (not rest.endswith(b"\n"))
    are = "lines are" if lines > 1 else "line is"
    remark = (
        f"{path.name} has a torn end: from line {line} on, {lines} {are} left out (is it being "
        "written, or was the training killed?)"
    )
    return (remark,)
