"""Windows of optimizer steps: one, and all of a run."""

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
"""What a window has one of for all modules, in every version of its file."""

UNKNOWN = -1
"""The ``clipped`` of a window whose row in a file does not have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(Measured):
    """A stretch of optimizer steps, with a value of each quantity for each module.

    Attributes:
        epoch: Counts from 1.
        step_first: First captured step of the stretch.
        step_last: Last captured step of the stretch.
        steps: Captured steps in it.
        skipped: How many of these AMP skipped.
        clipped: Steps, not skipped, with a total norm above the clip; -1 if unknown, as in files of
            format version 1.
        largest: Name of the parameter or buffer with the largest absolute value of all, of the
            first with NaN if there is any; "" where weights were not read, or are those of a file.
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
        epoch: (W,) as in a `Window`, like those that follow.
        step_first: (W,)
        step_last: (W,)
        steps: (W,)
        skipped: (W,)
        clipped: (W,)
    """

    epoch: Counts
    step_first: Counts
    step_last: Counts
    steps: Counts
    skipped: Counts
    clipped: Counts


def windows_of(grid: Grid) -> Iterator[Window]:
    """The windows of a grid, one after the other, without loss items."""
    for w in range(len(grid.steps)):
        values: dict[str, Any] = {
            name: int(getattr(grid, name)[w]) for name in (*SHARED, "clipped")
        }
        yield Window(**values, **{name: getattr(grid, name)[w] for name in NAMES})


def narrowed(window: Window, layout: Layout, part: Layout) -> Window:
    """A window with the modules of a part of its layout alone."""
    if len(part.modules) == len(layout.modules):
        return window
    inside = set(part.modules)
    rows = [m for m, name in enumerate(layout.modules) if name in inside]
    return replace(window, **{name: getattr(window, name)[rows] for name in NAMES})


def widened(window: Window, part: Layout, layout: Layout) -> Window:
    """A window of a part of a layout, in which nothing is known of the other modules."""
    place = {name: m for m, name in enumerate(layout.modules)}
    rows = [place[name] for name in part.modules]
    values: dict[str, Any] = {row.name: row.unknown(len(layout.modules)) for row in QUANTITIES}
    for name, column in values.items():
        column[rows] = getattr(window, name)
    return replace(window, **values)


def rescoped(
    window: Window, layout: Layout, scope: Layout, regroup: Callable[[Layout], object]
) -> tuple[Window, Layout]:
    """A window with the modules that were watched then, and their layout.

    Args:
        window: In ``layout``.
        layout: That of the whole run.
        scope: The layout of the window before.
        regroup: Takes the new scope where it has other modules.
    """
    watched = watched_at(layout, window.step_first)
    if watched.modules != scope.modules:
        regroup(watched)
    return narrowed(window, layout, watched), watched
