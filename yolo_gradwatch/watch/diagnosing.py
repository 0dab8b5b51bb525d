"""Hands what was measured to the outputs and to the diagnosis, and the findings to the outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.runs.healthy import is_kept

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from yolo_gradwatch.diagnose.diagnosis import Diagnosis
    from yolo_gradwatch.measure.kept import Kept
    from yolo_gradwatch.measure.optimizer import Optimizer
    from yolo_gradwatch.measure.trace import Flow
    from yolo_gradwatch.measure.windows import Window
    from yolo_gradwatch.watch.fanout import Fanout


class Diagnosing:
    """Keeps the order in which a replay sees it: a trace before the window of its step.

    Args:
        diagnosis: Of the run.
        outputs: Get windows, traces, memberships and findings.
        evidence: Writes a file on one of the steps from a first to a last; its name, or "".
        folder: The run's folder.
    """

    def __init__(
        self,
        diagnosis: Diagnosis,
        outputs: Fanout,
        evidence: Callable[[int, int], str],
        folder: Path,
    ) -> None:
        self.diagnosis = diagnosis
        self._outputs = outputs
        self._evidence = evidence
        self._folder = folder

    def window(self, window: Window, seen: int) -> None:
        """Take a window, judged when optimizer step ``seen`` was the newest."""
        self._outputs.window(window)
        if self.diagnosis.way_back and not is_kept(self._folder):  # somebody removed it
            self.diagnosis.kept(None)
        if changes := self.diagnosis.update(window, seen):
            files = [self._evidence(*c.wants) if c.wants else "" for c in changes]
            self._outputs.findings(list(map(self.diagnosis.attach, changes, files)))

    def membership(self, optimizer: Optimizer) -> None:
        """Take what the optimizer moves from its ``step`` on, after the windows of before."""
        self.diagnosis.membership(optimizer)
        self._outputs.membership(optimizer)

    def kept(self, kept: Kept) -> None:
        """Take what was kept, after every window of its epoch."""
        self.diagnosis.kept(kept)
        self._outputs.kept(kept)

    def flow(self, flow: Flow) -> None:
        """Take a batch that was traced, before the samples of its step."""
        self.diagnosis.flow(flow)
        self._outputs.flow(flow)
