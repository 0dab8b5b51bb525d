"""A list of tensors on CUDA that a kernel reads in one launch, and which of them it can read."""

from __future__ import annotations

import logging
from collections import deque
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from yolo_gradwatch.measure.alike import Alike
from yolo_gradwatch.measure.chunks import Chunks, chunks_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from yolo_gradwatch.measure.arrays import Counts

_LOG = logging.getLogger(__name__)

ROWS = 8
"""Vectors of pointers whose launches can wait for the device at the same time."""

_address = torch.Tensor.data_ptr


class Pointers(NamedTuple):
    """Addresses of N tensors on the host and on the device.

    Attributes:
        host: (N,) int64, pinned on CUDA.
        array: ``host`` as an array.
        device: (N,) int64, on the device.
        event: Completes when the last kernel that uses them has run; None on a CPU.
    """

    host: Tensor
    array: Counts
    device: Tensor
    event: torch.cuda.Event | None


class Table:
    """Reads N tensors on one device in one launch.

    On the host a step costs one call into C for each tensor's address, and one that checks whether
    all tensors are as they were at the last look. Nothing is allocated, and the addresses are sent
    only if they or the stream differ from those of the step before.

    Args:
        sizes: (N,) number of elements in each tensor.
        device: Device of the tensors; a CPU only in Triton's interpreter.
        kernel: The module of kernels.

    Attributes:
        chunks: How the tensors are cut.
    """

    def __init__(self, sizes: Sequence[int], device: torch.device, kernel: Any) -> None:
        self.chunks: Chunks = chunks_of(sizes)
        self._sizes = list(sizes)
        self._device = device
        self._kernel = kernel
        self._on_device = _sent(torch.from_numpy(self.chunks.table), device)
        self._rows = deque(_rows(len(self._sizes), device))
        self._stream: object = None
        self._has_sent = False
        self._alike = Alike()
        self._odd: list[int] = []

    def look(self, tensors: Sequence[Tensor | None]) -> tuple[Counts, list[int]]:
        """Return where the tensors are, and which of them the kernel cannot read.

        Args:
            tensors: (N,) tensors; None for a missing one.

        Returns:
            (N,) addresses, 0 where there is nothing that the kernel can read, and the indices of
            the tensors that it cannot read.
        """
        if not self._alike.holds(tensors):
            pairs = enumerate(zip(tensors, self._sizes, strict=True))
            self._odd = [i for i, (one, size) in pairs if self._is_odd(one, size)]
            self._alike.note(tensors)
        given: Sequence[Any] = tensors
        try:
            addresses = np.fromiter(map(_address, given), np.int64, len(given))
        except TypeError:  # some are missing
            addresses = np.array([0 if one is None else one.data_ptr() for one in given], np.int64)
        addresses[self._odd] = 0
        return addresses, self._odd

    def read(
        self, tensors: Sequence[Tensor | None], floats: Tensor, ints: Tensor, first: int
    ) -> list[int]:
        """Read the tensors into a vector, after its first numbers, without synchronization.

        Args:
            tensors: (N,) tensors; a missing one (None) yields zeros.
            floats: float64, on the device; ``chunks.numbers`` numbers are written.
            ints: The same memory as int32.
            first: How many numbers to leave in front.

        Returns:
            Indices of the tensors that were left out because the kernel cannot read them.
        """
        addresses, odd = self.look(tensors)
        self._launch(self._kernel.read, addresses, floats, ints, first, self.chunks.count)
        return odd

    def keep(self, tensors: Sequence[Tensor]) -> Tensor | None:
        """Copy the tensors, one after another; None if the kernel cannot read one of them."""
        addresses, odd = self.look(tensors)
        if odd:
            return None
        copies = torch.empty(self.chunks.elements, device=self._device)
        self._launch(self._kernel.keep, addresses, copies, self.chunks.count)
        return copies

    def compare(self, tensors: Sequence[Tensor], copies: Tensor) -> Tensor | None:
        """(2, C) sums of squares of the copies, and of the changes since; None as for `keep`."""
        addresses, odd = self.look(tensors)
        if odd:
            return None
        count = self.chunks.count
        sums = torch.empty((2, count), dtype=torch.float64, device=self._device)
        self._launch(self._kernel.compare, addresses, copies, sums, count)
        return sums

    def build(self) -> None:
        """Build the kernels now, before a step of the training needs them."""
        floats = torch.empty(self.chunks.numbers, dtype=torch.float64, device=self._device)
        nothing = [None] * len(self._sizes)
        self.read(nothing, floats, floats.view(torch.int32), 0)
        copies, count = floats.view(torch.float32), self.chunks.count
        none = np.zeros(len(self._sizes), np.int64)
        self._launch(self._kernel.keep, none, copies, count)
        self._launch(self._kernel.compare, none, copies, floats.view(2, count), count)

    def _is_odd(self, tensor: Tensor | None, size: int) -> bool:
        """Whether a tensor has elements, but a type or layout that the kernel cannot read."""
        if tensor is None or tensor.numel() == size == 0:
            return False
        is_plain = type(tensor) in {torch.Tensor, torch.nn.Parameter} and tensor.numel() == size
        is_known = tensor.dtype is torch.float32 and tensor.layout is torch.strided
        is_here = tensor.device == self._device
        return not (is_plain and is_known and is_here and is_dense(tensor))

    def _launch(self, kernel: Any, addresses: Counts, *args: Any) -> None:
        stream = None if self._device.type == "cpu" else torch.cuda.current_stream(self._device)
        is_same = self._has_sent and stream == self._stream
        if not (is_same and np.array_equal(self._rows[-1].array, addresses)):
            self._rows.rotate(-1)
            self._upload(self._rows[-1], addresses)
            self._stream, self._has_sent = stream, True
        pointers = self._rows[-1]
        grid, block = (self.chunks.count,), self._kernel.BLOCK
        if pointers.event is None:
            kernel[grid](pointers.device, self._on_device, *args, BLOCK=block)
            return
        with torch.cuda.device(self._device):
            kernel[grid](pointers.device, self._on_device, *args, BLOCK=block, num_warps=4)
        pointers.event.record(stream)

    @staticmethod
    def _upload(row: Pointers, addresses: Counts) -> None:
        if row.event is not None and not row.event.query():
            row.event.synchronize()  # SYNC: the device is eight launches behind
        row.array[:] = addresses
        row.device.copy_(row.host, non_blocking=True)


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a copy on a device, without waiting for it."""
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)


def _rows(size: int, device: torch.device) -> list[Pointers]:
    on_cuda = device.type == "cuda"
    width = size + -size % 16  # every row begins at a multiple of 128 bytes
    hosts = torch.zeros((ROWS, width), dtype=torch.int64, pin_memory=on_cuda)[:, :size]
    devices = torch.empty((ROWS, width), dtype=torch.int64, device=device)[:, :size]
    pairs = zip(hosts, devices, strict=True)
    return [Pointers(a, a.numpy(), b, torch.cuda.Event() if on_cuda else None) for a, b in pairs]


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one piece of memory, each once, in any order."""
    pairs = zip(tensor.stride(), tensor.shape, strict=True)
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in pairs if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True


@cache
def _kernels() -> Any:
    """Return the module of kernels; None without Triton."""
    try:
        from yolo_gradwatch.measure import kernel
    except Exception as error:  # noqa: BLE001  # missing, or broken in some way
        _LOG.debug("no Triton, so gradients are read by torch: %r", error)
        return None
    return kernel


def table_of(tensors: Sequence[Tensor]) -> Table | None:
    """Return a table for tensors, at least one, on the device of the first.

    None if they are not on CUDA, without Triton, or if it cannot build a kernel.
    """
    device = tensors[0].device
    if device.type != "cuda" or (kernel := _kernels()) is None:
        return None
    try:
        table = Table([tensor.numel() for tensor in tensors], device, kernel)
        table.build()
    except Exception as error:  # noqa: BLE001  # no compiler, a card that is too old, no memory
        _LOG.debug("no kernel can be built, so gradients are read by torch: %r", error)
        return None
    return table
