"""The table of loss items and learning rates, ``gradwatch/losses.csv``: reading and writing."""

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


def rows_of(window: Window) -> Iterator[tuple[object, ...]]:
    """Yield one row per item; nine digits restore a float32 exactly."""
    for one in window.losses:
        shared = (window.epoch, window.step_first, window.step_last, one.item)
        counts = (one.steps, one.nonfinite, one.zero)
        values = (one.min, one.mean, one.max)
        cells = ("" if value is None else f"{value:.9g}" for value in values)
        yield (*shared, *counts, *cells)


def with_losses(windows: Iterable[Window], table: pd.DataFrame) -> Iterator[Window]:
    """Yield windows with their loss items from a checked table."""
    found = defaultdict(list)
    columns = [table[name].tolist() for name in ("step_first", "item")]
    counts = ("steps", "nonfinite", "zero")
    columns += [table[name].fillna(0).tolist() for name in counts]  # a file may lack one
    columns += [table[name].tolist() for name in ("min", "mean", "max")]
    for step, item, steps, nonfinite, zero, *values in zip(*columns, strict=True):
        known = (None if math.isnan(value) else value for value in values)
        found[step].append(LossItem(item, steps, nonfinite, zero, *known))
    for window in windows:
        yield replace(window, losses=tuple(found.get(window.step_first, ())))
