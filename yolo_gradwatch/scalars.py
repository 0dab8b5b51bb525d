"""A window as a few numbers for an experiment logger."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.records import WHOLE

if TYPE_CHECKING:
    from yolo_gradwatch.records import Layout, Window


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
