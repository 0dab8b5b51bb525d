"""Readings of tensors in a step's vector: by a kernel, and for odd tensors by torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from yolo_gradwatch.measure.norms import largest_of, nonzeros_of, norms_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from yolo_gradwatch.measure.arrays import Floats
    from yolo_gradwatch.measure.chunks import Chunks, Extents
    from yolo_gradwatch.measure.ring import Ring, Slot, Transfer
    from yolo_gradwatch.measure.table import Table


@dataclass(frozen=True, slots=True)
class Scan:
    """N tensors whose readings are in transit.

    Attributes:
        chunks: How the kernel read them.
        odd: Indices of the tensors that torch read instead.
    """

    chunks: Chunks
    odd: list[int]

    def split(self, values: Floats) -> tuple[Extents, Floats]:
        """Return the extents at the beginning of a vector on the host, and the remaining values."""
        own, values = np.split(values, [self.chunks.numbers])
        found = self.chunks.extents(own)
        if self.odd:
            others, values = np.split(values, [3 * len(self.odd)])
            for known, more in zip(found, others.reshape(3, -1), strict=True):
                known[self.odd] = more
        return found, values


def scan(
    table: Table, tensors: Sequence[Tensor | None], ring: Ring, transfer: Transfer
) -> Scan | None:
    """Append the readings of tensors to a vector on CUDA; None if it has no buffer there.

    Args:
        table: Table of the tensors.
        tensors: (N,) tensors; a missing one (None) yields zeros.
        ring: Ring of the vector.
        transfer: The vector, which is not sent yet.
    """
    if transfer.slot is None:
        return None
    slot, first = transfer.slot, transfer.size
    odd = table.read(tensors, slot.device, slot.ints, first)
    transfer.size += table.chunks.numbers
    if odd:
        groups = _by_device([(i, tensor) for i in odd if (tensor := tensors[i]) is not None])
        ring.put(transfer, _read([[tensor for _, tensor in group] for group in groups], slot))
        odd = [i for group in groups for i, _ in group]
    return Scan(table.chunks, odd)


def room_of(chunks: Chunks) -> int:
    """Return the most numbers that the tensors can take in a vector."""
    return chunks.numbers + 3 * len(chunks.starts)


def _by_device(pairs: Sequence[tuple[int, Tensor]]) -> list[list[tuple[int, Tensor]]]:
    groups: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for pair in pairs:
        groups.setdefault(pair[1].device, []).append(pair)
    return list(groups.values())


def _read(groups: Sequence[list[Tensor]], slot: Slot) -> list[Tensor]:
    """Read norms, largest values and counts by torch, of groups on one device each."""
    device = slot.device.device
    return [
        torch.cat([read(group).to(device) for group in groups])
        for read in (norms_of, largest_of, nonzeros_of)
    ]
