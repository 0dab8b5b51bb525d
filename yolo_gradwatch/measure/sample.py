"""Samples of optimizer steps: one as read from the device, several as arrays over modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.measure.layout import module_norms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.measure.arrays import Flags, Floats
    from yolo_gradwatch.measure.layout import Members
    from yolo_gradwatch.measure.loss_items import BatchItems


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights as read before a step.

    Attributes:
        norms: (P,) L2 norm of each parameter.
        largest: (T,) largest absolute value of each parameter and each floating-point buffer; NaN
            for one that contains a NaN.
    """

    norms: Floats
    largest: Floats


@dataclass(frozen=True, slots=True)
class Change:
    """The change that an optimizer step made to the weights.

    Attributes:
        before: (P,) L2 norm of each parameter before the step.
        moved: (P,) L2 norm of the change.
    """

    before: Floats
    moved: Floats


@dataclass(frozen=True, slots=True)
class Detail:
    """Readings that are not taken on every step of a window.

    Attributes:
        zeros: (P,) number of exactly zero elements in each gradient of the window's first step; NaN
            for parameters of fewer than two dimensions, without a gradient, or where zeros were not
            counted.
        weights: Weights before the window's first step; None if they were not read.
        change: Change made by the window's first applied step; None if it was not measured.
    """

    zeros: Floats
    weights: Weights | None = None
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One optimizer step as read from the device.

    Attributes:
        epoch: Counts from 1.
        step: Optimizer step of the run, counts from 1.
        norms: (P,) L2 gradient norm, unscaled, before clipping; 0 where ``missing``.
        missing: (P,) whether the parameter had no gradient (``grad is None``).
        frozen: (P,) whether the gradient is missing because the parameter was frozen during the
            training; None if there is no such parameter.
        skipped: Whether AMP's scaler skips this step because of an overflow.
        scale: AMP's loss scale; None without a scaler.
        detail: Further readings, as on the first step of a window, without a change; else None.
        change: Change made by this step, if it was measured and the step was not skipped.
        losses: Loss items of the batches since the previous captured step; the last batch is the
            newest one of the last entry.
        rates: Learning rates of the optimizer's groups.
    """

    epoch: int
    step: int
    norms: Floats
    missing: Flags
    skipped: bool = False
    scale: float | None = None
    detail: Detail | None = None
    change: Change | None = None
    frozen: Flags | None = None
    losses: tuple[BatchItems, ...] = ()
    rates: tuple[float, ...] = ()

    @property
    def has_bad_loss(self) -> bool:
        """Whether any loss item of its batches is not finite."""
        return not all(batches.is_finite for batches in self.losses)


def applied(samples: Sequence[Sample]) -> Flags:
    """(S,) whether each step was applied, that is, not skipped by AMP."""
    return np.array([not sample.skipped for sample in samples])


@dataclass(frozen=True, slots=True)
class Steps:
    """S samples as arrays over modules.

    Attributes:
        samples: (S,) the samples.
        numbers: (S,) optimizer step of each.
        parameters: (S, P) gradient norms of the parameters.
        norms: (S, M) gradient norms of the modules; 0 without a gradient.
        applied: (S, 1) whether the step was applied, that is, not skipped by AMP.
        finite: (S, M) whether the norm is finite.
        valid: (S, M) whether the norm is finite and the module has a gradient.
        lost: (S, M) whether no parameter of the module had a gradient, though not all were frozen;
            None if every module had one.
    """

    samples: Sequence[Sample]
    numbers: list[int]
    parameters: Floats
    norms: Floats
    applied: Flags
    finite: Flags
    valid: Flags
    lost: Flags | None

    def part(self, begin: int, end: int) -> Steps:
        """Return the steps from index ``begin`` up to, but not including, ``end``."""
        return Steps(
            self.samples[begin:end],
            self.numbers[begin:end],
            self.parameters[begin:end],
            self.norms[begin:end],
            self.applied[begin:end],
            self.finite[begin:end],
            self.valid[begin:end],
            None if self.lost is None else self.lost[begin:end],
        )


def steps_of(samples: Sequence[Sample], members: Members) -> Steps:
    """Return samples, at least one, as arrays."""
    parameters = np.stack([sample.norms for sample in samples])
    norms = module_norms(parameters, members)
    finite = np.isfinite(norms)
    missing = _all_of([sample.missing for sample in samples], members)
    frozen = _all_of([sample.frozen for sample in samples], members)
    return Steps(
        samples=samples,
        numbers=[sample.step for sample in samples],
        parameters=parameters,
        norms=norms,
        applied=applied(samples)[:, None],
        finite=finite,
        valid=finite if missing is None else finite & ~missing,
        lost=missing if missing is None or frozen is None else missing & ~frozen,
    )


def _all_of(flags: Sequence[Flags | None], members: Members) -> Flags | None:
    """(S, M) whether all parameters of a module have a flag; None if no flag is set anywhere."""
    known = next((one for one in flags if one is not None and one.any()), None)
    if known is None:
        return None
    stacked = np.stack([np.zeros_like(known) if one is None else one for one in flags])
    found: Flags = np.logical_and.reduceat(stacked[:, members.indices], members.starts, axis=1)
    return found
