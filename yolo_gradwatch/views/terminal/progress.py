"""How far a check has come: a line that is redrawn on a terminal, a few lines in a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from yolo_gradwatch.views.terminal import console
from yolo_gradwatch.views.terminal.check import duration

if TYPE_CHECKING:
    from rich.console import Console

_CLEAR = "\r\x1b[K"
_IN_LOG = 10
"""Lines in a log, at the most."""


class Progress:
    """Says on standard error how many steps are done, and how long the others may take."""

    def __init__(self) -> None:
        self._out: Console = console.plain_console(on_stderr=True)
        self._tenth = -1
        self._is_open = False

    def __call__(self, done: int, steps: int, seconds: float) -> None:
        """A batch is over.

        Args:
            done: Optimizer steps.
            steps: How many there are to be.
            seconds: That the others may take.
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
        """Leave the line."""
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
