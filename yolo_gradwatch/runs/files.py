"""The output of a training that writes the run's files."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

from yolo_gradwatch.runs import process
from yolo_gradwatch.runs import writer as runlog
from yolo_gradwatch.runs.meta import Meta, RunOptions
from yolo_gradwatch.runs.outputs import OutputBase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.diagnose.finding import FindingChange
    from yolo_gradwatch.diagnose.report import Report, Status
    from yolo_gradwatch.measure.clipping import EpochClipping
    from yolo_gradwatch.measure.event import Event
    from yolo_gradwatch.measure.kept import Kept
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.optimizer import Optimizer
    from yolo_gradwatch.measure.trace import Flow
    from yolo_gradwatch.measure.windows import Window
    from yolo_gradwatch.runs.outputs import RunInfo
    from yolo_gradwatch.runs.resume import Past

NOTED_SHARE = 0.01
"""Growth in the number of epochs after which ``gradwatch.json`` is rewritten."""


class Files(OutputBase):
    """Writes the tables of a run and the description needed to read them.

    Args:
        past: The continued run, to whose files it appends; None for a new one.

    Attributes:
        remarks: Remarks of the report, which may grow.
    """

    def __init__(self, past: Past | None = None) -> None:
        self.remarks: Sequence[str] = ()
        self._resumes = past is not None
        self._events = list(past.events) if past else []
        self._epochs = list(past.epochs) if past else []
        self._optimizers = list(past.optimizers) if past else []
        self._kept = list(past.kept) if past else []
        self._others = dict(past.others) if past else {}
        self._log: runlog.RunLog | None = None
        self._noted = 0
        self._status: Status = "running"
        self._process = process.own()

    @property
    def is_whole(self) -> bool:
        """Whether the run's folder has the files with everything so far.

        False before they are started, after an error, and once a training on another machine has
        set them aside.
        """
        return self._log is not None and self._log.is_in_place(self._process)

    def start(self, run: RunInfo) -> None:
        """Begin the tables and the description."""
        self._run, self._layout = run, run.layout
        self._last_step = run.begin.step - 1
        self._log = runlog.RunLog(run.folder, run.layout, resume=self._resumes)
        self._log.start()
        self.restart(run.begin)

    def window(self, window: Window) -> None:
        """Append one row per module."""
        self._table.write_window(window)

    def findings(self, changes: Sequence[FindingChange]) -> None:
        """Append one row per change."""
        self._table.write_changes(changes)

    def epoch(self, clipping: EpochClipping) -> None:
        """Rewrite the description once there are 1 % more epochs."""
        self._epochs.append(clipping)
        self._last_step = clipping.step_last
        if len(self._epochs) > (1 + NOTED_SHARE) * self._noted:
            self._describe()

    def flow(self, flow: Flow) -> None:
        """Append one row per call."""
        self._table.write_flow(flow)

    def regroup(self, layout: Layout) -> None:
        """Continue with rows for more modules."""
        self._layout = layout
        self._table.regroup(layout)

    def membership(self, optimizer: Optimizer) -> None:
        """Note what the optimizer moves."""
        self._optimizers.append(optimizer)
        self._describe()

    def restart(self, event: Event) -> None:
        """Note the event."""
        self._events.append(event)
        self._last_step = event.step - 1
        self._describe()

    def kept(self, kept: Kept) -> None:
        """Note the kept checkpoint, before a window that may bring a finding."""
        self._kept.append(kept)
        self._describe()

    def end(self, report: Report) -> None:
        """Note how the training ended."""
        self._status = cast("Status", report.status)
        self._epochs = list(report.epochs)
        self._last_step = max(self._last_step, *(e.step_last for e in self._epochs), 0)
        self._describe()

    def close(self) -> None:
        """Close the tables; a run without an end has failed due to an internal error.

        Raises:
            OSError: The last rows written do not fit on the disk.
        """
        log, self._log = self._log, None
        if log is None:
            return
        with ExitStack() as stack:
            stack.callback(log.close)
            if self._status == "running":
                self._status = "failed"
                log.write_meta(self._meta())

    @property
    def _table(self) -> runlog.RunLog:
        if self._log is None:
            raise RuntimeError("the files have not been started")
        return self._log

    def _describe(self) -> None:
        self._noted = len(self._epochs)
        self._table.write_meta(self._meta())

    def _meta(self) -> Meta:
        run = self._run
        return Meta(
            status=self._status,
            process=self._process,
            versions=dict(run.versions),
            options=RunOptions(
                interval=run.interval, stop_on=run.stop_on, training=dict(run.training)
            ),
            thresholds=run.thresholds,
            layout=self._layout,
            last_step=self._last_step,
            events=tuple(self._events),
            epochs=tuple(self._epochs),
            optimizer=self._optimizers[-1] if self._optimizers else None,
            optimizers_before=tuple(self._optimizers[:-1]),
            kept=tuple(self._kept),
            remarks=tuple(dict.fromkeys(self.remarks)),
            others=self._others,
        )
