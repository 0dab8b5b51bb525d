"""Data for the hover text of the page: all displayed quantities besides the norm."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

import numpy as np

from yolo_gradwatch.measure.quantities import QUANTITIES

if TYPE_CHECKING:
    from yolo_gradwatch.measure.windows import Grid

SHOWN = tuple(row for row in QUANTITIES if row.over_run and row.name != "norm_mean")
"""Quantities with a heading, except the norm, which is the colour of the cell."""


def quantities(grid: Grid) -> list[dict[str, Any]]:
    """Pack the numbers of every module, limited to the windows that have one.

    Args:
        grid: Grid with M modules and W windows.

    Returns:
        A record per quantity: ``heading``, ``steps`` (whether it counts steps), ``columns`` (C
        window indices) and ``values`` ((M, C) float32; NaN for no number, or a count of 0).
    """
    found = []
    for row in SHOWN:
        values = getattr(grid, row.name).astype("<f4")
        if row.is_count:
            values[values == 0] = np.nan
        columns = np.flatnonzero(~np.isnan(values).all(axis=1))
        packed = b64encode(np.ascontiguousarray(values[columns].T).tobytes()).decode()
        found.append(
            {
                "heading": row.over_run[-1].heading,
                "steps": row.is_count,
                "columns": columns.tolist(),
                "values": {"dtype": "f4", "bdata": packed},
            }
        )
    return [one for one in found if one["columns"]]
