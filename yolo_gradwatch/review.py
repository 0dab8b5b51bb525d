"""Reads the files of a run back, as tables and as a report, without torch or ultralytics."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from yolo_gradwatch import runlog
from yolo_gradwatch.diagnosis import Diagnosis, replay
from yolo_gradwatch.evidence import existing
from yolo_gradwatch.records import CLIP_NORM, EpochTelemetry, Layout, Window
from yolo_gradwatch.report import Report
from yolo_gradwatch.thresholds import Thresholds

if TYPE_CHECKING:
    from collections.abc import Iterator

_CATEGORIES = dict.fromkeys(("module", "type", "rule", "severity", "event"), "category")
_COUNTS = dict.fromkeys(
    ("epoch", "step_first", "step_last", "parameters", "steps", "skipped", "finding", "step"),
    "int64",
)
_FLOATS = {**dict.fromkeys(runlog.FLOAT_COLUMNS, "float32"), "value": "float64", "limit": "float64"}
_TYPES = {**_CATEGORIES, **_COUNTS, **dict.fromkeys(runlog.COUNT_COLUMNS, "int64"), **_FLOATS}


@dataclass(frozen=True)
class Run:
    """A watched training, from its files.

    Attributes:
        folder: Where the files are.
        windows: The rows of ``gradwatch.csv``: one a window and module, whole windows only.
        alerts: The rows of ``gradwatch_alerts.csv``.
        layout: Of the model that was watched.
        meta: The content of ``gradwatch.json``.
    """

    folder: Path
    windows: pd.DataFrame
    alerts: pd.DataFrame
    layout: Layout
    meta: dict[str, Any]

    def report(self, thresholds: Thresholds | None = None) -> Report:
        """Judge the run again, under its own thresholds or under others."""
        limits = thresholds or Thresholds(**self.meta["thresholds"])
        training = self.meta["options"]["training"]
        evidence = partial(existing, self.folder)
        diagnosis = Diagnosis(self.layout, limits, training, evidence)
        replay(diagnosis, windows_of(self.windows, self.layout), runlog.events_of_meta(self.meta))
        whole = self.windows[self.windows["module"] == self.layout.modules[0]]
        return Report(
            run=self.folder,
            status=self.meta["status"],
            steps=int(whole["steps"].sum()),
            modules=len(self.layout.modules),
            findings=tuple(diagnosis.findings.all.values()),
            epochs=tuple(EpochTelemetry(**raw) for raw in self.meta["epochs"]),
            clip=float(training.get("clip", CLIP_NORM)),
            unjudged=diagnosis.unjudged(),
        )


def load_run(path: str | Path) -> Run:
    """Read a run from its folder or from the ``gradwatch.csv`` in it.

    A training that was killed may have left a torn end; whole windows before it are read.

    Raises:
        FormatError: A file is missing or cannot be read.
    """
    given = Path(path)
    folder = given.parent if given.suffix == ".csv" else given
    meta = runlog.read_meta(folder)
    layout = _layout(folder, meta)
    windows = folder / runlog.WINDOWS_FILE
    alerts = folder / runlog.ALERTS_FILE
    return Run(
        folder=folder,
        windows=_table(
            windows, runlog.WINDOW_COLUMNS, runlog.whole_windows(windows, layout.modules[-1])
        ),
        alerts=_table(alerts, runlog.ALERT_COLUMNS, runlog.whole_lines(alerts)),
        layout=layout,
        meta=meta,
    )


def _layout(folder: Path, meta: dict[str, Any]) -> Layout:
    """The layout, once every part that a report needs has been read."""
    try:
        runlog.events_of_meta(meta)
        _ = [EpochTelemetry(**raw) for raw in meta["epochs"]]
        Thresholds(**meta["thresholds"])
        _ = meta["options"]["training"].items()
        return runlog.layout_of_meta(meta)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        path = folder / runlog.META_FILE
        raise runlog.FormatError(
            f"{path}: a part is missing or mangled ({error}); restore it from a copy"
        ) from error


def _table(path: Path, columns: tuple[str, ...], end: int) -> pd.DataFrame:
    """The first ``end`` bytes of a CSV file with exactly these columns."""
    if not end:
        raise runlog.FormatError(f"{path}: missing or empty; was this training watched?")
    content = path.read_bytes()[:end]
    header = content.partition(b"\n")[0].decode("utf-8", "replace")
    if header != ",".join(columns):
        raise runlog.FormatError(f"{path}: line 1 is not the header of {path.name}")
    types = {name: _TYPES[name] for name in columns if name in _TYPES}
    try:
        return pd.read_csv(io.BytesIO(content), dtype=types, keep_default_na=False, na_values=[""])
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise runlog.FormatError(f"{path}: {reason}; restore the file from a copy") from error


def windows_of(table: pd.DataFrame, layout: Layout) -> Iterator[Window]:
    """The windows of a table by step; a module of the layout that has no row counts 0."""
    for _, rows in table.groupby("step_first", sort=True):
        aligned = rows.set_index("module").reindex(layout.modules)
        arrays: dict[str, Any] = {
            name: aligned[name].fillna(0).to_numpy(np.int64) for name in runlog.COUNT_COLUMNS
        }
        arrays |= {name: aligned[name].to_numpy(np.float32) for name in runlog.FLOAT_COLUMNS}
        head = rows.iloc[0]
        yield Window(
            epoch=int(head["epoch"]),
            step_first=int(head["step_first"]),
            step_last=int(head["step_last"]),
            steps=int(head["steps"]),
            skipped=int(head["skipped"]),
            **arrays,
        )
