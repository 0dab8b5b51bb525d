"""Optimizer steps on their way to the host, and the samples they become on arrival."""

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


# A step's vector from front to back; parts in brackets are there only on request.
#
#   read by torch             numbers       read by a kernel      numbers
#   extras                    0 or 2        extras                0 or 2
#   losses                    see `Kind`    losses                see `Kind`
#   gradient norms            present       scan of gradients     2 C + 3 odd
#   [nonzeros of matrices]    present
#   [weight norms]            P             [scan of weights]     2 C + 3 odd
#   [largest values]          T
#   [[before,] moved]         P each        [before, moved]       C each
#
# A scan has C sums of squares, then C largest values and C counts as int32, two in the place of one
# number, then a norm, a largest value and a count for each odd tensor, which torch reads.


@dataclass(frozen=True, slots=True)
class Flight:
    """A step on its way to the host.

    Attributes:
        epoch: Counts from 1.
        step: Counts from 1.
        transfer: Its vector of numbers, in the order drawn above.
        present: Indices of the gradients that exist; None if all do.
        frozen: Indices of the parameters that were frozen during the training.
        extras: Number of values of AMP's state.
        losses: How to read the numbers of the loss items.
        rates: Learning rates of the optimizer's groups.
        detailed: Whether exact zeros are counted.
        weighed: Whether weights were read.
        gradients: How a kernel read the gradients; None if torch did.
        weights: How a kernel read the weights; None if torch did, or nothing.
        changes: How a kernel read the change; None if torch did.
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

    def change(self, values: Floats, detail: Detail | None) -> Change:
        """Return the change that the step made.

        Args:
            values: Its numbers.
            detail: Details of the step, with the norms before it if ``values`` has none.
        """
        if self.changes is not None:
            before, moved = np.split(values, 2)
            return Change(self.changes.norms(before), self.changes.norms(moved))
        known = detail.weights if detail else None
        if known and len(values) == len(known.norms):
            return Change(known.norms, values)
        return Change(*np.split(values, 2))


class Unpacker:
    """Turns steps that have arrived into samples.

    Args:
        sizes: (P,) number of elements in each parameter.
        matrices: Indices of the parameters whose exact zeros are counted.
        tensors: Number of tensors whose largest values are read: the parameters, then others.
    """

    def __init__(self, sizes: Sequence[int], matrices: Sequence[int], tensors: int) -> None:
        self._sizes = np.array(sizes, np.float64)
        self._matrices = np.array(matrices, np.int64)
        self._tensors = tensors
        self._none_missing = self._flags([])

    def sample(self, flight: Flight) -> Sample:
        """Return the sample of a step, waiting for its numbers if necessary."""
        values = flight.transfer.values()
        extras, values = values[: flight.extras], values[flight.extras :]
        losses, values = items_of(values, flight.losses)
        missing = self._none_missing if flight.present is None else ~self._flags(flight.present)
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
            change=flight.change(values, detail) if len(values) and not skipped else None,
            losses=losses,
            rates=flight.rates,
            frozen=self._flags(flight.frozen) if flight.frozen else None,
        )

    def _read(
        self, flight: Flight, values: Floats, missing: Flags
    ) -> tuple[Floats, Detail | None, Floats]:
        """Return the (P,) norms of a step, its details, and the remaining values."""
        if flight.gradients is not None:
            return self._read_by_kernel(flight, flight.gradients, values, missing)
        size = len(self._sizes)
        count = size if flight.present is None else len(flight.present)
        norms, values = values[:count], values[count:]
        if flight.present is not None:
            norms, found = np.zeros(size), norms
            norms[flight.present] = found
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
        """Return the details of a step, and the remaining values."""
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
        """Return the indices of the parameters whose zeros were counted."""
        return self._matrices[~missing[self._matrices] & flight.detailed]

    def _detail_of(self, counted: Counts, nonzero: Floats, weights: Weights | None) -> Detail:
        zeros = np.full(len(self._sizes), np.nan)
        zeros[counted] = self._sizes[counted] - nonzero
        return Detail(zeros, weights)

    def _flags(self, chosen: list[int]) -> Flags:
        flags = np.zeros(len(self._sizes), np.bool_)
        flags[chosen] = True
        return flags
