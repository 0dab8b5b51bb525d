"""Reads the files of a run back, as tables and as a report, without torch or ultralytics."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_gradwatch import runlog, tables, writer
from yolo_gradwatch.clipping import CLIP_NORM
from yolo_gradwatch.diagnosis import Diagnosis, replay
from yolo_gradwatch.evidence import existing
from yolo_gradwatch.report import Report
from yolo_gradwatch.thresholds import Thresholds
from yolo_gradwatch.windows import windows_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from yolo_gradwatch.layout import Layout
    from yolo_gradwatch.windows import Grid


MOST_STEPS = 10**15
"""No training has more."""

SILENT_MINUTES = 10
"""Without a new row, from when on a run without an end is told to be silent."""


@dataclass(frozen=True, repr=False)
class Run:
    """A watched training, from its files.

    Attributes:
        folder: Where the files are.
        windows: The rows of ``gradwatch.csv``: one a window and module, whole windows only.
        alerts: The rows of ``gradwatch_alerts.csv``.
        layout: Of the model that was watched.
        meta: The content of ``gradwatch.json``.
        remarks: What is missing in the files, in sentences.
        is_killed: Whether they tell of no end, and the process of the training is gone.
    """

    folder: Path
    windows: pd.DataFrame
    alerts: pd.DataFrame
    layout: Layout
    meta: dict[str, Any]
    remarks: tuple[str, ...] = ()
    is_killed: bool = False

    def __repr__(self) -> str:
        modules = len(self.layout.modules)
        return f"<Run {self.folder}: {len(self.grid.steps)} windows of {modules} modules>"

    @cached_property
    def grid(self) -> Grid:
        """The windows as arrays over windows and modules, in the order of the layout."""
        return tables.grid_of(self.windows, self.layout)

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``failed`` or ``interrupted``, or ``killed``."""
        return "killed" if self.is_killed else str(self.meta["status"])

    @property
    def thresholds(self) -> Thresholds:
        """Those under which the training was watched."""
        return thresholds_of(self.meta)

    @property
    def reported(self) -> dict[int, int]:
        """First steps of windows that brought a change, each with the newest step seen by then."""
        known = self.alerts.dropna(subset=["reported"])
        return dict(zip(known["step"].tolist(), known["reported"].astype(int), strict=True))

    @property
    def clip(self) -> float:
        """Total norm above which the trainer clipped."""
        return float(self.meta["options"]["training"].get("clip", CLIP_NORM))

    def report(self, thresholds: Thresholds | None = None) -> Report:
        """Judge the run again, under its own thresholds or under others."""
        training = self.meta["options"]["training"]
        evidence = partial(existing, self.folder)
        limits = thresholds or self.thresholds
        diagnosis = Diagnosis(self.layout, limits, training, evidence)
        reported = self.reported if limits == self.thresholds else None
        events = runlog.events_of_meta(self.meta)
        replay(diagnosis, windows_of(self.grid), events, reported)
        return Report(
            run=self.folder,
            status=self.status,
            steps=int(self.grid.steps.sum()),
            modules=len(self.layout.modules),
            findings=tuple(diagnosis.findings.all.values()),
            epochs=tuple(runlog.epochs_of_meta(self.meta)),
            clip=self.clip,
            unjudged=diagnosis.unjudged(),
            thresholds=limits,
            remarks=self.remarks,
            interval=interval_of(self.meta),
        )


def load_run(path: str | Path) -> Run:
    """Read a run from its folder or from the ``gradwatch.csv`` in it.

    A training that was killed may have left a torn end; whole windows before it are read, and
    ``remarks`` says so.

    Raises:
        FormatError: A file is missing or cannot be read: which, at which line, and what to do.
    """
    given = Path(path)
    folder = given.parent if _is_table(given) else given
    meta, layout, is_killed = last_said(partial(meta_of, folder))
    windows, torn = tables.read_windows(folder / runlog.WINDOWS_FILE, layout)
    alerts, torn_alerts = tables.read_alerts(folder / runlog.ALERTS_FILE)
    end = _killed(windows) if is_killed else _silent(folder, meta)
    remarks = (*torn, *torn_alerts, *_missing(windows, meta), *end)
    return Run(folder, windows, alerts, layout, meta, remarks, is_killed)


def find_run(path: str | Path) -> Path:
    """The folder of a run: the one that is given, that of a CSV, or the newest below.

    Args:
        path: A run's folder, its ``gradwatch.csv``, or a folder up to three levels above, such as
            ``runs/detect``.

    Raises:
        FormatError: There is no watched run.
    """
    given = Path(path)
    if _is_table(given):
        return given.parent
    if (given / runlog.WINDOWS_FILE).exists():
        return given
    depths = ("*", "*/*", "*/*/*")
    found = [file for depth in depths for file in given.glob(f"{depth}/{runlog.WINDOWS_FILE}")]
    if given.is_file():
        raise runlog.FormatError(f"{path}: is a file; name its folder, or {runlog.WINDOWS_FILE}")
    if not found:
        what = "no watched run in it" if given.is_dir() else "no such file or folder"
        raise runlog.FormatError(
            f"{path}: {what}; name the folder of a training that was watched, or its "
            f"{runlog.WINDOWS_FILE}"
        )
    return max(found, key=lambda file: file.stat().st_mtime).parent


def _is_table(path: Path) -> bool:
    """Whether this is a run's table, or would be if it were there."""
    is_there = path.is_file() or path.name == runlog.WINDOWS_FILE
    return path.suffix == ".csv" and is_there and not path.is_dir()


def _missing(windows: pd.DataFrame, meta: dict[str, Any]) -> tuple[str, ...]:
    """A sentence on steps that ``gradwatch.json`` knows of and the table does not have."""
    known = sum(epoch.steps for epoch in runlog.epochs_of_meta(meta))
    there = int(windows.drop_duplicates("step_first")["steps"].sum())
    remark = (
        f"{runlog.WINDOWS_FILE} has {there:,} of the {known:,} steps that {runlog.META_FILE} knows "
        "of: rows are missing, and so may be findings"
    )
    return (remark,) if there < known else ()


def last_step_of(meta: dict[str, Any]) -> int:
    """The newest optimizer step that the training had come to, captured or not."""
    return int(meta.get("last_step") or 0)


def interval_of(meta: dict[str, Any]) -> int:
    """Optimizer steps from one captured step to the next, from ``gradwatch.json``."""
    return int(meta["options"].get("interval") or 1)


def last_said(
    read: Callable[[], tuple[dict[str, Any], Layout]],
) -> tuple[dict[str, Any], Layout, bool]:
    """What a run says of itself, and whether its training was killed.

    It is read again if it seems so: the process may have written the end just before it went.
    """
    meta, layout = read()
    if not is_killed(meta):
        return meta, layout, False
    meta, layout = read()
    return meta, layout, is_killed(meta)


def is_killed(meta: dict[str, Any]) -> bool:
    """Whether a training is told to run whose process is gone, as far as this machine can tell."""
    process = writer.of_meta(meta)
    return meta["status"] == "running" and process is not None and writer.is_gone(process)


def _killed(windows: pd.DataFrame) -> tuple[str, ...]:
    """A sentence on a training that has ended without a word."""
    after = f" after step {windows['step_last'].max():,}" if len(windows) else ""
    return (f"the training was killed{after}: its process is gone",)


def _silent(folder: Path, meta: dict[str, Any]) -> tuple[str, ...]:
    """A sentence on a run without an end that has long written nothing."""
    minutes = int(time.time() - (folder / runlog.WINDOWS_FILE).stat().st_mtime) // 60
    if meta["status"] != "running" or minutes < SILENT_MINUTES:
        return ()
    remark = f"no end was written, and nothing for {minutes:,} min: was the training killed?"
    return (remark,)


def thresholds_of(meta: dict[str, Any]) -> Thresholds:
    """The limits in ``gradwatch.json``: those that it lacks are the defaults, others are ignored.

    Raises:
        ValueError: One has an impossible value.
    """
    names = {field.name for field in fields(Thresholds)}
    return Thresholds(**{name: v for name, v in meta["thresholds"].items() if name in names})


def meta_of(folder: Path) -> tuple[dict[str, Any], Layout]:
    """The content of ``gradwatch.json`` and its layout, once all that a report needs is there.

    Raises:
        FormatError: The file is missing, or a part of it, or it cannot be read.
    """
    meta = runlog.read_meta(folder)
    try:
        runlog.epochs_of_meta(meta)
        thresholds_of(meta)
        training = meta["options"]["training"]
        float(training.get("clip", CLIP_NORM))
        int(training.get("epochs") or 0)
        interval_of(meta)
        steps = [last_step_of(meta), *(event.step for event in runlog.events_of_meta(meta))]
        if not all(0 <= step <= MOST_STEPS for step in steps):
            raise ValueError("a step is below 0 or impossibly high")  # noqa: TRY301
        if not isinstance(training.get("fitted", {}), dict):
            raise ValueError("'fitted' is no table of names and values")  # noqa: TRY004, TRY301
        runlog.check_outcome(meta)
        writer.of_meta(meta)
        return meta, runlog.layout_of_meta(meta)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        path = folder / runlog.META_FILE
        raise runlog.FormatError(
            f"{path}: a part is missing or mangled ({error}); restore it from a copy"
        ) from None
