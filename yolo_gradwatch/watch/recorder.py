"""From samples to windows and findings, which it hands to the outputs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.report import Report
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.measure.layout import dated
from yolo_gradwatch.measure.windows import Rollup
from yolo_gradwatch.watch.epochs import Epochs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from yolo_gradwatch.diagnose.diagnosis import Diagnosis
    from yolo_gradwatch.measure.event import EventKind
    from yolo_gradwatch.measure.layout import Layout, Members
    from yolo_gradwatch.measure.optimizer import Optimizer
    from yolo_gradwatch.measure.sample import Sample
    from yolo_gradwatch.measure.windows import Window
    from yolo_gradwatch.runs.outputs import RunInfo
    from yolo_gradwatch.runs.resume import Past
    from yolo_gradwatch.watch.fanout import Fanout

MOST_WAITING = 32
"""Steps that are looked at together at the most; so many take about four times as long as one."""

WAIT_SECONDS = 0.25
"""How long a step waits for others at the most, so that report and panel are up to date."""


class Recorder:
    """Takes the samples of one training; knows neither its trainer nor any output.

    Args:
        run: What there is to know of the training.
        members: Which parameters make up each module.
        diagnosis: It knows the findings of the run that is continued.
        outputs: Get windows and findings.
        evidence: Writes a file on one of the steps from a first to a last; its name, or "".
        past: The run that is continued; None if it begins here.

    Attributes:
        last_step: Number of the newest optimizer step, captured or not.
    """

    def __init__(  # noqa: PLR0913, PLR0917  # each is a part of its own
        self,
        run: RunInfo,
        members: Members,
        diagnosis: Diagnosis,
        outputs: Fanout,
        evidence: Callable[[int, int], str],
        past: Past | None = None,
    ) -> None:
        self._run = run
        self._layout = run.layout
        self._diagnosis = diagnosis
        self._outputs = outputs
        self._evidence = evidence
        self._rollup = Rollup(members, run.interval, run.clip)
        self._epochs = Epochs(run.layout, run.clip, past.epochs if past else ())
        self._status = "running"
        self._landed: list[Sample] = []
        self._seen, self._steps = 0, past.steps if past else 0
        self.last_step = run.begin.step - 1

    def open(self) -> None:
        """Start the outputs."""
        self._settled = time.monotonic()
        self._diagnosis.restart()
        self._outputs.start(self._run)

    def opens_window(self, step: int) -> bool:
        """Whether the sample of ``step`` will begin a window, as far as is known before it."""
        return self._rollup.opens_window(step)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Begin a pass over an epoch, of ``epochs`` as planned by now."""
        self._keep_epoch()
        self._epochs.begin(epoch)
        self._outputs.epoch_start(epoch, epochs)

    def end_epoch(self) -> None:
        """Close the open window."""
        self._close_window()
        self._keep_epoch()

    def restart(self, kind: EventKind, step: int) -> None:
        """Note that what comes from ``step`` on is not compared with what was before."""
        self._close_window()
        self._rollup.restart()
        self._diagnosis.restart()
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
        self._outputs.membership(optimizer)

    def take(self, samples: Iterable[Sample]) -> None:
        """Take steps as they land, in order.

        They are looked at if the rules should look, many wait, or the last look was long ago.
        """
        self._landed += samples
        is_late = time.monotonic() - self._settled >= WAIT_SECONDS
        is_due = is_late or len(self._landed) >= MOST_WAITING
        if self._landed and (is_due or self._rollup.is_urgent(self._landed)):
            self.settle()

    def settle(self) -> None:
        """Look at every step that has landed."""
        samples, self._landed, self._settled = self._landed, [], time.monotonic()
        if not samples:
            return
        self._seen = samples[-1].step
        windows = self._rollup.add(samples)
        norms = self._rollup.newest
        self._steps += len(samples)
        self._epochs.add(samples, norms)
        self._outputs.steps(samples, norms)
        self._judge(windows)

    def end(self, status: str) -> None:
        """Tell the outputs how the training ended: ``finished``, ``failed`` or ``interrupted``.

        What comes first counts, unless a training that was said to have finished fails after all.
        """
        self._close_window()
        if self._status == "running" or (self._status == "finished" and status != "finished"):
            self._status = status
            self._outputs.end(self.report())

    def report(self) -> Report:
        """What was found so far; steps that wait to be looked at are not in it yet."""
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
            interval=self._run.interval,
        )

    def close(self) -> None:
        """Close the outputs, whatever has happened; without an end, an error of ours did it."""
        if self._status == "running":
            self._status = "failed"
        self._outputs.close()

    def _keep_epoch(self) -> None:
        """Hand on the pass over an epoch that ends here, if it had a step."""
        if epoch := self._epochs.end(self.last_step):
            self._outputs.epoch(epoch)

    def _close_window(self) -> None:
        self.settle()
        self._judge(self._rollup.close())

    def _judge(self, windows: Iterable[Window]) -> None:
        for window in windows:
            self._outputs.window(window)
            changes = self._diagnosis.update(window, self._seen)
            if changes:
                files = [self._evidence(*c.wants) if c.wants else "" for c in changes]
                self._outputs.findings([*map(self._diagnosis.attach, changes, files)])
