"""What a destination of numbers must do, and the bounded set of numbers that it gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from yolo_gradwatch.records import WHOLE, Layout, Window

if TYPE_CHECKING:
    from collections.abc import Mapping


class Sink(Protocol):
    """A destination such as the user's experiment logger."""

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Take the scalars of the window that ends with ``step``."""

    def close(self) -> None:
        """The training is over; called once."""


def scalars(layout: Layout, window: Window) -> dict[str, float]:
    """Norms of the whole model and of each top-level block, and AMP's skips.

    Bounded by the number of blocks, some thirty, so that a logger's pages stay usable. A norm that
    has no finite step is left out.
    """
    blocks = dict(layout.blocks)
    norms = {
        f"gradwatch/{name}": float(window.norm_mean[m])
        for m, name in enumerate(layout.modules)
        if (name == WHOLE or name in blocks) and np.isfinite(window.norm_mean[m])
    }
    return {**norms, "gradwatch/skipped": float(window.skipped)}
