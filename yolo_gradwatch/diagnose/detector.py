"""Runs every rule of the catalog on each window."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.finding import Alert
from yolo_gradwatch.diagnose.reading import Reader, Reading
from yolo_gradwatch.diagnose.rules import growth, spike, whole
from yolo_gradwatch.diagnose.rules.history import OPENING, History, Mark, beyond_clip
from yolo_gradwatch.diagnose.warmup import Warmup
from yolo_gradwatch.measure.windows import widened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.optimizer import Optimizer
    from yolo_gradwatch.measure.trace import Flow
    from yolo_gradwatch.measure.windows import Window

MOST_RECENT = 1000
"""Maximum number of windows in which AMP's skipped steps are counted, however high their limit."""


LOOKBACK = 120
"""Minimum number of windows to keep: those of a drift, and those before it."""


class Detector:
    """Runs every rule on each window, keeping only the windows that a rule may look back on.

    A live run and a replay of its files both go through ``update``, so they agree by construction.

    Args:
        layout: Layout of the watched model.
        limits: Thresholds of the rules.
        training: Options of the training.

    Attributes:
        was_finite: Whether a step was applied and finite since the training loaded its weights.
    """

    def __init__(self, layout: Layout, limits: Thresholds, training: Mapping[str, object]) -> None:
        self._layout = layout
        self._training = training
        self._limits = limits
        self._reader = Reader(layout)
        self.was_finite = False
        patience = [rule.needs(limits) for rule in RULES.values() if rule.unit == "windows"]
        lookback = max(LOOKBACK, growth.GROWTH_WINDOWS + 1, *patience)
        self._readings: deque[Reading] = deque(maxlen=lookback)
        self._opening: list[Reading] = []
        self._warmup = Warmup(training)
        self._marks: deque[Mark] = deque(maxlen=spike.PEAK_WINDOWS + whole.FRESH)
        self._skipped: deque[Window] = deque(maxlen=limits.amp_grace + 1)
        self._recent: deque[Window] = deque(maxlen=min(2 * (limits.amp_grace + 1), MOST_RECENT))

    def update(
        self, window: Window, optimizer: Optimizer | None = None, flow: Flow | None = None
    ) -> list[Alert]:
        """Return the alerts of this window.

        Args:
            window: The newest window.
            optimizer: What the optimizer updates now.
            flow: The newest traced batch, no later than the window.
        """
        self._recent.append(window)
        self._warmup.add(window)
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
            training=self._training,
            optimizer=optimizer,
            flow=flow,
            opening=tuple(self._opening),
            recent=tuple(self._recent),
            was_finite=self.was_finite,
            is_warming=self._warmup.covers,
        )
        self.was_finite |= window.skipped < window.steps and not window.nonfinite.any()
        return self._without_passing(
            Alert(
                rule=name,
                severity=rule.severity,
                module=hit.module,
                epoch=hit.since[0],
                step=hit.since[1],
                value=hit.value,
                limit=hit.limit,
                affected=hit.affected,
                reason=hit.reason,
                warming=self._warmup.covers(*hit.since),
            )
            for name, rule in RULES.items()
            for hit in rule.judge(history, self._limits)
        )

    def forget(self, *, is_new: bool = False) -> None:
        """Discard the state from before a resume or a recovery.

        Args:
            is_new: Whether the training loads its weights from elsewhere.
        """
        self.was_finite &= not is_new
        self._readings.clear()
        self._marks.clear()
        self._skipped.clear()
        self._recent.clear()

    def rescoped(self, layout: Layout) -> Detector:
        """Return a detector for a layout with more modules that remembers how the run began."""
        other = Detector(layout, self._limits, self._training)
        began = [widened(reading.window, self._layout, layout) for reading in self._opening]
        other._opening = [other._reader.read(window) for window in began]
        other._warmup = self._warmup
        other.was_finite = self.was_finite
        return other

    def _without_passing(self, alerts: Iterable[Alert]) -> list[Alert]:
        """Drop the alerts that a passing alert explains, and the mark of its window."""
        found = list(alerts)
        passing = [alert for alert in found if RULES[alert.rule].is_passing]
        if passing and self._marks and self._marks[-1].step == passing[0].step:
            self._marks.pop()
        explained = {name for one in passing for name in RULES[one.rule].explains}
        return [alert for alert in found if alert.rule not in explained]

    def _remember(self, reading: Reading) -> None:
        self._readings.append(reading)
        if len(self._opening) < OPENING:
            self._opening.append(reading)
        window = reading.window
        if beyond_clip(window):  # no reference for later windows
            return
        mark = Mark(window.epoch, window.step_first, reading.trunk, reading.trunk_peak)
        self._marks.append(mark)
