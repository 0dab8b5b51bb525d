"""Turns windows and events into changes of findings, in a live run and in a replay."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.detector import Detector
from yolo_gradwatch.diagnose.findings import Findings
from yolo_gradwatch.measure.windows import rescoped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from yolo_gradwatch.diagnose.finding import Finding, FindingChange
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.event import Event
    from yolo_gradwatch.measure.kept import Kept
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.optimizer import Optimizer
    from yolo_gradwatch.measure.trace import Flow
    from yolo_gradwatch.measure.windows import Window


class Diagnosis:
    """Judges a run window by window.

    Args:
        layout: Layout of the watched model.
        limits: Thresholds of the rules.
        training: Options of the training that messages refer to.

    Attributes:
        findings: All findings so far.
        way_back: The checkpoint that is currently kept; None if there is none.
    """

    def __init__(self, layout: Layout, limits: Thresholds, training: Mapping[str, object]) -> None:
        self._layout = self._scope = layout
        self._limits = limits
        self._training = training
        self._detector = Detector(layout, limits, training)
        self._optimizer: Optimizer | None = None
        self._flow: Flow | None = None
        self._flows: deque[Flow] = deque()
        self._windows = 0
        self._longest = 0
        self._noted: Kept | None = None
        self.way_back: Kept | None = None
        self.findings = Findings(layout, limits, training)

    def update(self, window: Window, reported: int = 0) -> list[FindingChange]:
        """Return what the window changes.

        Args:
            window: The newest window.
            reported: Newest optimizer step seen so far, if that is later than the window's last
                one.
        """
        window = self._scoped(window)
        self._windows += window.skipped < window.steps
        self._longest = max(self._longest, self._windows)
        while self._flows and self._flows[0].step <= window.step_last:
            self._flow = self._flows.popleft()
        seen = max(window.step_last, reported)
        alerts = self._detector.update(window, self._optimizer, self._flow)
        changes = self.findings.update(window, alerts, seen, self._flow)
        return [self._named(one) for one in changes]

    def membership(self, optimizer: Optimizer) -> None:
        """Record what the optimizer updates from the next window on."""
        self._optimizer = optimizer

    def flow(self, flow: Flow) -> None:
        """Add a traced batch, before the window of its step."""
        self._flows.append(flow)

    def kept(self, kept: Kept | None) -> None:
        """Record which checkpoint is kept, after all windows of its epoch.

        Args:
            kept: The checkpoint, ignored if noted before the one already known; None if the file is
                gone.
        """
        if kept and self._noted and not kept.is_after(self._noted):
            return
        self._noted = kept or self._noted
        self.way_back = replace(kept, since=0) if kept and kept.epoch else None
        older = self.way_back if kept and kept.since else None  # an older copy is back in place
        for finding in [one for one in self.findings.all.values() if one.kept]:
            self.findings.reword(replace(finding, kept=_if_before(older, finding)))

    def went_back(self, kept: Kept, changes: Iterable[FindingChange]) -> list[FindingChange]:
        """Record that the kept checkpoint was replaced by an older one, or by none.

        Args:
            kept: What is kept from the newest window on.
            changes: Changes of that window, as `update` returned them.

        Returns:
            The changes, whose findings name what is kept.
        """
        self.kept(kept)
        return [self._named(change) for change in changes]

    def attach(self, change: FindingChange, file: str) -> FindingChange:
        """Attach the requested evidence file to the finding of a change.

        Call it before the next window.

        Args:
            change: Change, as `update` returned it.
            file: Name within the run's folder; "" leaves the change as it is.
        """
        if not file:
            return change
        return self._reworded(change, replace(change.finding, evidence=file))

    def _named(self, change: FindingChange) -> FindingChange:
        """Name the current checkpoint in a change that begins a finding or already named one."""
        finding = change.finding
        if change.change != "start" and finding.kept is None:
            return change
        return self._reworded(change, replace(finding, kept=_if_before(self.way_back, finding)))

    def _reworded(self, change: FindingChange, finding: Finding) -> FindingChange:
        """Return a change with a newer state of its finding, reworded if it differs."""
        is_same = finding == change.finding
        return change if is_same else replace(change, finding=self.findings.reword(finding))

    def regroup(self, layout: Layout) -> None:
        """Continue with a layout that has more modules."""
        self._layout = layout

    def _scoped(self, window: Window) -> Window:
        """Return a window with the modules watched at the time, and rescope the rules to them."""
        window, self._scope = rescoped(window, self._layout, self._scope, self._rescope)
        return window

    def _rescope(self, scope: Layout) -> None:
        self._detector = self._detector.rescoped(scope)
        self.findings.regroup(scope)

    def restart(self, kind: str = "") -> None:
        """Discard the state from before a resume or a recovery.

        Args:
            kind: Kind of the event.
        """
        self._windows = 0
        self._flow = None
        self._flows.clear()
        self._detector.forget(is_new=kind in {"start", "resume"})
        self.findings.restart(resumes=kind == "resume")

    def unjudged(self) -> tuple[str, ...]:
        """Return the rules that need more windows in a row than there were."""
        return tuple(
            name for name, rule in RULES.items() if rule.needs(self._limits) > self._longest
        )


def replay(  # noqa: PLR0913  # everything the training knew
    diagnosis: Diagnosis,
    windows: Iterable[Window],
    events: Iterable[Event],
    reported: Mapping[int, int] | None = None,
    files: Mapping[int, str] | None = None,
    *,
    optimizers: Iterable[Optimizer] = (),
    flows: Iterable[Flow] = (),
    kept: Iterable[Kept] = (),
) -> list[FindingChange]:
    """Return the changes of a whole run, as its training reported them.

    Args:
        diagnosis: A new diagnosis, under any thresholds.
        windows: Windows in the order of their steps.
        events: Events in the order of their steps.
        reported: For the first step of a window that brought a change, the newest step seen when it
            was reported; the window's last step where it is missing.
        files: Evidence files: names within the run's folder by step.
        optimizers: What the optimizer updated, in the order of the steps.
        flows: Traced batches in the order of their steps.
        kept: Checkpoints that were kept, in the order in which they were noted.
    """
    known, named = reported or {}, files or {}
    changes: list[FindingChange] = []
    pending, moved, traced = deque(events), deque(optimizers), deque(flows)
    copies = deque(kept)

    def trace(until: int) -> None:
        while traced and traced[0].step <= until:
            diagnosis.flow(traced.popleft())

    for window in windows:
        while copies and copies[0].begins <= window.step_first:
            diagnosis.kept(copies.popleft())
        while pending and pending[0].step <= window.step_first:
            event = pending.popleft()
            trace(event.step - 1)
            diagnosis.restart(event.kind)
        while moved and moved[0].step <= window.step_first:
            diagnosis.membership(moved.popleft())
        trace(window.step_last)
        for change in diagnosis.update(window, known.get(window.step_first, 0)):
            file = first_within(named, *change.wants) if change.wants else ""
            changes.append(diagnosis.attach(change, file))
    for copy in copies:
        diagnosis.kept(copy)
    return changes


def _if_before(kept: Kept | None, finding: Finding) -> Kept | None:
    """Return a checkpoint if it is from before the newest episode of a finding; else None."""
    return kept if kept and kept.step < finding.episodes[-1].step else None


def first_within(files: Mapping[int, str], first: int, last: int) -> str:
    """Return the file of the first step in a range that has one; "" if none has."""
    step = min((step for step in files if first <= step <= last), default=None)
    return "" if step is None else files[step]
