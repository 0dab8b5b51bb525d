"""Numbers for the live report: norm, history and state of each top-level block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.measure.arrays import FLOAT32_MAX
from yolo_gradwatch.measure.clipping import (
    CLIP_NORM,
    CLIP_OVERFLOW,
    block_labels,
    block_rows,
    block_shares,
    owners,
)
from yolo_gradwatch.measure.sample import Sample, applied
from yolo_gradwatch.views.history import History
from yolo_gradwatch.views.states import BlockStates

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from yolo_gradwatch.diagnose.finding import Finding, Severity
    from yolo_gradwatch.measure.arrays import Floats
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.windows import Window


@dataclass(frozen=True, slots=True)
class BlockRow:
    """A top-level block as the live report shows it.

    Attributes:
        label: Number and class, such as ``10 C2PSA``.
        norm: L2 gradient norm of the newest step that AMP did not skip; None before the first.
        history: (H,) log10 norms of the run so far, oldest first; -Inf for 0, NaN for non-finite.
        state: ``ok``, or what is wrong in a word; ``-`` before the first step.
        severity: Severity of the worst open finding; None if there is none.
    """

    label: str
    norm: float | None
    history: Floats
    state: str
    severity: Severity | None


def highest(rows: Iterable[BlockRow]) -> float:
    """Return the upper end of the bars' scale: the whole decade at or above every norm of the run.

    In log10 units.
    """
    levels = [row.history[np.isfinite(row.history)] for row in rows]
    return math.ceil(max((float(level.max()) for level in levels if level.size), default=0.0))


class Board:
    """Numbers for the live report, in constant memory.

    Args:
        layout: Layout of the watched model.
        epochs: Planned number of epochs.
        clip: Total norm above which the trainer clips.
        interval: Optimizer steps from one captured step to the next.

    Attributes:
        epoch: Epoch of the newest step, counted from 1; 0 before the first step.
        epochs: Planned number of epochs.
        step: Newest step.
        total: Norm of the whole gradient at the newest step that AMP did not skip; None before
            the first.
        clip: Total norm above which the trainer clips.
        interval: Optimizer steps from one captured step to the next.
        skipped: Captured steps that AMP skipped.
        active: Findings that are not over.
    """

    def __init__(
        self, layout: Layout, *, epochs: int = 0, clip: float = CLIP_NORM, interval: int = 1
    ) -> None:
        self._blocks: list[str] = []
        self._history = History()
        self._norms: Floats = np.zeros(0)
        self.regroup(layout)
        self._clipped = 0
        self._steps = 0
        self.epoch = 0
        self.epochs = epochs
        self.step = 0
        self.total: float | None = None
        self.clip = clip
        self.interval = interval
        self.skipped = 0
        self.active: tuple[Finding, ...] = ()

    @property
    def clipped(self) -> float:
        """Share of the captured steps with a total norm above the clip; 0 before the first."""
        return self._clipped / self._steps if self._steps else 0.0

    @property
    def factor(self) -> float:
        """Factor by which clipping scales the newest gradient; NaN if its norm is not finite."""
        if not self.total:
            return 1.0
        if not math.isfinite(self.total):
            return math.nan
        return min(self.clip / self.total, 1.0) if self.total <= CLIP_OVERFLOW else 0.0

    @property
    def owners(self) -> dict[str, float]:
        """Block label -> share of the squared norm at the newest step, largest shares only."""
        if self.total is None:
            return {}
        return owners(block_shares(self._norms, self.total), self._labels)

    def regroup(self, layout: Layout) -> None:
        """Continue with a layout that contains all current blocks; new blocks have no past norm."""
        place = {name: i for i, name in enumerate(self._blocks)}
        self._rows = block_rows(layout)
        self._blocks = [layout.modules[m] for m in self._rows]
        self._labels = block_labels(layout)
        self._states = BlockStates(layout)
        old = [place.get(name, -1) for name in self._blocks]
        self._history.regroup(old)
        self._norms = np.append(self._norms, 0.0)[old]

    def add(self, samples: Sequence[Sample], norms: Floats) -> None:
        """Add S >= 1 steps with their (S, M) module norms."""
        self.epoch, self.step = samples[-1].epoch, samples[-1].step
        is_applied = applied(samples)
        self._steps += len(samples)
        self.skipped += len(samples) - int(is_applied.sum())
        self._clipped += int((norms[is_applied, 0] > self.clip).sum())
        self._take(norms[is_applied])

    def add_window(self, window: Window) -> None:
        """Add a window from the files: its mean norms, and its number of clipped steps."""
        self.epoch, self.step = window.epoch, window.step_last
        norms = np.minimum(window.norm_mean.astype(np.float64), FLOAT32_MAX)
        norms = np.where(np.isnan(norms), 0.0, norms)  # frozen, or without a gradient
        norms = np.where(window.nonfinite, np.nan, norms)
        self._steps += window.steps
        self.skipped += window.skipped
        if window.skipped < window.steps:
            applied = window.steps - window.skipped
            is_known = window.clipped >= 0  # format version 1 has no count: judge by the mean norm
            self._clipped += window.clipped if is_known else applied * int(norms[0] > self.clip)
            self._take(norms[None])

    def _take(self, norms: Floats) -> None:
        """Add the (S, M) module norms of steps that AMP did not skip."""
        if not len(norms):
            return
        self.total = float(norms[-1, 0])
        blocks = norms[:, self._rows]
        self._norms = blocks[-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            levels = np.where(np.isfinite(blocks), np.log10(blocks), np.nan)
        for level in levels:
            self._history.add(level)

    def show(self, findings: Iterable[Finding]) -> None:
        """Set the findings to show; resolved ones are left out."""
        self.active = tuple(f for f in findings if f.step_end is None)

    def rows(self) -> list[BlockRow]:
        """Return a row for each block that has parameters, in forward order."""
        states = self._states.under(self.active)
        calm = ("ok" if self._steps else "-", None)
        history = self._history.points()
        rows = []
        for i, (block, label) in enumerate(zip(self._blocks, self._labels, strict=True)):
            norm = None if self.total is None else float(self._norms[i])
            state, severity = states.get(block, calm)
            rows.append(BlockRow(label, norm, history[:, i], state, severity))
        return rows
