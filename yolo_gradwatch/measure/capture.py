"""Brings the gradient norms of optimizer steps to the host without stopping the device.

One vector holds everything that is wanted of a step: the norms, a few scalars of the trainer, and
on request the details. On a GPU it is copied to pinned memory behind an event; `drain` hands over
the steps whose copy has landed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from yolo_gradwatch.measure.losses import ROOM, Kind, Taken, items_of
from yolo_gradwatch.measure.norms import details_of, norms_of, precision
from yolo_gradwatch.measure.sample import Detail, Sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from yolo_gradwatch.measure.arrays import Flags, Floats

RING = 8
"""Steps that can be on their way to the host at once; Ultralytics waits for each batch's loss."""


NO_LOSSES = Taken([], (), ())


@dataclass(frozen=True, slots=True)
class _Flight:
    """A step on its way to the host; ``present`` is None where every gradient is there."""

    epoch: int
    step: int
    host: Tensor
    landed: torch.cuda.Event | None
    present: list[int] | None
    frozen: list[int]
    extras: int
    losses: tuple[Kind, ...]
    rates: tuple[float, ...]
    detailed: bool


class Ring:
    """Copies vectors to the host; from CUDA into pinned buffers, which are used in turn.

    The buffers are allocated once; where there is no CUDA, there are none.

    Args:
        device: Where the vectors are.
        size: Numbers in the longest one.
    """

    def __init__(self, device: torch.device, size: int) -> None:
        self.dtype = precision(device)
        self.buffers: deque[tuple[Tensor, torch.cuda.Event]] = deque()
        if device.type == "cuda":
            rows = torch.empty((RING, size), dtype=self.dtype, pin_memory=True)
            self.buffers.extend((row, torch.cuda.Event()) for row in rows)

    def copy(self, parts: Sequence[Tensor]) -> tuple[Tensor, torch.cuda.Event | None]:
        """Join the parts into one vector on the host, and the event that is due when it is there.

        It takes the buffer that was used the longest ago.
        """
        if not parts:
            return torch.empty(0), None
        vector = torch.cat([part.to(self.dtype) for part in parts])
        if not self.buffers:
            return vector.cpu(), None  # SYNC: on MPS and others there is no event to wait for
        self.buffers.rotate(-1)
        host, landed = self.buffers[-1]
        host[: len(vector)].copy_(vector, non_blocking=True)
        landed.record(torch.cuda.current_stream(vector.device))
        return host, landed


class Capture:
    """Takes samples of the gradients of a fixed list of parameters.

    Args:
        parameters: P trainable parameters, at least one; their order is the identity of the norms.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters: list[Tensor] = list(parameters)
        self._weights = np.flatnonzero([p.ndim >= 2 for p in self._parameters])
        self._sizes = np.array([p.numel() for p in self._parameters], np.float64)
        self._flying: deque[_Flight] = deque()
        self._waited: list[Sample] = []
        self._all_there = self._flags([])
        size = 2 + ROOM + 2 * len(self._parameters) + len(self._weights)
        self._ring = Ring(self._parameters[0].device, size)

    @torch.no_grad()
    def take(
        self,
        epoch: int,
        step: int,
        extras: Sequence[Tensor],
        losses: Taken = NO_LOSSES,
        *,
        detailed: bool,
    ) -> None:
        """Start copying the gradient norms of this moment to the host.

        One ``_foreach_norm`` over all gradients, one copy of 8 bytes a parameter, no
        synchronization; with ``detailed`` also the norms of the weights and a count for each.

        Args:
            epoch: Counts from 1.
            step: Counts from 1.
            extras: AMP's found_inf and scale, one element each, on the device; empty without AMP.
            losses: Loss items of the batches since the captured step before.
            detailed: Whether to read what is wanted on the first step of a window.
        """
        gradients = [g for p in self._parameters if (g := p.grad) is not None]
        is_whole = len(gradients) == len(self._parameters)
        present = None if is_whole else self._present()
        scalars = [*extras, *losses.tensors]
        parts = [torch.cat([scalar.reshape(-1) for scalar in scalars])] if scalars else []
        parts += [norms_of(gradients)] if gradients else []
        parts += details_of(self._parameters) if detailed else []
        while len(self._flying) >= RING:  # nobody has drained for so many steps
            self._waited.append(self._land())
        host, landed = self._ring.copy(parts)
        frozen = [] if is_whole else self._frozen()
        known = (len(extras), losses.kinds, losses.rates, detailed)
        self._flying.append(_Flight(epoch, step, host, landed, present, frozen, *known))

    def drain(self, *, wait: bool = False) -> Iterator[Sample]:
        """Hand over, in order, the steps whose copy has landed.

        Args:
            wait: Also hand over those still under way, after waiting for the device.
        """
        waited, self._waited = self._waited, []
        yield from waited
        while self._flying and (wait or self._has_landed()):
            yield self._land()

    def _has_landed(self) -> bool:
        landed = self._flying[0].landed
        return landed is None or landed.query()

    def _present(self) -> list[int]:
        return [i for i, p in enumerate(self._parameters) if p.grad is not None]

    def _frozen(self) -> list[int]:
        """Of the parameters without a gradient, those that were frozen in mid-training."""
        pairs = enumerate(self._parameters)
        return [i for i, p in pairs if p.grad is None and not p.requires_grad]

    def _land(self) -> Sample:
        """The oldest step on its way."""
        flight = self._flying.popleft()
        if flight.landed is not None and not flight.landed.query():
            flight.landed.synchronize()  # SYNC: an epoch ends, or no buffer is free
        values = flight.host.numpy().astype(np.float64)
        extras, values = values[: flight.extras], values[flight.extras :]
        losses, values = items_of(values, flight.losses)
        norms, missing, values = self._norms(values, flight.present)
        return Sample(
            epoch=flight.epoch,
            step=flight.step,
            norms=norms,
            missing=missing,
            skipped=bool(flight.extras and extras[0] > 0),
            scale=float(extras[1]) if flight.extras else None,
            detail=self._detail(values, missing) if flight.detailed else None,
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

    def _detail(self, values: Floats, missing: Flags) -> Detail:
        counted = self._weights[~missing[self._weights]]
        weight_norms, rest = np.split(values, [len(self._parameters)])
        zeros = np.full(len(self._parameters), np.nan)
        zeros[counted] = self._sizes[counted] - rest[: len(counted)]
        return Detail(weight_norms, zeros)
