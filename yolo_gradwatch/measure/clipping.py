"""Clipping and AMP by epoch, as kept in `gradwatch.json`."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.sample import applied

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from yolo_gradwatch.measure.arrays import Floats
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.sample import Sample
    from yolo_gradwatch.measure.windows import Grid

CLIP_NORM = 10.0
"""Total gradient norm above which Ultralytics clips, unless its code says otherwise."""

CLIP_OVERFLOW = float(np.sqrt(np.finfo(np.float32).max))
"""Total norm above which clipping multiplies by 0, because its square in float32 is Inf."""

OWNERS = 3
"""Number of blocks that are named as owners of the norm."""


@dataclass(frozen=True, slots=True)
class EpochClipping:
    """Clipping and AMP of one pass over an epoch.

    Attributes:
        epoch: Counts from 1; an epoch that is repeated has one entry for each pass.
        steps: Number of captured optimizer steps.
        clipped: Number of these that were applied with a total norm above the clip.
        skipped: Number of these that AMP skipped.
        norm_median: Median total norm over the finite steps; None if there is none.
        norm_max: Highest total norm over the finite steps; None if there is none.
        clip_ratio: Median of total norm over clip in the clipped steps; None if there is none.
        owners: The blocks with the largest shares of the squared norm, on average over the finite
            steps.
        scale: AMP's loss scale at the last step; None without a scaler.
        step_last: Newest optimizer step, captured or not; 0 in files without it.
    """

    epoch: int
    steps: int = 0
    clipped: int = 0
    skipped: int = 0
    norm_median: float | None = None
    norm_max: float | None = None
    clip_ratio: float | None = None
    owners: dict[str, float] = field(default_factory=dict)
    scale: float | None = None
    step_last: int = 0


class Clipping:
    """Collects the steps of one pass over an epoch.

    Args:
        epoch: Counts from 1.
        clip: Total norm above which the trainer clips.
        layout: Layout of the watched model.
    """

    def __init__(self, epoch: int, clip: float, layout: Layout) -> None:
        self._epoch = epoch
        self._clip = clip
        self._names: list[str] = []
        self._shares: Floats = np.zeros(0)
        self.regroup(layout)
        self._totals = array("d")  # 8 bytes a step of the epoch
        self._finite = 0
        self._skipped = 0
        self._scale: float | None = None

    def regroup(self, layout: Layout) -> None:
        """Continue with the blocks of a layout that has at least the previous ones."""
        known = dict(zip(self._names, self._shares.tolist(), strict=True))
        self._rows = block_rows(layout)
        self._names = [layout.modules[m] for m in self._rows]
        self._shares = np.array([known.get(name, 0.0) for name in self._names])

    def add(self, samples: Sequence[Sample], norms: Floats) -> None:
        """Add steps, at least one, and their (S, M) module norms, the whole model first."""
        is_applied = applied(samples)
        self._skipped += len(samples) - int(is_applied.sum())
        self._totals.extend(np.where(is_applied, norms[:, 0], np.nan).tolist())
        self._scale = samples[-1].scale
        shares = block_shares(norms[:, self._rows], norms[:, :1])
        known = is_applied & np.isfinite(shares).all(axis=1)
        # Row by row, so that the sum does not depend on how many arrive at once.
        self._shares = np.add.reduce([self._shares, *shares[known]])
        self._finite += int(known.sum())

    def result(self) -> EpochClipping:
        """Return the epoch so far."""
        totals = np.array(self._totals)
        finite = totals[np.isfinite(totals)]
        clipped = totals[totals > self._clip]
        ratios = clipped[np.isfinite(clipped)] / self._clip
        return EpochClipping(
            epoch=self._epoch,
            steps=len(totals),
            clipped=len(clipped),
            skipped=self._skipped,
            norm_median=float(np.median(finite)) if finite.size else None,
            norm_max=float(finite.max()) if finite.size else None,
            clip_ratio=float(np.median(ratios)) if ratios.size else None,
            owners=owners(self._shares / max(self._finite, 1), self._names),
            scale=self._scale,
        )


def epochs_of(grid: Grid, known: int) -> Iterator[EpochClipping]:
    """Yield passes over an epoch after the ``known`` first steps, as far as windows show them.

    A training that was killed has not written its newest ones. The median is that of the windows'
    means; owners, scale and clip ratio are unknown.
    """
    rest = np.flatnonzero(np.cumsum(grid.steps) - grid.steps >= known)
    for rows in np.split(rest, np.flatnonzero(np.diff(grid.epoch[rest])) + 1) if rest.size else ():
        applied_steps = grid.steps[rows] - grid.skipped[rows]
        means, peaks = grid.norm_mean[rows, 0].astype(np.float64), grid.norm_max[rows, 0]
        finite = np.repeat(means, applied_steps)
        finite, peaks = finite[np.isfinite(finite)], peaks[np.isfinite(peaks)]
        yield EpochClipping(
            epoch=int(grid.epoch[rows[0]]),
            steps=int(grid.steps[rows].sum()),
            clipped=int(np.maximum(grid.clipped[rows], 0).sum()),
            skipped=int(grid.skipped[rows].sum()),
            norm_median=float(np.median(finite)) if finite.size else None,
            norm_max=float(peaks.max()) if peaks.size else None,
            step_last=int(grid.step_last[rows].max()),
        )


def block_rows(layout: Layout) -> list[int]:
    """Return the rows of the top-level blocks among the modules."""
    blocks = {name for name, _ in layout.blocks}
    return [m for m, name in enumerate(layout.modules) if name in blocks]


def block_labels(layout: Layout) -> list[str]:
    """Return number and class of each top-level block among the modules."""
    classes = dict(layout.blocks)
    names = (layout.modules[row] for row in block_rows(layout))
    return [f"{name.removeprefix(f'{WHOLE}.')} {classes[name]}" for name in names]


def block_shares(blocks: Floats, total: Floats | float) -> Floats:
    """Return each block's share of the squared norm; NaN if there is none or it is not finite.

    Args:
        blocks: (..., B) norms of the blocks.
        total: (..., 1) norms of the whole model, or one for all.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # Inf / Inf, 0 / 0
        shares: Floats = np.square(blocks / np.asarray(total, np.float64))
    return shares


def owners(shares: Floats, names: Sequence[str]) -> dict[str, float]:
    """Return the names with the largest shares, the largest first, and these shares."""
    largest = np.argsort(-shares, kind="stable")[:OWNERS]
    return {names[i]: round(float(shares[i]), 4) for i in largest if shares[i] > 0}
