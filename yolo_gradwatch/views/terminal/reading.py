"""Progress of reading many runs: a bar that is redrawn on a terminal; nothing in a log."""

from __future__ import annotations

import time

from yolo_gradwatch.views.terminal.redrawn import RedrawnLine

_SECONDS = 0.1
"""Seconds between two drawings, and before the first."""

_BAR = 30


class Reading(RedrawnLine):
    """Shows on standard error how many runs have been read, if that is a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn = time.monotonic()

    def __call__(self, done: int, runs: int) -> None:
        """Show the progress after a run.

        Args:
            done: Number of runs read.
            runs: Number of runs to read.
        """
        now = time.monotonic()
        if self.out.is_terminal and now - self._drawn >= _SECONDS:
            self._drawn = now
            full = done * _BAR // runs
            bar = f"{'█' * full}{'░' * (_BAR - full)}"
            self.draw(f"GradWatch: {done:,} of {runs:,} runs {bar}")
