"""Brings the gradient norms of optimizer steps to the host without stopping the device.

One vector holds all that is read in a step: the norms, a few scalars of the trainer, and on
request the details. The change that the step makes to the weights is appended later. On a GPU the
copy goes to pinned memory, followed by an event; `drain` yields the steps whose copy has landed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from yolo_gradwatch.measure.flight import Flight, Unpacker
from yolo_gradwatch.measure.losses import ROOM, Taken
from yolo_gradwatch.measure.norms import room
from yolo_gradwatch.measure.readers import matrices, reader_of
from yolo_gradwatch.measure.ring import RING, Ring
from yolo_gradwatch.measure.scan import room_of, scan
from yolo_gradwatch.measure.table import table_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from yolo_gradwatch.measure.chunks import Chunks
    from yolo_gradwatch.measure.ring import Transfer
    from yolo_gradwatch.measure.sample import Sample
    from yolo_gradwatch.measure.scan import Scan
    from yolo_gradwatch.measure.table import Table

NO_LOSSES = Taken([], (), ())


class Capture:
    """Takes samples of the gradients of a fixed list of parameters.

    Args:
        parameters: P trainable parameters, at least one; their order is the identity of the norms.
        others: Further floating-point tensors, of which only the largest value is read.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], others: Sequence[Tensor] = ()) -> None:
        self._parameters: list[Tensor] = list(parameters)
        self._tensors = [t if t.numel() else t.new_zeros(1) for t in (*self._parameters, *others)]
        sizes = [p.numel() for p in self._parameters]
        counted = matrices(self._parameters)
        self._reader = reader_of(self._parameters, self._tensors)
        self._unpacker = Unpacker(sizes, counted, len(self._tensors))
        self._flying: deque[Flight] = deque()
        self._waited: list[Sample] = []
        size = 4 * len(sizes) + len(counted) + len(self._tensors)
        self._tables = _tables_of(self._parameters, self._tensors)
        if self._tables:
            size = sum(room_of(table.chunks) for table in (*self._tables, self._tables[0]))
        self._ring = Ring(self._parameters[0].device, 2 + ROOM + size)

    @property
    def is_weighed(self) -> bool:
        """Whether the weights were read in the newest step, if it has not landed yet."""
        return bool(self._flying) and self._flying[-1].weighed

    @torch.no_grad()
    def take(  # noqa: PLR0913  # a step, and what to read of it
        self,
        epoch: int,
        step: int,
        extras: Sequence[Tensor],
        losses: Taken = NO_LOSSES,
        *,
        detailed: bool,
        weighed: bool = False,
    ) -> None:
        """Start copying the current gradient norms to the host, without synchronization.

        On CUDA this takes one launch of a kernel that reads each gradient once, and with
        ``weighed`` one for the weights. Elsewhere, and where no kernel can be built, a `Reader`
        reads them.

        Args:
            epoch: Counts from 1.
            step: Counts from 1.
            extras: AMP's found_inf and scale, one element each, on the device; empty without AMP.
            losses: Loss items of the batches since the previous captured step.
            detailed: Whether to count the exact zeros, as on the first step of a window.
            weighed: Whether to read the weights too.
        """
        gradients = [g for p in self._parameters if (g := p.grad) is not None]
        is_whole = len(gradients) == len(self._parameters)
        scalars = [*extras, *losses.tensors]
        parts = [torch.cat([scalar.reshape(-1) for scalar in scalars])] if scalars else []
        if not self._tables:
            read, weighed = self._reader.read(gradients, detailed=detailed, weighed=weighed)
            parts += read
        while len(self._flying) >= RING:  # not drained for this many steps
            self._waited.append(self._land())
        transfer = self._ring.begin()
        if parts:
            self._ring.put(transfer, parts)
        places = gradients if is_whole else [p.grad for p in self._parameters]
        scans = self._scans(places, transfer, weighed=weighed)
        self._ring.send(transfer)
        present = None if is_whole else [i for i, g in enumerate(places) if g is not None]
        frozen = [] if is_whole else self._frozen(places)
        known = (len(extras), losses.kinds, losses.rates, detailed, weighed)
        self._flying.append(Flight(epoch, step, transfer, present, frozen, *known, *scans))

    @torch.no_grad()
    def add_change(
        self, before: Tensor | None, moved: Tensor, chunks: Chunks | None = None
    ) -> None:
        """Send the change that the newest step has made.

        Args:
            before: (P,) L2 norms of the parameters before the step; None if they were read with
                its gradients.
            moved: (P,) L2 norms of their change.
            chunks: If not None, both are (C,) sums of squares instead.

        Raises:
            MemoryError: The device has no room for them.
        """
        flight = self._flying[-1]
        with room():
            self._ring.append(flight.transfer, [moved] if before is None else [before, moved])
        self._flying[-1] = replace(flight, changes=chunks)

    def drain(self, *, wait: bool = False) -> Iterator[Sample]:
        """Yield, in order, the steps whose copy has landed.

        Args:
            wait: Also yield those in transit, after waiting for the device.
        """
        waited, self._waited = self._waited, []
        yield from waited
        while self._flying and (wait or self._flying[0].transfer.has_landed):
            yield self._land()

    def _scans(
        self, gradients: Sequence[Tensor | None], transfer: Transfer, *, weighed: bool
    ) -> tuple[Scan | None, Scan | None]:
        """Read the gradients, and on request the weights, by a kernel if there is one."""
        if not self._tables:
            return None, None
        of_gradients, of_weights = self._tables
        return (
            scan(of_gradients, gradients, self._ring, transfer),
            scan(of_weights, self._tensors, self._ring, transfer) if weighed else None,
        )

    def _frozen(self, gradients: Sequence[Tensor | None]) -> list[int]:
        """Return the indices of the parameters without a gradient that are frozen by now."""
        pairs = enumerate(zip(self._parameters, gradients, strict=True))
        return [i for i, (p, g) in pairs if g is None and not p.requires_grad]

    def _land(self) -> Sample:
        """Return the oldest step in transit, waiting for it if necessary."""
        return self._unpacker.sample(self._flying.popleft())


def _tables_of(
    parameters: Sequence[Tensor], tensors: Sequence[Tensor]
) -> tuple[Table, Table] | None:
    """Return the kernel tables of the gradients and the weights; None where torch reads them."""
    gradients = table_of(parameters)
    weights = table_of(tensors) if gradients else None
    return (gradients, weights) if gradients and weights else None
