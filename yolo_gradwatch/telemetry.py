"""Clipping and AMP of an epoch, which `gradwatch.json` keeps."""

from __future__ import annotations

import numpy as np

from yolo_gradwatch.records import CLIP_NORM, EpochTelemetry, Sample


class Telemetry:
    """Collects the steps of one pass over an epoch.

    Args:
        epoch: Counts from 1.
    """

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._totals: list[float] = []
        self._skipped = 0
        self._scale: float | None = None

    def add(self, sample: Sample, total: float) -> None:
        """Take a step and the norm of its whole gradient."""
        self._skipped += sample.skipped
        self._totals.append(float("nan") if sample.skipped else total)
        self._scale = sample.scale

    def result(self) -> EpochTelemetry:
        """The epoch so far."""
        totals = np.array(self._totals)
        finite = totals[np.isfinite(totals)]
        return EpochTelemetry(
            epoch=self._epoch,
            steps=len(totals),
            clipped=int((totals > CLIP_NORM).sum()),
            skipped=self._skipped,
            norm_median=float(np.median(finite)) if finite.size else None,
            scale=self._scale,
        )
