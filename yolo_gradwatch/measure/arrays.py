"""Array types, and folds of arrays over windows into one value for each module."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Singles: TypeAlias = NDArray[np.float32]
Counts: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]
Values: TypeAlias = NDArray[Any]
"""Arrays of any type."""

FLOAT32_MAX = float(np.finfo(np.float32).max)
"""Largest float32; a norm that is Inf in a file exceeds it."""

FLOAT16_MAX = float(np.finfo(np.float16).max)
"""Largest number in half precision, and so in a checkpoint."""


def total(values: Values, _steps: Counts) -> Values:
    """(M,) sum over the windows."""
    summed: Values = np.add.reduce(values, axis=0)
    return summed


def highest(values: Values, _steps: Counts) -> Values:
    """(M,) largest value, ignoring NaN."""
    largest: Values = np.fmax.reduce(values, axis=0, initial=np.nan)
    return largest


def first(values: Values, _steps: Counts) -> Values:
    """(M,) first value that is not NaN; NaN if there is none."""
    if not len(values):
        return np.full(values.shape[1], np.nan, values.dtype)
    known = ~np.isnan(values)
    found: Values = values[known.argmax(axis=0), np.arange(values.shape[1])]
    return found


def last(values: Values, steps: Counts) -> Values:
    """(M,) last value that is not NaN; NaN if there is none."""
    return first(values[::-1], steps)


def median(values: Values, steps: Counts) -> Floats:
    """(M,) median of (W, M) values, each weighted by its number of steps, ignoring NaN.

    The lower one if two are in the middle; NaN for a column without any.
    """
    if not len(values):
        return np.full(values.shape[1], np.nan)
    order = np.argsort(values, axis=0)  # NaN comes last
    weight = np.where(np.isnan(values), 0, steps[:, None])
    mass = np.take_along_axis(weight, order, axis=0).cumsum(axis=0)
    middle = (mass >= mass[-1] / 2).argmax(axis=0)
    found = np.take_along_axis(values, np.take_along_axis(order, middle[None], axis=0), axis=0)[0]
    return np.where(mass[-1] > 0, found, np.nan).astype(np.float64)
