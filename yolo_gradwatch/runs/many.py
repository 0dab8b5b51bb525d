"""All watched runs of a folder as one table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from yolo_gradwatch.runs.find import tree_of
from yolo_gradwatch.runs.glance import glance
from yolo_gradwatch.runs.meta import MOST_STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from yolo_gradwatch.runs.glance import Glance

COLUMNS = {
    **dict.fromkeys(("run", "verdict", "rule", "module"), "object"),
    **dict.fromkeys(("step", "critical", "warnings"), "Int64"),
    "status": "object",
    **dict.fromkeys(("epochs", "epochs_planned", "steps"), "Int64"),
    "metric": "object",
    **dict.fromkeys(("score", "loss", "clipped"), "float64"),
    "optimizer": "object",
    "lr0": "float64",
    "written": "datetime64[ns, UTC]",
    "remarks": "object",
}
"""Columns of the table, with their pandas types."""

_LATEST = 9e9
"""Seconds since 1970, within what pandas can represent; a later clock is wrong."""


def load_runs(path: str | Path) -> pd.DataFrame:
    """Return a table of all watched runs in a folder and below it, newest first, one row per run.

    It uses the small files of a run, not ``gradwatch.csv``: the findings are those that the
    training reported. A run whose files are damaged, incomplete or still growing gets a row with
    what is known about it.

    Args:
        path: A folder such as ``runs/detect``, or that of a Ray experiment.

    Returns:
        A table with these columns; unknown numbers are missing, unknown texts are "".

        - ``run``: its folder, as `load_run` takes it
        - ``verdict``: ``healthy``, ``unhealthy``, or ``no verdict``
        - ``rule``, ``module``, ``step``: of the first finding above a notice
        - ``critical``, ``warnings``: number of findings of each severity
        - ``status``: ``running``, ``finished``, ``failed``, ``interrupted``, ``killed`` or
          ``unknown``
        - ``epochs``, ``epochs_planned``, ``steps``: the newest epoch, the planned number of epochs,
          and captured optimizer steps
        - ``metric``, ``score``: name and newest value of the main score of the task, such as
          ``mAP50-95(B)``
        - ``loss``: sum of the training's loss items in the newest epoch
        - ``clipped``: share of the steps that were clipped, 0 to 1
        - ``optimizer``, ``lr0``: their effective values, under ``optimizer=auto`` too
        - ``written``: when the newest window was written (UTC)
        - ``remarks``: which parts of the files cannot be used, and why too little was watched

    Raises:
        FormatError: There is no watched run.
    """
    return table(glances(tree_of(path).runs))


def glances(
    folders: Sequence[Path], progress: Callable[[int, int], None] | None = None
) -> list[Glance]:
    """Return what is known about the runs in these folders, newest first.

    Args:
        folders: Folders of runs.
        progress: Called with the number of runs read and the total.
    """
    found = []
    for done, folder in enumerate(folders, 1):
        found.append(glance(folder))
        if progress:
            progress(done, len(folders))
    return sorted(found, key=lambda one: -one.written)


def table(found: Iterable[Glance]) -> pd.DataFrame:
    """Return the runs as a table, see `load_runs`."""
    return pd.DataFrame([_row(one) for one in found], columns=list(COLUMNS)).astype(COLUMNS)


def _row(one: Glance) -> dict[str, Any]:
    report, final = one.report, one.final
    first = report.alarms[0] if report.alarms else None
    severities = [finding.severity for finding in report.alarms]
    return {
        "run": str(report.run),
        "verdict": one.verdict,
        "rule": first.rule if first else "",
        "module": first.module if first else "",
        "step": first.step if first else pd.NA,
        "critical": severities.count("critical"),
        "warnings": severities.count("warning"),
        "status": report.status,
        "epochs": _count(_newest_epoch(one)),
        "epochs_planned": _count(one.epochs_planned or -1),
        "steps": report.steps if report.modules else pd.NA,
        "metric": final.metric,
        "score": final.score,
        "loss": final.loss,
        "clipped": math.nan if one.clipped is None else one.clipped,
        "optimizer": one.optimizer,
        "lr0": math.nan if one.lr0 is None else one.lr0,
        "written": pd.Timestamp(min(one.written, _LATEST), unit="s", tz="UTC"),
        "remarks": "; ".join(one.remarks),
    }


def _newest_epoch(one: Glance) -> int:
    """Return the newest epoch; the last ones of a training may lack an optimizer step."""
    watched = max((epoch.epoch for epoch in one.report.epochs), default=0)
    is_over = one.report.status == "finished" or not watched
    return max(watched, one.final.epoch) if is_over else watched


def _count(number: int) -> Any:
    """Return a count from a file for the table; missing if it is not a possible count."""
    return number if 0 <= number <= MOST_STEPS else pd.NA
