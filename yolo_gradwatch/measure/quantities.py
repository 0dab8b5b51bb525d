"""What is measured of every module, with a row for each quantity.

A new quantity is a row of `QUANTITIES` with its fold, and a field of `Measured`. Windows, the
columns of ``gradwatch.csv``, the tables of a run and the documentation follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from yolo_gradwatch.measure.arrays import Floats, first, highest, last, median, total
from yolo_gradwatch.measure.layout import Members, module_largest, module_norms
from yolo_gradwatch.measure.sample import Detail, Steps

if TYPE_CHECKING:
    from yolo_gradwatch.measure.arrays import Counts, Flags, Singles, Values

Once: TypeAlias = Callable[[Detail, Members], Floats | None]
"""(M,) float64 from the readings taken once in a window; None if they were not taken."""

Moment = Literal["every step", "once"]


@dataclass(frozen=True, slots=True)
class Running:
    """A fold over every step of a window, in memory that does not grow with the steps.

    Attributes:
        start: The K running values of a module before the first step.
        add: Adds the next steps to the (K, M) running values, in place.
        value: Returns the (M,) values of the window from its (K, M) running values.
    """

    start: tuple[float, ...]
    add: Callable[[Floats, Steps], object]
    value: Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class OverRun:
    """A column of the table that has one row for each module.

    Attributes:
        name: Name of the column.
        heading: Heading that people see.
        fold: (M,) from the values of W windows, (W, M), and the applied steps in each, (W,).
    """

    name: str
    heading: str
    fold: Callable[[Values, Counts], Values]


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number for each module in each window.

    Attributes:
        name: Name of the column in ``gradwatch.csv``, and of the field of `Measured`.
        dtype: float32, where NaN means that there is no such number, or int64.
        fold: How steps become a window's value.
        meaning: Description in the documentation's table of columns.
        over_run: Its columns in the table of a run.
        since: Format version that added the column; older files do not have it.
        logged: Prefix of a block's name in experiment loggers; None if they do not get it.
        is_compared: Whether it has a column in comparisons of runs, next to the norm.
    """

    name: str
    dtype: type[np.float32 | np.int64]
    fold: Running | Once
    meaning: str
    over_run: tuple[OverRun, ...] = ()
    since: int = 1
    logged: str | None = None
    is_compared: bool = False

    @property
    def moment(self) -> Moment:
        """Whether it is taken on every step of a window or once."""
        return "every step" if isinstance(self.fold, Running) else "once"

    @property
    def is_count(self) -> bool:
        """Whether it counts steps."""
        return self.dtype is np.int64

    @property
    def empty(self) -> float:
        """The value where there is no number."""
        return 0 if self.is_count else np.nan

    @property
    def format(self) -> str:
        """Format of a cell; nine digits restore a float32 bit for bit."""
        return "%d" if self.is_count else "%.9g"

    def stored(self, values: Floats) -> Values:
        """Return values as the file holds them, so that a replay decides on the same numbers.

        One beyond 3.4e38 becomes Inf, and numpy warns.
        """
        return values.astype(self.dtype)

    def unknown(self, size: int) -> Values:
        """(M,) values of a window in which it was not taken."""
        return np.full(size, self.empty, self.dtype)


def _counted(flags: Callable[[Steps], Flags | None]) -> Running:
    """Count the steps with a flag; ``flags`` returns (S, M), or None if no flag is set."""

    def add(running: Floats, steps: Steps) -> None:
        found = flags(steps)
        if found is not None:
            running[0] += found.sum(axis=0)

    return Running((0.0,), add, lambda running: running[0])


def _add_lowest(running: Floats, steps: Steps) -> None:
    lowest = np.where(steps.valid, steps.norms, np.inf).min(axis=0)
    np.minimum(running[0], lowest, out=running[0])


def _add_highest(running: Floats, steps: Steps) -> None:
    highest = np.where(steps.valid, steps.norms, -np.inf).max(axis=0)
    np.maximum(running[0], highest, out=running[0])


def _finite(running: Floats) -> Floats:
    """NaN where no step was valid; norms of valid ones are finite."""
    return np.where(np.isinf(running[0]), np.nan, running[0])


def _add_to_mean(running: Floats, steps: Steps) -> None:
    # Row by row, so that the sum does not depend on how many arrive at once.
    running[0] = np.add.reduce([running[0], *np.where(steps.valid, steps.norms, 0.0)])
    running[1] += steps.valid.sum(axis=0)


def _mean(running: Floats) -> Floats:
    unknown = np.full_like(running[0], np.nan)
    mean: Floats = np.divide(running[0], running[1], out=unknown, where=running[1] > 0)
    return mean


def _zero_fraction(detail: Detail, members: Members) -> Floats:
    """NaN for a module without a weight or without its gradient."""
    module, parameter = members.weights.T
    size = len(members.starts)
    found = np.bincount(module, detail.zeros[parameter], size)
    elements = np.bincount(module, members.elements[parameter], size)
    with np.errstate(invalid="ignore"):  # 0 / 0: no weight
        share: Floats = found / elements
    return share


def _weight_norm(detail: Detail, members: Members) -> Floats | None:
    return module_norms(detail.weights.norms, members) if detail.weights else None


def _weight_max(detail: Detail, members: Members) -> Floats | None:
    """Inf for NaN as well: in a file, an empty cell already means that nothing was read."""
    if not detail.weights:
        return None
    found = module_largest(detail.weights.largest, members)
    return np.where(np.isnan(found), np.inf, found)


def _update_ratio(detail: Detail, members: Members) -> Floats | None:
    """NaN for a module whose weights are all 0."""
    if not detail.change:
        return None
    moved, before = (
        module_norms(norms, members) for norms in (detail.change.moved, detail.change.before)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Floats = np.where(before > 0, moved / before, np.nan)
    return ratio


_SPARSE = (
    "in the first 50 steps only at powers of two, at the start of an epoch and around a step "
    "that is not finite; otherwise empty"
)

QUANTITIES = (
    Quantity(
        "nonfinite",
        np.int64,
        _counted(lambda steps: steps.applied & ~steps.finite),
        "steps, not skipped, with a NaN or Inf norm",
        (OverRun("nonfinite", "NaN/Inf", total),),
    ),
    Quantity(
        "zero",
        np.int64,
        _counted(lambda steps: steps.applied & steps.valid & (steps.norms == 0)),
        "steps, not skipped, with a norm of exactly 0",
        (OverRun("zero", "zero", total),),
    ),
    Quantity(
        "none",
        np.int64,
        _counted(lambda steps: None if steps.lost is None else steps.applied & steps.lost),
        "steps, not skipped, in which no parameter of the module had a gradient, though not all "
        "were frozen",
        (OverRun("none", "none", total),),
    ),
    Quantity(
        "zero_fraction",
        np.float32,
        _zero_fraction,
        "share of exactly zero elements in the module's own weight gradient, at the window's "
        "first step",
        (OverRun("zero_fraction", "zeros", last),),
    ),
    Quantity(
        "norm_min",
        np.float32,
        Running((np.inf,), _add_lowest, _finite),
        "lowest L2 norm of the gradient over the finite steps, accumulated, unscaled, before "
        "clipping",
    ),
    Quantity(
        "norm_mean",
        np.float32,
        Running((0.0, 0.0), _add_to_mean, _mean),
        "mean of the same norms",
        (
            OverRun("norm_first", "first", first),
            OverRun("norm_median", "median", median),
            OverRun("norm_last", "last", last),
        ),
        logged="",
    ),
    Quantity(
        "norm_max",
        np.float32,
        Running((-np.inf,), _add_highest, _finite),
        "highest of the same norms",
        (OverRun("norm_max", "highest", highest),),
    ),
    Quantity(
        "weight_norm",
        np.float32,
        _weight_norm,
        f"L2 norm of the parameters, before the window's first step; {_SPARSE}",
        (OverRun("weight_norm", "weights", last),),
    ),
    Quantity(
        "weight_max",
        np.float32,
        _weight_max,
        "largest absolute value among the parameters and floating-point buffers, read with "
        "`weight_norm`; Inf also stands for NaN",
        (OverRun("weight_max", "largest", last),),
        since=2,
        is_compared=True,
    ),
    Quantity(
        "update_ratio",
        np.float32,
        _update_ratio,
        "L2 norm of the change that the window's first step that is not skipped makes to the "
        "parameters, over their L2 norm before it; measured in the same windows as `weight_norm`. "
        "0 where the learning rate is 0, as at the first step of a warm-up",
        (OverRun("update_ratio", "update", median),),
        since=2,
        logged="update/",
        is_compared=True,
    ),
)
"""In the order of their columns."""

NAMES = tuple(row.name for row in QUANTITIES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The measured quantities: (M,) in a window, (W, M) in a grid.

    Each is described by its row of `QUANTITIES`.
    """

    nonfinite: Counts
    zero: Counts
    none: Counts
    zero_fraction: Singles
    norm_min: Singles
    norm_mean: Singles
    norm_max: Singles
    weight_norm: Singles
    weight_max: Singles
    update_ratio: Singles
