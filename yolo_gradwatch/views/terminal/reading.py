"""Progress of reading many runs: a bar that is redrawn on a terminal; nothing in a log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from yolo_gradwatch.views.terminal import console

if TYPE_CHECKING:
    from rich.console import Console

_CLEAR = "\r\x1b[K"
_SECONDS = 0.1
"""Seconds between two drawings, and before the first."""

_BAR = 30


class Reading:
    """Shows on standard error how many runs have been read, if that is a terminal."""

    def __init__(self) -> None:
        self._out: Console = console.plain_console(on_stderr=True)
        self._drawn = time.monotonic()
        self._is_open = False

    def __call__(self, done: int, runs: int) -> None:
        """Show the progress after a run.

        Args:
            done: Number of runs read.
            runs: Number of runs to read.
        """
        now = time.monotonic()
        if self._out.is_terminal and now - self._drawn >= _SECONDS:
            self._drawn, self._is_open = now, True
            full = done * _BAR // runs
            bar = f"{'█' * full}{'░' * (_BAR - full)}"
            line = f"GradWatch: {done:,} of {runs:,} runs {bar}"
            self._write(f"{_CLEAR}{line[: self._out.width - 1]}")

    def close(self) -> None:
        """Clear the line."""
        if self._is_open:
            self._is_open = False
            self._write(_CLEAR)

    def _write(self, text: str) -> None:
        with console.forgiving(self._out):
            self._out.file.write(text)
            self._out.file.flush()
