"""Reads a run's CSV files as checked tables, and as arrays over windows and modules."""

from __future__ import annotations

import io
from codecs import BOM_UTF8
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from yolo_gradwatch.measure.quantities import QUANTITIES
from yolo_gradwatch.measure.windows import SHARED, UNKNOWN, Grid
from yolo_gradwatch.runs import checks, schema
from yolo_gradwatch.runs.repair import whole_lines, whole_windows
from yolo_gradwatch.runs.schema import RESTORE, FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.quantities import Quantity


def read_windows(path: Path, layout: Layout) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the rows of ``gradwatch.csv``, whole windows only, and remarks on what is missing.

    Columns are found by name: columns of ours that the file lacks are empty; others are kept
    after ours, as text.

    Raises:
        FormatError: It is missing, or one of its lines cannot be used.
    """
    content = _content(path)
    end = whole_windows(content, layout.modules[-1])
    table = _table(path, content, end, schema.WINDOW_NEEDED)
    checks.check_steps(path, table)
    remarks = (*_lacking(path, table, schema.WINDOW_COLUMNS), *_torn(path, content, end))
    return _complete(table, schema.WINDOW_COLUMNS), remarks


def read_alerts(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the rows of ``gradwatch_alerts.csv``, whole lines only, and remarks.

    ``reported`` is missing in every row of a file without that column.

    Raises:
        FormatError: It is missing, or one of its lines cannot be used.
    """
    content = _content(path)
    end = whole_lines(content)
    table = _table(path, content, end, schema.ALERT_NEEDED)
    remarks = (*_lacking(path, table, schema.ALERT_COLUMNS), *_torn(path, content, end))
    return _complete(table, schema.ALERT_COLUMNS), remarks


def read_losses(path: Path, last: float) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the rows of ``gradwatch/losses.csv`` and remarks; empty without a file.

    Args:
        path: The file.
        last: First step of the last whole window; rows of later ones are left out.

    Raises:
        FormatError: It cannot be read, or one of its lines cannot be used.
    """
    if not path.exists():
        return no_losses(), ()
    content = _content(path)
    end = whole_lines(content)
    table = _table(path, content, end, schema.LOSS_NEEDED)
    checks.check_steps(path, table, "item")
    remarks = (*_lacking(path, table, schema.LOSS_COLUMNS), *_torn(path, content, end))
    table = _complete(table, schema.LOSS_COLUMNS)
    return table[table["step_first"] <= last].reset_index(drop=True), remarks


def no_losses() -> pd.DataFrame:
    """Return an empty table of loss items, for a run without such a file."""
    columns = schema.LOSS_COLUMNS
    return _complete(_parse(f"{','.join(columns)}\n".encode(), columns, header=0), columns)


def read_flow(path: Path) -> pd.DataFrame:
    """Return the rows of ``gradwatch/flow.csv``, whole lines only; empty without a file.

    A number is NaN if it was not measured, or was NaN.

    Raises:
        FormatError: One of its lines cannot be used.
    """
    content = _content(path) if path.exists() else ",".join(schema.FLOW_COLUMNS).encode() + b"\n"
    table = _table(path, content, whole_lines(content), schema.FLOW_NEEDED)
    checks.check_calls(path, table)
    return _complete(table, schema.FLOW_COLUMNS)


def parse(content: bytes, names: Sequence[str] = schema.WINDOW_COLUMNS) -> pd.DataFrame:
    """Parse rows of ``gradwatch.csv`` that follow its header.

    Args:
        content: Whole lines.
        names: Column names, from the header.

    Raises:
        ValueError: A line does not fit the table, or the steps go back.
    """
    table = _parse(content, names, header=None)
    if not (checks.is_even(content, len(names)) and checks.is_possible(table)):
        raise ValueError("a line with too few or too many cells, or a negative count")
    if checks.steps_back(table).size:
        raise ValueError("the steps go back")
    return _complete(table, schema.WINDOW_COLUMNS)


def grid_of(table: pd.DataFrame, layout: Layout) -> Grid:
    """Return the windows of a table by step; a module of the layout without a row counts 0.

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
        **{row.name: spread(row) for row in QUANTITIES},
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes().removeprefix(BOM_UTF8)  # which spreadsheets write
    except OSError as error:
        remedy = f"copy it from the run's folder, {schema.META_FILE} needs it beside it"
        raise FormatError(path, f"{error.strerror}; {remedy}") from None


def _table(path: Path, content: bytes, end: int, needed: Sequence[str]) -> pd.DataFrame:
    """Read the first ``end`` bytes of a CSV file that has at least these columns."""
    if not end:
        raise FormatError(path, f"empty; {RESTORE}")
    names = checks.checked_header(path, content[: content.index(b"\n")], needed)
    whole = content[:end]
    try:
        table = _parse(whole, names, header=0) if checks.is_even(whole, len(names)) else None
    except ValueError:
        table = None
    if table is None or not checks.is_possible(table):
        raise checks.first_damage(path, whole, names)
    return table


def _complete(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return a checked table with these columns first, those that it lacks empty."""
    for name in columns:
        kind = schema.TYPES.get(name, "str")
        if name not in table:
            dtype: Any = "Int64" if kind == "int64" else kind
            empty = "" if kind in {"category", "str"} else np.nan
            table[name] = pd.Series(empty, table.index).astype(dtype)
        if name in schema.LATER_COUNTS:
            table[name] = table[name].astype("Int64")
    return table[[*columns, *(name for name in table if name not in columns)]]


def _lacking(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> tuple[str, ...]:
    """Return a remark on columns that every version has and this file lacks."""
    lacking = [name for name in columns if name not in table and name not in schema.LATER]
    remark = f"{path.name} lacks {', '.join(lacking)}: rules that need it are not judged"
    return (remark,) if lacking else ()


def _parse(content: bytes, names: Sequence[str], header: int | None) -> pd.DataFrame:
    types = {name: schema.TYPES.get(name, "str") for name in names}
    try:
        with np.errstate(invalid="ignore"):  # an infinite count is refused later
            table: pd.DataFrame = pd.read_csv(
                io.BytesIO(content),
                dtype=types,
                keep_default_na=False,
                na_values={name: _empty(name) for name in types if types[name].startswith("float")},
                names=list(names),
                header=header,
            )
    except OverflowError:
        raise ValueError("a number with too many digits") from None
    return table


def _empty(name: str) -> list[str]:
    """Return the cell texts that mean no number in a column."""
    return ["", "nan"] if name in schema.FLOW_NUMBERS else [""]


def _torn(path: Path, content: bytes, end: int) -> tuple[str, ...]:
    """Return a remark on what follows the last whole part of a file, if anything does."""
    rest = content[end:]
    if not rest:
        return ()
    line = content.count(b"\n", 0, end) + 1
    lines = rest.count(b"\n") + (not rest.endswith(b"\n"))
    which = f"{lines} lines from line {line} on are" if lines > 1 else f"line {line} is"
    remark = (
        f"{path.name} ends in an incomplete line: {which} ignored (is the file still being "
        "written, or was the training killed?)"
    )
    return (remark,)
