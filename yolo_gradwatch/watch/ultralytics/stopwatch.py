"""Measures the cost of a training's batches: time and memory."""

from __future__ import annotations

import time
from typing import Any

import psutil

from yolo_gradwatch.views.checked import Cost


class Stopwatch:
    """Times each batch from the end of the one before; the training waits for the device in each.

    It waits because Ultralytics prints the loss items of every batch.
    """

    def __init__(self) -> None:
        self._plain: list[float] = []
        self._others: list[float] = []
        self._last = 0.0
        self._process = psutil.Process()
        self._resident = 0
        self._device: Any = None

    @property
    def seconds(self) -> float | None:
        """Mean time of a batch; None before the first."""
        taken = self._plain or self._others[1:] or self._others
        return sum(taken) / len(taken) if taken else None

    def start(self, device: Any) -> None:
        """Start measuring, with the memory already in use.

        Args:
            device: Device of the training.
        """
        self._device = device
        if device.type == "cuda":
            import torch  # heavy; only a training pays for it

            torch.cuda.reset_peak_memory_stats(device)
        self._note_memory()
        self._last = time.perf_counter()

    def lap(self, *, is_plain: bool) -> None:
        """Record the end of a batch.

        Args:
            is_plain: Whether the batch had no work that a normal training would not do in it.
        """
        now = time.perf_counter()
        (self._plain if is_plain else self._others).append(now - self._last)
        self._last = now
        self._note_memory()

    def again(self) -> None:
        """Exclude the time since the last batch."""
        self._last = time.perf_counter()

    def cost(self, together: int, batches: int, epochs: int) -> Cost:
        """Return the measurements; see `Cost` for the arguments."""
        memory, of = self._resident, 0
        if self._device is not None and self._device.type == "cuda":
            import torch  # heavy; only a training pays for it

            memory = torch.cuda.max_memory_reserved(self._device)
            of = torch.cuda.get_device_properties(self._device).total_memory
        return Cost(self.seconds, together, batches, epochs, memory, of)

    def _note_memory(self) -> None:
        self._resident = max(self._resident, self._process.memory_info().rss)
