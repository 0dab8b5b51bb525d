"""Keeps the loss items of every batch on the device until a captured step takes them along."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch

from yolo_gradwatch.measure.loss_items import ADDED, LEAST, MOST, RUNNING, BatchItems
from yolo_gradwatch.measure.norms import precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from yolo_gradwatch.measure.arrays import Floats

MOST_ITEMS = 32
"""Most items of a batch; Ultralytics has one to five. Batches with more are left out."""

MOST_NUMBERS = 128
"""Most numbers of batches waiting unfolded: 32 batches of four items. Older ones are folded."""

MOST_KINDS = 4
"""Most different sets of items between two captured steps; further ones are left out."""

ROOM = MOST_KINDS * (MOST_NUMBERS + RUNNING * (MOST_ITEMS + 1))
"""Most numbers that a step takes along."""


class Kind(NamedTuple):
    """Batches with the same items in a vector: first their rows, then the folded values.

    Attributes:
        names: Names of the items.
        rows: Number of batches that were not folded.
        is_folded: Whether there are folded values.
    """

    names: tuple[str, ...]
    rows: int
    is_folded: bool


class Taken(NamedTuple):
    """What a captured step takes along.

    Attributes:
        tensors: Numbers on the device.
        kinds: How to read these numbers.
        rates: Learning rates of the optimizer's groups.
    """

    tensors: list[Tensor]
    kinds: tuple[Kind, ...]
    rates: tuple[float, ...]


@dataclass(slots=True)
class _Waiting:
    """Batches with the same items that wait for a captured step."""

    rows: list[Tensor] = field(default_factory=list)
    folded: Tensor | None = None


class LossMeter:
    """Collects the loss items of every batch, without synchronization.

    A batch costs one small kernel. If more batches arrive between two captured steps than fit into
    a step's vector, each time that it fills up costs about twenty more.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, ...], _Waiting] = {}

    @torch.no_grad()
    def add(self, names: tuple[str, ...], items: Sequence[Tensor]) -> None:
        """Add the items of a batch.

        Args:
            names: (I,) names of the items.
            items: Tensors on one device with I numbers altogether.
        """
        is_new = names not in self._waiting
        if not 0 < len(names) <= MOST_ITEMS or (is_new and len(self._waiting) == MOST_KINDS):
            return
        waiting = self._waiting.pop(names, None) or _Waiting()
        if (len(waiting.rows) + 1) * len(names) > MOST_NUMBERS:
            waiting.folded, waiting.rows = folded(waiting.rows, waiting.folded), []
        waiting.rows.append(torch.cat([item.reshape(-1) for item in items]))
        self._waiting[names] = waiting  # moved to the end: that of the newest batch

    def take(self, rates: tuple[float, ...] = ()) -> Taken:
        """Return the batches since the last call, along with learning rates."""
        waiting, self._waiting = self._waiting, {}
        tensors: list[Tensor] = []
        kinds = []
        for names, kind in waiting.items():
            tensors += kind.rows
            tensors += [] if kind.folded is None else [kind.folded]
            kinds.append(Kind(names, len(kind.rows), kind.folded is not None))
        return Taken(tensors, tuple(kinds), rates)

    def forget(self) -> None:
        """Drop the batches that no step has taken along."""
        self._waiting = {}


def folded(rows: Sequence[Tensor], before: Tensor | None) -> Tensor:
    """(6, I + 1) running values of B batches of I items, added to those of earlier batches."""
    values = torch.stack([*rows]).to(precision(rows[0].device))
    values = torch.cat([values, values.sum(1, keepdim=True)], 1)
    finite = values.isfinite()
    running = torch.stack(
        [
            values.where(finite, torch.inf).amin(0),
            values.where(finite, -torch.inf).amax(0),
            *(
                one.sum(0)
                for one in (
                    values.where(finite, 0.0),
                    torch.ones_like(values),
                    (~finite).to(values.dtype),
                    (values == 0).to(values.dtype),
                )
            ),
        ]
    )
    if before is None:
        return running
    return torch.cat(
        [
            torch.minimum(before[LEAST], running[LEAST])[None],
            torch.maximum(before[MOST], running[MOST])[None],
            before[ADDED:] + running[ADDED:],
        ]
    )


def items_of(values: Floats, kinds: Sequence[Kind]) -> tuple[tuple[BatchItems, ...], Floats]:
    """Return the numbers of a `Taken` at the beginning of a vector, and the remaining numbers."""
    found = []
    for names, count, is_folded in kinds:
        rows, values = values[: count * len(names)], values[count * len(names) :]
        size = RUNNING * (len(names) + 1) if is_folded else 0
        running, values = values[:size].reshape(RUNNING, -1), values[size:]
        items = BatchItems(names, rows.reshape(count, -1), running if is_folded else None)
        found.append(items)
    return tuple(found), values
