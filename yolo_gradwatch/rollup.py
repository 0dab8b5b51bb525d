"""Adds parameters up to modules and folds steps into windows."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.records import Floats, Window

if TYPE_CHECKING:
    from yolo_gradwatch.records import Flags, Members, Sample, Singles

WINDOW_SHARE = 0.02
"""A window closes when it holds this share of the steps taken so far."""

FINE_STEPS = 10
"""Steps after an anomalous one that are windows of their own."""

FINE_STRETCHES = 40
"""Anomalies of a run that open such a fine stretch."""

HISTORY_STEPS = 100
"""Steps that the level of a block is compared with."""

SKIPS_IN_A_ROW = 4
"""Steps in a row that AMP skipped, of which the last is anomalous: more than a calibration."""

FINE_SKIPS = 12
"""Steps after that which are windows of their own, so that an overflow without end is told."""

HISTORY_LEAST = 19
"""Steps of history before the first step is judged."""

LEVEL_JUMP = 1.0
"""Decades beyond the highest or lowest level of the history that make a step anomalous."""


def module_norms(norms: Floats, members: Members) -> Floats:
    """L2 norm of each module's gradient from those of its parameters.

    Args:
        norms: (P,) of the parameters, 0 where there is no gradient.
        members: Which parameters make up each module.

    Returns:
        (M,) float64; NaN or Inf where a parameter has one.
    """
    squares = np.square(norms)[members.indices]
    summed: Floats = np.sqrt(np.add.reduceat(squares, members.starts))
    return summed


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

    Args:
        members: Which parameters make up each module.
        interval: Optimizer steps from one captured step to the next.

    Attributes:
        newest: (M,) norms of the newest sample, for the live report; NaN before the first.
    """

    def __init__(self, members: Members, interval: int = 1) -> None:
        self._members = members
        self._interval = interval
        self._anomaly = _Anomaly(members)
        self._open: list[_Row] = []
        self._fine_until = 0
        self._stretches = 0
        self.newest: Floats = np.full(len(members.starts), np.nan)

    def opens_window(self, step: int) -> bool:
        """Whether the sample of ``step`` will begin a window, as far as is known before it."""
        first = self._open[0].sample.step if self._open else step
        return first == step or self._is_full(first, step - self._interval)

    def add(self, sample: Sample) -> list[Window]:
        """Windows that are complete with this sample."""
        closed = self.close() if self._open and self._open[0].sample.epoch != sample.epoch else []
        row = _Row(sample, self._members)
        self.newest = row.norms
        if self._anomaly.found(sample, row.norms) and self._open_stretch(sample):
            closed += self.close()
        self._open.append(row)
        if sample.step <= self._fine_until or self._is_full(self._open[0].sample.step, sample.step):
            closed += self.close()
        return closed

    def close(self) -> list[Window]:
        """The open window, if any, as it is."""
        rows, self._open = self._open, []
        return [_fold(rows, self._members)] if rows else []

    def _is_full(self, first: int, last: int) -> bool:
        return last - first + self._interval >= WINDOW_SHARE * last

    def _open_stretch(self, sample: Sample) -> bool:
        if sample.step <= self._fine_until or self._stretches == FINE_STRETCHES:
            return False
        self._stretches += 1
        self._fine_until = sample.step + (FINE_SKIPS if sample.skipped else FINE_STEPS)
        return True


class _Row:
    """A sample with its module norms."""

    __slots__ = ("frozen", "missing", "norms", "sample")

    def __init__(self, sample: Sample, members: Members) -> None:
        self.sample = sample
        self.norms = module_norms(sample.norms, members)
        self.missing: Flags = np.zeros(len(members.starts), np.bool_)
        if sample.missing.any():
            self.missing = np.logical_and.reduceat(sample.missing[members.indices], members.starts)
        self.frozen: Flags = np.zeros(len(members.starts), np.bool_)
        if sample.frozen is not None:
            self.frozen = np.logical_and.reduceat(sample.frozen[members.indices], members.starts)


class _Anomaly:
    """Whether a step stands out from the last ones, by the levels of the trunk's blocks."""

    def __init__(self, members: Members) -> None:
        sizes = np.array([len(found) for found in members.trunk], np.int64)
        self._weights = np.full((len(sizes), max(sizes, default=0)), -1)
        for row, found in zip(self._weights, members.trunk, strict=True):
            row[: len(found)] = found
        self._middle = np.stack([(sizes - 1) // 2, sizes // 2], axis=1)
        self._history = np.empty((HISTORY_STEPS, len(sizes)))
        self._seen = 0
        self._skips = 0

    def found(self, sample: Sample, norms: Floats) -> bool:
        """Whether the sample is anomalous; one with finite gradients joins the history."""
        self._skips = self._skips + 1 if sample.skipped else 0
        if sample.skipped:
            return self._skips == SKIPS_IN_A_ROW
        if not np.isfinite(norms[0]):
            return True
        levels = self._levels(sample.norms)
        jumped = self._seen >= HISTORY_LEAST and self._jumped(levels)
        self._history[self._seen % HISTORY_STEPS] = levels
        self._seen += 1
        return jumped

    def _jumped(self, levels: Floats) -> bool:
        history = self._history[: self._seen]
        high, low = history.max(axis=0) + LEVEL_JUMP, history.min(axis=0) - LEVEL_JUMP
        return bool(((levels > high) | (levels < low)).any())

    def _levels(self, norms: Floats) -> Floats:
        """log10 of the median norm of the weights of each trunk block; -Inf where that is 0."""
        padded = np.append(norms, np.inf)[self._weights]
        middle = np.take_along_axis(np.sort(padded, axis=1), self._middle, axis=1)
        with np.errstate(divide="ignore"):
            levels: Floats = np.log10(middle.mean(axis=1))
        return levels


def _fold(rows: list[_Row], members: Members) -> Window:
    samples = [row.sample for row in rows]
    norms = np.stack([row.norms for row in rows])
    missing = np.stack([row.missing for row in rows])
    frozen = np.stack([row.frozen for row in rows])
    applied = np.array([not sample.skipped for sample in samples])[:, None]
    finite = np.where(np.isfinite(norms) & ~missing, norms, np.nan)
    detail = samples[0].detail
    empty = np.full(norms.shape[1], np.nan, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all-NaN: a module without a finite step
        low, mean, high = (f(finite, axis=0) for f in (np.nanmin, np.nanmean, np.nanmax))
    return Window(
        epoch=samples[0].epoch,
        step_first=samples[0].step,
        step_last=samples[-1].step,
        steps=len(samples),
        skipped=int((~applied).sum()),
        nonfinite=(applied & ~np.isfinite(norms)).sum(axis=0),
        zero=(applied & (norms == 0) & ~missing).sum(axis=0),
        none=(applied & missing & ~frozen).sum(axis=0),
        zero_fraction=_single(zero_fraction(detail.zeros, members)) if detail else empty,
        norm_min=_single(low),
        norm_mean=_single(mean),
        norm_max=_single(high),
        weight_norm=_single(module_norms(detail.weight_norms, members)) if detail else empty,
    )


def _single(values: Floats) -> Singles:
    """Rounded to float32, as the file holds it, so that a replay decides on the same numbers."""
    with np.errstate(over="ignore"):  # beyond 3.4e38: Inf
        return values.astype(np.float32)
