"""A window as a few numbers for an experiment logger."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.measure.clipping import CLIP_NORM
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.quantities import QUANTITIES
from yolo_gradwatch.runs.outputs import OutputBase

if TYPE_CHECKING:
    from collections.abc import Callable

    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.windows import Window
    from yolo_gradwatch.runs.outputs import RunInfo

MOST_BLOCKS = 20
"""Most blocks a logger gets, evenly spaced if there are more; YOLO26n has 18 with parameters."""


class Scalars(OutputBase):
    """Passes a few numbers of each window to an experiment logger.

    Args:
        write: Called with the numbers by name and the last optimizer step of the window.
    """

    def __init__(self, write: Callable[[dict[str, float], int], object]) -> None:
        self._write = write

    def start(self, run: RunInfo) -> None:
        """See `Output`."""
        self._layout, self._clip = run.layout, run.clip

    def regroup(self, layout: Layout) -> None:
        """See `Output`."""
        self._layout = layout

    def window(self, window: Window) -> None:
        """Write the numbers of a window."""
        self._write(scalars(self._layout, window, self._clip), window.step_last)


def scalars(layout: Layout, window: Window, clip: float = CLIP_NORM) -> dict[str, float]:
    """Return norms and updates of the whole model and its blocks, the clipping, and AMP's skips.

    About forty at most, so that a logger's pages stay usable. Numbers that are not finite, or were
    not measured in this window, are left out.

    Args:
        layout: Layout of the model.
        window: A window in this layout.
        clip: Total norm above which the trainer clips.
    """
    places = _places(layout)
    numbers = {
        f"gradwatch/{row.logged}{layout.modules[m]}": float(getattr(window, row.name)[m])
        for row in QUANTITIES
        if row.logged is not None
        for m in places
    }
    total = float(window.norm_mean[0])
    numbers["gradwatch/clip_factor"] = clip / float(np.maximum(clip, total))  # NaN if total is
    found = {name: number for name, number in numbers.items() if math.isfinite(number)}
    return {**found, "gradwatch/skipped": float(window.skipped)}


def _places(layout: Layout) -> list[int]:
    """Return the rows of the whole model and its blocks, or of a selection if there are many."""
    blocks = dict(layout.blocks)
    rows = [m for m, name in enumerate(layout.modules) if name in blocks and name != WHOLE]
    if len(rows) > MOST_BLOCKS:
        last = len(rows) - 1
        rows = [rows[i * last // (MOST_BLOCKS - 1)] for i in range(MOST_BLOCKS)]
    return [layout.modules.index(WHOLE), *rows]
