"""Triton kernels that read many tensors in one launch, through a table of pointers.

Each program reads one chunk of one tensor, once. The costs below are calculated for YOLO26n and x
at 3.35 TB/s (H100), with every gradient in float32; those of the host are measured:

- bytes read: 10.3 MB and 236 MB, in 3.1 and 70 µs; the table adds 32 bytes a chunk, 0.3 %;
- numbers sent down: 16 bytes for each of 471 and 4,059 chunks: 8 and 65 kB;
- pointers sent up: 8 bytes a tensor, 3 and 4 kB; none if they are those of the step before;
- launches: one, besides a copy up and a copy down; the host adds up the chunks of each tensor,
  because a second launch would cost it more than the additions (10 and 14 µs);
- the host: 66 and 100 µs to collect and check the gradients and their addresses, and 1.3 ms for
  the 7,500 of a model of 5,000 modules, a third of it ``Parameter.grad``; the best of 300, with a
  launch that does nothing, on a core of an AMD EPYC shared with others. With cold caches 7,500 take
  5 ms there. Triton's Python adds 5 µs for the launch.

The kernels have not been timed on a GPU yet.

In float64 a square neither overflows nor underflows. Largest values are compared by their bits,
whose order as integers is that of the absolute values: Inf above all numbers, NaN above Inf.

Only this module imports Triton, and only `yolo_gradwatch.measure.table` imports this module, when a
training begins on CUDA: Triton is missing on Windows and needs a C compiler to build a kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK = 1024
"""Elements that a program reads at a time: 8 for each of its 128 threads."""


@triton.jit
def _chunk(pointers, table, chunks):
    """Return the address of this program's chunk, its length, and its place among the copies."""
    # The table has a row of C numbers for each fact: tensor, start, length, place. A missing tensor
    # has address 0: its chunks get length 0, so nothing is read.
    chunk = tl.program_id(0)
    address = tl.load(pointers + tl.load(table + chunk))
    begin = tl.load(table + chunks + chunk)
    length = tl.load(table + 2 * chunks + chunk)
    place = tl.load(table + 3 * chunks + chunk)
    where = address.to(tl.pointer_type(tl.int32)) + begin
    return where, tl.where(address == 0, 0, length), place


@triton.jit(do_not_specialize=["first", "chunks"])  # no variants for their values
def read(pointers, table, floats, ints, first, chunks, BLOCK: tl.constexpr):
    """Write the sum of squares, the largest absolute value and the count of nonzeros of each chunk.

    Args:
        pointers: int64, address of each float32 tensor; 0 for a missing one.
        table: (4, C) int64, see `yolo_gradwatch.measure.chunks`.
        floats: float64; gets C sums after its first ``first`` numbers, and after these, as int32, C
            largest values (their bits) and C counts.
        ints: The same memory as int32.
        first: Place in ``floats``.
        chunks: C.
        BLOCK: Elements at a time.
    """
    where, length, _ = _chunk(pointers, table, chunks)
    places = tl.arange(0, BLOCK)
    # Each lane gathers its own results, so the lanes are combined only once, after the loop.
    total = tl.zeros([BLOCK], tl.float64)
    largest = tl.zeros([BLOCK], tl.int32)
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, length, BLOCK):
        inside = start + places
        # Read as integers: the bits give all three results. Lanes past the end get 0, which adds
        # nothing to any of them.
        bits = tl.load(where + inside, mask=inside < length, other=0)
        value = bits.to(tl.float32, bitcast=True).to(tl.float64)
        size = bits & 0x7FFFFFFF  # without the sign; -0.0 becomes 0
        total += value * value
        largest = tl.maximum(largest, size)
        count += (size != 0).to(tl.int32)
    # One store of each result per chunk, so no atomics. An int32 is half as wide as a float64, so
    # places after the sums count double.
    chunk = tl.program_id(0)
    tl.store(floats + first + chunk, tl.sum(total, axis=0))
    rest = 2 * (first + chunks) + chunk
    tl.store(ints + rest, tl.max(largest, axis=0))
    tl.store(ints + rest + chunks, tl.sum(count, axis=0))


@triton.jit(do_not_specialize=["chunks"])
def keep(pointers, table, copies, chunks, BLOCK: tl.constexpr):
    """Copy each chunk to its place in ``copies`` (float32); other arguments as in `read`."""
    where, length, place = _chunk(pointers, table, chunks)
    places = tl.arange(0, BLOCK)
    # `where` points to integers, so the copies are written as bits too.
    to = copies.to(tl.pointer_type(tl.int32)) + place
    for start in range(0, length, BLOCK):
        inside = start + places
        bits = tl.load(where + inside, mask=inside < length, other=0)
        tl.store(to + inside, bits, mask=inside < length)


@triton.jit(do_not_specialize=["chunks"])
def compare(pointers, table, copies, floats, chunks, BLOCK: tl.constexpr):
    """Write the sums of squares of each chunk's copy, and of its change since.

    Args:
        pointers: As in `read`.
        table: As in `read`.
        copies: Output of `keep`.
        floats: (2, C) float64: sums of the copies, and of the differences, each taken in float32.
        chunks: C.
        BLOCK: Elements at a time.
    """
    where, length, place = _chunk(pointers, table, chunks)
    places = tl.arange(0, BLOCK)
    # As in `read`: a lane's own sums first.
    before_sum = tl.zeros([BLOCK], tl.float64)
    moved_sum = tl.zeros([BLOCK], tl.float64)
    for start in range(0, length, BLOCK):
        inside = start + places
        bits = tl.load(where + inside, mask=inside < length, other=0)
        before = tl.load(copies + place + inside, mask=inside < length, other=0.0)
        # Subtract in float32, square in float64.
        moved = (before - bits.to(tl.float32, bitcast=True)).to(tl.float64)
        wide = before.to(tl.float64)
        before_sum += wide * wide
        moved_sum += moved * moved
    chunk = tl.program_id(0)
    tl.store(floats + chunk, tl.sum(before_sum, axis=0))
    tl.store(floats + chunks + chunk, tl.sum(moved_sum, axis=0))
