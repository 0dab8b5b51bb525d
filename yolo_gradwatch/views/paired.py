"""The numbers of two runs at their common windows, and the differences between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from yolo_gradwatch.measure.clipping import block_rows
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.loss_items import RATE, TOTAL

if TYPE_CHECKING:
    from yolo_gradwatch.measure.arrays import Counts, Floats
    from yolo_gradwatch.runs.run import Run

Kind = Literal["weights", "loss", "gradient", "rate", "update"]

KINDS: tuple[Kind, ...] = ("weights", "loss", "gradient", "rate", "update")
"""Kinds of numbers that may differ, in causal order within a step."""

_NOISE = 1e-6
"""A part smaller than this share of the whole is compared relative to this share instead."""


@dataclass(frozen=True, slots=True)
class Apart:
    """A number that differs between two runs at one step.

    Attributes:
        kind: Kind of the number.
        name: Name of the loss item, module or learning rate; ``model`` for the whole model.
        values: Values in the first and in the other run; NaN where not finite or missing.
        difference: Difference relative to the larger value; Inf if only one value is finite.
    """

    kind: Kind
    name: str
    values: tuple[float, float]
    difference: float


@dataclass(frozen=True, slots=True)
class Series:
    """A number over W common windows: kind, name, (W,) values of each run, (W,) differences."""

    kind: Kind
    name: str
    values: tuple[Floats, Floats]
    difference: Floats

    @property
    def is_block(self) -> bool:
        """Whether this is the gradient of a block, not of the whole model."""
        return self.kind == "gradient" and self.name != WHOLE

    def at(self, window: int) -> Apart:
        """Return the number in one window."""
        values = (float(self.values[0][window]), float(self.values[1][window]))
        return Apart(self.kind, self.name, values, float(self.difference[window]))


def series_of(one: Run, other: Run, places: tuple[Counts, Counts]) -> list[Series]:
    """Pair gradients of the model and its blocks, weights, updates, losses and learning rates.

    Args:
        one: First run.
        other: Run whose model has the same modules.
        places: Result of `common`.
    """
    return [*_of_modules(one, other, places), *_of_losses(one, other, places)]


def common(one: Run, other: Run) -> tuple[Counts, Counts]:
    """Return the indices of the windows with the same steps, in each of two runs."""
    shared = [
        np.stack([run.grid.step_first, run.grid.step_last, run.grid.steps], axis=1).tolist()
        for run in (one, other)
    ]
    place = {tuple(steps): i for i, steps in enumerate(shared[1])}
    pairs = [(i, place[tuple(s)]) for i, s in enumerate(shared[0]) if tuple(s) in place]
    both: Counts = np.array(pairs, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _of_modules(one: Run, other: Run, places: tuple[Counts, Counts]) -> list[Series]:
    rows = [0, *block_rows(one.layout)]
    named: list[tuple[Kind, str, list[int]]] = [
        ("gradient", "norm_mean", rows),
        ("weights", "weight_norm", [0]),
        ("update", "update_ratio", [0]),
    ]
    found = []
    for kind, quantity, columns in named:
        a, b = (
            getattr(run.grid, quantity)[own].astype(np.float64)
            for run, own in zip((one, other), places, strict=True)
        )
        whole = np.fmax(np.abs(a[:, 0]), np.abs(b[:, 0]))
        for row in dict.fromkeys(columns):
            apart = _relative(a[:, row], b[:, row], whole)
            if kind != "gradient":  # not every window has them
                apart[np.isnan(a[:, row]) | np.isnan(b[:, row])] = 0
            found.append(Series(kind, one.layout.modules[row], (a[:, row], b[:, row]), apart))
    return found


def _of_losses(one: Run, other: Run, places: tuple[Counts, Counts]) -> list[Series]:
    """Pair the loss items and learning rates that both runs have."""
    a, b = (_losses(run, own) for run, own in zip((one, other), places, strict=True))
    shared = [name for name in a if name in b]
    is_known = np.ones(len(places[0]), np.bool_)
    found = []
    for name in shared:
        values = a[name], b[name]
        is_rate = name.startswith(RATE)
        whole = np.zeros(len(is_known))
        if not is_rate and TOTAL in shared:
            whole = np.fmax(np.abs(a[TOTAL]), np.abs(b[TOTAL]))
        found.append(Series("rate" if is_rate else "loss", name, values, _relative(*values, whole)))
    return found


def _losses(run: Run, places: Counts) -> dict[str, Floats]:
    """Loss item or rate -> (W,) means; NaN where there is no finite mean."""
    steps = run.grid.step_first[places]
    table = run.losses[["step_first", "item", "mean"]]
    found = {}
    for name, rows in table.groupby("item", observed=True, sort=False):
        means = rows.drop_duplicates("step_first").set_index("step_first")["mean"]
        found[str(name)] = means.reindex(steps).to_numpy(np.float64)
    return found


def _relative(one: Floats, other: Floats, whole: Floats) -> Floats:
    """(W,) differences relative to the larger number, or to `_NOISE` of the whole if larger.

    0 where both are missing, Inf where one is.
    """
    size = np.fmax(np.fmax(np.abs(one), np.abs(other)), _NOISE * np.nan_to_num(whole))
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.abs(one - other) / size
    apart[(one == other) | (np.isnan(one) & np.isnan(other))] = 0
    found: Floats = np.where(np.isnan(apart), np.inf, apart)
    return found
