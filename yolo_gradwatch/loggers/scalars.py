"""A window as a few numbers for an experiment logger."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.quantities import QUANTITIES
from yolo_gradwatch.runs.outputs import OutputBase

if TYPE_CHECKING:
    from collections.abc import Callable

    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.windows import Window
    from yolo_gradwatch.runs.outputs import RunInfo


class Scalars(OutputBase):
    """Hands a few numbers a window to an experiment logger.

    Args:
        write: Called with the numbers by name and the last optimizer step of the window.
    """

    def __init__(self, write: Callable[[dict[str, float], int], object]) -> None:
        self._write = write

    def start(self, run: RunInfo) -> None:
        """See `Output`."""
        self._layout = run.layout

    def regroup(self, layout: Layout) -> None:
        """See `Output`."""
        self._layout = layout

    def window(self, window: Window) -> None:
        """Write the numbers of a window."""
        self._write(scalars(self._layout, window), window.step_last)


def scalars(layout: Layout, window: Window) -> dict[str, float]:
    """Norms and updates of the whole model and of each top-level block, and AMP's skips.

    Bounded by twice the number of blocks, some fifty, so that a logger's pages stay usable. A
    number that is not finite, or was not measured in this window, is left out.
    """
    blocks = {WHOLE, *dict(layout.blocks)}
    places = [m for m, name in enumerate(layout.modules) if name in blocks]
    numbers = {
        f"gradwatch/{row.logged}{layout.modules[m]}": float(getattr(window, row.name)[m])
        for row in QUANTITIES
        if row.logged is not None
        for m in places
    }
    found = {name: number for name, number in numbers.items() if math.isfinite(number)}
    return {**found, "gradwatch/skipped": float(window.skipped)}
