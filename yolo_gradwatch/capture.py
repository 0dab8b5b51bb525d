"""Reads the gradient norms of one optimizer step without stopping the device.

One vector holds everything that is wanted of a step: the norms, a few scalars of the trainer, and
on request the details. On a GPU it is copied to pinned memory behind an event; `drain` hands over
the steps whose copy has landed. Besides ``faults`` the only module that imports torch.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from yolo_gradwatch.records import Detail, Flags, Floats, Sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn


MOST_LOSSES = 32
"""Room for loss items in a buffer; Ultralytics has three to five."""

_HAS_DTYPE = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 4)


@dataclass(frozen=True, slots=True)
class _Flight:
    """A step on its way to the host."""

    epoch: int
    step: int
    host: Tensor
    landed: torch.cuda.Event | None
    present: list[int]
    frozen: list[int]
    extras: int
    losses: int
    detailed: bool


def norms_of(tensors: list[Tensor]) -> Tensor:
    """L2 norm of each tensor, summed in float64 where the device has it.

    In float32 a norm overflows to Inf from elements of 1e18 on, underflows to 0 below 1e-23, and
    on a CPU the sum over a tensor of 5 million elements is off by 2e-4.

    Args:
        tensors: N tensors on one device, at least one.

    Returns:
        Tensor of shape (N,) on that device; float64, on MPS and before torch 2.4 float32. No
        synchronization.
    """
    if _HAS_DTYPE and tensors[0].device.type != "mps":
        return torch.stack(torch._foreach_norm(tensors, 2, dtype=torch.float64))
    return torch.stack([norm.float() for norm in torch._foreach_norm(tensors, 2)])


class Capture:
    """Takes samples of the gradients of a fixed list of parameters.

    Args:
        parameters: P trainable parameters, at least one; their order is the identity of the norms.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters: list[Tensor] = list(parameters)
        self._weights = [i for i, p in enumerate(self._parameters) if p.ndim >= 2]
        self._flying: deque[_Flight] = deque()
        self._free: list[Tensor] = []

    @torch.no_grad()
    def take(
        self,
        epoch: int,
        step: int,
        extras: Sequence[Tensor],
        losses: Sequence[Tensor] = (),
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
            losses: Loss items on the device, of any shape.
            detailed: Whether to read what is wanted on the first step of a window.
        """
        gradients = [p.grad for p in self._parameters]
        present = [i for i, gradient in enumerate(gradients) if gradient is not None]
        frozen = self._frozen(gradients) if len(present) < len(gradients) else []
        parts = [extra.reshape(1) for extra in extras]
        counted = sum(loss.numel() for loss in losses)
        counted = counted if counted <= MOST_LOSSES else 0
        parts += [loss.reshape(-1) for loss in losses] if counted else []
        if present:
            parts.append(norms_of([g for g in gradients if g is not None]))
        if detailed:
            parts.append(norms_of(self._parameters))
            parts += [_zeros(g) for i in self._weights if (g := gradients[i]) is not None]
        host, landed = self._copy(parts)
        self._flying.append(
            _Flight(epoch, step, host, landed, present, frozen, len(extras), counted, detailed)
        )

    def drain(self, *, wait: bool = False) -> Iterator[Sample]:
        """Hand over, in order, the steps whose copy has landed.

        Args:
            wait: Also hand over those still under way, after waiting for the device.
        """
        while self._flying:
            landed = self._flying[0].landed
            if landed is not None and not landed.query():
                if not wait:
                    return
                landed.synchronize()  # SYNC: an epoch or the run ends here
            flight = self._flying.popleft()
            yield self._sample(flight)
            if landed is not None:
                self._free.append(flight.host)

    def _frozen(self, gradients: list[Tensor | None]) -> list[int]:
        """Of the parameters without a gradient, those that were frozen in mid-training."""
        pairs = enumerate(zip(self._parameters, gradients, strict=True))
        return [i for i, (p, gradient) in pairs if gradient is None and not p.requires_grad]

    def _copy(self, parts: list[Tensor]) -> tuple[Tensor, torch.cuda.Event | None]:
        """Join the parts into one vector on the host, and the event that tells when it is there."""
        if not parts:
            return torch.empty(0), None
        dtype = torch.float32 if parts[0].device.type == "mps" else torch.float64
        vector = torch.cat([part.to(dtype) for part in parts])
        if not vector.is_cuda:
            return vector.cpu(), None  # SYNC: on MPS and others there is no event to wait for
        host = self._free.pop() if self._free else self._pinned(dtype)
        host[: len(vector)].copy_(vector, non_blocking=True)
        landed = torch.cuda.Event()
        landed.record(torch.cuda.current_stream(vector.device))
        return host, landed

    def _pinned(self, dtype: torch.dtype) -> Tensor:
        """A buffer for the longest vector; as many exist as were ever on their way at once."""
        size = 2 + MOST_LOSSES + 2 * len(self._parameters) + len(self._weights)
        return torch.empty(size, dtype=dtype, pin_memory=True)

    def _sample(self, flight: _Flight) -> Sample:
        values = flight.host.numpy().astype(np.float64)
        extras, values = values[: flight.extras], values[flight.extras :]
        losses, values = values[: flight.losses], values[flight.losses :]
        present, values = values[: len(flight.present)], values[len(flight.present) :]
        norms = np.zeros(len(self._parameters))
        norms[flight.present] = present
        missing = ~self._flags(flight.present)
        return Sample(
            epoch=flight.epoch,
            step=flight.step,
            norms=norms,
            missing=missing,
            skipped=bool(flight.extras and extras[0] > 0),
            scale=float(extras[1]) if flight.extras else None,
            detail=self._detail(values, missing) if flight.detailed else None,
            losses=tuple(losses.tolist()),
            frozen=self._flags(flight.frozen) if flight.frozen else None,
        )

    def _flags(self, chosen: list[int]) -> Flags:
        flags = np.zeros(len(self._parameters), np.bool_)
        flags[chosen] = True
        return flags

    def _detail(self, values: Floats, missing: Flags) -> Detail:
        counted = [i for i in self._weights if not missing[i]]
        weight_norms, rest = np.split(values, [len(self._parameters)])
        zeros = np.full(len(self._parameters), np.nan)
        zeros[counted] = rest[: len(counted)]
        return Detail(weight_norms, zeros)


def _zeros(gradient: Tensor) -> Tensor:
    """Exactly zero elements of a gradient, as a tensor of shape (1,) on its device."""
    return (gradient.numel() - torch.count_nonzero(gradient)).reshape(1)
