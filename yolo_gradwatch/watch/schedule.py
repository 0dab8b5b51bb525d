"""Decides which batches are traced through the modules."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from yolo_gradwatch.runs.outputs import OutputBase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from yolo_gradwatch.diagnose.finding import FindingChange

MOST_TRACES = 40
"""Traces of a run."""

LAST_FREE = 64
"""Optimizer step up to which a trace may cost what it does."""

MOST_SHARE = 0.002
"""Of the time of the training, what all later traces may take, but for the free ones."""

FREE = 4
"""Later traces of findings that may cost what they do: whoever has a fault waits for its cause."""


class Schedule(OutputBase):
    """Wants the first batch of the optimizer steps 1, 2, 4, 8, ..., and that after a finding.

    A step is traced once at the most. After `LAST_FREE`, a power of two is traced if what one cost
    the last time still fits into `MOST_SHARE`; the batch after a finding begins, or comes back, if
    that share is not used up yet. Until then, a finding waits as long as it lasts. A notice is no
    reason. What comes back leaves half of the traces to others.

    Args:
        traces: Of the run that is continued.
        clock: Seconds.
        findings: Of the run that is continued, those that wait: numbers.
        last: A step to trace in any case, because it is known to be the last; None if none is.
    """

    def __init__(
        self,
        traces: int = 0,
        clock: Callable[[], float] = time.monotonic,
        findings: Iterable[int] = (),
        *,
        last: int | None = None,
    ) -> None:
        self._count = traces
        self._last_step = last
        self._clock = clock
        self._begin = clock()
        self._asked = self._traced = 0
        self._waiting = set(findings)
        self._free = FREE
        self._spent = self._last = 0.0
        self._is_free = True

    def findings(self, changes: Sequence[FindingChange]) -> None:
        """Want the next batch for what has begun, and none for what is over."""
        for change in changes:
            finding = change.finding
            is_first = len(finding.episodes) == 1 or self._count < MOST_TRACES // 2
            if change.change == "start" and finding.severity != "notice" and is_first:
                self._waiting.add(finding.number)
            elif change.change == "end":
                self._waiting.discard(finding.number)

    def wants(self, step: int) -> bool:
        """Whether the batch that begins is to be traced.

        Args:
            step: The optimizer step that it is part of.
        """
        is_first, self._asked = step != self._asked, step
        if step == self._traced or self._count >= MOST_TRACES:
            return False  # what has been found waits for the next step
        has_found = bool(self._waiting)
        is_due = is_first and (step & (step - 1) == 0 or step == self._last_step)
        self._is_free = step <= LAST_FREE or (has_found and self._free > 0)
        if self._is_free:
            return is_due or has_found
        limit = (self._clock() - self._begin) * MOST_SHARE
        is_due = is_due and (self._spent + self._last < limit or step == self._last_step)
        return is_due or (has_found and self._spent < limit)

    def note(self, step: int, seconds: float) -> None:
        """Note a trace, and how much longer the batch took for it."""
        self._count += 1
        self._traced, self._last = step, seconds
        self._waiting.clear()
        if not self._is_free:
            self._spent += seconds
        elif step > LAST_FREE:
            self._free -= 1

    def again(self) -> None:
        """Note that the last batches are repeated."""
        self._asked = 0
