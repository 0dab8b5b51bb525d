"""Decides which batches are traced through the modules."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from yolo_gradwatch.runs.outputs import OutputBase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from yolo_gradwatch.diagnose.finding import FindingChange

MOST_TRACES = 40
"""Traces of a run."""

LAST_FREE = 64
"""Optimizer step up to which a trace may cost what it does."""

MOST_SHARE = 0.002
"""Of the time of the training, what all later traces may take."""


class Schedule(OutputBase):
    """Wants the first batch of the optimizer steps 1, 2, 4, 8, ..., and that after a finding.

    A step is traced once at the most. After `LAST_FREE`, a power of two is traced if what one cost
    the last time still fits into `MOST_SHARE`; the batch after a finding begins, or comes back, if
    that share is not used up yet. A notice is no reason.

    Args:
        traces: Of the run that is continued.
        clock: Seconds.
        last: A step to trace in any case, because it is known to be the last; None if none is.
    """

    def __init__(
        self,
        traces: int = 0,
        clock: Callable[[], float] = time.monotonic,
        *,
        last: int | None = None,
    ) -> None:
        self._count = traces
        self._last_step = last
        self._clock = clock
        self._begin = clock()
        self._asked = self._traced = 0
        self._has_found = False
        self._spent = self._last = 0.0

    def findings(self, changes: Sequence[FindingChange]) -> None:
        """Want the next batch if a finding has begun."""
        self._has_found |= any(
            one.change == "start" and one.finding.severity != "notice" for one in changes
        )

    def wants(self, step: int) -> bool:
        """Whether the batch that begins is to be traced.

        Args:
            step: The optimizer step that it is part of.
        """
        is_first, self._asked = step != self._asked, step
        if step == self._traced or self._count >= MOST_TRACES:
            return False  # what has been found waits for the next step
        has_found, self._has_found = self._has_found, False
        is_due = is_first and step & (step - 1) == 0
        limit = (self._clock() - self._begin) * MOST_SHARE
        if step > LAST_FREE:
            is_due = is_due and self._spent + self._last < limit
            has_found = has_found and self._spent < limit
        return is_due or has_found or (is_first and step == self._last_step)

    def note(self, step: int, seconds: float) -> None:
        """Note a trace, and how much longer the batch took for it."""
        self._count += 1
        self._traced, self._last = step, seconds
        self._spent += seconds if step > LAST_FREE else 0.0

    def again(self) -> None:
        """Note that the last batches are repeated."""
        self._asked = 0
