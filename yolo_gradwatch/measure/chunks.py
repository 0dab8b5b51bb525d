"""Tensors cut into chunks: the table for a kernel, and sums over its results for each tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.measure.arrays import Counts, Floats

CHUNK = 16_384
"""Elements in a chunk: 64 KiB, so that YOLO26n fills the processors of a large card."""

ALIGNED = 4
"""Copies begin at multiples of this many elements: 16 bytes."""


class Extents(NamedTuple):
    """Readings of N tensors.

    Attributes:
        norms: (N,) L2 norm.
        largest: (N,) largest absolute value; NaN for a tensor that contains a NaN.
        nonzero: (N,) number of elements that are not exactly zero.
    """

    norms: Floats
    largest: Floats
    nonzero: Floats


@dataclass(frozen=True, slots=True)
class Chunks:
    """N tensors as C chunks in order; a tensor without elements has one empty chunk.

    Attributes:
        table: (4, C) for each chunk, its tensor, its start in that, its length, and its start among
            the copies, which are stored one tensor after another; in elements.
        starts: (N,) first chunk of each tensor.
        elements: Number of elements that the copies need.
    """

    table: Counts
    starts: Counts
    elements: int

    @property
    def count(self) -> int:
        """Number of chunks, C."""
        return len(self.table[0])

    @property
    def numbers(self) -> int:
        """Number of 8-byte values that hold the extents of all chunks."""
        return 2 * self.count

    def extents(self, values: Floats) -> Extents:
        """Return the extents from the kernel's (2 C,) results, half of which are pairs of int32."""
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
    """Cut tensors of these sizes, at least one, into chunks."""
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
