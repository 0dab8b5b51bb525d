"""Hands what was measured to the outputs and to the diagnosis, and the findings to the outputs."""

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
    """Keeps the order in which a replay sees it: a trace before the window of its step.

    Args:
        diagnosis: Of the run.
        outputs: Get windows, traces, memberships and findings.
        evidence: Writes a file on one of the steps from a first to a last; its name, or "".
        folder: The run's folder.
        shelf: Holds the checkpoints that are kept; None if none is to be kept.
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
        finally:  # after what is noted of a checkpoint, which whoever follows reads with it
            self._outputs.window(window)
        if changes:
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

    def _changes(self, window: Window, seen: int) -> list[FindingChange]:
        """What a window changes; of what was kept, too."""
        if self.diagnosis.way_back and not is_kept(self._folder):  # somebody removed it
            self.kept(removed(window.step_first))
        changes = self.diagnosis.update(window, seen)
        noted = self._gone_back(_spoiling(changes), window.step_first)
        if noted is None:
            return changes
        self._outputs.kept(noted)
        return self.diagnosis.went_back(noted, changes)

    def _gone_back(self, begun: list[Finding], since: int) -> Kept | None:
        """What is kept once findings have begun that date from before it; None if as it was.

        A warning takes back a copy only if there is an older one.
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
        """Take a batch that was traced, before the samples of its step."""
        self.diagnosis.flow(flow)
        self._outputs.flow(flow)


def _spoiling(changes: list[FindingChange]) -> list[Finding]:
    """The findings that begin and spoil what is saved."""
    return [one.finding for one in changes if one.change == "start" and spoils(one.finding)]
