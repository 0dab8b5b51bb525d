"""Folds optimizer steps into windows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from yolo_gradwatch.measure.allowance import Allowance
from yolo_gradwatch.measure.clipping import CLIP_NORM, CLIP_OVERFLOW
from yolo_gradwatch.measure.loss_items import LossFold
from yolo_gradwatch.measure.outliers import Outliers
from yolo_gradwatch.measure.quantities import QUANTITIES, Running
from yolo_gradwatch.measure.sample import steps_of
from yolo_gradwatch.measure.shifts import Shifts
from yolo_gradwatch.measure.weighing import RARELY, Weighing
from yolo_gradwatch.measure.windows import Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.measure.arrays import Flags, Floats, Values
    from yolo_gradwatch.measure.layout import Members
    from yolo_gradwatch.measure.quantities import Quantity
    from yolo_gradwatch.measure.sample import Change, Detail, Sample, Steps

WINDOW_SHARE = 0.02
"""A window closes when it holds this share of the steps so far."""

FINE_STEPS = 10
"""Captured steps after an anomalous one that get a window each: a fine stretch."""

COARSE = 250
"""Captured step up to which a shift opens no stretch: windows are short and levels vary a lot."""

FINE_SKIPS = 12
"""`FINE_STEPS` after too many AMP skips in a row: enough to report an endless overflow."""


class Rollup:
    """Turns samples into windows; the end of an epoch and an anomaly close one early.

    A step that is anomalous or shows a shift begins a window of its own, and so do the steps after
    it, as often as the `Allowance` permits. A damaged step (applied with a gradient that is not
    finite, or that clipping multiplies by 0) always gets its own window, unless the step before it
    was damaged too: a streak of them is one anomaly, and after its first steps windows grow as
    usual. A step also gets its own window if its loss is not finite, unless the last such window
    was less than a window's length ago, or if the weights before it show a change (`Weighing`).

    Samples can be added singly or in batches: the windows are the same, and batches cost far less.

    Args:
        members: Parameters that make up each module.
        interval: Optimizer steps from one captured step to the next.
        clip: Total norm above which the trainer clips.

    Attributes:
        newest: (S, M) norms of the most recently added samples, for the live report.
        weighing: Decides when the weights are read.
    """

    def __init__(self, members: Members, interval: int = 1, clip: float = CLIP_NORM) -> None:
        self._members = members
        self._interval = interval
        self._clip = clip
        self._outliers = Outliers(members)
        self._open: _Open | None = None
        self._ahead: list[int] = []
        self._shifts = Shifts(members)
        self._allowance = Allowance(RARELY)
        self.weighing = Weighing(members, interval)
        self._bad_loss = 0
        self._fine_until = 0
        self.newest: Floats = np.empty((0, len(members.starts)))

    def opens_window(self, step: int) -> bool:
        """Whether the sample of ``step`` will begin a window, as far as is known in advance.

        Ask once for each step, in order, before it is taken.
        """
        # Samples arrive later than their steps are taken, so `_open` is out of date. Walk the steps
        # since then and begin windows as `add` will; an anomaly among them cannot be known yet.
        self._ahead.append(step)
        first = self._open.first if self._open else None
        for taken in self._ahead:
            if first is None or self._is_last(first, taken - self._interval):
                first = taken
        return first == step

    def is_urgent(self, waiting: Sequence[Sample], fresh: int = 1) -> bool:
        """Whether samples that are not added yet may end a window or are damaged.

        Args:
            waiting: Those samples, at least one.
            fresh: How many of them, the last ones, have not been asked about before.
        """
        first = self._open.first if self._open else waiting[0].step
        newest = waiting[-fresh:]
        may_end = self._is_last(first, newest[-1].step)
        return may_end or any(map(_calls_for_attention, newest))

    def add(self, samples: Sequence[Sample]) -> list[Window]:
        """Add samples, at least one, and return the windows that they complete."""
        steps = steps_of(samples, self._members)
        self.newest = steps.norms
        self._ahead = [step for step in self._ahead if step > samples[-1].step]
        closed: list[Window] = []
        begin = 0
        for i, (sample, *found, is_first) in enumerate(
            zip(samples, *self._found(steps), strict=True)
        ):
            is_alone = self._is_alone(sample, is_finite=steps.finite[i, 0]) or is_first
            is_alone |= self._shows_change(sample)
            breaks = self._opens_stretch(sample, *found) or is_alone
            if self._open and (breaks or self._open.epoch != sample.epoch):
                closed += self._close(steps.part(begin, i))
                begin = i
            self._open = self._open or self._begun(sample)
            if is_alone or self._is_last(self._open.first, sample.step):
                closed += self._close(steps.part(begin, i + 1))
                begin = i + 1
        if self._open:
            self._open.take(steps.part(begin, len(samples)))
        return closed

    def regroup(self, members: Members) -> None:
        """Continue with more parameters; no window is open."""
        self._members = members
        self._outliers = Outliers(members)
        self._shifts = Shifts(members)
        self.weighing.regroup(members)

    def close(self) -> list[Window]:
        """Close the open window early and return it, if there is one."""
        window, self._open = self._open, None
        return [window.closed(self._members)] if window else []

    def restart(self) -> None:
        """Note that the run restarts: the next damaged step gets its own window again."""
        self._outliers.restart()
        self.weighing.restart()

    def _begun(self, sample: Sample) -> _Open:
        """Return a window that begins with this step."""
        self.weighing.begin(sample)
        return _Open(sample, len(self._members.starts), self._clip)

    def _close(self, rest: Steps) -> list[Window]:
        """Close the open window, which ends with these steps, and return it."""
        if self._open:
            self._open.take(rest)
        return self.close()

    def _is_last(self, first: int, step: int) -> bool:
        """Whether a window that began with ``first`` ends with ``step``."""
        return step <= self._fine_until or step - first + self._interval >= WINDOW_SHARE * step

    def _found(self, steps: Steps) -> tuple[Flags, Flags, Flags]:
        """(S,) which steps are anomalous, which show a shift, and which begin a damaged streak."""
        totals, applied = steps.norms[:, 0], steps.applied[:, 0]
        anomalous, alone = self._outliers.found(steps.parameters, totals, applied)
        usable = applied & (totals <= CLIP_OVERFLOW)
        return anomalous, self._shifts.found(steps.samples, steps.parameters, usable), alone

    def _is_alone(self, sample: Sample, *, is_finite: bool) -> bool:
        """Whether its loss gives a step its own window; also note what is not finite."""
        has_bad_loss = sample.has_bad_loss
        if has_bad_loss or not is_finite:
            self.weighing.beware(until=sample.step + FINE_STEPS * self._interval)
        is_alone = has_bad_loss and sample.step - self._bad_loss >= WINDOW_SHARE * sample.step
        self._bad_loss = sample.step if is_alone else self._bad_loss
        return is_alone

    def _shows_change(self, sample: Sample) -> bool:
        """Whether the weights before a step give it its own window."""
        is_fine = sample.step <= max(self._fine_until, COARSE * self._interval)
        return not is_fine and self.weighing.shows_change(sample)

    def _opens_stretch(self, sample: Sample, is_anomalous: np.bool_, is_shift: np.bool_) -> bool:
        is_shift &= np.bool_(sample.step > COARSE * self._interval)
        if sample.step <= self._fine_until or not (is_anomalous or is_shift):
            return False
        if not self._allowance.allows(sample.step, is_shift=bool(is_shift)):
            return False
        steps = FINE_SKIPS if sample.skipped else FINE_STEPS
        self._fine_until = sample.step + steps * self._interval
        return True


def _calls_for_attention(sample: Sample) -> bool:
    """Whether a sample begins a window or is damaged."""
    is_sound = sample.norms @ sample.norms <= CLIP_OVERFLOW**2  # not NaN
    return sample.detail is not None or not is_sound or sample.has_bad_loss


class _Open:
    """An incomplete window, in memory that does not grow with its steps."""

    def __init__(self, sample: Sample, size: int, clip: float) -> None:
        self.epoch, self.first, self._last = sample.epoch, sample.step, sample.step
        self._detail = sample.detail
        self._change: Change | None = None
        self._size = size
        self._clip = clip
        self._steps = self._skipped = self._clipped = 0
        self._losses = LossFold()
        self._running = {
            row.name: (
                row.fold,
                np.full((len(row.fold.start), size), np.array(row.fold.start)[:, None]),
            )
            for row in QUANTITIES
            if isinstance(row.fold, Running)
        }

    def take(self, steps: Steps) -> None:
        """Add the next steps."""
        if not steps.numbers:
            return
        is_applied = steps.applied[:, 0]
        self._last = steps.numbers[-1]
        self._steps += len(steps.numbers)
        self._skipped += int((~is_applied).sum())
        self._clipped += int((steps.norms[is_applied, 0] > self._clip).sum())
        self._change = self._change or next((s.change for s in steps.samples if s.change), None)
        self._losses.take(steps.samples)
        for fold, running in self._running.values():
            fold.add(running, steps)

    def closed(self, members: Members) -> Window:
        """Return the window as it is."""
        detail = self._detail and replace(self._detail, change=self._change)
        with np.errstate(over="ignore"):  # a norm beyond float32 becomes Inf
            values: dict[str, Any] = {
                row.name: self._value(row, detail, members) for row in QUANTITIES
            }
        return Window(
            epoch=self.epoch,
            step_first=self.first,
            step_last=self._last,
            steps=self._steps,
            skipped=self._skipped,
            clipped=self._clipped,
            largest=self._largest(members),
            losses=self._losses.items(),
            **values,
        )

    def _largest(self, members: Members) -> str:
        if not self._detail or not self._detail.weights:
            return ""
        return members.names[self._detail.weights.largest.argmax()]  # NaN counts as the largest

    def _value(self, row: Quantity, detail: Detail | None, members: Members) -> Values:
        if isinstance(row.fold, Running):
            return row.stored(row.fold.value(self._running[row.name][1]))
        found = row.fold(detail, members) if detail else None
        return row.unknown(self._size) if found is None else row.stored(found)
