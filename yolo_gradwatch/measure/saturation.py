"""Where an activation has saturated: its derivative is below 1 % of its largest.

That is decided by the output ``y``, which is the same before and after the module's own memory
saving:

- Sigmoid: y (1 - y) < 0.0025, so y < 0.00251 or y > 0.99749.
- Tanh: 1 - y^2 < 0.01, so abs(y) > 0.99499.
- Softsign: (1 - abs(y))^2 < 0.01, so abs(y) > 0.9.
- Hardsigmoid, Hardtanh, ReLU6: the derivative is 0 where y is at one of its two ends.

What is flat on one side only (ReLU, SiLU, GELU) does not count: there the share of zeros tells, or
the output alone does not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_SIGMOID = math.sqrt(1 - 0.01)
_ENDS = {
    "Sigmoid": ((1 - _SIGMOID) / 2, (1 + _SIGMOID) / 2),
    "Tanh": (-_SIGMOID, _SIGMOID),
    "Softsign": (-0.9, 0.9),
    "Hardsigmoid": (0.0, 1.0),
}
"""Of torch's classes, the values below and above which the output counts."""


def ends_of(module: nn.Module) -> tuple[float, float] | None:
    """The output from which on a module has saturated, below and above; None if it never does."""
    known: Any = module
    for kind in type(module).__mro__:
        if kind.__module__ == "torch.nn.modules.activation":
            if kind.__name__ == "Hardtanh":
                return float(known.min_val), float(known.max_val)
            if kind.__name__ in _ENDS:
                return _ENDS[kind.__name__]
    return None


def saturated(output: Tensor, ends: tuple[float, float]) -> Tensor:
    """How many elements of an output are at an end or beyond it, as a tensor of no dimension."""
    low, high = ends
    return ((output <= low) | (output >= high)).count_nonzero()
