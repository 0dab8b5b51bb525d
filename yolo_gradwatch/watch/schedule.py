"""Decides which batches are traced through the modules."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from yolo_gradwatch.runs.outputs import OutputBase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from yolo_gradwatch.diagnose.finding import FindingChange

MOST_TRACES = 40
"""Maximum number of traces in a run."""

LAST_FREE = 64
"""Last optimizer step whose traces do not count against the time budget."""

MOST_SHARE = 0.002
"""Share of the training time that later traces may take, except for the free ones."""

FREE = 4
"""Later traces for findings that are free of the time budget: the user is waiting for a cause."""


class Schedule(OutputBase):
    """Selects the first batch of optimizer steps 1, 2, 4, 8, ..., and the one after a finding.

    A step is traced at most once. After `LAST_FREE`, a power of two is traced if the cost of the
    last trace still fits into `MOST_SHARE`; the batch after a finding begins or returns, if that
    share is not used up yet. Otherwise the finding waits for as long as it is active. Notices do
    not count. Findings that return leave half of the traces to new ones.

    Args:
        traces: Number of traces in the continued run.
        clock: Returns seconds.
        findings: Numbers of findings in the continued run that wait for a trace.
        last: Step to trace in any case, as it is known to be the last; None if unknown.
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
        """Request the next batch for findings that begin; withdraw it for those that end."""
        for change in changes:
            finding = change.finding
            is_first = len(finding.episodes) == 1 or self._count < MOST_TRACES // 2
            if change.change == "start" and finding.severity != "notice" and is_first:
                self._waiting.add(finding.number)
            elif change.change == "end":
                self._waiting.discard(finding.number)

    def wants(self, step: int) -> bool:
        """Return whether to trace the batch that begins.

        Args:
            step: The optimizer step that it is part of.
        """
        is_first, self._asked = step != self._asked, step
        if step == self._traced or self._count >= MOST_TRACES:
            return False  # waiting findings wait for the next step
        has_found = bool(self._waiting)
        is_due = is_first and (step & (step - 1) == 0 or step == self._last_step)
        self._is_free = step <= LAST_FREE or (has_found and self._free > 0)
        if self._is_free:
            return is_due or has_found
        limit = (self._clock() - self._begin) * MOST_SHARE
        is_due = is_due and (self._spent + self._last < limit or step == self._last_step)
        return is_due or (has_found and self._spent < limit)

    def note(self, step: int, seconds: float) -> None:
        """Record a trace and the extra seconds that the batch took."""
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
