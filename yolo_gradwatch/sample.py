"""One optimizer step as read from the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.arrays import Flags, Floats


@dataclass(frozen=True, slots=True)
class Detail:
    """What is read on the first step of a window only.

    Attributes:
        weight_norms: (P,) L2 norm of each parameter before the step.
        zeros: (P,) exactly zero elements of each gradient; NaN for parameters of fewer than two
            dimensions and where there is no gradient.
    """

    weight_norms: Floats
    zeros: Floats


@dataclass(frozen=True, slots=True)
class Sample:
    """One optimizer step as read from the device.

    Attributes:
        epoch: Counts from 1.
        step: Optimizer step of the run, counts from 1.
        norms: (P,) L2 gradient norm, unscaled, before clipping; 0 where ``missing``.
        missing: (P,) whether the parameter had no gradient (``grad is None``).
        frozen: (P,) whether that is because it was frozen since the training began; None if no
            parameter was.
        skipped: Whether AMP's scaler skips this step because of an overflow.
        scale: Loss scale of AMP; None without a scaler.
        detail: Taken on the first step of a window, else None.
        losses: Loss items of the last batch before the step.
    """

    epoch: int
    step: int
    norms: Floats
    missing: Flags
    skipped: bool = False
    scale: float | None = None
    detail: Detail | None = None
    frozen: Flags | None = None
    losses: tuple[float, ...] = ()


def applied(samples: Sequence[Sample]) -> Flags:
    """(S,) whether AMP did not skip each step."""
    return np.array([not sample.skipped for sample in samples])
