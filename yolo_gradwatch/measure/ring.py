"""Vectors on their way from a device to the host, without stopping the device."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from yolo_gradwatch.measure.norms import precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from yolo_gradwatch.measure.arrays import Floats

RING = 8
"""Steps that can be in transit at once; Ultralytics itself waits for each batch's loss."""


class Slot(NamedTuple):
    """Where a vector is assembled on CUDA, and where it lands.

    Attributes:
        host: Pinned host memory.
        event: Completes when the vector has landed.
        device: Device memory, as long as ``host``.
        ints: ``device`` as int32.
    """

    host: Tensor
    event: torch.cuda.Event
    device: Tensor
    ints: Tensor


@dataclass(slots=True)
class Transfer:
    """A vector on its way to the host.

    Attributes:
        host: Where it lands, filled from the front.
        slot: Its buffers; None without CUDA, where it lands at once.
        size: Number of values in it.
        sent: Number of values whose copy has begun.
    """

    host: Tensor
    slot: Slot | None = None
    size: int = 0
    sent: int = 0

    @property
    def has_landed(self) -> bool:
        """Whether all values have landed."""
        return self.slot is None or self.slot.event.query()

    def values(self) -> Floats:
        """Return the values, waiting for them if necessary."""
        if self.slot is not None and not self.slot.event.query():
            self.slot.event.synchronize()  # SYNC: an epoch ends, or no buffer is free
        return self.host.numpy()[: self.size].astype(np.float64)


class Ring:
    """Copies vectors to the host; from CUDA through buffers, which are used in turn.

    The buffers are allocated once, and only for CUDA. One is used again only after its vector has
    landed, so it does not matter on which stream a step is taken.

    Args:
        device: Device of the vectors.
        size: Length of the longest vector.
        count: Number of buffers.
    """

    def __init__(self, device: torch.device, size: int, count: int = RING) -> None:
        self.dtype = precision(device)
        self.slots: deque[Slot] = deque()
        if device.type == "cuda":
            size += -size % 16  # every row begins at a multiple of 128 bytes
            hosts = torch.empty((count, size), dtype=self.dtype, pin_memory=True)
            devices = torch.empty((count, size), dtype=self.dtype, device=device)
            rows = zip(hosts, devices, strict=True)
            self.slots.extend(Slot(a, torch.cuda.Event(), b, b.view(torch.int32)) for a, b in rows)

    def begin(self) -> Transfer:
        """Return an empty vector in the least recently used buffers."""
        if not self.slots:
            return Transfer(torch.empty(0, dtype=self.dtype))
        self.slots.rotate(-1)
        return Transfer(self.slots[-1].host, self.slots[-1])

    def put(self, transfer: Transfer, parts: Sequence[Tensor]) -> None:
        """Append parts to a vector."""
        if transfer.slot is None:
            vector = torch.cat([part.to(self.dtype) for part in parts])
            vector = vector.cpu()  # SYNC: on MPS and others there is no event to wait for
            transfer.host = torch.cat([transfer.host, vector]) if transfer.size else vector
            transfer.size += len(vector)
            return
        for part in parts:
            begin, transfer.size = transfer.size, transfer.size + len(part)
            transfer.slot.device[begin : transfer.size].copy_(part)

    def send(self, transfer: Transfer) -> None:
        """Start copying what has been added to a vector since the last call."""
        slot = transfer.slot
        if slot is None or transfer.sent == transfer.size:
            return
        part = slice(transfer.sent, transfer.size)
        slot.host[part].copy_(slot.device[part], non_blocking=True)
        slot.event.record(torch.cuda.current_stream(slot.device.device))
        transfer.sent = transfer.size

    def copy(self, parts: Sequence[Tensor]) -> Transfer:
        """Send the parts to the host as one vector."""
        transfer = self.begin()
        if parts:
            self.append(transfer, parts)
        return transfer

    def append(self, transfer: Transfer, parts: Sequence[Tensor]) -> None:
        """Append parts to a vector and send them."""
        self.put(transfer, parts)
        self.send(transfer)
