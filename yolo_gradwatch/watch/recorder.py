"""Turns samples into windows and findings, and passes them to the outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.report import Report
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.measure.layout import dated
from yolo_gradwatch.measure.rollup import Rollup
from yolo_gradwatch.watch.epochs import Epochs
from yolo_gradwatch.watch.pending import Pending

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yolo_gradwatch.measure.event import EventKind
    from yolo_gradwatch.measure.layout import Layout, Members
    from yolo_gradwatch.measure.optimizer import Optimizer
    from yolo_gradwatch.measure.sample import Sample
    from yolo_gradwatch.measure.windows import Window
    from yolo_gradwatch.runs.outputs import RunInfo
    from yolo_gradwatch.runs.resume import Past
    from yolo_gradwatch.watch.diagnosing import Diagnosing
    from yolo_gradwatch.watch.fanout import Fanout

_OVERRIDING = {"failed", "interrupted"}
"""Outcomes that may override ``finished``."""


class Recorder:
    """Takes the samples of one training; knows neither its trainer nor any output.

    Args:
        run: What is known about the training.
        members: Which parameters make up each module.
        diagnosing: Feeds the diagnosis, which includes the findings of a continued run.
        outputs: Receive everything that ``diagnosing`` does not send them.
        past: The continued run; None for a new one.

    Attributes:
        last_step: Number of the newest optimizer step, captured or not.
        seen: Number of the newest step that was captured and processed.
        remarks: Remarks for reports.
        weighing: Decides when the weights are read.
    """

    def __init__(
        self,
        run: RunInfo,
        members: Members,
        diagnosing: Diagnosing,
        outputs: Fanout,
        past: Past | None = None,
    ) -> None:
        self._run = run
        self._layout = run.layout
        self._diagnosing, self._diagnosis = diagnosing, diagnosing.diagnosis
        self._outputs = outputs
        self._rollup = Rollup(members, run.interval, run.clip)
        self.weighing = self._rollup.weighing
        self._epochs = Epochs(run.layout, run.clip, past.epochs if past else ())
        self._status = "running"
        self._pending = Pending()
        self._steps = past.steps if past else 0
        self.last_step = self.seen = run.begin.step - 1
        self.remarks = list(past.remarks) if past else []

    def open(self) -> None:
        """Start the outputs."""
        self._diagnosis.restart(self._run.begin.kind)
        self._outputs.start(self._run)

    def wanted(self, step: int) -> tuple[bool, bool]:
        """Return whether ``step`` should begin a window, and whether to read the weights."""
        opens = self._rollup.opens_window(step)
        return opens, self.weighing.is_due(step, opens=opens)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Begin a pass over an epoch, of ``epochs`` planned so far."""
        self._keep_epoch()
        self.weighing.ask()
        self._epochs.begin(epoch)
        self._outputs.epoch_start(epoch, epochs)

    def end_epoch(self) -> None:
        """Close the open window."""
        self._close_window()
        self._keep_epoch()

    def restart(self, kind: EventKind, step: int) -> None:
        """Note a restart: steps from ``step`` on are not compared with earlier ones."""
        self._close_window()
        self._rollup.restart()
        self._diagnosis.restart(kind)
        self._outputs.restart(Event(step, kind))

    def regroup(self, layout: Layout, members: Members, step: int) -> None:
        """Watch a layout with more modules from ``step`` on, because some have thawed."""
        self._close_window()
        self._layout = dated(layout, self._layout, step)
        self._rollup.regroup(members)
        self._epochs.regroup(self._layout)
        self._diagnosis.regroup(self._layout)
        self._outputs.regroup(self._layout)
        self.restart("thaw", step)

    def membership(self, optimizer: Optimizer) -> None:
        """Note what the optimizer moves from its ``step`` on; no window spans a change."""
        self._close_window()
        self._diagnosing.membership(optimizer)

    def take(self, samples: Iterable[Sample]) -> None:
        """Take steps as they land, in order.

        They are processed if the rules need them now, many wait, or the last time was long ago.
        """
        fresh = list(samples)
        is_due = self._pending.add(fresh)
        if is_due or (fresh and self._rollup.is_urgent(self._pending.samples, len(fresh))):
            self.settle()

    def settle(self) -> None:
        """Process every step that has landed."""
        samples = self._pending.take()
        if not samples:
            return
        self.seen = samples[-1].step
        windows = self._rollup.add(samples)
        norms = self._rollup.newest
        self._steps += len(samples)
        self._epochs.add(samples, norms)
        self._outputs.steps(samples, norms)
        self._judge(windows)

    def end(self, status: str) -> None:
        """Report the end to the outputs, with a value of `Report.status`.

        The first outcome counts, unless a training reported as finished fails afterwards.
        """
        self._close_window()
        if self._status == "running" or (self._status == "finished" and status in _OVERRIDING):
            self._status = status
            self._outputs.end(self.report())

    def report(self) -> Report:
        """Return the report so far, without the steps still waiting to be processed."""
        return Report(
            run=self._run.folder,
            status=self._status,
            steps=self._steps,
            modules=len(self._layout.modules),
            findings=tuple(self._diagnosis.findings.all.values()),
            epochs=self._epochs.so_far(self.last_step),
            clip=self._run.clip,
            unjudged=self._diagnosis.unjudged(),
            thresholds=self._run.thresholds,
            remarks=tuple(dict.fromkeys(self.remarks)),
            interval=self._run.interval,
        )

    def close(self) -> None:
        """Close the outputs in any case; without an end, an internal error caused it."""
        if self._status == "running":
            self._status = "failed"
        self._outputs.close()

    def _keep_epoch(self) -> None:
        """Pass on the pass over an epoch that ends here, if it had a step."""
        if epoch := self._epochs.end(self.last_step):
            self._outputs.epoch(epoch)

    def _close_window(self) -> None:
        self.settle()
        self._judge(self._rollup.close())

    def _judge(self, windows: Iterable[Window]) -> None:
        for window in windows:
            self._diagnosing.window(window, self.seen)
