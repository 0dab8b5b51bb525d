"""Brings the gradient norms of optimizer steps to the host without stopping the device.

One vector holds everything that is wanted of a step: the norms, a few scalars of the trainer, and
on request the details. What the step changes in the weights follows behind it. On a GPU it is
copied to pinned memory behind an event; `drain` hands over the steps whose copy has landed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from yolo_gradwatch.measure.losses import ROOM, Kind, Taken, items_of
from yolo_gradwatch.measure.norms import largest_of, nonzeros_of, norms_of, room
from yolo_gradwatch.measure.ring import RING, Ring, Transfer
from yolo_gradwatch.measure.sample import Change, Detail, Sample, Weights
from yolo_gradwatch.measure.scan import Scan, room_of, scan
from yolo_gradwatch.measure.table import table_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from yolo_gradwatch.measure.arrays import Counts, Flags, Floats
    from yolo_gradwatch.measure.chunks import Chunks
    from yolo_gradwatch.measure.table import Table

NO_LOSSES = Taken([], (), ())


@dataclass(slots=True)
class _Flight:
    """A step on its way to the host.

    Attributes:
        present: Which gradients are there; None if all are.
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


class Capture:
    """Takes samples of the gradients of a fixed list of parameters.

    Args:
        parameters: P trainable parameters, at least one; their order is the identity of the norms.
        others: Further floating-point tensors, of which only the largest value is read.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], others: Sequence[Tensor] = ()) -> None:
        self._parameters: list[Tensor] = list(parameters)
        self._tensors = [t if t.numel() else t.new_zeros(1) for t in (*self._parameters, *others)]
        self._weights = np.flatnonzero([p.ndim >= 2 for p in self._parameters])
        self._sizes = np.array([p.numel() for p in self._parameters], np.float64)
        self._flying: deque[_Flight] = deque()
        self._waited: list[Sample] = []
        self._all_there = self._flags([])
        size = 4 * len(self._parameters) + len(self._weights) + len(self._tensors)
        self._tables = _tables_of(self._parameters, self._tensors)
        if self._tables:
            size = sum(room_of(table.chunks) for table in (*self._tables, self._tables[0]))
        self._ring = Ring(self._parameters[0].device, 2 + ROOM + size)

    @torch.no_grad()
    def take(  # noqa: PLR0913  # what a step is, and what is wanted of it
        self,
        epoch: int,
        step: int,
        extras: Sequence[Tensor],
        losses: Taken = NO_LOSSES,
        *,
        detailed: bool,
        weighed: bool = False,
    ) -> None:
        """Start copying the gradient norms of this moment to the host.

        No synchronization. On CUDA one launch of a kernel that reads each gradient once, and with
        ``weighed`` one for the weights; elsewhere, and where no kernel can be built, one
        ``_foreach_norm`` over all gradients, and with ``detailed`` a count for each weight. On a
        CPU, where that costs no wait, a step with a gradient that is not finite has its weights
        read too: what is finite among them says where it began, and the step will spoil them.

        Args:
            epoch: Counts from 1.
            step: Counts from 1.
            extras: AMP's found_inf and scale, one element each, on the device; empty without AMP.
            losses: Loss items of the batches since the captured step before.
            detailed: Whether to count the exact zeros, as on the first step of a window.
            weighed: Whether to read the weights too.
        """
        gradients = [g for p in self._parameters if (g := p.grad) is not None]
        is_whole = len(gradients) == len(self._parameters)
        scalars = [*extras, *losses.tensors]
        parts = [torch.cat([scalar.reshape(-1) for scalar in scalars])] if scalars else []
        if not self._tables:
            norms = [norms_of(gradients)] if gradients else []
            weighed = weighed or any(_is_known_bad(found) for found in norms)
            parts += norms + self._details(detailed=detailed, weighed=weighed)
        while len(self._flying) >= RING:  # nobody has drained for so many steps
            self._waited.append(self._land())
        present = None if is_whole else self._present()
        frozen = [] if is_whole else self._frozen()
        transfer = self._ring.begin()
        if parts:
            self._ring.put(transfer, parts)
        known = (len(extras), losses.kinds, losses.rates, detailed, weighed)
        flight = _Flight(epoch, step, transfer, present, frozen, *known)
        if self._tables:
            of_gradients, of_weights = self._tables
            found = gradients if is_whole else [p.grad for p in self._parameters]
            flight.gradients = scan(of_gradients, found, self._ring, transfer)
            if weighed:
                flight.weights = scan(of_weights, self._tensors, self._ring, transfer)
        self._ring.send(transfer)
        self._flying.append(flight)

    @torch.no_grad()
    def add_change(self, before: Tensor, moved: Tensor, chunks: Chunks | None = None) -> None:
        """Send what the step that was taken last has changed.

        Args:
            before: (P,) L2 norms of the parameters before it.
            moved: (P,) L2 norms of what it changed.
            chunks: If not None, both are (C,) sums of squares instead.

        Raises:
            MemoryError: There is no room for them on the device.
        """
        flight = self._flying[-1]
        with room():
            self._ring.append(flight.transfer, [before, moved])
        flight.changes = chunks

    def drain(self, *, wait: bool = False) -> Iterator[Sample]:
        """Hand over, in order, the steps whose copy has landed.

        Args:
            wait: Also hand over those still under way, after waiting for the device.
        """
        waited, self._waited = self._waited, []
        yield from waited
        while self._flying and (wait or self._flying[0].transfer.has_landed):
            yield self._land()

    def _details(self, *, detailed: bool, weighed: bool) -> list[Tensor]:
        matrices = [p for p in self._parameters if p.ndim >= 2] if detailed else []
        gradients = [g for p in matrices if (g := p.grad) is not None]
        parts = [nonzeros_of(gradients)] if gradients else []
        return [*parts, norms_of(self._parameters), largest_of(self._tensors)] if weighed else parts

    def _present(self) -> list[int]:
        return [i for i, p in enumerate(self._parameters) if p.grad is not None]

    def _frozen(self) -> list[int]:
        """Of the parameters without a gradient, those that were frozen in mid-training."""
        pairs = enumerate(self._parameters)
        return [i for i, p in pairs if p.grad is None and not p.requires_grad]

    def _land(self) -> Sample:
        """The oldest step on its way."""
        flight = self._flying.popleft()
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
            change=_change(flight, values) if len(values) and not skipped else None,
            losses=losses,
            rates=flight.rates,
            frozen=self._flags(flight.frozen) if flight.frozen else None,
        )

    def _read(
        self, flight: _Flight, values: Floats, missing: Flags
    ) -> tuple[Floats, Detail | None, Floats]:
        """(P,) norms, the details of a step, and the values behind them."""
        size = len(self._parameters)
        if flight.gradients is None:
            norms, values = np.split(values, [size - np.count_nonzero(missing)])
            if flight.present is not None:
                norms, there = np.zeros(size), norms
                norms[flight.present] = there
            return norms, *self._detail(flight, values, missing)
        found, values = flight.gradients.split(values)
        weights = None
        if flight.weights is not None:
            read, values = flight.weights.split(values)
            weights = Weights(read.norms[:size], read.largest)
        counted = self._counted(flight, missing)
        detail = self._detail_of(counted, found.nonzero[counted], weights)
        return found.norms, detail if flight.detailed or weights else None, values

    def _counted(self, flight: _Flight, missing: Flags) -> Counts:
        """The parameters whose zeros are wanted and there."""
        return self._weights[~missing[self._weights] & flight.detailed]

    def _detail_of(self, counted: Counts, nonzero: Floats, weights: Weights | None) -> Detail:
        zeros = np.full(len(self._parameters), np.nan)
        zeros[counted] = self._sizes[counted] - nonzero
        return Detail(zeros, weights)

    def _flags(self, chosen: list[int]) -> Flags:
        flags = np.zeros(len(self._parameters), np.bool_)
        flags[chosen] = True
        return flags

    def _detail(
        self, flight: _Flight, values: Floats, missing: Flags
    ) -> tuple[Detail | None, Floats]:
        """The details of a step, and the values behind them."""
        if not flight.detailed and not flight.weighed:
            return None, values
        counted = self._counted(flight, missing)
        nonzero, values = np.split(values, [len(counted)])
        weights = None
        if flight.weighed:
            ends = [len(self._parameters), len(self._parameters) + len(self._tensors)]
            norms, largest, values = np.split(values, ends)
            weights = Weights(norms, largest)
        return self._detail_of(counted, nonzero, weights), values


def _tables_of(
    parameters: Sequence[Tensor], tensors: Sequence[Tensor]
) -> tuple[Table, Table] | None:
    """What reads the gradients and the weights by a kernel; None where torch does."""
    gradients = table_of(parameters)
    weights = table_of(tensors) if gradients else None
    return (gradients, weights) if gradients and weights else None


def _change(flight: _Flight, values: Floats) -> Change:
    before, moved = np.split(values, 2)
    if flight.changes is None:
        return Change(before, moved)
    return Change(flight.changes.norms(before), flight.changes.norms(moved))


def _is_known_bad(norms: Tensor) -> bool:
    """Whether a norm is not finite, as far as that is known without waiting for a device."""
    return norms.device.type == "cpu" and not bool(norms.isfinite().all())
