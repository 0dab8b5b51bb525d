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
from yolo_gradwatch.measure.norms import largest_of, nonzeros_of, norms_of, precision, room
from yolo_gradwatch.measure.sample import Change, Detail, Sample, Weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from yolo_gradwatch.measure.arrays import Flags, Floats

RING = 8
"""Steps that can be on their way to the host at once; Ultralytics waits for each batch's loss."""


NO_LOSSES = Taken([], (), ())


@dataclass(slots=True)
class Transfer:
    """A vector on its way to the host.

    Attributes:
        host: Where it lands, from the front.
        size: Numbers of it.
        event: Due when they are there; None if they are.
    """

    host: Tensor
    size: int
    event: torch.cuda.Event | None

    @property
    def has_landed(self) -> bool:
        """Whether all numbers are there."""
        return self.event is None or self.event.query()

    def values(self) -> Floats:
        """The numbers, waited for if need be."""
        if self.event is not None and not self.event.query():
            self.event.synchronize()  # SYNC: an epoch ends, or no buffer is free
        return self.host[: self.size].numpy().astype(np.float64)


@dataclass(frozen=True, slots=True)
class _Flight:
    """A step on its way to the host; ``present`` is None where every gradient is there."""

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


class Ring:
    """Copies vectors to the host; from CUDA into pinned buffers, which are used in turn.

    The buffers are allocated once; where there is no CUDA, there are none.

    Args:
        device: Where the vectors are.
        size: Numbers in the longest one.
        count: Buffers.
    """

    def __init__(self, device: torch.device, size: int, count: int = RING) -> None:
        self.dtype = precision(device)
        self.buffers: deque[tuple[Tensor, torch.cuda.Event]] = deque()
        if device.type == "cuda":
            rows = torch.empty((count, size), dtype=self.dtype, pin_memory=True)
            self.buffers.extend((row, torch.cuda.Event()) for row in rows)

    def copy(self, parts: Sequence[Tensor]) -> Transfer:
        """Send the parts to the host as one vector, into the buffer used the longest ago."""
        transfer = Transfer(torch.empty(0, dtype=self.dtype), 0, None)
        if self.buffers:
            self.buffers.rotate(-1)
            transfer.host, transfer.event = self.buffers[-1]
        if parts:
            self.append(transfer, parts)
        return transfer

    def append(self, transfer: Transfer, parts: Sequence[Tensor]) -> None:
        """Send more parts, to behind what is there or on its way."""
        vector = torch.cat([part.to(self.dtype) for part in parts])
        begin, transfer.size = transfer.size, transfer.size + len(vector)
        if transfer.event is None:
            vector = vector.cpu()  # SYNC: on MPS and others there is no event to wait for
            transfer.host = torch.cat([transfer.host, vector]) if begin else vector
            return
        transfer.host[begin : transfer.size].copy_(vector, non_blocking=True)
        transfer.event.record(torch.cuda.current_stream(vector.device))


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
        size = 2 + ROOM + 4 * len(self._parameters) + len(self._weights) + len(self._tensors)
        self._ring = Ring(self._parameters[0].device, size)

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

        One ``_foreach_norm`` over all gradients, one copy of 8 bytes a parameter, no
        synchronization; with ``detailed`` also a count for each weight. On a CPU, where that costs
        no wait, a step with a gradient that is not finite has its weights read too: what is finite
        among them says where it began, and the step will spoil them.

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
        present = None if is_whole else self._present()
        scalars = [*extras, *losses.tensors]
        parts = [torch.cat([scalar.reshape(-1) for scalar in scalars])] if scalars else []
        norms = [norms_of(gradients)] if gradients else []
        weighed = weighed or any(_is_known_bad(found) for found in norms)
        parts += norms + self._details(detailed=detailed, weighed=weighed)
        while len(self._flying) >= RING:  # nobody has drained for so many steps
            self._waited.append(self._land())
        frozen = [] if is_whole else self._frozen()
        known = (len(extras), losses.kinds, losses.rates, detailed, weighed)
        self._flying.append(_Flight(epoch, step, self._ring.copy(parts), present, frozen, *known))

    @torch.no_grad()
    def add_change(self, before: Tensor, moved: Tensor) -> None:
        """Send what the step that was taken last has changed.

        Args:
            before: (P,) L2 norms of the parameters before it.
            moved: (P,) L2 norms of what it changed.

        Raises:
            MemoryError: There is no room for them on the device.
        """
        with room():
            self._ring.append(self._flying[-1].transfer, [before, moved])

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
        norms, missing, values = self._norms(values, flight.present)
        detail, values = self._detail(flight, values, missing)
        skipped = bool(flight.extras and extras[0] > 0)
        return Sample(
            epoch=flight.epoch,
            step=flight.step,
            norms=norms,
            missing=missing,
            skipped=skipped,
            scale=float(extras[1]) if flight.extras else None,
            detail=detail,
            change=Change(*np.split(values, 2)) if len(values) and not skipped else None,
            losses=losses,
            rates=flight.rates,
            frozen=self._flags(flight.frozen) if flight.frozen else None,
        )

    def _norms(self, values: Floats, present: list[int] | None) -> tuple[Floats, Flags, Floats]:
        """(P,) norms, (P,) which gradients are missing, and the values behind the norms."""
        size = len(self._parameters)
        if present is None:
            return values[:size], self._all_there, values[size:]
        norms = np.zeros(size)
        norms[present] = values[: len(present)]
        return norms, ~self._flags(present), values[len(present) :]

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
        counted = self._weights[~missing[self._weights] & flight.detailed]
        found, values = np.split(values, [len(counted)])
        zeros = np.full(len(self._parameters), np.nan)
        zeros[counted] = self._sizes[counted] - found
        if not flight.weighed:
            return Detail(zeros), values
        ends = [len(self._parameters), len(self._parameters) + len(self._tensors)]
        norms, largest, values = np.split(values, ends)
        return Detail(zeros, Weights(norms, largest)), values


def _is_known_bad(norms: Tensor) -> bool:
    """Whether a norm is not finite, as far as that is known without waiting for a device."""
    return norms.device.type == "cpu" and not bool(norms.isfinite().all())
