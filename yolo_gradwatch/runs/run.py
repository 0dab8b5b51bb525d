"""Reads a run's files as tables and as a report, without torch or ultralytics."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property, partial
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.diagnosis import Diagnosis, replay
from yolo_gradwatch.diagnose.html import report_html
from yolo_gradwatch.diagnose.report import Report
from yolo_gradwatch.measure.windows import windows_of
from yolo_gradwatch.runs import process, tables, traces
from yolo_gradwatch.runs.evidence import by_step
from yolo_gradwatch.runs.find import folder_of_run
from yolo_gradwatch.runs.healthy import kept_of
from yolo_gradwatch.runs.losses import with_losses
from yolo_gradwatch.runs.meta import read_meta
from yolo_gradwatch.runs.schema import (
    ALERTS_FILE,
    FLOW_FILE,
    LOSSES_FILE,
    META_FILE,
    WINDOWS_FILE,
    FormatError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.trace import Flow
    from yolo_gradwatch.measure.windows import Grid, Window
    from yolo_gradwatch.runs.meta import Meta
    from yolo_gradwatch.views.comparison import Comparison

SILENT_MINUTES = 10
"""Minutes without a new row after which a run without an end gets a remark."""


@dataclass(frozen=True, repr=False)
class Run:
    """A watched training, from its files.

    Attributes:
        folder: Where the files are.
        windows: The rows of ``gradwatch.csv``: one per window and module, whole windows only.
        alerts: The rows of ``gradwatch_alerts.csv``.
        losses: The rows of ``gradwatch/losses.csv``: one per window and loss item; empty if the run
            has no such file.
        meta: The content of ``gradwatch.json``.
        remarks: Sentences on what was not measured, and what is missing from the files.
        is_killed: Whether the files have no end and the training's process is gone.
    """

    folder: Path
    windows: pd.DataFrame
    alerts: pd.DataFrame
    meta: Meta
    remarks: tuple[str, ...] = ()
    is_killed: bool = False
    losses: pd.DataFrame = field(default_factory=tables.no_losses)

    def __repr__(self) -> str:
        modules = len(self.layout.modules)
        return f"<Run {self.folder}: {len(self.grid.steps)} windows of {modules} modules>"

    @property
    def layout(self) -> Layout:
        """Layout of the watched model."""
        return self.meta.layout

    @cached_property
    def grid(self) -> Grid:
        """The windows as arrays over windows and modules, in the order of the layout."""
        return tables.grid_of(self.windows, self.layout)

    def windows_in_order(self) -> Iterator[Window]:
        """Yield the windows in order, with their loss items."""
        return with_losses(windows_of(self.grid), self.losses)

    @cached_property
    def flow(self) -> pd.DataFrame:
        """The rows of ``gradwatch/flow.csv``: one per call of a module, in forward order.

        Empty if no batch was traced. A number is NaN if it was not measured, or was NaN.

        Raises:
            FormatError: The file cannot be read.
        """
        return tables.read_flow(self.folder / FLOW_FILE)

    def plot(self, *, modules: bool = False) -> Figure:
        """Return the picture of the run: a heat map of norms above strips of the whole run.

        Args:
            modules: Show one row per module; by default, one per top-level block.

        Raises:
            FormatError: A file of the run cannot be read.
        """
        numbers = import_module("yolo_gradwatch.views.heatmap")  # by name: views lie above runs
        picture = import_module("yolo_gradwatch.views.png.figure")
        report = self.report()
        figure: Figure = picture.draw(numbers.heatmap(self, report, modules=modules), report)
        return figure

    def plot_flow(self) -> Figure:
        """Return a figure of the network from first to last block, at a few traced batches.

        Raises:
            FormatError: A file of the run cannot be read.
        """
        numbers = import_module("yolo_gradwatch.views.depth")
        picture = import_module("yolo_gradwatch.views.png.depth")
        report = self.report()
        figure: Figure = picture.draw(numbers.depth(self, report), report)
        return figure

    def compare(self, other: Run) -> Comparison:
        """Return another run compared with this one, as text and as a notebook cell shows it.

        Raises:
            FormatError: A file of a run cannot be read.
        """
        comparing = import_module("yolo_gradwatch.views.comparison")
        found: Comparison = comparing.beside(self, other)
        return found

    def view(self) -> None:
        """Show the run in this notebook cell, updated as its files grow.

        The cell ends with the training, or when it is interrupted, which does not hurt the
        training. The files are read again.

        Raises:
            FormatError: They are gone, or cannot be read.
        """
        import_module("yolo_gradwatch.views.notebook").show_files(self.folder)

    def _repr_html_(self) -> str:
        """Return the run as a notebook cell shows it."""
        return f"<p>{escape(repr(self))}</p>{report_html(self.report())}"

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``stopped``, ``failed`` or ``interrupted``, or ``killed``."""
        return "killed" if self.is_killed else self.meta.status

    @property
    def thresholds(self) -> Thresholds:
        """Limits under which the training was watched."""
        return self.meta.thresholds

    @property
    def reported(self) -> dict[int, int]:
        """The newest step seen at each change, by the first step of the window that brought it."""
        known = self.alerts.dropna(subset=["reported"])
        return dict(zip(known["step"].tolist(), known["reported"].astype(int), strict=True))

    def report(self, thresholds: Thresholds | None = None) -> Report:
        """Judge the run again, under its own thresholds or under others."""
        options, limits = self.meta.options, thresholds or self.thresholds
        diagnosis = Diagnosis(self.layout, limits, options.training)
        reported = self.reported if limits == self.thresholds else None
        flows, remarks = _flows(self)
        replay(
            diagnosis,
            self.windows_in_order(),
            self.meta.events,
            reported,
            by_step(self.folder),
            optimizers=self.meta.optimizers,
            flows=flows,
            kept=kept_of(self.folder, self.meta),
        )
        return Report(
            run=self.folder,
            status=self.status,
            steps=int(self.grid.steps.sum()),
            modules=len(self.layout.modules),
            findings=tuple(diagnosis.findings.all.values()),
            epochs=self.meta.epochs,
            clip=options.clip,
            unjudged=diagnosis.unjudged(),
            thresholds=limits,
            remarks=(*self.remarks, *remarks),
            interval=options.interval,
        )


def load_run(path: str | Path) -> Run:
    """Read a run from its folder or from the ``gradwatch.csv`` in it.

    A killed training may have left a torn end; whole windows before it are read, and ``remarks``
    says so.

    Raises:
        FormatError: A file is missing or cannot be read: which, at which line, and what to do.
    """
    folder = folder_of_run(path)
    meta, is_killed = last_said(partial(read_meta, folder))
    windows, torn = tables.read_windows(folder / WINDOWS_FILE, meta.layout)
    alerts, torn_alerts = tables.read_alerts(folder / ALERTS_FILE)
    last = windows["step_first"].max() if len(windows) else 0
    losses, torn_losses = _losses(folder / LOSSES_FILE, last)
    end = _killed(windows) if is_killed else _silent(folder, meta)
    remarks = (*meta.remarks, *torn, *torn_alerts, *torn_losses, *_missing(windows, meta), *end)
    return Run(folder, windows, alerts, meta, remarks, is_killed, losses)


def _flows(run: Run) -> tuple[list[Flow], tuple[str, ...]]:
    """Return the traced batches; empty with a remark if their file is damaged."""
    try:
        return (traces.all_of(run.folder / FLOW_FILE) if len(run.flow) else []), ()
    except FormatError as error:
        return [], (f"traces are left out: {error}",)


def _losses(path: Path, last: float) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the table of loss items; empty if it is damaged, as the rest is worth reading."""
    try:
        return tables.read_losses(path, last)
    except FormatError as error:
        return tables.no_losses(), (f"loss items are left out: {error}",)


def _missing(windows: pd.DataFrame, meta: Meta) -> tuple[str, ...]:
    """Return a remark on steps that ``gradwatch.json`` counts and the table lacks."""
    known = sum(epoch.steps for epoch in meta.epochs)
    there = int(windows.drop_duplicates("step_first")["steps"].sum())
    remark = (
        f"{WINDOWS_FILE} has {there:,} of the {known:,} steps that {META_FILE} "
        "counts: rows are missing, so findings may be missing too"
    )
    return (remark,) if there < known else ()


def last_said(read: Callable[[], Meta]) -> tuple[Meta, bool]:
    """Return the description of a run, and whether its training was killed.

    If it seems so, it is read again: the process may have written the end just before it exited.
    """
    meta = read()
    if not is_killed(meta):
        return meta, False
    meta = read()
    return meta, is_killed(meta)


def is_killed(meta: Meta) -> bool:
    """Return whether a run without an end has lost its process, as far as this machine knows."""
    writer = meta.process
    return meta.status == "running" and writer is not None and process.is_gone(writer)


def _killed(windows: pd.DataFrame) -> tuple[str, ...]:
    """Return a remark on a training whose process is gone without an end."""
    after = f" after step {windows['step_last'].max():,}" if len(windows) else ""
    return (f"the training was killed{after}: its process is gone",)


def _silent(folder: Path, meta: Meta) -> tuple[str, ...]:
    """Return a remark on a run without an end that has written nothing for a long time."""
    minutes = int(time.time() - (folder / WINDOWS_FILE).stat().st_mtime) // 60
    if meta.status != "running" or minutes < SILENT_MINUTES:
        return ()
    since = f"nothing was written for {minutes:,} min"
    return (f"the run has no end record, and {since}: was the training killed?",)
