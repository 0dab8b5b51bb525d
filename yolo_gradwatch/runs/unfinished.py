"""Finds steps in a table of windows that ``gradwatch.json`` does not list yet."""

from __future__ import annotations

import math
import re
from itertools import groupby
from typing import TYPE_CHECKING

from yolo_gradwatch.measure.clipping import EpochClipping
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.runs.repair import whole_windows
from yolo_gradwatch.runs.schema import cells, header_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_NEEDED = {"epoch", "step_first", "step_last", "module", "steps"}
_COUNT = re.compile("[0-9]{1,18}")
_BLOCK = 1 << 16  # bytes, those of a window or two


def epochs_since(path: Path, last_module: str, step: int) -> list[EpochClipping]:
    """Return the passes over an epoch after a step, as far as whole windows show them.

    Only steps, clipped and skipped steps are known. Unreadable lines are left out.

    Args:
        path: The ``gradwatch.csv``.
        last_module: Last module of the layout.
        step: The newest step already known.
    """
    names = header_of(path)
    if not set(names) >= _NEEDED:
        return []
    try:
        content = _end_of(path, names.index("step_first"), step)
    except OSError:
        return []
    newest = content[: content.rfind(b"\n")].rpartition(b"\n")[2]  # last whole line
    if _number(dict(zip(names, cells(newest), strict=False)), "step_last") <= step:
        return []
    end = whole_windows(content, last_module, names)
    rows = [row for row in _whole_model(content[:end], names) if row["step_first"] > step]
    passes = groupby(rows, key=lambda row: row["epoch"])
    return [_pass(epoch, list(found)) for epoch, found in passes]


def _number(row: dict[str, str], name: str) -> float:
    """Return a count in a row; Inf if there is none, as in a torn row."""
    text = row.get(name, "")
    return int(text) if _COUNT.fullmatch(text) else math.inf


def _end_of(path: Path, place: int, step: int) -> bytes:
    """Return whole lines at the end of a table: all rows after a step, and some before it.

    Args:
        path: The table.
        place: Index of the column ``step_first``.
        step: All rows after this step are wanted.
    """
    with path.open("rb") as file:
        size, block = file.seek(0, 2), _BLOCK
        while True:
            begin = max(size - block, 0)
            file.seek(begin)
            content = file.read(size - begin).partition(b"\n")[2]
            first = (cells(content.partition(b"\n")[0])[place:] or [""])[0]
            if not begin or (_COUNT.fullmatch(first) and int(first) <= step):
                return content
            block *= 4


def _whole_model(content: bytes, names: Sequence[str]) -> Iterator[dict[str, int]]:
    """Yield the counts in the rows of the whole model, without unusable lines."""
    word = f",{WHOLE},".encode()
    columns = [name for name in (*_NEEDED, "clipped", "skipped") if name != "module"]
    for line in content.split(b"\n"):
        row = dict(zip(names, cells(line), strict=False)) if word in line else {}
        counts = {name: row.get(name) or "0" for name in columns}
        if row.get("module") == WHOLE and all(map(_COUNT.fullmatch, counts.values())):
            yield {name: int(text) for name, text in counts.items()}


def _pass(epoch: int, rows: Sequence[dict[str, int]]) -> EpochClipping:
    steps, clipped, skipped = (
        sum(row[name] for row in rows) for name in ("steps", "clipped", "skipped")
    )
    return EpochClipping(epoch, steps, clipped, skipped, step_last=rows[-1]["step_last"])
