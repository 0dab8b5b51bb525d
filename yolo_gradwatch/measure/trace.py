"""What flowed through the modules in one batch."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module: what came out, and the gradient that arrived there.

    The numbers are over all floating-point tensors of the output together; None where there is
    nothing to measure.

    Attributes:
        order: Counts the calls of a trace from 1, as they are over: a module after its parts.
        module: Name; of a module that several blocks share, the first one that it has.
        call: Counts the calls of this module from 1.
        type: Class.
        elements: Of the output.
        output_rms: Root of the mean square.
        output_max: Largest absolute value.
        output_zero: Share of exact zeros.
        output_saturated: Of an activation that saturates, see `saturation`, the share that has.
        gradient_norm: L2 of the gradient of the loss of this batch.
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
        """Whether the output is; NaN and Inf show in its largest value."""
        return self.output_max is None or math.isfinite(self.output_max)


@dataclass(frozen=True, slots=True)
class Flow:
    """A trace of one batch through a model, forward and back.

    Attributes:
        epoch: Counts from 1.
        step: The optimizer step that the batch is part of; of several that are accumulated, it is
            one, so that its gradient is not that of the step.
        calls: In the order in which they were over.
    """

    epoch: int
    step: int
    calls: tuple[Call, ...]

    @property
    def first_not_finite(self) -> Call | None:
        """The first call whose output has a NaN or an Inf."""
        return next((call for call in self.calls if not call.is_finite), None)
