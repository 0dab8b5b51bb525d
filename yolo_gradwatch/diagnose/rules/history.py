"""What the rules look at and share: pure functions over the newest windows.

All levels are decades, log10 of L2 norms. A rule compares within a window wherever it can, so that
warm-up, accumulation and loss scale cancel out; only rules on the whole model look at its past.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from yolo_gradwatch.diagnose.reading import Reading, medians
from yolo_gradwatch.measure.arrays import FLOAT32_MAX
from yolo_gradwatch.measure.clipping import CLIP_OVERFLOW

if TYPE_CHECKING:
    from yolo_gradwatch.diagnose.finding import Reason
    from yolo_gradwatch.diagnose.graph import Graph
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.arrays import Flags, Floats
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.optimizer import Optimizer
    from yolo_gradwatch.measure.trace import Flow
    from yolo_gradwatch.measure.windows import Window


ENOUGH_STEPS, ENOUGH_WINDOWS = 50, 3
"""Three or more windows with this many steps say as much as many windows of a single step.

Healthy long runs, median of a hop over three windows: at most 1.51, as over ten; over three of a
single step: 1.55.
"""

RUN_UP, RUN_UP_WINDOWS = 0.3, 10
"""Decades above the median of the older half of the preceding windows, at least ten of them, at
which a drift has begun."""

OPENING = 5
"""Number of readings remembered from the start of a run."""


class Mark(NamedTuple):
    """The level of the whole model in a window.

    Attributes:
        epoch: Epoch of the window.
        step: First step of the window.
        trunk: Level of the trunk.
        peak: Level of the trunk's highest norms.
    """

    epoch: int
    step: int
    trunk: float
    peak: float


class Hit(NamedTuple):
    """A module for which a rule holds.

    Attributes:
        module: Name of the module.
        value: The judged number.
        limit: The threshold that it violated.
        since: Epoch and first step of the first window of the evidence.
        affected: Other blocks that suffer from it.
        reason: What was measured about the cause; None if nothing was.
    """

    module: str
    value: float
    limit: float
    since: tuple[int, int]
    affected: tuple[str, ...] = ()
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class History:
    """What a rule may look at.

    Attributes:
        layout: Layout of the model.
        graph: Its units and which of them read which.
        newest: The newest window.
        readings: The newest windows with at least one step that AMP did not skip, oldest first.
        skipped: The windows since then, in which AMP skipped every step.
        marks: The whole model in the windows of ``readings`` and earlier ones, except those
            `beyond_clip`.
        training: Options of the training.
        optimizer: What the optimizer updates now; None if unknown, as in older files.
        recent: The newest windows of either kind, oldest first, with at least the steps among which
            AMP's skipped ones are counted.
        is_warming: Whether the learning rate is warming up in an epoch, at a step.
        flow: The newest traced batch since the run began or restarted, no later than the newest
            window; None if there is none.
        opening: The first readings of the run, up to `OPENING`; a restart does not discard them.
        was_finite: Whether an earlier step was applied and finite since the training began or was
            resumed.
    """

    layout: Layout
    graph: Graph
    newest: Window
    readings: Sequence[Reading]
    skipped: Sequence[Window]
    marks: Sequence[Mark]
    training: Mapping[str, object]
    optimizer: Optimizer | None = None
    flow: Flow | None = None
    opening: Sequence[Reading] = ()
    recent: Sequence[Window] = ()
    was_finite: bool = False
    is_warming: Callable[[int, int], bool] = lambda _epoch, _step: False


Judge: TypeAlias = Callable[[History, "Thresholds"], Iterator[Hit]]
"""A function that returns hits for a history and the limits."""


def begin(window: Window) -> tuple[int, int]:
    """Return the epoch and first step of a window."""
    return window.epoch, window.step_first


def last(history: History, count: int) -> list[Window]:
    """Return the newest windows with an applied step: exactly as many as requested, or none."""
    found = [reading.window for reading in history.readings[-count:]]
    return found if len(found) == count else []


def totals(windows: Sequence[Window]) -> list[float]:
    """Return the norm of the whole gradient in each window; empty if a window has none."""
    norms = [min(float(window.norm_mean[0]), FLOAT32_MAX) for window in windows]
    return [] if np.isnan(norms).any() else norms


def names(layout: Layout, chosen: Flags) -> list[str]:
    """Return the names of the chosen modules, in forward order."""
    return [layout.modules[m] for m in np.flatnonzero(chosen)]


def is_frozen(window: Window) -> Flags:
    """Return (M,) whether a module was frozen: it has no norm, and no step counts."""
    counts = window.nonfinite + window.zero + window.none
    frozen: Flags = np.isnan(window.norm_mean) & (counts == 0)
    return frozen


def beyond_clip(window: Window) -> bool:
    """Return whether a step in it had a finite gradient that clipping multiplies by 0."""
    return bool(window.norm_max[0] > CLIP_OVERFLOW)


def finite(values: Floats) -> Floats:
    """Return the values, with NaN for those that mean a norm of 0 or no norm."""
    return np.where(np.isfinite(values), values, np.nan)


def over(values: Floats, limit: float, least: int) -> dict[int, float]:
    """Return the columns whose median over (W, N) windows is above the limit, with that median."""
    if not (values > limit).any():
        return {}
    found = medians(values, least)
    return {int(i): float(found[i]) for i in np.flatnonzero(found > limit)}


def first_over(values: Floats, limit: float) -> int:
    """Return the oldest window in which a value was above the limit."""
    return int(np.flatnonzero(values > limit)[0])


def newest(history: History, most: int, least: int) -> list[Reading]:
    """Return the newest readings that decide: ``most``, or fewer with enough steps; else none."""
    chosen: list[Reading] = []
    steps = 0
    for reading in history.readings[: -most - 1 : -1]:
        chosen.append(reading)
        steps += reading.window.steps - reading.window.skipped
        if steps >= ENOUGH_STEPS and len(chosen) >= ENOUGH_WINDOWS:
            return chosen[::-1]
    return chosen[::-1] if len(chosen) >= least else []


def risen(values: Floats, median: float) -> float:
    """Return the newest of (W,) values if they rise to it, else their median."""
    is_rising = (np.diff(values[-3:]) > 0).all() and values[-1] == np.fmax.reduce(values)
    return float(values[-1]) if is_rising else median


def run_up(before: Floats, values: Floats, limit: float) -> int:
    """Return how many windows before the first value above the limit a drift to it began.

    Args:
        before: (B,) values of the windows before.
        values: (W,) values of the windows that decide.
        limit: Limit that at least one of them exceeds.
    """
    past = np.concatenate([before, values[: first_over(values, limit)]])
    if len(past) < RUN_UP_WINDOWS:
        return 0
    usual = ~(past > medians(past[: len(past) // 2, None])[0] + RUN_UP)
    count = int(usual[::-1].argmax()) if usual.any() else 0
    return count if count > 1 else 0  # one window is a jump, not a drift
