"""The vocabulary of rules, and the detector that feeds windows to them.

A rule is a function in ``rules`` that yields the modules for which it holds in the newest window.
To add one: write the function, give it a place in ``RULES``, a limit in ``Thresholds`` and its
words in ``advice``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yolo_gradwatch import rules
from yolo_gradwatch.finding import Alert, Severity
from yolo_gradwatch.levels import Reader, Reading
from yolo_gradwatch.rules import History, Judge, Mark
from yolo_gradwatch.thresholds import Thresholds, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from yolo_gradwatch.finding import Finding
    from yolo_gradwatch.layout import Layout
    from yolo_gradwatch.windows import Window


@dataclass(frozen=True, slots=True)
class Rule:
    """A judge with its place in the vocabulary.

    Attributes:
        kind: Family, a word that options accept beside the rule's name; "" for a notice.
        severity: What an alert of it weighs. A notice is never an alarm.
        judge: Decides for which modules the rule holds.
        needs: Windows before it can say anything.
        is_in_decades: Whether its value is in decades, so that twice as much is worse.
    """

    kind: str
    severity: Severity
    judge: Judge
    needs: Callable[[Thresholds], int]
    is_in_decades: bool = False


RULES: dict[str, Rule] = {
    "nonfinite": Rule("nonfinite", "critical", rules.nonfinite, lambda _: 1),
    "amp_overflow": Rule("", "notice", rules.amp_overflow, lambda _: 1),
    "dead": Rule("dead", "critical", rules.dead, lambda limits: limits.dead_windows),
    "no_gradient": Rule("dead", "critical", rules.no_gradient, lambda limits: limits.dead_windows),
    "dead_branch": Rule(
        "dead", "warning", rules.dead_branch, lambda limits: limits.dead_branch_windows
    ),
    "starved_scale": Rule(
        "", "notice", rules.starved_scale, lambda limits: limits.dead_branch_windows
    ),
    "partly_dead": Rule("dead", "warning", rules.partly_dead, lambda _: rules.PARTLY_WINDOWS),
    "frozen": Rule("", "notice", rules.frozen, lambda _: rules.FROZEN_WINDOWS),
    "vanishing": Rule(
        "vanishing", "critical", rules.vanishing, lambda _: rules.HOPS[1], is_in_decades=True
    ),
    "exploding": Rule(
        "exploding", "critical", rules.exploding, lambda _: rules.JUMPS[1], is_in_decades=True
    ),
    "leaf_vanishing": Rule(
        "vanishing", "warning", rules.leaf_vanishing, lambda _: rules.JUMPS[1], is_in_decades=True
    ),
    "leaf_exploding": Rule(
        "exploding", "warning", rules.leaf_exploding, lambda _: rules.JUMPS[1], is_in_decades=True
    ),
    "spike": Rule(
        "exploding", "warning", rules.spike, lambda _: rules.PEAK_LEAST + 1, is_in_decades=True
    ),
    "collapse": Rule(
        "vanishing",
        "critical",
        rules.collapse,
        lambda _: rules.COLLAPSE_BEFORE + rules.COLLAPSE_WINDOWS,
        is_in_decades=True,
    ),
    "total_high": Rule("exploding", "critical", rules.total_high, lambda _: rules.HIGH_WINDOWS),
    "total_low": Rule("vanishing", "critical", rules.total_low, lambda _: rules.LOW_WINDOWS),
    "weight_growth": Rule(
        "exploding", "warning", rules.weight_growth, lambda _: 2, is_in_decades=True
    ),
}
"""Every rule by its identifier, as in files and options; of two that hold for one cause, the first
is the finding."""

ALARMS = tuple(
    sorted({word for name, rule in RULES.items() if rule.kind for word in (name, rule.kind)})
)
"""The rules and kinds that a run can be stopped or failed on."""


def alarms(option: str, words: object) -> tuple[str, ...]:
    """Rules or kinds that an option names, checked.

    Raises:
        TypeError: They are a single text, or nothing that holds several.
        ValueError: One is not known, or is a notice.
    """
    if isinstance(words, str) or not isinstance(words, Iterable):
        got = f"the text {words!r}" if isinstance(words, str) else type(words).__name__
        raise TypeError(f"{option} must be a list or tuple of names, got {got}")
    chosen = tuple(words)
    for word in chosen:
        if not isinstance(word, str) or word not in ALARMS:
            raise ValueError(f"{option}: {shown(word)} is not one of {', '.join(ALARMS)}")
    return chosen


def is_named(rule: str, words: Collection[str]) -> bool:
    """Whether a user named this rule, or its kind."""
    return rule in words or RULES[rule].kind in words


def matches(finding: Finding, words: Collection[str]) -> bool:
    """Whether rules or kinds that a user named speak of this finding; never of a notice."""
    return is_named(finding.rule, words) and finding.severity != "notice"


class Detector:
    """Feeds windows to every rule, keeping only those that a rule may look back on.

    A live run and a replay of its files both go through ``update``, so they agree by construction.

    Args:
        layout: Of the model that is watched.
        limits: Of the rules.
    """

    def __init__(self, layout: Layout, limits: Thresholds) -> None:
        self._layout = layout
        self._limits = limits
        self._reader = Reader(layout)
        lookback = max(limits.dead_windows, limits.dead_branch_windows, rules.GROWTH_WINDOWS + 1)
        self._readings: deque[Reading] = deque(maxlen=lookback)
        self._marks: deque[Mark] = deque(maxlen=rules.PEAK_WINDOWS + rules.STANDS)
        self._skipped: deque[Window] = deque(maxlen=limits.amp_grace + 1)

    def update(self, window: Window) -> list[Alert]:
        """Alerts that hold with this window."""
        if window.skipped == window.steps:
            self._skipped.append(window)
        else:
            self._skipped.clear()
            self._remember(self._reader.read(window))
        history = History(
            layout=self._layout,
            graph=self._reader.graph,
            newest=window,
            readings=tuple(self._readings),
            skipped=tuple(self._skipped),
            marks=tuple(self._marks),
        )
        return [
            Alert(name, rule.severity, hit.module, *hit.since, hit.value, hit.limit, hit.affected)
            for name, rule in RULES.items()
            for hit in rule.judge(history, self._limits)
        ]

    def forget(self) -> None:
        """Drop what was before a resume or a recovery."""
        self._readings.clear()
        self._marks.clear()
        self._skipped.clear()

    def _remember(self, reading: Reading) -> None:
        self._readings.append(reading)
        window = reading.window
        if rules.beyond_clip(window):  # no measure for what follows
            return
        mark = Mark(window.epoch, window.step_first, reading.trunk, reading.trunk_peak)
        self._marks.append(mark)
