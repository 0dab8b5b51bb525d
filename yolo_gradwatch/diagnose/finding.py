"""Alerts, what groups them, and what changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from yolo_gradwatch.diagnose.html import finding_html

if TYPE_CHECKING:
    from yolo_gradwatch.measure.kept import Kept

Severity = Literal["notice", "warning", "critical"]

Change = Literal["start", "worse", "cause", "end"]
"""An episode begins, grows worse, has a surer cause, or is over."""


@dataclass(frozen=True, slots=True)
class Reason:
    """What was measured about the cause of a finding, for its words.

    Attributes:
        kind: What it is, a word that the words of the rule know.
        names: Modules, tensors, loss items or options that it is about, as the kind says.
        values: Numbers, as the kind says.
        rank: Of two reasons for one finding, the higher one is kept; of equals, the earlier.
    """

    kind: str
    names: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Alert:
    """One rule that holds for one module in one window.

    Attributes:
        rule: Identifier, see `catalog.RULES`.
        severity: As the rule says.
        module: Name of the module.
        epoch: Of the first window of its evidence.
        step: First step of that window.
        value: The number that was judged.
        limit: The threshold that it broke.
        affected: Blocks that suffer from it, its own aside.
        reason: Of what was measured about its cause; None if nothing was.
        warming: Whether the warm-up of the learning rate was at work in that step.
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
    """One stretch of steps over which a finding lasted.

    Attributes:
        epoch: Epoch of its first alert.
        step: Step of its first alert.
        step_end: Step at which it was over; None while it lasts.
        reported: Newest optimizer step that had been seen when its beginning was reported.
        value: The number that was judged when it was last reported.
    """

    epoch: int
    step: int
    step_end: int | None
    reported: int
    value: float


@dataclass(frozen=True, slots=True)
class Finding:
    """Alerts of one cause.

    Attributes:
        number: Counts from 1 within a run.
        rule: Identifier, see `catalog.RULES`.
        severity: Highest of its alerts.
        module: The module it is about: the one nearest to the loss, or ``model``.
        modules: Every module with an alert so far, in forward order.
        episodes: When it lasted, oldest first; at least one, and only the last may be open.
        limit: The threshold.
        message: What happened, why and what to try.
        origin: Those of ``modules`` with which it began.
        evidence: File that holds what its first step was made of; "" if there is none.
        reason: What was measured about the cause of its newest episode; None if nothing was.
        judged: Where a trace of a batch is the surer reason, that of its judge, for its words.
        is_traced: Whether ``reason`` is what a trace of a batch says.
        is_measured: Whether the cause that ``message`` names was measured; if not, it is likely.
        why: The sentence on the cause in ``message``; "" if there is none.
        well: Steps before its newest episode, at least fifty windows, in which nothing alarmed; 0
            if it began earlier, or in a run with other alarms.
        kept: The checkpoint that was kept before its newest episode, as long as that is the one
            that is there; else None.
        warming: Whether its newest episode began in the warm-up of the learning rate.
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
        """Epoch in which it began for the first time."""
        return self.episodes[0].epoch

    @property
    def step(self) -> int:
        """Step at which it began for the first time."""
        return self.episodes[0].step

    @property
    def step_end(self) -> int | None:
        """Step at which its newest episode was over; None while that lasts."""
        return self.episodes[-1].step_end

    @property
    def account(self) -> str:
        """The message, when its newest episode was reported, and whether that is over."""
        newest = self.episodes[-1]
        late = f" Reported at step {newest.reported:,}." if newest.reported > newest.step else ""
        over = "" if newest.step_end is None else f" Resolved at step {newest.step_end:,}."
        return f"{self.message}{late}{over}"

    def _repr_html_(self) -> str:
        """As a cell of a notebook shows it."""
        return finding_html(self)

    def with_newest(self, episode: Episode) -> Finding:
        """The finding with this in place of its newest episode."""
        return replace(self, episodes=(*self.episodes[:-1], episode))

    @property
    def waits_for_cause(self) -> bool:
        """Whether it is an alarm that lasts, with a cause that no trace has measured."""
        return self.step_end is None and self.severity != "notice" and not self.is_traced

    @property
    def value(self) -> float:
        """The number that was judged when it was last reported."""
        return self.episodes[-1].value


@dataclass(frozen=True, slots=True)
class FindingChange:
    """A finding that has just begun or come back, grown worse or ended, or whose cause is known.

    Attributes:
        change: What happened to it.
        epoch: Of the window that brought the change.
        step: First step of that window.
        finding: Its state from now on.
        reported: Newest optimizer step that had been seen when it was reported.
        wants: First and last step of which the finding is to name a file, see `Diagnosis.attach`;
            None if it needs none.
    """

    change: Change
    epoch: int
    step: int
    finding: Finding
    reported: int
    wants: tuple[int, int] | None = None
