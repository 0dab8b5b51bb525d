"""Feeds windows to the rules of the catalogue."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.finding import Alert
from yolo_gradwatch.diagnose.reading import Reader, Reading
from yolo_gradwatch.diagnose.rules import whole
from yolo_gradwatch.diagnose.rules.history import History, Mark, beyond_clip
from yolo_gradwatch.measure.rollup import RARELY

if TYPE_CHECKING:
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.windows import Window


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
        patience = [rule.needs(limits) for rule in RULES.values() if rule.unit == "windows"]
        lookback = max(RARELY, whole.GROWTH_WINDOWS + 1, *patience)
        self._readings: deque[Reading] = deque(maxlen=lookback)
        self._marks: deque[Mark] = deque(maxlen=whole.PEAK_WINDOWS + whole.FRESH)
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
        if beyond_clip(window):  # no measure for what follows
            return
        mark = Mark(window.epoch, window.step_first, reading.trunk, reading.trunk_peak)
        self._marks.append(mark)
