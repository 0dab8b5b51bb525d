"""The types of arrays, and how arrays over windows are folded into one value a module."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Singles: TypeAlias = NDArray[np.float32]
Counts: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]
Values: TypeAlias = NDArray[Any]
"""Of any type."""

FLOAT32_MAX = float(np.finfo(np.float32).max)
"""Largest number of float32; a norm in a file that is Inf lies above it."""

FLOAT16_MAX = float(np.finfo(np.float16).max)
"""Largest number of half precision, and so of a checkpoint."""


def total(values: Values, _steps: Counts) -> Values:
    """(M,) sum over the windows."""
    summed: Values = np.add.reduce(values, axis=0)
    return summed


def highest(values: Values, _steps: Counts) -> Values:
    """(M,) largest value, NaN aside."""
    largest: Values = np.fmax.reduce(values, axis=0, initial=np.nan)
    return largest


def first(values: Values, _steps: Counts) -> Values:
    """(M,) the first value that there is; NaN if there is none."""
    if not len(values):
        return np.full(values.shape[1], np.nan, values.dtype)
    there = ~np.isnan(values)
    found: Values = values[there.argmax(axis=0), np.arange(values.shape[1])]
    return found


def last(values: Values, steps: Counts) -> Values:
    """(M,) the last value that there is; NaN if there is none."""
    return first(values[::-1], steps)


def median(values: Values, steps: Counts) -> Floats:
    """(M,) median of (W, M) values, each counted as often as its weight says, NaN aside.

    The lower one of two in the middle; NaN for a column without any.
    """
    if not len(values):
        return np.full(values.shape[1], np.nan)
    order = np.argsort(values, axis=0)  # NaN comes last
    weight = np.where(np.isnan(values), 0, steps[:, None])
    mass = np.take_along_axis(weight, order, axis=0).cumsum(axis=0)
    middle = (mass >= mass[-1] / 2).argmax(axis=0)
    found = np.take_along_axis(values, np.take_along_axis(order, middle[None], axis=0), axis=0)[0]
    return np.where(mass[-1] > 0, found, np.nan).astype(np.float64)
