"""Trace of one batch through the modules of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module: its output, and the gradient that arrived there.

    The numbers cover all floating-point tensors of the output together; None where there is
    nothing to measure.

    Attributes:
        order: Counts the calls of a trace from 1 as they finish: a module after its parts.
        module: Name of the module; its first name if several blocks share it.
        call: Counts the calls of this module from 1.
        type: Class of the module.
        elements: Number of elements in the output.
        output_rms: Root mean square of the output.
        output_max: Largest absolute value of the output.
        output_zero: Share of exact zeros in the output.
        output_saturated: Share of saturated elements, for activations that saturate (`saturation`).
        gradient_norm: L2 norm of the gradient of this batch's loss.
    """

    order: int
    module: str
    call: int
    type: str
    elements: int
    output_rms: float | None = None
    output_max: float | None = None
    output_zero: float | None = None
    output_saturated: float | None = None
    gradient_norm: float | None = None

    @property
    def is_finite(self) -> bool:
        """Whether the output is finite; NaN and Inf show in its largest value."""
        return self.output_max is None or math.isfinite(self.output_max)


@dataclass(frozen=True, slots=True)
class Flow:
    """A trace of one batch through a model, forward and back.

    Attributes:
        epoch: Counts from 1.
        step: Optimizer step that the batch is part of; if several batches are accumulated, this is
            one of them, so its gradient is not that of the step.
        calls: Calls in the order in which they finished.
    """

    epoch: int
    step: int
    calls: tuple[Call, ...]

    @property
    def first_not_finite(self) -> Call | None:
        """The first call whose output contains a NaN or an Inf."""
        return next((call for call in self.calls if not call.is_finite), None)
