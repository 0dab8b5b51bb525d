"""From windows and events to news: what a live run and a replay of its files share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.detect import Detector
from yolo_gradwatch.findings import Findings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from yolo_gradwatch.records import Event, Finding, Layout, News, Window
    from yolo_gradwatch.thresholds import Thresholds


class Diagnosis:
    """Judges a run window by window.

    Args:
        layout: Of the model that is watched.
        limits: Of the rules.
        training: Options of the training that the words of a finding refer to.

    Attributes:
        findings: All of them so far.
    """

    def __init__(self, layout: Layout, limits: Thresholds, training: Mapping[str, object]) -> None:
        self._detector = Detector(layout, limits)
        self._epoch = 1
        self.findings = Findings(layout, training)

    def update(self, window: Window) -> list[News]:
        """What the window changes."""
        self._epoch = window.epoch
        return self.findings.update(window, self._detector.update(window))

    def restore(self, earlier: Iterable[Finding], epoch: int) -> None:
        """Take over the findings of the run that is resumed, and the epoch of its last window."""
        self._epoch = epoch
        self.findings.restore(earlier)

    def begin_anew(self, event: Event) -> list[News]:
        """Forget what was before the event and end the findings that stand."""
        self._detector.forget()
        return self.findings.end_all(event, self._epoch)


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
            told += diagnosis.begin_anew(pending.pop(0))
        told += diagnosis.update(window)
    for event in pending:  # the training broke off before its next window
        told += diagnosis.begin_anew(event)
    return told
