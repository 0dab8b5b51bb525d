"""Progress of a check: a line that is redrawn on a terminal, a few lines in a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from yolo_gradwatch.views.terminal import console
from yolo_gradwatch.views.terminal.check import duration

if TYPE_CHECKING:
    from rich.console import Console

_CLEAR = "\r\x1b[K"
_IN_LOG = 10
"""Most lines in a log."""


class Progress:
    """Reports the completed steps and the remaining time on standard error."""

    def __init__(self) -> None:
        self._out: Console = console.plain_console(on_stderr=True)
        self._tenth = -1
        self._is_open = False

    def __call__(self, done: int, steps: int, seconds: float) -> None:
        """Report the progress after a batch.

        Args:
            done: Completed optimizer steps.
            steps: Planned optimizer steps.
            seconds: Estimated remaining time.
        """
        left = f", about {duration(seconds)} left" if done < steps else ""
        line = f"GradWatch check: {done:,} of {steps:,} optimizer steps{left}"
        if self._out.is_terminal:
            self._is_open = True
            self._write(f"{_CLEAR}{line[: self._out.width - 1]}")
        elif (tenth := done * _IN_LOG // steps) > self._tenth:
            self._tenth = tenth
            self._print(line)

    def close(self) -> None:
        """Clear the line."""
        if self._is_open:
            self._is_open = False
            self._write(_CLEAR)

    def _print(self, line: str) -> None:
        with console.forgiving(self._out):
            self._out.print(Text(line), soft_wrap=True)

    def _write(self, text: str) -> None:
        with console.forgiving(self._out):
            self._out.file.write(text)
            self._out.file.flush()
