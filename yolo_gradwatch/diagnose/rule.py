"""The definition of a rule: how it is named, judged, worded and shown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from yolo_gradwatch.diagnose.measured_words import cause_of
from yolo_gradwatch.diagnose.messages import Case, Message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from yolo_gradwatch.diagnose.finding import Finding, Severity
    from yolo_gradwatch.diagnose.messages import Unit
    from yolo_gradwatch.diagnose.rules.history import Judge
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.layout import Layout

Blocks: TypeAlias = Literal["all", "entire", "origin"]
"""Which blocks of a finding show its state: all that it touches, those with every layer affected,
or only the one that it is about. The others show their position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A complete rule.

    Attributes:
        name: Identifier in files and options.
        kind: Family, which options accept as well as the name; "" for a notice.
        severity: Severity of its alerts. A notice is never an alarm.
        threshold: The field of `Thresholds` that decides; "" if none does.
        unit: Unit of the judged value.
        judge: Decides for which modules the rule holds.
        needs: Windows needed before it can judge.
        words: Puts a finding into words.
        meaning: What a finding means, in a line.
        not_meaning: What it does not mean.
        remedy: What to try, in short.
        healthy: The most extreme value in healthy recorded trainings, for messages; None if they do
            not name one.
        state: Word for the state of a block, if the name does not fit.
        blocks: Which blocks of a finding show that state.
        explains: Rules whose alerts are redundant on the path of such a finding.
        keeps_evidence: Whether a finding names a file with the details of its first step.
        comes_back: Whether a notice is reported again when it recurs.
        spreads: Whether clipping spreads it to the whole model: all of its alerts have one cause,
            and it explains every other rule.
        one_cause: Whether all of its alerts have one cause, on one path or not.
        stays_in_head: Whether a finding in the head explains nothing outside it, and is not
            explained from outside.
        is_passing: Whether it ends within its window: it explains other alerts only there, and
            later windows are not compared with it.
        is_beside: Whether it is reported alongside a finding that spreads, which does not explain
            it.
        ends_at_restart: Whether an episode ends when the run restarts, because weights were
            restored.
        starves_readers: Whether it also hits the weights that read its source, because their input
            is constant.
        begins_upstream: Whether it spreads only from its source to the weights that read it, so
            that a finding is named after the module farthest from the loss.
    """

    name: str
    kind: str = ""
    severity: Severity
    threshold: str = ""
    unit: Unit
    judge: Judge
    needs: Callable[[Thresholds], int]
    words: Callable[[Case], Message]
    meaning: str
    not_meaning: str
    remedy: str
    healthy: float | None = None
    state: str = ""
    blocks: Blocks = "all"
    explains: tuple[str, ...] = ()
    keeps_evidence: bool = False
    comes_back: bool = False
    spreads: bool = False
    one_cause: bool = False
    stays_in_head: bool = False
    is_beside: bool = False
    ends_at_restart: bool = False
    starves_readers: bool = False
    begins_upstream: bool = False
    is_passing: bool = False

    @property
    def shown(self) -> str:
        """The word for the state of a block with a finding of it."""
        return self.state or self.name

    @property
    def in_decades(self) -> bool:
        """Whether its value is in decades, so that twice as much is worse."""
        return self.unit == "decades"

    def makes_redundant(self, rule: str) -> bool:
        """Return whether a finding of this rule explains alerts of another one on its path."""
        return self.spreads or rule in self.explains

    def message(self, layout: Layout, training: Mapping[str, object], finding: Finding) -> Message:
        """Return the message on a finding of this rule.

        Args:
            layout: Layout of the watched model.
            training: Options of the training; ``amp`` says whether a loss scaler is at work.
            finding: What was found; its ``message`` is ignored.
        """
        own = replace(finding, reason=finding.judged) if finding.is_traced else finding
        case = Case(layout, training, own, self.unit, self.healthy)
        message = case.complete(self.words(case))
        cause = None
        if finding.is_traced and finding.reason:
            cause = cause_of(finding.reason, layout, training)
        return message.measuring(cause, case.way_back("")) if cause else message

    def worded(self, layout: Layout, training: Mapping[str, object], finding: Finding) -> Finding:
        """Return the finding with its message and what that says about its cause; see `message`."""
        words = self.message(layout, training, finding)
        is_measured, why = bool(words.measured), words.cause or words.why
        return replace(finding, message=str(words), is_measured=is_measured, why=why)
