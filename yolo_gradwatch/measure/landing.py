"""A trace of one batch on its way to the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from yolo_gradwatch.measure.trace import Call, Flow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.measure.arrays import Floats
    from yolo_gradwatch.measure.ring import Transfer


@dataclass(frozen=True, slots=True)
class Called:
    """A call whose numbers are in transit; ``outputs`` are indices into the lists of readings."""

    module: str
    call: int
    type: str
    outputs: tuple[int, ...]
    saturated: int | None


@dataclass(frozen=True, slots=True)
class Landing:
    """A trace on its way to the host."""

    transfer: Transfer
    calls: Sequence[Called]
    elements: Sequence[int]
    gradients: Sequence[int]
    scaled: bool
    replicas: int

    def flow(self, epoch: int, step: int) -> Flow:
        """Return the trace, waiting for it to arrive."""
        values = self.transfer.values()
        scale, values = (values[0], values[1:]) if self.scaled else (1.0, values)
        size = len(self.elements)
        norms, largest, nonzero, rest = np.split(values, [size, 2 * size, 3 * size])
        shares, arrived = np.split(rest, [len(rest) - len(self.gradients)])
        gradients = np.full(size, -1.0)  # where none arrives
        with np.errstate(all="ignore"):  # the scale may not be finite
            gradients[list(self.gradients)] = arrived / (scale * self.replicas)
            calls = [
                self._call(order, called, norms, largest, nonzero, shares, gradients)
                for order, called in enumerate(self.calls, 1)
            ]
        return Flow(epoch, step, tuple(calls))

    def _call(  # noqa: PLR0913, PLR0917  # one for each list of readings
        self,
        order: int,
        called: Called,
        norms: Floats,
        largest: Floats,
        nonzero: Floats,
        shares: Floats,
        gradients: Floats,
    ) -> Call:
        places = list(called.outputs)
        elements = sum(self.elements[place] for place in places)
        named = (order, called.module, called.call, called.type, elements)
        if not places:
            return Call(*named)
        known = gradients[places][gradients[places] != -1.0]
        share = None if called.saturated is None else shares[called.saturated] / elements
        return Call(
            *named,
            output_rms=_rounded(np.linalg.norm(norms[places]) / np.sqrt(elements)),
            output_max=_rounded(largest[places].max()),
            output_zero=_rounded(1.0 - nonzero[places].sum() / elements),
            output_saturated=None if share is None else _rounded(share),
            gradient_norm=_rounded(np.linalg.norm(known)) if known.size else None,
        )


def _rounded(value: Any) -> float:
    """Round to float32, as the files do."""
    return float(np.float32(value))
