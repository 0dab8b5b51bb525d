"""Collects landed steps to process them in batches, which costs far less."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yolo_gradwatch.measure.sample import Sample

MOST_WAITING = 32
"""Most steps processed together; 32 take about four times as long as one."""

WAIT_SECONDS = 2.0
"""Longest time a step waits for others, so that report and panel stay up to date."""


class Pending:
    """Samples in the order of their steps."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._taken = time.monotonic()

    def add(self, samples: Iterable[Sample]) -> bool:
        """Queue samples; return whether any wait and they are late or numerous enough."""
        self.samples += samples
        is_late = time.monotonic() - self._taken >= WAIT_SECONDS
        return bool(self.samples) and (is_late or len(self.samples) >= MOST_WAITING)

    def take(self) -> list[Sample]:
        """Return all waiting samples and start a new queue."""
        samples, self.samples = self.samples, []
        self._taken = time.monotonic()
        return samples
