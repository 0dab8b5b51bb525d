"""Reads many tensors in one launch: kernels in Triton over a table of pointers.

A program reads one chunk of one tensor, once. What is counted before it is measured, for YOLO26n
and x at 3.35 TB/s (H100), with every gradient in float32:

- bytes read: 10.3 MB and 236 MB, which takes 3.1 and 70 µs; of the table 32 bytes a chunk, 0.3 %;
- numbers down: 16 bytes a chunk, of which there are 471 and 4,059: 8 and 65 kB;
- pointers up: 8 bytes a tensor, 3 and 4 kB, and none where they are those of the step before;
- launches: one, beside a copy up and a copy down; the host adds the chunks of each tensor, because
  a second launch costs it more than the additions (10 and 14 µs);
- the host: 66 and 100 µs to collect and check the gradients and their addresses, and 1.3 ms for
  the 7,500 of a model of 5,000 modules, a third of it ``Parameter.grad``; the best of 300, with a
  launch that does nothing, on a core of an AMD EPYC shared with others. With cold caches 7,500 take
  5 ms there. Triton's Python adds 5 µs for the launch.

No time has been measured on a GPU yet.

In float64 a square neither overflows nor underflows. A largest value is compared by its bits, whose
order as integers is that of the absolute values, Inf above all numbers and NaN above Inf.

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
    """Where this program's chunk lies, how long it is, and its place among the copies."""
    chunk = tl.program_id(0)
    address = tl.load(pointers + tl.load(table + chunk))
    begin = tl.load(table + chunks + chunk)
    length = tl.load(table + 2 * chunks + chunk)
    place = tl.load(table + 3 * chunks + chunk)
    where = address.to(tl.pointer_type(tl.int32)) + begin
    return where, tl.where(address == 0, 0, length), place


@triton.jit(do_not_specialize=["first", "chunks"])  # no variants for their values
def read(pointers, table, floats, ints, first, chunks, BLOCK: tl.constexpr):
    """Sum of squares, largest absolute value and count of what is not zero, of each chunk.

    Args:
        pointers: int64, address of each tensor of float32; 0 for one that is missing.
        table: (4, C) int64, see `yolo_gradwatch.measure.chunks`.
        floats: float64; C sums go to behind ``first``, and behind them as int32 C largest values
            (their bits) and C counts.
        ints: The same memory as int32.
        first: Place in ``floats``.
        chunks: C.
        BLOCK: Elements at a time.
    """
    where, length, _ = _chunk(pointers, table, chunks)
    places = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    largest = tl.zeros([BLOCK], tl.int32)
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, length, BLOCK):
        inside = start + places
        bits = tl.load(where + inside, mask=inside < length, other=0)
        value = bits.to(tl.float32, bitcast=True).to(tl.float64)
        size = bits & 0x7FFFFFFF
        total += value * value
        largest = tl.maximum(largest, size)
        count += (size != 0).to(tl.int32)
    chunk = tl.program_id(0)
    tl.store(floats + first + chunk, tl.sum(total, axis=0))
    behind = 2 * (first + chunks) + chunk
    tl.store(ints + behind, tl.max(largest, axis=0))
    tl.store(ints + behind + chunks, tl.sum(count, axis=0))


@triton.jit(do_not_specialize=["chunks"])
def keep(pointers, table, copies, chunks, BLOCK: tl.constexpr):
    """Copy each chunk to its place in ``copies``, of float32; the others are as in `read`."""
    where, length, place = _chunk(pointers, table, chunks)
    places = tl.arange(0, BLOCK)
    to = copies.to(tl.pointer_type(tl.int32)) + place
    for start in range(0, length, BLOCK):
        inside = start + places
        bits = tl.load(where + inside, mask=inside < length, other=0)
        tl.store(to + inside, bits, mask=inside < length)


@triton.jit(do_not_specialize=["chunks"])
def compare(pointers, table, copies, floats, chunks, BLOCK: tl.constexpr):
    """Sums of the squares of each chunk's copy, and of its difference from what is there now.

    Args:
        pointers: As in `read`.
        table: As in `read`.
        copies: Where `keep` has put them.
        floats: (2, C) float64; the copies' sums, and those of the differences, each in float32.
        chunks: C.
        BLOCK: Elements at a time.
    """
    where, length, place = _chunk(pointers, table, chunks)
    places = tl.arange(0, BLOCK)
    before_sum = tl.zeros([BLOCK], tl.float64)
    moved_sum = tl.zeros([BLOCK], tl.float64)
    for start in range(0, length, BLOCK):
        inside = start + places
        bits = tl.load(where + inside, mask=inside < length, other=0)
        before = tl.load(copies + place + inside, mask=inside < length, other=0.0)
        moved = (before - bits.to(tl.float32, bitcast=True)).to(tl.float64)
        wide = before.to(tl.float64)
        before_sum += wide * wide
        moved_sum += moved * moved
    chunk = tl.program_id(0)
    tl.store(floats + chunk, tl.sum(before_sum, axis=0))
    tl.store(floats + chunks + chunk, tl.sum(moved_sum, axis=0))
