"""Tensors in chunks: a table for a kernel, and the sums of what it gives for each chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.measure.arrays import Counts, Floats

CHUNK = 16_384
"""Elements of a chunk: 64 KiB, so that YOLO26n fills the processors of a large card."""

ALIGNED = 4
"""Elements to a multiple of which the places of copies are rounded up: 16 bytes."""


class Extents(NamedTuple):
    """What was read of N tensors.

    Attributes:
        norms: (N,) L2 norm.
        largest: (N,) largest absolute value; NaN where a value is.
        nonzero: (N,) elements that are not exactly zero.
    """

    norms: Floats
    largest: Floats
    nonzero: Floats


@dataclass(frozen=True, slots=True)
class Chunks:
    """N tensors as C chunks in order; a tensor without elements has an empty one.

    Attributes:
        table: (4, C) tensor of each chunk, where it begins in it, its length, and its place where
            the tensors are copied one behind the other; in elements.
        starts: (N,) first chunk of each tensor.
        elements: That the copies need.
    """

    table: Counts
    starts: Counts
    elements: int

    @property
    def count(self) -> int:
        """C."""
        return len(self.table[0])

    @property
    def numbers(self) -> int:
        """Numbers of 8 bytes in which the extents of all chunks come."""
        return 2 * self.count

    def extents(self, values: Floats) -> Extents:
        """From the (2 C,) numbers of the kernel `read`, half of which are pairs of int32."""
        count = self.count
        bits, nonzero = values[count:].view(np.int32).reshape(2, count)
        largest = np.maximum.reduceat(bits, self.starts).view(np.float32)
        found = np.add.reduceat(nonzero, self.starts, dtype=np.int64)
        return Extents(self.norms(values[:count]), largest.astype(np.float64), found * 1.0)

    def norms(self, squares: Floats) -> Floats:
        """(N,) norms from (C,) sums of squares."""
        found: Floats = np.sqrt(np.add.reduceat(squares, self.starts))
        return found


def chunks_of(sizes: Sequence[int]) -> Chunks:
    """Cut tensors of so many elements, at least one tensor."""
    size = np.asarray(sizes, np.int64)
    counts = np.maximum(-(-size // CHUNK), 1)
    starts = np.cumsum(counts) - counts
    tensor = np.repeat(np.arange(len(size)), counts)
    begin = CHUNK * (np.arange(counts.sum()) - starts[tensor])
    room = -(-size // ALIGNED) * ALIGNED
    place = np.cumsum(room) - room
    length = np.minimum(size[tensor] - begin, CHUNK)
    table = np.stack([tensor, begin, length, place[tensor] + begin])
    return Chunks(table, starts, int(room.sum()))
