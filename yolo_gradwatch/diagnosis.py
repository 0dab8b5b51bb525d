"""From windows and events to news: what a live run and a replay of its files share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.detect import RULES, Detector
from yolo_gradwatch.findings import Findings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from yolo_gradwatch.records import Event, Layout, News, Window
    from yolo_gradwatch.thresholds import Thresholds


class Diagnosis:
    """Judges a run window by window.

    Args:
        layout: Of the model that is watched.
        limits: Of the rules.
        training: Options of the training that the words of a finding refer to.
        evidence: Gives the file on one of the steps from a first to a last, "" where there is none.

    Attributes:
        findings: All of them so far.
    """

    def __init__(
        self,
        layout: Layout,
        limits: Thresholds,
        training: Mapping[str, object],
        evidence: Callable[[int, int], str],
    ) -> None:
        self._limits = limits
        self._detector = Detector(layout, limits)
        self._windows = 0
        self._longest = 0
        self.findings = Findings(layout, limits, training, evidence)

    def update(self, window: Window) -> list[News]:
        """What the window changes."""
        self._windows += window.skipped < window.steps
        self._longest = max(self._longest, self._windows)
        return self.findings.update(window, self._detector.update(window))

    def begin_anew(self) -> None:
        """Forget what was before a resume or a recovery."""
        self._windows = 0
        self._detector.forget()
        self.findings.begin_anew()

    def unjudged(self) -> tuple[str, ...]:
        """The rules that need more windows in a row than there were."""
        return tuple(
            name for name, rule in RULES.items() if rule.needs(self._limits) > self._longest
        )


def replay(diagnosis: Diagnosis, windows: Iterable[Window], events: Iterable[Event]) -> list[News]:
    """The news of a whole run, as its training told them.

    Args:
        diagnosis: A new one, under any thresholds.
        windows: In the order of their steps.
        events: In the order of their steps.
    """
    told: list[News] = []
    pending = list(events)
    for window in windows:
        while pending and pending[0].step <= window.step_first:
            pending.pop(0)
            diagnosis.begin_anew()
        told += diagnosis.update(window)
    return told
