"""A step on its way to the host, and what it is made of when it has arrived."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.measure.losses import items_of
from yolo_gradwatch.measure.sample import Change, Detail, Sample, Weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.measure.arrays import Counts, Flags, Floats
    from yolo_gradwatch.measure.chunks import Chunks
    from yolo_gradwatch.measure.losses import Kind
    from yolo_gradwatch.measure.ring import Transfer
    from yolo_gradwatch.measure.scan import Scan


@dataclass(frozen=True, slots=True)
class Flight:
    """A step on its way to the host.

    Attributes:
        epoch: Counts from 1.
        step: Counts from 1.
        transfer: Its numbers, in this order: ``extras``, ``losses``, gradients, zeros, weights,
            change.
        present: Which gradients are there; None if all are.
        frozen: Parameters that were frozen since the training began.
        extras: Numbers of AMP's state.
        losses: What the numbers of the loss items are.
        rates: Learning rates of the optimizer's groups.
        detailed: Whether exact zeros are wanted.
        weighed: Whether weights were read.
        gradients: How a kernel has read them; None if torch has.
        weights: As ``gradients``.
        changes: How a kernel has read the change; None if torch has.
    """

    epoch: int
    step: int
    transfer: Transfer
    present: list[int] | None
    frozen: list[int]
    extras: int
    losses: tuple[Kind, ...]
    rates: tuple[float, ...]
    detailed: bool
    weighed: bool
    gradients: Scan | None = None
    weights: Scan | None = None
    changes: Chunks | None = None

    def change(self, values: Floats) -> Change:
        """What the step has changed."""
        before, moved = np.split(values, 2)
        if self.changes is None:
            return Change(before, moved)
        return Change(self.changes.norms(before), self.changes.norms(moved))


class Unpacker:
    """Makes samples of steps that have arrived.

    Args:
        sizes: (P,) elements of each parameter.
        matrices: Of which exact zeros are counted.
        tensors: Number of those whose largest values are read: the parameters, and others behind.
    """

    def __init__(self, sizes: Sequence[int], matrices: Sequence[int], tensors: int) -> None:
        self._sizes = np.array(sizes, np.float64)
        self._matrices = np.array(matrices, np.int64)
        self._tensors = tensors
        self._all_there = self._flags([])

    def sample(self, flight: Flight) -> Sample:
        """Of a step, for whose numbers it waits if need be."""
        values = flight.transfer.values()
        extras, values = values[: flight.extras], values[flight.extras :]
        losses, values = items_of(values, flight.losses)
        missing = self._all_there if flight.present is None else ~self._flags(flight.present)
        norms, detail, values = self._read(flight, values, missing)
        skipped = bool(flight.extras and extras[0] > 0)
        return Sample(
            epoch=flight.epoch,
            step=flight.step,
            norms=norms,
            missing=missing,
            skipped=skipped,
            scale=float(extras[1]) if flight.extras else None,
            detail=detail,
            change=flight.change(values) if len(values) and not skipped else None,
            losses=losses,
            rates=flight.rates,
            frozen=self._flags(flight.frozen) if flight.frozen else None,
        )

    def _read(
        self, flight: Flight, values: Floats, missing: Flags
    ) -> tuple[Floats, Detail | None, Floats]:
        """(P,) norms, the details of a step, and the values behind them."""
        if flight.gradients is not None:
            return self._read_by_kernel(flight, flight.gradients, values, missing)
        size = len(self._sizes)
        count = size if flight.present is None else len(flight.present)
        norms, values = values[:count], values[count:]
        if flight.present is not None:
            norms, there = np.zeros(size), norms
            norms[flight.present] = there
        return norms, *self._detail(flight, values, missing)

    def _read_by_kernel(
        self, flight: Flight, gradients: Scan, values: Floats, missing: Flags
    ) -> tuple[Floats, Detail | None, Floats]:
        found, values = gradients.split(values)
        weights = None
        if flight.weights is not None:
            read, values = flight.weights.split(values)
            weights = Weights(read.norms[: len(self._sizes)], read.largest)
        if not flight.detailed and weights is None:
            return found.norms, None, values
        counted = self._counted(flight, missing)
        return found.norms, self._detail_of(counted, found.nonzero[counted], weights), values

    def _detail(
        self, flight: Flight, values: Floats, missing: Flags
    ) -> tuple[Detail | None, Floats]:
        """The details of a step, and the values behind them."""
        if not flight.detailed and not flight.weighed:
            return None, values
        counted = self._counted(flight, missing)
        nonzero, values = values[: len(counted)], values[len(counted) :]
        weights = None
        if flight.weighed:
            ends = [len(self._sizes), len(self._sizes) + self._tensors]
            norms, largest, values = np.split(values, ends)
            weights = Weights(norms, largest)
        return self._detail_of(counted, nonzero, weights), values

    def _counted(self, flight: Flight, missing: Flags) -> Counts:
        """The parameters whose zeros are wanted and there."""
        return self._matrices[~missing[self._matrices] & flight.detailed]

    def _detail_of(self, counted: Counts, nonzero: Floats, weights: Weights | None) -> Detail:
        zeros = np.full(len(self._sizes), np.nan)
        zeros[counted] = self._sizes[counted] - nonzero
        return Detail(zeros, weights)

    def _flags(self, chosen: list[int]) -> Flags:
        flags = np.zeros(len(self._sizes), np.bool_)
        flags[chosen] = True
        return flags
