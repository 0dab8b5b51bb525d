"""How many runs are read: a line with a bar, redrawn on a terminal and nowhere else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from yolo_gradwatch.views.terminal import console

if TYPE_CHECKING:
    from rich.console import Console

_CLEAR = "\r\x1b[K"
_SECONDS = 0.1
"""From one drawing to the next; what takes less is over before it is seen."""

_BAR = 30


class Reading:
    """Says on standard error how far the reading has come, if that is a terminal."""

    def __init__(self) -> None:
        self._out: Console = console.plain_console(on_stderr=True)
        self._drawn = time.monotonic()
        self._is_open = False

    def __call__(self, done: int, runs: int) -> None:
        """A run is read.

        Args:
            done: How many are.
            runs: How many there are.
        """
        now = time.monotonic()
        if self._out.is_terminal and now - self._drawn >= _SECONDS:
            self._drawn, self._is_open = now, True
            full = done * _BAR // runs
            bar = f"{'█' * full}{'░' * (_BAR - full)}"
            line = f"GradWatch: {done:,} of {runs:,} runs {bar}"
            self._write(f"{_CLEAR}{line[: self._out.width - 1]}")

    def close(self) -> None:
        """Remove the line."""
        if self._is_open:
            self._is_open = False
            self._write(_CLEAR)

    def _write(self, text: str) -> None:
        with console.forgiving(self._out):
            self._out.file.write(text)
            self._out.file.flush()
