"""Passes measurements to the diagnosis and the outputs, and findings to the outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from yolo_gradwatch.measure.kept import removed
from yolo_gradwatch.runs.healthy import is_kept, spoils

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from yolo_gradwatch.diagnose.diagnosis import Diagnosis
    from yolo_gradwatch.diagnose.finding import Finding, FindingChange
    from yolo_gradwatch.measure.kept import Kept
    from yolo_gradwatch.measure.optimizer import Optimizer
    from yolo_gradwatch.measure.trace import Flow
    from yolo_gradwatch.measure.windows import Window
    from yolo_gradwatch.runs.healthy import Shelf
    from yolo_gradwatch.watch.fanout import Fanout


class Diagnosing:
    """Feeds the diagnosis in the order that a replay uses: a trace before the window of its step.

    Args:
        diagnosis: The diagnosis of the run.
        outputs: Receive windows, traces, memberships and findings.
        evidence: Writes a file on one step in a range (first, last); returns its name, or "".
        folder: The run's folder.
        shelf: Holds the kept checkpoints; None if none are kept.
    """

    def __init__(
        self,
        diagnosis: Diagnosis,
        outputs: Fanout,
        evidence: Callable[[int, int], str],
        folder: Path,
        shelf: Shelf | None = None,
    ) -> None:
        self.diagnosis = diagnosis
        self._outputs = outputs
        self._evidence = evidence
        self._folder = folder
        self._shelf = shelf

    def window(self, window: Window, seen: int) -> None:
        """Take a window, judged when optimizer step ``seen`` was the newest."""
        try:
            changes = self._changes(window, seen)
        finally:  # after any checkpoint record: a reader that follows the files expects both
            self._outputs.window(window)
        if changes:
            files = [self._evidence(*c.wants) if c.wants else "" for c in changes]
            self._outputs.findings(list(map(self.diagnosis.attach, changes, files)))

    def membership(self, optimizer: Optimizer) -> None:
        """Take what the optimizer moves from its ``step`` on, after all earlier windows."""
        self.diagnosis.membership(optimizer)
        self._outputs.membership(optimizer)

    def kept(self, kept: Kept) -> None:
        """Take the record of a kept checkpoint, after every window of its epoch."""
        self.diagnosis.kept(kept)
        self._outputs.kept(kept)

    def _changes(self, window: Window, seen: int) -> list[FindingChange]:
        """Return the finding changes that a window causes, including those about kept copies."""
        if self.diagnosis.way_back and not is_kept(self._folder):  # someone removed it
            self.kept(removed(window.step_first))
        changes = self.diagnosis.update(window, seen)
        noted = self._gone_back(_spoiling(changes), window.step_first)
        if noted is None:
            return changes
        self._outputs.kept(noted)
        return self.diagnosis.went_back(noted, changes)

    def _gone_back(self, begun: list[Finding], since: int) -> Kept | None:
        """Return what is kept after findings that predate the copy; None if nothing changes.

        A warning discards a copy only if there is an older one.
        """
        kept = self.diagnosis.way_back
        begun = [one for one in begun if kept and one.episodes[-1].step <= kept.step]
        if self._shelf is None or not begun:
            return None
        critical = [one for one in begun if one.severity == "critical"]
        back = self._shelf.go_back(min(one.episodes[-1].step for one in critical or begun))
        if back:
            return replace(back, since=since)
        if not critical:
            return None
        self._shelf.remove()
        return removed(since)

    def flow(self, flow: Flow) -> None:
        """Take a traced batch, before the samples of its step."""
        self.diagnosis.flow(flow)
        self._outputs.flow(flow)


def _spoiling(changes: list[FindingChange]) -> list[Finding]:
    """Return the findings that begin here and make checkpoints unhealthy."""
    return [one.finding for one in changes if one.change == "start" and spoils(one.finding)]
