"""Windows of optimizer steps: a single one, and all of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.measure.layout import watched_at
from yolo_gradwatch.measure.quantities import NAMES, QUANTITIES, Measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from yolo_gradwatch.measure.arrays import Counts
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.loss_items import LossItem

SHARED = ("epoch", "step_first", "step_last", "steps", "skipped")
"""Fields that a window has once for all modules, in every version of its file."""

UNKNOWN = -1
"""``clipped`` of a window whose file does not have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(Measured):
    """A stretch of optimizer steps, with a value of each quantity for each module.

    Attributes:
        epoch: Counts from 1.
        step_first: First captured step of the stretch.
        step_last: Last captured step of the stretch.
        steps: Number of captured steps in it.
        skipped: Number of these that AMP skipped.
        clipped: Applied steps with a total norm above the clip; -1 if unknown, as in files of
            format version 1.
        largest: Name of the parameter or buffer with the largest absolute value, or of the first
            with a NaN; "" if the weights were not read, or the window comes from a file.
        losses: Loss items and learning rates; empty where unknown.
    """

    epoch: int
    step_first: int
    step_last: int
    steps: int
    skipped: int
    clipped: int = UNKNOWN
    largest: str = ""
    losses: tuple[LossItem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid(Measured):
    """The windows of a run as arrays, in the order of their steps: W windows by M modules.

    Attributes:
        epoch: (W,) as in `Window`, like all that follow.
        step_first: (W,) first captured steps.
        step_last: (W,) last captured steps.
        steps: (W,) numbers of captured steps.
        skipped: (W,) numbers of skipped steps.
        clipped: (W,) numbers of clipped steps.
    """

    epoch: Counts
    step_first: Counts
    step_last: Counts
    steps: Counts
    skipped: Counts
    clipped: Counts


def windows_of(grid: Grid) -> Iterator[Window]:
    """Yield the windows of a grid in order, without loss items."""
    for w in range(len(grid.steps)):
        values: dict[str, Any] = {
            name: int(getattr(grid, name)[w]) for name in (*SHARED, "clipped")
        }
        yield Window(**values, **{name: getattr(grid, name)[w] for name in NAMES})


def narrowed(window: Window, layout: Layout, part: Layout) -> Window:
    """Return a window with only the modules of a part of its layout."""
    if len(part.modules) == len(layout.modules):
        return window
    inside = set(part.modules)
    rows = [m for m, name in enumerate(layout.modules) if name in inside]
    return replace(window, **{name: getattr(window, name)[rows] for name in NAMES})


def widened(window: Window, part: Layout, layout: Layout) -> Window:
    """Return a window of a partial layout in the whole one; all other modules are unknown."""
    place = {name: m for m, name in enumerate(layout.modules)}
    rows = [place[name] for name in part.modules]
    values: dict[str, Any] = {row.name: row.unknown(len(layout.modules)) for row in QUANTITIES}
    for name, column in values.items():
        column[rows] = getattr(window, name)
    return replace(window, **values)


def rescoped(
    window: Window, layout: Layout, scope: Layout, regroup: Callable[[Layout], object]
) -> tuple[Window, Layout]:
    """Return a window with only the modules watched at its time, and their layout.

    Args:
        window: A window in ``layout``.
        layout: Layout of the whole run.
        scope: Layout of the previous window.
        regroup: Called with the new layout if its modules differ from those of ``scope``.
    """
    watched = watched_at(layout, window.step_first)
    if watched.modules != scope.modules:
        regroup(watched)
    return narrowed(window, layout, watched), watched
