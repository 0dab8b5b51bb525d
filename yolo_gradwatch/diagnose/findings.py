"""Tracks the findings of a run and reports their changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from yolo_gradwatch.diagnose import reasons
from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.finding import Alert, Change, Episode, Finding, FindingChange
from yolo_gradwatch.diagnose.grouping import Grouping, by_rule
from yolo_gradwatch.measure.clipping import CLIP_OVERFLOW
from yolo_gradwatch.measure.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.trace import Flow
    from yolo_gradwatch.measure.windows import Window

SPREAD = 2
"""A finding is worse once its modules or its value in decades are this many times what was
reported, or once clipping multiplies the gradient by 0."""

CALM_WINDOWS = 5
"""Minimum number of windows without an alert before a finding ends."""

CALM_STEPS = 20
"""Steps without an alert before a finding that spreads ends, even after a recovery: restored
weights produce the same NaN again a few steps later, which is not worth another report. After a
resume, the user has removed the cause, so calm windows are enough."""

WELL_WINDOWS = 50
"""Windows without an alarm after which a finding means that something changed: a model that is
built wrong fails within them."""


class _Now(NamedTuple):
    """When a change is reported: the window that brought it, and the newest step seen."""

    epoch: int
    step: int
    last: int
    reported: int


@dataclass(slots=True)
class _Reported:
    """A finding as last reported, and how calm it has been since its last alert.

    Attributes:
        modules: How many modules it had.
        value: The highest value of its alerts.
        alerted: Last step of the newest window with an alert.
        calm: Windows without an alert since then.
        calm_since: Epoch and step of the first calm window.
        interrupted: Whether the run restarted during an episode that a restart ends.
        resumed: Whether the run was resumed during an episode, with no alert since.
    """

    modules: int
    value: float
    alerted: int
    calm: int = 0
    calm_since: tuple[int, int] = (0, 0)
    interrupted: bool = False
    resumed: bool = False

    def alert(self, now: _Now) -> None:
        """Record another alert."""
        self.calm, self.alerted, self.interrupted, self.resumed = 0, now.last, False, False

    def rest(self, now: _Now) -> None:
        """Record where the calm began, if this window is the first calm one."""
        self.calm_since = self.calm_since if self.calm else (now.epoch, now.step)

    def is_exceeded_by(self, finding: Finding, value: float) -> bool:
        """Return whether a finding with this value is worse than what was reported.

        If its rule spreads, other modules do not count, because reaching them is expected.
        """
        has_spread = len(finding.modules) >= SPREAD * self.modules
        return finding.severity != "notice" and (
            (has_spread and not RULES[finding.rule].spreads)
            or self.value <= CLIP_OVERFLOW < value
            or (RULES[finding.rule].in_decades and value >= SPREAD * self.value)
        )


class _Well:
    """The first windows since the run began or restarted, without those that AMP skipped."""

    def __init__(self) -> None:
        self._firsts: list[int] = []

    def add(self, window: Window) -> None:
        if len(self._firsts) < WELL_WINDOWS and window.skipped < window.steps:
            self._firsts.append(window.step_first)

    def until(self, step: int, findings: Iterable[Finding]) -> int:
        """Return the alarm-free steps before ``step``, if they span enough windows; else 0."""
        alarmed = any(f.severity != "notice" and f.step < step for f in findings)
        is_late = len(self._firsts) == WELL_WINDOWS and step > self._firsts[-1]
        return step - self._firsts[0] if is_late and not alarmed else 0


class Findings:
    """Tracks the findings of a run.

    Args:
        layout: Layout of the watched model.
        limits: Thresholds, which decide how many windows a rule needs.
        training: Options of the training that messages refer to.

    Attributes:
        all: Every finding so far, lasting or ended, by number.
    """

    def __init__(self, layout: Layout, limits: Thresholds, training: Mapping[str, object]) -> None:
        self._limits = limits
        self._training = training
        self._reported: dict[int, _Reported] = {}
        self._well = _Well()
        self._flow: Flow | None = None
        self._traced = reasons.Traced(training)
        self.all: dict[int, Finding] = {}
        self.regroup(layout)

    def regroup(self, layout: Layout) -> None:
        """Continue with the modules of another layout."""
        self._layout = layout
        self._grouping = Grouping(layout)

    def update(
        self, window: Window, alerts: Iterable[Alert], reported: int, flow: Flow | None = None
    ) -> list[FindingChange]:
        """Return what the alerts of this window change.

        Args:
            window: The newest window.
            alerts: Alerts of this window.
            reported: Newest optimizer step seen so far.
            flow: The newest traced batch, no later than the window.
        """
        self._flow = flow
        now = _Now(window.epoch, window.step_first, window.step_last, reported)
        self._well.add(window)
        changes = []
        alerted: set[int] = set()
        for rule, fresh in by_rule(alerts).items():  # strongest first: it may explain the others
            rest = fresh
            for finding in [f for f in self._lasting() if f.rule == rule]:
                own, rest = self._grouping.split(rest, finding)
                if own:
                    alerted.add(finding.number)
                    changes += self._continue(finding, now, own)
            # What no lasting finding continues or explains begins new ones, one per cause.
            rest = [a for a in rest if not self._grouping.is_explained(a, self._lasting())]
            while rest:
                own, rest = self._grouping.together(rest)
                earlier = self._grouping.earlier(own, self.all.values())
                begun = self._begin(now, own, earlier)
                alerted.add(begun.finding.number)
                changes += [begun] if _is_reported(begun.finding) else []
        calm = [] if window.skipped == window.steps else self._end_calm(now, alerted)
        return [*changes, *calm]

    def restart(self, *, resumes: bool = False) -> None:
        """Record a restart, by a resume or not: findings end only if they do not come back."""
        self._well = _Well()
        for finding in self._lasting():
            last = self._reported[finding.number]
            last.calm, last.interrupted = 0, RULES[finding.rule].ends_at_restart
            last.resumed = resumes

    def reword(self, finding: Finding) -> Finding:
        """Store a finding that knows more, and return it with its new message."""
        found = self._worded(finding)
        self.all[found.number] = found
        return found

    def _lasting(self) -> list[Finding]:
        return [finding for finding in self.all.values() if finding.step_end is None]

    def _begin(self, now: _Now, alerts: list[Alert], earlier: Finding | None) -> FindingChange:
        """Begin a finding, or the next episode of one that had ended."""
        first = self._grouping.source(alerts)
        epoch, step = _beginning(first, self._reported[earlier.number] if earlier else None)
        finding = earlier or _unknown(max(self.all, default=0) + 1, alerts, self._grouping)
        begun = replace(
            finding,
            modules=self._grouping.modules(alerts, finding.modules),
            episodes=(*finding.episodes, Episode(epoch, step, None, now.reported, first.value)),
            limit=first.limit,
            well=self._well.until(step, self.all.values()),
            warming=first.warming,
        )
        begun = self._traced.surer(reasons.begun(begun, alerts), self._layout, self._flow)
        change = self._report("start", now, begun, alerts)
        is_kept = RULES[first.rule].keeps_evidence
        return replace(change, wants=(first.step, now.last)) if is_kept else change

    def _continue(self, finding: Finding, now: _Now, alerts: list[Alert]) -> list[FindingChange]:
        """Continue a finding that has not been reported as ended."""
        last = self._reported[finding.number]
        if last.interrupted and not _is_fresh(finding, last, now):
            last.rest(now)
            end = self._end(finding, now)
            return [end, self._begin(now, alerts, end.finding)]
        last.alert(now)
        own = replace(finding, modules=self._grouping.modules(alerts, finding.modules))
        grown = self._traced.surer(reasons.grown(own, alerts), self._layout, self._flow)
        grown = grown if grown == finding else self._worded(grown)
        self.all[finding.number] = grown
        value = max(alert.value for alert in alerts)
        if not last.is_exceeded_by(grown, value):
            known = FindingChange("cause", now.epoch, now.step, grown, now.reported)
            return [known] if _is_explained_better(grown, finding) else []
        worse = grown.with_newest(replace(finding.episodes[-1], value=value))
        worse = replace(worse, limit=alerts[-1].limit)
        return [self._report("worse", now, worse, alerts)]

    def _end_calm(self, now: _Now, alerted: set[int]) -> list[FindingChange]:
        """End findings without an alert for long enough; the end of a notice is not reported."""
        changes = []
        for finding in self._lasting():
            if finding.number in alerted:
                continue
            last = self._reported[finding.number]
            last.rest(now)
            last.calm += 1
            is_calm = last.calm >= max(CALM_WINDOWS, RULES[finding.rule].needs(self._limits))
            if is_calm and (last.resumed or not _is_fresh(finding, last, now)):
                ended = self._end(finding, now)
                changes += [ended] if finding.severity != "notice" else []
        return changes

    def _end(self, finding: Finding, now: _Now) -> FindingChange:
        """End an episode at its first calm window."""
        _, step = self._reported[finding.number].calm_since
        over = finding.with_newest(replace(finding.episodes[-1], step_end=step))
        self.all[over.number] = over
        return FindingChange("end", now.epoch, now.step, over, now.reported)

    def _report(
        self, change: Change, now: _Now, finding: Finding, alerts: list[Alert]
    ) -> FindingChange:
        """Record what is reported, with its message, as the baseline for getting worse."""
        last = _Reported(len(finding.modules), max(alert.value for alert in alerts), now.last)
        found = self._worded(finding)
        self._reported[found.number], self.all[found.number] = last, found
        return FindingChange(change, now.epoch, now.step, found, now.reported)

    def _worded(self, finding: Finding) -> Finding:
        return RULES[finding.rule].worded(self._layout, self._training, finding)


def _unknown(number: int, alerts: list[Alert], grouping: Grouping) -> Finding:
    """Return a finding that has no episode yet."""
    first = grouping.source(alerts)
    return Finding(
        number=number,
        rule=first.rule,
        severity=first.severity,
        module=grouping.name(alerts),
        modules=(),
        origin=grouping.modules(alerts),
        episodes=(),
        limit=first.limit,
        message="",
    )


def _is_reported(begun: Finding) -> bool:
    """Return whether an episode that begins is reported: of a notice, usually only the first is."""
    is_first = len(begun.episodes) == 1
    return is_first or begun.severity != "notice" or RULES[begun.rule].comes_back


def _beginning(first: Alert, last: _Reported | None) -> tuple[int, int]:
    """Return epoch and step: evidence may reach back into the calm, not into the last episode."""
    place = (first.epoch, first.step)
    return max(place, last.calm_since, key=lambda one: one[1]) if last else place


def _is_fresh(finding: Finding, last: _Reported, now: _Now) -> bool:
    """Return whether a finding that spreads had its last alert a few steps ago."""
    return RULES[finding.rule].spreads and now.step - last.alerted <= CALM_STEPS


def _is_explained_better(finding: Finding, before: Finding) -> bool:
    """Return whether an alarm has a surer cause than before, worded differently."""
    is_surer = reasons.is_surer(finding.reason, before.reason) and finding.why != before.why
    return is_surer and finding.severity != "notice"
