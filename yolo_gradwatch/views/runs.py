"""Texts for a table of runs: their names, first findings and numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from yolo_gradwatch.diagnose.phrases import counted
from yolo_gradwatch.plain import printable

_WORST_FIRST = ("unhealthy", "no verdict", "healthy")


class Shown(NamedTuple):
    """A row of the table as text; "" for unknown values.

    Attributes:
        name: Folder of the run, relative to the requested one.
        finding: First finding, such as ``dead in model.4.conv, step 1,218``.
        severity: Severity of the worst finding; None if there is none.
    """

    name: str
    verdict: str
    severity: str | None
    finding: str
    status: str
    epochs: str
    score: str
    loss: str
    steps: str
    clipped: str
    optimizer: str
    lr0: str


def shown(table: pd.DataFrame, above: Path) -> list[Shown]:
    """Convert the rows of a table of runs to text without control characters.

    Args:
        table: Result of `load_runs`.
        above: Requested folder.
    """
    rows = [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]
    return [_shown(row, above) for row in rows]


def _shown(row: dict[str, Any], above: Path) -> Shown:
    planned = _number(row["epochs_planned"], "d")
    worst = "critical" if row["critical"] else "warning" if row["warnings"] else None
    finding = f"{row['rule']} in {row['module']}, step {row['step']:,}" if row["rule"] else ""
    return Shown(
        name=name_of(Path(str(row["run"])), above),
        verdict=str(row["verdict"]),
        severity=worst,
        finding=printable(finding),
        status=str(row["status"]),
        epochs="/".join(filter(None, [_number(row["epochs"], "d"), planned])),
        score=_number(row["score"], ".3f"),
        loss=_number(row["loss"], ".3g"),
        steps=_number(row["steps"], ","),
        clipped=_number(row["clipped"], ".0%"),
        optimizer=printable(row["optimizer"]),
        lr0=_number(row["lr0"], "g"),
    )


def _number(value: Any, form: str) -> str:
    return "" if pd.isna(value) else format(value, form)


def name_of(run: Path, above: Path) -> str:
    """Return a run's folder relative to the one above it, as printable text."""
    own = run.relative_to(above) if run.is_relative_to(above) else run
    return str(printable(str(own) if own.parts else run.resolve().name or str(run)))


def metric(table: pd.DataFrame) -> str:
    """Name the metric of the scores, without the ``(B)`` of boxes; ``score`` if they differ."""
    names = set(table["metric"]) - {""}
    return str(printable(names.pop().removesuffix("(B)"))) if len(names) == 1 else "score"


def counts(table: pd.DataFrame, above: Path) -> tuple[str, str]:
    """Say how many runs there are, and how many have each verdict."""
    number = Counter(table["verdict"])
    parts = [
        f"{number[verdict]:,} {'without a verdict' if verdict == 'no verdict' else verdict}"
        for verdict in _WORST_FIRST
        if number[verdict]
    ]
    return f"{counted(len(table), 'watched run')} in {printable(str(above))}", ", ".join(parts)


def remarks(table: pd.DataFrame, above: Path) -> list[tuple[str, list[str]]]:
    """Return each remark with the names of its runs, in the order of the table."""
    having: dict[str, list[str]] = defaultdict(list)
    for run, said in zip(table["run"], table["remarks"], strict=True):
        if said:
            having[str(printable(said))].append(name_of(Path(run), above))
    return list(having.items())


def ordered(table: pd.DataFrame, column: str, *, backwards: bool = False) -> pd.DataFrame:
    """Sort the runs by a column; unknown values come last.

    Args:
        table: Result of `load_runs`.
        column: Column of it: numbers and times from the highest, verdicts from the worst, texts
            from A.
        backwards: Reverse the order.
    """
    values = table[column]
    if column == "verdict":
        values = values.map(list(_WORST_FIRST).index)
    is_text = values.dtype == object
    keys = [_key(value) for value in values]
    known = [i for i, key in enumerate(keys) if key is not None]
    rises = (is_text or column == "verdict") != backwards
    known.sort(key=lambda i: keys[i], reverse=not rises)
    unknown = [i for i, key in enumerate(keys) if key is None]
    return table.iloc[[*known, *unknown]].reset_index(drop=True)


def _key(value: Any) -> Any:
    """Return the sort key of a value; None if it is unknown."""
    if isinstance(value, str):
        return value.casefold() or None
    return None if pd.isna(value) else value
