"""Reads the numbers of each epoch from `results.csv`, a file that Ultralytics writes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from yolo_gradwatch.measure.arrays import Counts, Floats

RESULTS_FILE = "results.csv"

_LARGEST = 8 << 20  # bytes read, about 50,000 epochs
_MOST = 5  # curves of each kind
_SCORES = ("mAP50(", "mAP50-95(", "accuracy_top1", "mIoU", "delta1")

_BEST = ("mAP50-95(", "accuracy_top1", "mIoU", "delta1")
"""The main score of each task."""

_Rows = dict[int, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Curves:
    """The numeric columns of E epochs, by name.

    Attributes:
        epochs: (E,) increasing.
        losses: (E,) mean of each loss item over the epoch; NaN where missing.
        rates: (E,) learning rate of each parameter group; equal ones share one key with all names.
        scores: (E,) validation scores; NaN in an epoch without validation.
    """

    epochs: Counts
    losses: dict[str, Floats]
    rates: dict[str, Floats]
    scores: dict[str, Floats]


def read(folder: Path) -> Curves:
    """Return the curves in a run's folder; empty if the file is missing or has no usable content.

    If a resumed training repeated an epoch, its last row counts.
    """
    rows = _rows(_text(folder / RESULTS_FILE))
    epochs = sorted(rows)
    names = dict.fromkeys(name for epoch in epochs for name in rows[epoch])
    is_validated = _validated(rows, epochs, [name for name in names if name.startswith("val/")])

    def curves(belongs: Callable[[str], bool]) -> dict[str, Floats]:
        found: dict[str, Floats] = {}
        for name in filter(belongs, names):
            values = np.array([rows[epoch].get(name, math.nan) for epoch in epochs])
            if np.isfinite(values).any() and len(found) < _MOST:
                found[name.partition("/")[2]] = np.where(np.isfinite(values), values, np.nan)
        return found

    scores = curves(lambda name: name.startswith("metrics/") and any(s in name for s in _SCORES))
    return Curves(
        epochs=np.array(epochs, np.int64),
        losses=curves(lambda name: name.startswith("train/")),
        rates=_merged(curves(lambda name: name.startswith("lr/"))),
        scores={
            name: np.where(is_validated, values, np.nan)
            for name, values in scores.items()
            if any(is_validated)
        },
    )


@dataclass(frozen=True, slots=True)
class Final:
    """The final numbers of a training.

    Attributes:
        epoch: The newest epoch; 0 if there is none.
        loss: Sum of its loss items; NaN if there is none, or one is not finite.
        metric: Name of the main score of the task, as ``mAP50-95(B)``; "" if there is none.
        score: Its value in the newest validated epoch; NaN if there was none.
    """

    epoch: int = 0
    loss: float = math.nan
    metric: str = ""
    score: float = math.nan


def final(folder: Path) -> Final:
    """Return the newest numbers in a run's folder, from whatever part of the file is usable."""
    rows = _rows(_text(folder / RESULTS_FILE))
    if not rows:
        return Final()
    epochs = sorted(rows)
    last = rows[epochs[-1]]
    losses = [value for name, value in last.items() if name.startswith("train/")]
    loss = math.fsum(losses) if losses and all(map(math.isfinite, losses)) else math.nan
    found = (name for best in _BEST for name in last if best in name)
    column = next((name for name in found if name.startswith("metrics/")), "")
    score = _newest(rows, epochs, column) if column else math.nan
    return Final(epochs[-1], loss, column.removeprefix("metrics/"), score)


def _newest(rows: _Rows, epochs: Sequence[int], column: str) -> float:
    """Return a score in the newest validated epoch."""
    checks = [name for name in rows[epochs[-1]] if name.startswith("val/")]
    validated = zip(epochs, _validated(rows, epochs, checks), strict=True)
    newest = max((epoch for epoch, is_validated in validated if is_validated), default=None)
    score = math.nan if newest is None else rows[newest].get(column, math.nan)
    return score if math.isfinite(score) else math.nan


def _text(path: Path) -> str:
    """Return the beginning of a file; "" if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST).decode("utf-8-sig", "replace")
    except OSError:
        return ""


def _rows(text: str) -> _Rows:
    """Return the numbers of each epoch by column, without lines that are torn or do not fit."""
    rows: _Rows = {}
    header: list[str] = []
    for line in text.splitlines(keepends=True):
        cells = [cell.strip() for cell in line.split(",")]
        if cells[0] == "epoch":
            header = cells
        elif line.endswith(("\n", "\r")) and len(cells) == len(header):
            row = dict(zip(header, map(_number, cells), strict=True))
            if math.isfinite(row["epoch"]):
                rows[int(row["epoch"])] = row
    return rows


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _validated(rows: _Rows, epochs: Sequence[int], columns: Sequence[str]) -> list[bool]:
    """Return whether each epoch was validated; if not, its losses are repeated or 0."""
    found, before = [], tuple(0.0 for _ in columns)
    for epoch in epochs:
        now = tuple(rows[epoch].get(name, 0.0) for name in columns)
        found.append(now != before or not columns)
        before = now
    return found


def _merged(curves: dict[str, Floats]) -> dict[str, Floats]:
    """Merge equal curves into one that has all their names."""
    groups: list[tuple[list[str], Floats]] = []
    for name, values in curves.items():
        same = [names for names, other in groups if np.array_equal(values, other, equal_nan=True)]
        if same:
            same[0].append(name)
        else:
            groups.append(([name], values))
    return {" = ".join(names): values for names, values in groups}
