"""Which activations have saturated: their derivative is below 1 % of its maximum.

This is decided from the output ``y``, which is the same whether or not the module works in place:

- Sigmoid: y (1 - y) < 0.0025, so y < 0.00251 or y > 0.99749.
- Tanh: 1 - y^2 < 0.01, so abs(y) > 0.99499.
- Softsign: (1 - abs(y))^2 < 0.01, so abs(y) > 0.9.
- Hardsigmoid, Hardtanh, ReLU6: the derivative is 0 where y is at either end of its range.

Activations that are flat on one side only (ReLU, SiLU, GELU) do not count: either their share of
zeros shows it, or their output alone cannot.
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
"""For torch's classes, the lower and upper output at or beyond which an element counts."""


def ends_of(module: nn.Module) -> tuple[float, float] | None:
    """Return the lower and upper output at which a module saturates; None if it never does."""
    known: Any = module
    for kind in type(module).__mro__:
        if kind.__module__ == "torch.nn.modules.activation":
            if kind.__name__ == "Hardtanh":
                return float(known.min_val), float(known.max_val)
            if kind.__name__ in _ENDS:
                return _ENDS[kind.__name__]
    return None


def saturated(output: Tensor, ends: tuple[float, float]) -> Tensor:
    """Count the elements of an output that are at or beyond either end, as a 0-d tensor."""
    low, high = ends
    return ((output <= low) | (output >= high)).count_nonzero()
