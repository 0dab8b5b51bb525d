"""Repairs the tables of a killed run so that a resumed training can append to them."""

from __future__ import annotations

import csv
import os
from itertools import count
from typing import TYPE_CHECKING

from yolo_gradwatch.measure.quantities import QUANTITIES
from yolo_gradwatch.runs import evidence
from yolo_gradwatch.runs.atomic import replacing
from yolo_gradwatch.runs.schema import (
    ALERT_COLUMNS,
    ALERTS_FILE,
    FLOW_COLUMNS,
    FLOW_FILE,
    LOSS_COLUMNS,
    LOSSES_FILE,
    RUN_FILES,
    WINDOW_COLUMNS,
    WINDOWS_FILE,
    FormatError,
    cells,
    column_names,
    header_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_ALL = (*RUN_FILES, FLOW_FILE, LOSSES_FILE, evidence.FOLDER, evidence.OLD_FOLDER)

_FILLED = (
    *("epoch", "parameters", "skipped"),
    *(row.name for row in QUANTITIES if row.is_count and row.since == 1),
)
"""Integer columns, in which a reader accepts no empty cell."""


def whole_windows(content: bytes, last_module: str, names: Sequence[str] = ()) -> int:
    """Return the bytes of a ``gradwatch.csv`` up to the end of its last whole window.

    A killed training may leave a torn line, or a window with rows missing. A window is whole if it
    ends with the last module of the layout, or like the window before it, since a resumed training
    may watch other modules than its first part.

    Args:
        content: Content of the file.
        last_module: Last module of the layout.
        names: Column names; by default those in the first line.
    """
    end = whole_lines(content)
    names = names or column_names(content[: content.find(b"\n") + 1])
    if not {"step_first", "module"} <= set(names):
        return end
    places = names.index("step_first"), names.index("module")
    begin, step, ends_with = end, None, ""
    for line in _lines_backwards(content, end):
        row = cells(line)
        first, module = (row[i] if i < len(row) else "" for i in places)
        if step is None:
            step, ends_with = first, module
        elif first != step:
            return end if ends_with in (module, last_module) else begin
        begin -= len(line)
    return end


def whole_lines(content: bytes) -> int:
    """Return the bytes of a file up to the end of its last whole line."""
    return content.rfind(b"\n") + 1


def _lines_backwards(content: bytes, end: int) -> Iterator[bytes]:
    while end:
        begin = content.rfind(b"\n", 0, end - 1) + 1
        yield content[begin:end]
        end = begin


def set_aside(folder: Path, names: Sequence[str] = _ALL) -> None:
    """Rename files of a run to ``*.old``, so that new ones do not replace them.

    If files were set aside before, these become ``*.old2``, and so on.

    Args:
        folder: The run's folder.
        names: Files and folders in it, by default all that cannot be written again.
    """
    paths = [folder / name for name in names if (folder / name).exists()]
    endings = (f".old{number}" if number > 1 else ".old" for number in count(1))
    free = next(one for one in endings if not any(_with(path, one).exists() for path in paths))
    for path in paths:
        path.replace(_with(path, free))


def _with(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def mend(folder: Path, last_module: str) -> None:
    """Prepare the tables of a run for a resumed training, which appends to them.

    A torn end is cut off, and tables of earlier versions get their missing columns.

    Raises:
        FormatError: A table lacks a column that cannot be empty; nothing was changed.
    """
    windows, alerts, losses = (folder / name for name in (WINDOWS_FILE, ALERTS_FILE, LOSSES_FILE))
    tables = {windows: WINDOW_COLUMNS, alerts: ALERT_COLUMNS, losses: LOSS_COLUMNS}
    for path, columns in tables.items():
        found = header_of(path)
        lacking = [name for name in columns if name in _FILLED and name not in found]
        if found and lacking:
            what = f"lacks {', '.join(lacking)}; a run cannot be resumed from it"
            raise FormatError(path, what, line=1, column=lacking[0])
    _cut(windows, lambda content: whole_windows(content, last_module))
    _cut(alerts, whole_lines)
    _cut(losses, lambda content: _whole_losses(content, _last_step(windows)))
    for path, columns in tables.items():
        _complete(path, columns)


def _last_step(windows: Path) -> int:
    """Return the first step of the last window in a table of whole windows; 0 if none."""
    names, content = header_of(windows), windows.read_bytes() if windows.exists() else b""
    last = cells(next(_lines_backwards(content, len(content)), b""))
    step = dict(zip(names, last, strict=False)).get("step_first", "")
    return int(step) if step.isdecimal() else 0


def _whole_losses(content: bytes, last: int) -> int:
    """Return the bytes of a ``gradwatch/losses.csv`` up to the last row of a whole window.

    Loss rows are written before the rows of their window.
    """
    end = whole_lines(content)
    names = column_names(content[: content.find(b"\n") + 1])
    for line in _lines_backwards(content, end):
        step = dict(zip(names, cells(line), strict=False)).get("step_first", "")
        if not step.isdecimal() or int(step) <= last:
            break
        end -= len(line)
    return end


def mend_flow(folder: Path, end: int) -> None:
    """Prepare the table of traces likewise.

    Args:
        folder: The run's folder.
        end: Number of lines to keep, including the header; 0 sets the whole file aside.
    """
    path = folder / FLOW_FILE
    if end:
        _cut(path, lambda content: sum(len(line) + 1 for line in content.split(b"\n")[:end]))
        _complete(path, FLOW_COLUMNS)
    else:
        set_aside(folder, [FLOW_FILE])


def _cut(path: Path, end: Callable[[bytes], int]) -> None:
    if path.exists():
        os.truncate(path, end(path.read_bytes()))


def _complete(path: Path, columns: Sequence[str]) -> None:
    """Put ``columns`` first, empty where the table lacks them, and other columns after them."""
    found = header_of(path)
    wanted = [*columns, *(name for name in found if name not in columns)]
    if not found or list(found) == wanted:
        return
    with (
        path.open(newline="", encoding="utf-8-sig") as old,
        replacing(path) as draft,
        draft.open("w", newline="", encoding="utf-8") as new,
    ):
        table = csv.DictWriter(new, wanted, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(csv.DictReader(old))
