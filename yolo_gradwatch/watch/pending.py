"""Steps that have landed and wait to be looked at together, which costs far less."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yolo_gradwatch.measure.sample import Sample

MOST_WAITING = 32
"""Steps that are looked at together at the most; so many take about four times as long as one."""

WAIT_SECONDS = 0.25
"""How long a step waits for others at the most, so that report and panel are up to date."""


class Pending:
    """Samples in the order of their steps."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._taken = time.monotonic()

    def add(self, samples: Iterable[Sample]) -> bool:
        """Let samples wait; whether there are any, and they have waited long or are many."""
        self.samples += samples
        is_late = time.monotonic() - self._taken >= WAIT_SECONDS
        return bool(self.samples) and (is_late or len(self.samples) >= MOST_WAITING)

    def take(self) -> list[Sample]:
        """All that wait; from now on, others do."""
        samples, self.samples = self.samples, []
        self._taken = time.monotonic()
        return samples
