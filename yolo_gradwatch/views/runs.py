"""What a table of runs shows: their names, their first finding, their numbers as text."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from yolo_gradwatch.plain import printable

_WORST_FIRST = ("unhealthy", "no verdict", "healthy")


class Shown(NamedTuple):
    """A row of the table as text; "" where something is not known.

    Attributes:
        name: The run's folder, from the one that was asked for on.
        finding: Its first finding, as in ``dead in model.4.conv, step 1,218``.
        severity: Of its worst finding; None if it has none.
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
    """The rows of a table of runs as text that no terminal takes for a command.

    Args:
        table: What `load_runs` gives.
        above: The folder that was asked for.
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
    """A run's folder from the one above it on, as a terminal can show it."""
    own = run.relative_to(above) if run.is_relative_to(above) else run
    return str(printable(str(own) if own.parts else run.resolve().name or str(run)))


def metric(table: pd.DataFrame) -> str:
    """What the scores are, without the ``(B)`` of boxes; ``score`` where runs differ in that."""
    names = set(table["metric"]) - {""}
    return str(printable(names.pop().removesuffix("(B)"))) if len(names) == 1 else "score"


def counts(table: pd.DataFrame, above: Path) -> tuple[str, str]:
    """How many runs there are, and how many of each verdict."""
    number = Counter(table["verdict"])
    parts = [
        f"{number[verdict]:,} {'without a verdict' if verdict == 'no verdict' else verdict}"
        for verdict in _WORST_FIRST
        if number[verdict]
    ]
    runs = f"{len(table):,} watched run{'' if len(table) == 1 else 's'}"
    return f"{runs} in {printable(str(above))}", ", ".join(parts)


def remarks(table: pd.DataFrame, above: Path) -> list[tuple[str, list[str]]]:
    """Each remark with the names of the runs that have it, in the order of the table."""
    having: dict[str, list[str]] = defaultdict(list)
    for run, said in zip(table["run"], table["remarks"], strict=True):
        if said:
            having[str(printable(said))].append(name_of(Path(run), above))
    return list(having.items())


def ordered(table: pd.DataFrame, column: str, *, backwards: bool = False) -> pd.DataFrame:
    """The runs by one column; what is not known comes last.

    Args:
        table: What `load_runs` gives.
        column: Of it: numbers and times from the highest, verdicts from the worst, texts from A.
        backwards: The other way round.
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
    """What a value is sorted by; None if it is not known."""
    if isinstance(value, str):
        return value.casefold() or None
    return None if pd.isna(value) else value
