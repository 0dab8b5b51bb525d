"""The numbers of two runs at the windows that both have, and how far they are apart."""

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
"""What may differ, in the order in which one follows from the other within a step."""

_NOISE = 1e-6
"""Share of the whole below which a part is not looked at by itself."""


@dataclass(frozen=True, slots=True)
class Apart:
    """A number that is not the same in two runs at one step.

    Attributes:
        kind: What it is.
        name: Of the loss item, module or learning rate; ``model`` for the whole model.
        values: In the first run and in the other; NaN where it is not finite or missing.
        difference: Relative to the larger one; Inf where one of them is not finite.
    """

    kind: Kind
    name: str
    values: tuple[float, float]
    difference: float


@dataclass(frozen=True, slots=True)
class Series:
    """A number in both runs: its kind, its name, (W,) values of each, (W,) their differences."""

    kind: Kind
    name: str
    values: tuple[Floats, Floats]
    difference: Floats

    @property
    def is_block(self) -> bool:
        """Whether it is the gradient of a part of the model."""
        return self.kind == "gradient" and self.name != WHOLE

    def at(self, window: int) -> Apart:
        """The number in one window."""
        values = (float(self.values[0][window]), float(self.values[1][window]))
        return Apart(self.kind, self.name, values, float(self.difference[window]))


def series_of(one: Run, other: Run, places: tuple[Counts, Counts]) -> list[Series]:
    """Gradients of the whole model and its blocks, weights, updates, losses and learning rates.

    Args:
        one: The first run.
        other: One whose model has the same modules.
        places: What `common` gives.
    """
    return [*_of_modules(one, other, places), *_of_losses(one, other, places)]


def common(one: Run, other: Run) -> tuple[Counts, Counts]:
    """Places of the windows with the same steps in two runs."""
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
    """Of the items and rates that both runs have."""
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
    """(W,) of each item, NaN where there is no finite mean."""
    steps = run.grid.step_first[places]
    table = run.losses[["step_first", "item", "mean"]]
    found = {}
    for name, rows in table.groupby("item", observed=True, sort=False):
        means = rows.drop_duplicates("step_first").set_index("step_first")["mean"]
        found[str(name)] = means.reindex(steps).to_numpy(np.float64)
    return found


def _relative(one: Floats, other: Floats, whole: Floats) -> Floats:
    """(W,) differences relative to the larger number, or to a small share of the whole.

    0 where both are missing, Inf where one is.
    """
    size = np.fmax(np.fmax(np.abs(one), np.abs(other)), _NOISE * np.nan_to_num(whole))
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.abs(one - other) / size
    apart[(one == other) | (np.isnan(one) & np.isnan(other))] = 0
    found: Floats = np.where(np.isnan(apart), np.inf, apart)
    return found
