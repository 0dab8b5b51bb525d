"""Windows, and how optimizer steps are folded into them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.clipping import CLIP_NORM, CLIP_OVERFLOW
from yolo_gradwatch.layout import module_norms
from yolo_gradwatch.outliers import Outliers
from yolo_gradwatch.sample import applied

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.arrays import Counts, Flags, Floats, Singles
    from yolo_gradwatch.layout import Layout, Members
    from yolo_gradwatch.sample import Sample

WINDOW_SHARE = 0.02
"""A window closes when it holds this share of the steps taken so far."""

FINE_STEPS = 10
"""Captured steps after an anomalous one that are windows of their own."""

FINE_STRETCHES = 40
"""Anomalies of a run that open such a fine stretch."""

FINE_SKIPS = 12
"""The same after too many steps in a row that AMP skipped: an overflow without end is told."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of optimizer steps, one value for each module.

    Attributes:
        epoch: Counts from 1.
        step_first: First captured step of the stretch.
        step_last: Last captured step of the stretch.
        steps: Captured steps in it.
        skipped: How many of these AMP skipped.
        nonfinite: (M,) steps, not skipped, with a NaN or Inf in the norm.
        zero: (M,) steps, not skipped, with a gradient whose norm is exactly 0.
        none: (M,) steps, not skipped, in which no parameter of the module had a gradient, though
            not all were frozen. A module that was frozen has no norm and no count.
        zero_fraction: (M,) share of exactly zero elements in the module's own weight gradient on
            the first step; NaN for a module without a weight of two or more dimensions.
        norm_min: (M,) lowest L2 norm over the finite steps; NaN if there is none.
        norm_mean: (M,) mean L2 norm over the finite steps; NaN if there is none.
        norm_max: (M,) highest L2 norm over the finite steps; NaN if there is none.
        weight_norm: (M,) L2 norm of the module's parameters before the first step; NaN if it was
            not taken, because an anomaly opened the window.
        clipped: Steps, not skipped, with a total norm above the clip; -1 if unknown, as in files of
            format version 1.
    """

    epoch: int
    step_first: int
    step_last: int
    steps: int
    skipped: int
    nonfinite: Counts
    zero: Counts
    none: Counts
    zero_fraction: Singles
    norm_min: Singles
    norm_mean: Singles
    norm_max: Singles
    weight_norm: Singles
    clipped: int = -1


WINDOW_ARRAYS = (
    *("nonfinite", "zero", "none"),
    *("zero_fraction", "norm_min", "norm_mean", "norm_max", "weight_norm"),
)
"""Fields of a window with a value for each module."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The windows of a run as arrays, in the order of their steps: W windows by M modules.

    Attributes:
        epoch: (W,) as in a `Window`, like those that follow.
        step_first: (W,)
        step_last: (W,)
        steps: (W,)
        skipped: (W,)
        nonfinite: (W, M)
        zero: (W, M)
        none: (W, M)
        zero_fraction: (W, M)
        norm_min: (W, M)
        norm_mean: (W, M)
        norm_max: (W, M)
        weight_norm: (W, M)
        clipped: (W,)
    """

    epoch: Counts
    step_first: Counts
    step_last: Counts
    steps: Counts
    skipped: Counts
    nonfinite: Counts
    zero: Counts
    none: Counts
    zero_fraction: Singles
    norm_min: Singles
    norm_mean: Singles
    norm_max: Singles
    weight_norm: Singles
    clipped: Counts


def narrowed(window: Window, layout: Layout, part: Layout) -> Window:
    """A window with the modules of a part of its layout alone."""
    if len(part.modules) == len(layout.modules):
        return window
    inside = set(part.modules)
    rows = [m for m, name in enumerate(layout.modules) if name in inside]
    return replace(window, **{name: getattr(window, name)[rows] for name in WINDOW_ARRAYS})


def zero_fraction(zeros: Floats, members: Members) -> Floats:
    """Share of exactly zero elements in each module's own weight gradient.

    Args:
        zeros: (P,) zero elements of each weight's gradient, NaN where there is none.
        members: Which weights each module owns.

    Returns:
        (M,) float64, NaN for a module without a weight or without its gradient.
    """
    module, parameter = members.weights.T
    size = len(members.starts)
    found = np.bincount(module, zeros[parameter], size)
    elements = np.bincount(module, members.elements[parameter], size)
    with np.errstate(invalid="ignore"):  # 0 / 0: no weight
        share: Floats = found / elements
    return share


class Rollup:
    """Turns samples into windows; an epoch's end and an anomaly close one early.

    An anomalous step begins a window of its own, and so do those after it, for a limited number of
    anomalies. A step that is spoilt (applied with a gradient that is not finite, or that clipping
    multiplies by 0) is a window of its own always, unless the step before it was spoilt too: a
    streak of such steps is one anomaly, and after the first ones its windows grow as all others.

    Samples may come one by one or many at once: the windows are the same, and many at once cost far
    less than one by one.

    Args:
        members: Which parameters make up each module.
        interval: Optimizer steps from one captured step to the next.
        clip: Total norm above which the trainer clips.

    Attributes:
        newest: (S, M) norms of the samples that were added last, for the live report.
    """

    def __init__(self, members: Members, interval: int = 1, clip: float = CLIP_NORM) -> None:
        self._members = members
        self._interval = interval
        self._clip = clip
        self._anomaly = Outliers(members)
        self._open: _Open | None = None
        self._ahead: list[int] = []
        self._fine_until = 0
        self._stretches = 0
        self.newest: Floats = np.empty((0, len(members.starts)))

    def opens_window(self, step: int) -> bool:
        """Whether the sample of ``step`` will begin a window, as far as is known before it.

        It is asked once for each step, in order, before that is taken.
        """
        self._ahead.append(step)
        first = self._open.first if self._open else None
        for taken in self._ahead:
            if first is None or self._is_last(first, taken - self._interval):
                first = taken
        return first == step

    def is_urgent(self, waiting: Sequence[Sample]) -> bool:
        """Whether samples that are not added yet, at least one, end a window or are spoilt."""
        first = self._open.first if self._open else waiting[0].step
        newest = waiting[-1]
        is_sound = np.linalg.norm(newest.norms) <= CLIP_OVERFLOW  # not NaN
        return self._is_last(first, newest.step) or not is_sound

    def add(self, samples: Sequence[Sample]) -> list[Window]:
        """Windows that are complete with these samples, at least one."""
        rows = _rows(samples, self._members)
        self.newest = rows.norms
        self._ahead = [step for step in self._ahead if step > samples[-1].step]
        closed: list[Window] = []
        begin = 0
        found = self._anomaly.found(rows.parameters, rows.norms[:, 0], rows.applied)
        for i, (sample, is_anomalous, is_alone) in enumerate(zip(samples, *found, strict=True)):
            breaks = (is_anomalous and self._open_stretch(sample)) or is_alone
            if self._open and (breaks or self._open.epoch != sample.epoch):
                closed += self._close(rows.part(begin, i))
                begin = i
            self._open = self._open or _Open(sample, len(self._members.starts), self._clip)
            if is_alone or self._is_last(self._open.first, sample.step):
                closed += self._close(rows.part(begin, i + 1))
                begin = i + 1
        if self._open:
            self._open.take(rows.part(begin, len(samples)))
        return closed

    def regroup(self, members: Members) -> None:
        """Go on with more parameters; no window is open."""
        self._members = members
        self._anomaly = Outliers(members)

    def close(self) -> list[Window]:
        """The open window, if any, as it is."""
        window, self._open = self._open, None
        return [window.closed(self._members)] if window else []

    def begin_anew(self) -> None:
        """The run restarts: a step that is spoilt again is a window of its own again."""
        self._anomaly.begin_anew()

    def _close(self, rest: _Rows) -> list[Window]:
        """The open window, which ends with these rows."""
        if self._open:
            self._open.take(rest)
        return self.close()

    def _is_last(self, first: int, step: int) -> bool:
        """Whether a window that began with ``first`` ends with ``step``."""
        return step <= self._fine_until or step - first + self._interval >= WINDOW_SHARE * step

    def _open_stretch(self, sample: Sample) -> bool:
        if sample.step <= self._fine_until or self._stretches == FINE_STRETCHES:
            return False
        self._stretches += 1
        steps = FINE_SKIPS if sample.skipped else FINE_STEPS
        self._fine_until = sample.step + steps * self._interval
        return True


@dataclass(frozen=True, slots=True)
class _Rows:
    """Samples as arrays.

    Attributes:
        steps: (S,) of each.
        parameters: (S, P) norms of the parameters.
        norms: (S, M) norms of the modules.
        applied: (S,) whether AMP did not skip it.
        missing: (S, M) whether no parameter of the module had a gradient; None if all had.
        frozen: (S, M) whether that is because all of it was frozen; None if nothing was.
    """

    steps: list[int]
    parameters: Floats
    norms: Floats
    applied: Flags
    missing: Flags | None
    frozen: Flags | None

    def part(self, begin: int, end: int) -> _Rows:
        """The rows from ``begin`` up to and without ``end``."""
        return _Rows(
            self.steps[begin:end],
            self.parameters[begin:end],
            self.norms[begin:end],
            self.applied[begin:end],
            None if self.missing is None else self.missing[begin:end],
            None if self.frozen is None else self.frozen[begin:end],
        )


def _rows(samples: Sequence[Sample], members: Members) -> _Rows:
    parameters = np.stack([sample.norms for sample in samples])
    return _Rows(
        steps=[sample.step for sample in samples],
        parameters=parameters,
        norms=module_norms(parameters, members),
        applied=applied(samples),
        missing=_all_of([sample.missing for sample in samples], members),
        frozen=_all_of([sample.frozen for sample in samples], members),
    )


def _all_of(flags: Sequence[Flags | None], members: Members) -> Flags | None:
    """(S, M) whether a flag stands at all parameters of a module; None if none stands anywhere."""
    known = next((one for one in flags if one is not None and one.any()), None)
    if known is None:
        return None
    stacked = np.stack([np.zeros_like(known) if one is None else one for one in flags])
    found: Flags = np.logical_and.reduceat(stacked[:, members.indices], members.starts, axis=1)
    return found


class _Open:
    """A window that is not complete yet, in memory that does not grow with its steps."""

    def __init__(self, sample: Sample, size: int, clip: float) -> None:
        self.epoch, self.first, self._last = sample.epoch, sample.step, sample.step
        self._detail = sample.detail
        self._clip = clip
        self._steps = self._skipped = self._clipped = 0
        self._nonfinite, self._zero, self._none, self._finite = np.zeros((4, size), np.int64)
        self._low, self._high = np.full(size, np.inf), np.full(size, -np.inf)
        self._sum = np.zeros(size)

    def take(self, rows: _Rows) -> None:
        """Add rows that follow."""
        if not rows.steps:
            return
        self._last = rows.steps[-1]
        self._steps += len(rows.steps)
        self._skipped += int((~rows.applied).sum())
        self._clipped += int((rows.norms[rows.applied, 0] > self._clip).sum())
        norms, is_applied = rows.norms, rows.applied[:, None]
        finite = told = np.isfinite(norms)
        if rows.missing is not None:
            told = finite & ~rows.missing
            lost = rows.missing if rows.frozen is None else rows.missing & ~rows.frozen
            self._none += (is_applied & lost).sum(axis=0)
        self._nonfinite += (is_applied & ~finite).sum(axis=0)
        self._zero += (is_applied & told & (norms == 0)).sum(axis=0)
        self._finite += told.sum(axis=0)
        # One row after the other, so that the sum does not depend on how many came at once.
        self._sum = np.add.reduce([self._sum, *np.where(told, norms, 0.0)])
        np.minimum(self._low, np.where(told, norms, np.inf).min(axis=0), out=self._low)
        np.maximum(self._high, np.where(told, norms, -np.inf).max(axis=0), out=self._high)

    def closed(self, members: Members) -> Window:
        """The window as it is."""
        unknown, detail = self._finite == 0, self._detail
        empty = np.full(len(unknown), np.nan, np.float32)
        with np.errstate(invalid="ignore"):  # 0 / 0: a module without a finite step
            mean = self._sum / self._finite
        return Window(
            epoch=self.epoch,
            step_first=self.first,
            step_last=self._last,
            steps=self._steps,
            skipped=self._skipped,
            nonfinite=self._nonfinite,
            zero=self._zero,
            none=self._none,
            zero_fraction=_single(zero_fraction(detail.zeros, members)) if detail else empty,
            norm_min=_single(np.where(unknown, np.nan, self._low)),
            norm_mean=_single(mean),
            norm_max=_single(np.where(unknown, np.nan, self._high)),
            weight_norm=_single(module_norms(detail.weight_norms, members)) if detail else empty,
            clipped=self._clipped,
        )


def _single(values: Floats) -> Singles:
    """Rounded to float32, as the file holds it, so that a replay decides on the same numbers."""
    with np.errstate(over="ignore"):  # beyond 3.4e38: Inf
        return values.astype(np.float32)
