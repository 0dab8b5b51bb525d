"""Alerts, the findings that group them, and the changes of findings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from yolo_gradwatch.diagnose.html import finding_html

if TYPE_CHECKING:
    from yolo_gradwatch.measure.kept import Kept

Severity = Literal["notice", "warning", "critical"]

Change = Literal["start", "worse", "cause", "end"]
"""An episode begins, grows worse, gets a surer cause, or ends."""


@dataclass(frozen=True, slots=True)
class Reason:
    """What was measured about the cause of a finding, for its message.

    Attributes:
        kind: Keyword that the words of the rule interpret.
        names: Modules, tensors, loss items or options involved, depending on the kind.
        values: Numbers, depending on the kind.
        rank: Of two reasons for one finding, the higher rank wins; of equal ones, the earlier
            reason.
    """

    kind: str
    names: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule that holds for a module in one window.

    Attributes:
        rule: Identifier, see `catalog.RULES`.
        severity: Severity of the rule.
        module: Name of the module.
        epoch: Epoch of the first window of its evidence.
        step: First step of that window.
        value: The judged number.
        limit: The threshold that it violated.
        affected: Other blocks that suffer from it.
        reason: What was measured about its cause; None if nothing was.
        warming: Whether the learning rate was warming up at that step.
    """

    rule: str
    severity: Severity
    module: str
    epoch: int
    step: int
    value: float
    limit: float
    affected: tuple[str, ...] = ()
    reason: Reason | None = None
    warming: bool = False


@dataclass(frozen=True, slots=True)
class Episode:
    """A stretch of steps over which a finding lasted.

    Attributes:
        epoch: Epoch of its first alert.
        step: Step of its first alert.
        step_end: Step at which it ended; None while it lasts.
        reported: Newest optimizer step seen when its beginning was reported.
        value: The judged number when it was last reported.
    """

    epoch: int
    step: int
    step_end: int | None
    reported: int
    value: float


@dataclass(frozen=True, slots=True)
class Finding:
    """Alerts with one cause.

    Attributes:
        number: Number within the run, from 1.
        rule: Identifier, see `catalog.RULES`.
        severity: Highest severity of its alerts.
        module: The module it is about: the one nearest to the loss, or ``model``.
        modules: Every module with an alert, or affected by one, so far, in forward order.
        episodes: When it lasted, oldest first; at least one, and only the last may be open.
        limit: The threshold.
        message: What happened, why and what to try.
        origin: Those of ``modules`` with which it began.
        evidence: File with the details of its first step; "" if there is none.
        reason: What was measured about the cause of its newest episode; None if nothing was.
        judged: If ``reason`` comes from a trace, the judge's own reason, which the message also
            needs.
        is_traced: Whether ``reason`` comes from a trace of a batch.
        is_measured: Whether the cause in ``message`` was measured; if not, it is likely.
        why: The sentence about the cause in ``message``; "" if there is none.
        well: Steps without an alarm before its newest episode, at least fifty windows; 0 if it
            began earlier, or in a run with other alarms.
        kept: The checkpoint from before its newest episode, as long as it is the one kept; else
            None.
        warming: Whether the learning rate was warming up when its newest episode began.
    """

    number: int
    rule: str
    severity: Severity
    module: str
    modules: tuple[str, ...]
    episodes: tuple[Episode, ...]
    limit: float
    message: str
    origin: tuple[str, ...] = ()
    evidence: str = ""
    reason: Reason | None = None
    judged: Reason | None = None
    is_traced: bool = False
    is_measured: bool = False
    why: str = ""
    well: int = 0
    kept: Kept | None = None
    warming: bool = False

    @property
    def epoch(self) -> int:
        """Epoch in which it first began."""
        return self.episodes[0].epoch

    @property
    def step(self) -> int:
        """Step at which it first began."""
        return self.episodes[0].step

    @property
    def step_end(self) -> int | None:
        """Step at which its newest episode ended; None while it lasts."""
        return self.episodes[-1].step_end

    @property
    def account(self) -> str:
        """The message, when its newest episode was reported, and when that ended."""
        newest = self.episodes[-1]
        late = f" Reported at step {newest.reported:,}." if newest.reported > newest.step else ""
        over = "" if newest.step_end is None else f" Resolved at step {newest.step_end:,}."
        return f"{self.message}{late}{over}"

    def __str__(self) -> str:
        """Return severity, rule and message."""
        return f"{self.severity} {self.rule}: {self.message}"

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook cell shows."""
        return finding_html(self)

    def with_newest(self, episode: Episode) -> Finding:
        """Return the finding with its newest episode replaced."""
        return replace(self, episodes=(*self.episodes[:-1], episode))

    @property
    def waits_for_cause(self) -> bool:
        """Whether it is a lasting alarm whose cause no trace has measured."""
        return self.step_end is None and self.severity != "notice" and not self.is_traced

    @property
    def value(self) -> float:
        """The judged number when it was last reported."""
        return self.episodes[-1].value


@dataclass(frozen=True, slots=True)
class FindingChange:
    """A finding that has just begun, recurred, grown worse or ended, or whose cause is now known.

    Attributes:
        change: What happened to it.
        epoch: Epoch of the window that brought the change.
        step: First step of that window.
        finding: The finding after the change.
        reported: Newest optimizer step seen when it was reported.
        wants: First and last step of the range that needs a file, see `Diagnosis.attach`; None if
            no file is needed.
    """

    change: Change
    epoch: int
    step: int
    finding: Finding
    reported: int
    wants: tuple[int, int] | None = None
