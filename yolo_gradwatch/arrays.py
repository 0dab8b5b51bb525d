"""The types of arrays, and the largest number of one."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Singles: TypeAlias = NDArray[np.float32]
Counts: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]


FLOAT32_MAX = float(np.finfo(np.float32).max)
"""Largest number of float32; a norm in a file that is Inf lies above it."""
