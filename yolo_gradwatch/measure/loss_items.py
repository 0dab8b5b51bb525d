"""Loss items of batches, and how they are folded into those of a window."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.measure.arrays import Floats
    from yolo_gradwatch.measure.sample import Sample

TOTAL = "sum"
"""Name of the sum of the items."""

RATE = "lr/"
"""Prefix of the names of learning rates, which are kept next to the items."""

RUNNING = 6
LEAST, MOST, ADDED, COUNT, NONFINITE, ZERO = range(RUNNING)
"""Rows of running values: the first three of finite values only, those from `ADDED` on sums."""


@dataclass(frozen=True, slots=True)
class BatchItems:
    """Loss items of consecutive batches that have the same items.

    Attributes:
        names: (I,) names of the items.
        rows: (B, I) values of the newest batches, at least one, in order.
        folded: (6, I + 1) running values of earlier batches, with those of the sum of the items in
            the last column; None if there are no earlier ones.
    """

    names: tuple[str, ...]
    rows: Floats
    folded: Floats | None = None

    @property
    def newest(self) -> dict[str, float]:
        """The items of the last batch, by name."""
        return dict(zip(self.names, self.rows[-1].tolist(), strict=True))

    @property
    def is_finite(self) -> bool:
        """Whether every item of every batch is finite."""
        is_folded_finite = self.folded is None or not self.folded[NONFINITE].any()
        return bool(is_folded_finite and np.isfinite(self.rows).all())


@dataclass(frozen=True, slots=True)
class LossItem:
    """A loss item, or a learning rate, in a window.

    Floats are rounded to float32, as in the file; None if there was no finite value.

    Attributes:
        item: Name of the item; ``sum`` for the sum of all, ``lr/0`` and so on for the learning
            rates of the optimizer's groups.
        steps: Batches, including those of skipped steps; for a learning rate, captured steps.
        nonfinite: Number of these with a NaN or Inf.
        zero: Number of these with exactly 0.
        min: Lowest finite value.
        mean: Mean of the finite values.
        max: Highest finite value.
    """

    item: str
    steps: int
    nonfinite: int
    zero: int
    min: float | None
    mean: float | None
    max: float | None


class LossFold:
    """The loss items and learning rates of an open window, in memory that does not grow."""

    def __init__(self) -> None:
        self._items: dict[tuple[str, ...], Floats] = {}
        self._rates: dict[tuple[str, ...], Floats] = {}

    def take(self, samples: Sequence[Sample]) -> None:
        """Add the samples of the next steps."""
        batches = (batch for sample in samples for batch in sample.losses)
        for names, alike in groupby(batches, attrgetter("names")):
            running = _of(self._items, (*names, TOTAL))
            rows: list[Floats] = []
            for batch in alike:
                if batch.folded is not None:
                    _add(running, rows)
                    _join(running, batch.folded)
                    rows = []
                rows.append(with_total(batch.rows))
            _add(running, rows)
        for size, rates in groupby((sample.rates for sample in samples), len):
            names = tuple(f"{RATE}{group}" for group in range(size))
            _add(_of(self._rates, names), [np.array(list(rates))])

    def items(self) -> tuple[LossItem, ...]:
        """Return the items, their sum and the learning rates, each name once."""
        columns: dict[str, Floats] = {}
        for names, running in [*self._items.items(), *self._rates.items()]:
            is_taken = TOTAL in names[:-1]  # by an item, so there is no sum
            for name, column in zip(names[:-1] if is_taken else names, running.T, strict=False):
                if name in columns:
                    _join(columns[name], column)
                else:
                    columns[name] = column.copy()
        return _items(columns)


def with_total(rows: Floats) -> Floats:
    """(B, I + 1) items of batches, followed by their sum."""
    with np.errstate(invalid="ignore"):  # Inf and -Inf make a NaN
        return np.column_stack([rows, rows.sum(axis=1)])


def _of(known: dict[tuple[str, ...], Floats], names: tuple[str, ...]) -> Floats:
    """Return the (6, N) running values for columns of these names, to be changed in place."""
    return known.setdefault(names, _begun((len(names),)))


def _begun(shape: tuple[int, ...]) -> Floats:
    running = np.zeros((6, *shape))
    running[LEAST], running[MOST] = np.inf, -np.inf
    return running


def _add(running: Floats, blocks: Sequence[Floats]) -> None:
    """Add batches, (B, N) in each block."""
    if not blocks:
        return
    rows = np.concatenate(blocks)
    finite = np.isfinite(rows)
    running[LEAST] = np.minimum(running[LEAST], np.where(finite, rows, np.inf).min(axis=0))
    running[MOST] = np.maximum(running[MOST], np.where(finite, rows, -np.inf).max(axis=0))
    # Row by row, so that the sum does not depend on how many arrive at once.
    running[ADDED] = np.add.reduce([running[ADDED], *np.where(finite, rows, 0.0)])
    running[COUNT] += len(rows)
    running[NONFINITE] += len(rows) - finite.sum(axis=0)
    running[ZERO] += (rows == 0).sum(axis=0)


def _join(running: Floats, more: Floats) -> None:
    """Add other running values."""
    running[LEAST] = np.minimum(running[LEAST], more[LEAST])
    running[MOST] = np.maximum(running[MOST], more[MOST])
    running[ADDED:] += more[ADDED:]


def _items(columns: dict[str, Floats]) -> tuple[LossItem, ...]:
    """Return the items from (6,) running values each."""
    if not columns:
        return ()
    rows = np.array([*columns.values()]).T
    counts = rows[[COUNT, NONFINITE, ZERO]].astype(np.int64)
    finite = counts[0] - counts[1]
    rows[ADDED] /= np.maximum(finite, 1)
    with np.errstate(over="ignore"):  # a value beyond float32 becomes Inf
        values = rows[[LEAST, ADDED, MOST]].astype(np.float32)  # as the file holds them
    return tuple(
        LossItem(name, *numbers, *(found if is_known else (None,) * 3))
        for name, numbers, found, is_known in zip(
            columns, counts.T.tolist(), values.T.tolist(), finite > 0, strict=True
        )
    )
