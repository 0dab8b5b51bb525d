"""Converts traces through the modules to rows of ``gradwatch/flow.csv``, and back."""

from __future__ import annotations

import sys
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.measure.trace import Call, Flow
from yolo_gradwatch.runs.schema import FLOW_NUMBERS, cells, column_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def rows(flow: Flow) -> Iterator[list[object]]:
    """Yield one row per call; nine digits restore a float32 exactly."""
    for call in flow.calls:
        values = asdict(call)
        numbers = [values.pop(name) for name in FLOW_NUMBERS]
        texts = ["" if number is None else f"{number:.9g}" for number in numbers]
        yield [flow.epoch, flow.step, *values.values(), *texts]


def newest(path: Path, epochs: tuple[int, int] | None = None) -> Flow | None:
    """Return the last trace of a table that `tables.read_flow` accepts; None if there is none.

    Args:
        path: The table.
        epochs: First and last epoch to look at; all of them by default.
    """
    low, high = epochs or (1, sys.maxsize)
    found: list[dict[str, str]] = []
    for row in reversed(_rows(path)):
        if found and row["step"] != found[-1]["step"]:
            break
        if low <= int(row["epoch"]) <= high:
            found.append(row)
    return _flow(found[::-1]) if found else None


def all_of(path: Path) -> list[Flow]:
    """Return the traces of a table that `tables.read_flow` accepts, in order."""
    return [_flow(list(found)) for _, found in groupby(_rows(path), itemgetter("step"))]


def _rows(path: Path) -> list[dict[str, str]]:
    """Return the whole lines, each as a dict by column."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    names = column_names(lines[0]) if lines else ()
    return [dict(zip(names, cells(line), strict=True)) for line in lines[1:]]


def _flow(rows: Sequence[dict[str, str]]) -> Flow:
    calls = tuple(map(_call, rows))
    return Flow(int(rows[0]["epoch"]), int(rows[0]["step"]), calls)


def _call(row: dict[str, str]) -> Call:
    texts = {name: row.get(name, "") for name in FLOW_NUMBERS}
    return Call(
        order=int(row["order"]),
        module=row["module"],
        call=int(row["call"]),
        type=row.get("type", ""),
        elements=int(row.get("elements") or 0),
        **{name: float(np.float32(text)) if text else None for name, text in texts.items()},
    )
