"""A line on standard error that is redrawn in place on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.views.terminal import console

if TYPE_CHECKING:
    from rich.console import Console

_CLEAR = "\r\x1b[K"


class RedrawnLine:
    """Draws a line over the one before it; a failing stream is ignored."""

    def __init__(self) -> None:
        self.out: Console = console.plain_console(on_stderr=True)
        self._is_open = False

    def draw(self, line: str) -> None:
        """Replace the line, cut to the width of the terminal."""
        self._is_open = True
        self._write(f"{_CLEAR}{line[: self.out.width - 1]}")

    def close(self) -> None:
        """Clear the line."""
        if self._is_open:
            self._is_open = False
            self._write(_CLEAR)

    def _write(self, text: str) -> None:
        with console.forgiving(self.out):
            self.out.file.write(text)
            self.out.file.flush()
