"""Decides from layout, windows and thresholds alone which modules broke which rule.

A rule is a function that yields an alert for each module for which it holds in the newest window.
To add one: write the function, give it a place in ``RULES``, a limit in ``Thresholds`` and its
words in ``advice``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from yolo_gradwatch.records import WHOLE, Alert, Layout, Severity, Window

if TYPE_CHECKING:
    from yolo_gradwatch.records import Counts, Finding, Flags
    from yolo_gradwatch.thresholds import Thresholds


class Hit(NamedTuple):
    """A module for which a rule holds.

    Attributes:
        module: Its name.
        value: The number that was judged.
        limit: The threshold that it broke.
        since: The first window of the evidence.
    """

    module: str
    value: float
    limit: float
    since: Window


Judge: TypeAlias = Callable[[Layout, Sequence[Window], "Thresholds"], Iterator[Hit]]
"""From the layout, the newest windows (oldest first, at least one) and the limits to the hits."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A judge with its place in the vocabulary.

    Attributes:
        kind: Family, a word that options accept beside the rule's name; "" for a notice.
        severity: What an alert of it weighs. A notice is never an alarm.
        judge: Decides for which modules the rule holds.
    """

    kind: str
    severity: Severity
    judge: Judge


def nonfinite(layout: Layout, recent: Sequence[Window], limits: Thresholds) -> Iterator[Hit]:
    """Modules with a NaN or Inf gradient in a step that was applied, or in too many skipped ones.

    AMP's scaler skips a step with an overflow and lowers its scale: calibration, until it has
    done so more often in a row than any scale explains. Value: bad steps, limit: how many are
    allowed.
    """
    newest = recent[-1]
    for m in np.flatnonzero(newest.nonfinite * _leaves(layout)):
        yield Hit(layout.modules[m], float(newest.nonfinite[m]), 0.0, newest)
    skipped = _skipped_in_a_row(recent)
    skips = sum(window.skipped for window in skipped)
    if skips > limits.amp_grace:
        bad = _leaves(layout) & np.isnan(newest.norm_mean) & ~_without_gradient(recent)
        for name in _names(layout, bad) or [WHOLE]:
            yield Hit(name, float(skips), float(limits.amp_grace), skipped[0])


def amp_overflow(layout: Layout, recent: Sequence[Window], limits: Thresholds) -> Iterator[Hit]:
    """The whole model, when AMP's scaler skipped a step to calibrate its scale.

    Value: steps skipped, limit: how many in a row would be an alarm.
    """
    del layout
    newest = recent[-1]
    in_a_row = sum(window.skipped for window in _skipped_in_a_row(recent))
    if newest.skipped and in_a_row <= limits.amp_grace:
        yield Hit(WHOLE, float(newest.skipped), float(limits.amp_grace), newest)


def dead(layout: Layout, recent: Sequence[Window], limits: Thresholds) -> Iterator[Hit]:
    """Modules of the trunk whose gradient has been exactly zero for several windows.

    The head is left out: on a scale on which no object lands, zero is healthy there.
    """
    yield from _persistent(layout, recent, limits, lambda window: window.zero)


def no_gradient(layout: Layout, recent: Sequence[Window], limits: Thresholds) -> Iterator[Hit]:
    """Modules of the trunk that no gradient has reached at all for several windows."""
    yield from _persistent(layout, recent, limits, lambda window: window.none)


RULES: dict[str, Rule] = {
    "nonfinite": Rule("nonfinite", "critical", nonfinite),
    "amp_overflow": Rule("", "notice", amp_overflow),
    "dead": Rule("dead", "critical", dead),
    "no_gradient": Rule("dead", "critical", no_gradient),
}
"""Every rule by its identifier, as in files and options."""

ALARMS = tuple(
    sorted({word for name, rule in RULES.items() if rule.kind for word in (name, rule.kind)})
)
"""The rules and kinds that a run can be stopped or failed on."""


def alarms(option: str, words: Iterable[str]) -> tuple[str, ...]:
    """Rules or kinds that an option names, checked.

    Raises:
        TypeError: They are a single text.
        ValueError: One is not known, or is a notice.
    """
    if isinstance(words, str):
        raise TypeError(f"{option} must be a list or tuple of names, got the text {words!r}")
    chosen = tuple(words)
    for word in chosen:
        if word not in ALARMS:
            raise ValueError(f"{option}: {word!r} is not one of {', '.join(ALARMS)}")
    return chosen


def matches(finding: Finding, words: Collection[str]) -> bool:
    """Whether rules or kinds that a user named speak of this finding; never of a notice."""
    named = finding.rule in words or RULES[finding.rule].kind in words
    return named and finding.severity != "notice"


class Detector:
    """Feeds windows to every rule, keeping only the few that a rule may look back on.

    A live run and a replay of its files both go through ``update``, so they agree by construction.

    Args:
        layout: Of the model that is watched.
        limits: Of the rules.
    """

    def __init__(self, layout: Layout, limits: Thresholds) -> None:
        self._layout = layout
        self._limits = limits
        self._recent: list[Window] = []

    def update(self, window: Window) -> list[Alert]:
        """Alerts that hold with this window."""
        self._recent = self._needed([*self._recent, window])
        return [
            Alert(
                rule=name,
                severity=rule.severity,
                module=hit.module,
                epoch=hit.since.epoch,
                step=hit.since.step_first,
                value=hit.value,
                limit=hit.limit,
            )
            for name, rule in RULES.items()
            for hit in rule.judge(self._layout, self._recent, self._limits)
        ]

    def forget(self) -> None:
        """Drop what was before a resume or a recovery."""
        self._recent = []

    def _needed(self, windows: list[Window]) -> list[Window]:
        """The last windows with an applied step, then those since then that AMP skipped whole."""
        skipped = _skipped_in_a_row(windows)
        longest = self._limits.amp_grace + 1
        return [*_applied(windows)[-self._limits.dead_windows :], *skipped[-longest:]]


def _leaves(layout: Layout) -> Flags:
    """(M,) whether a module owns parameters itself: containers only repeat their children."""
    return np.array(layout.leaf)


def _names(layout: Layout, chosen: Flags) -> list[str]:
    return [layout.modules[m] for m in np.flatnonzero(chosen)]


def _applied(windows: Sequence[Window]) -> list[Window]:
    """The windows with at least one step that AMP did not skip; the others say nothing of it."""
    return [window for window in windows if window.skipped < window.steps]


def _without_gradient(recent: Sequence[Window]) -> Flags:
    """(M,) whether a module had no gradient in the last window with an applied step."""
    applied = _applied(recent)
    if not applied:
        return np.zeros(len(recent[-1].none), np.bool_)
    without: Flags = applied[-1].none == applied[-1].steps - applied[-1].skipped
    return without


def _skipped_in_a_row(recent: Sequence[Window]) -> list[Window]:
    """The newest windows of which AMP skipped every step, oldest first."""
    skipped = takewhile(lambda window: window.skipped == window.steps, reversed(recent))
    return list(skipped)[::-1]


def _persistent(
    layout: Layout,
    recent: Sequence[Window],
    limits: Thresholds,
    count: Callable[[Window], Counts],
) -> Iterator[Hit]:
    """Leaf modules of the trunk with the count in every applied step of the last windows.

    A window without an applied step says nothing and is passed over. Value and limit: windows.
    """
    told = _applied(recent)[-limits.dead_windows :]
    if len(told) < limits.dead_windows:
        return
    trunk = np.array([block not in ("", layout.head) for block in layout.block_of])
    always = [count(window) == window.steps - window.skipped for window in told]
    for name in _names(layout, _leaves(layout) & trunk & np.all(always, axis=0)):
        yield Hit(name, float(len(told)), float(limits.dead_windows), told[0])
