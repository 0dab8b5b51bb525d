"""The table of loss items and learning rates: ``gradwatch/losses.csv``, both directions."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from yolo_gradwatch.measure.loss_items import LossItem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas as pd

    from yolo_gradwatch.measure.windows import Window

_COUNTS = ("steps", "nonfinite", "zero")
_VALUES = ("min", "mean", "max")


def rows_of(window: Window) -> Iterator[tuple[object, ...]]:
    """One row an item; nine digits give a float32 back bit for bit."""
    for one in window.losses:
        counts = (getattr(one, name) for name in _COUNTS)
        values = (getattr(one, name) for name in _VALUES)
        cells = ("" if value is None else f"{value:.9g}" for value in values)
        yield (window.epoch, window.step_first, window.step_last, one.item, *counts, *cells)


def with_losses(windows: Iterable[Window], table: pd.DataFrame) -> Iterator[Window]:
    """Windows with the loss items that a checked table has of them."""
    found = defaultdict(list)
    columns = [table[name].tolist() for name in ("step_first", "item")]
    columns += [table[name].fillna(0).tolist() for name in _COUNTS]  # a file may lack one
    columns += [table[name].tolist() for name in _VALUES]
    for step, item, steps, nonfinite, zero, *values in zip(*columns, strict=True):
        known = (None if math.isnan(value) else value for value in values)
        found[step].append(LossItem(item, steps, nonfinite, zero, *known))
    for window in windows:
        yield replace(window, losses=tuple(found.get(window.step_first, ())))
