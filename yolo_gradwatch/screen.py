"""Shares a terminal between the live panel and whatever else a training prints.

A stand-in for ``sys.stdout`` and ``sys.stderr`` sends whole lines above the panel and keeps the
frame of Ultralytics' progress bar, which is drawn inside it.
"""

from __future__ import annotations

import os
import sys
import time
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence

    from yolo_gradwatch.console import Panel

REDRAW_SECONDS = 0.25
FRAME_SECONDS = 0.1
"""Ultralytics' bar has a new frame that often; a panel that is redrawn less makes it stutter."""


def is_live_terminal() -> bool:
    """Whether standard output is a terminal on which lines can be drawn anew."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in {"dumb", "unknown"}


class Screen:
    """Draws a panel below everything that is printed, until it is closed.

    Args:
        panel: What to draw; its ``frame`` is set to the progress bar's.
        handlers: Log handlers that write to the terminal.
        safely: Calls a function for a stream; what it raises must not reach the training.

    Attributes:
        console: What it prints to.
        is_open: Whether the terminal is taken over.
    """

    def __init__(
        self,
        panel: Panel,
        handlers: Sequence[logging.StreamHandler[Any]],
        safely: Callable[..., None],
    ) -> None:
        self.safely = safely
        self._panel = panel
        self._handlers = handlers
        self._streams = (sys.stdout, sys.stderr)
        self.console = Console(file=sys.stdout, force_terminal=True, highlight=False)
        self._live = Live(
            panel,
            console=self.console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._stand_ins: list[Any] = []
        self._drawn = 0.0
        self.is_open = False

    def open(self) -> None:
        """Take over the terminal."""
        out, err = self._streams
        self.is_open = True
        self._live.start()
        self.console.show_cursor(show=True)  # a killed training must not leave it hidden
        sys.stdout = self._stand_in(out)
        if err is not None and err.isatty():
            sys.stderr = self._stand_in(err)
        for handler in self._handlers:
            if handler.stream is out:
                handler.setStream(sys.stdout)

    def close(self) -> None:
        """Leave the last panel and give the terminal back; a second call does nothing."""
        if not self.is_open:
            return
        self.is_open = False
        out, err = self._streams
        for handler in self._handlers:
            if handler.stream in self._stand_ins:
                handler.setStream(out)
        if sys.stdout in self._stand_ins:
            sys.stdout = out
        if sys.stderr in self._stand_ins:
            sys.stderr = err
        self._panel.frame = Text()
        self._live.refresh()
        self._live.stop()
        for stand_in in self._stand_ins:
            stand_in.release()

    def print(self, text: Text) -> None:
        """Print above the panel; a long line is wrapped by the terminal."""
        self.console.print(text, soft_wrap=True)
        self._drawn = time.monotonic()

    def redraw(self, seconds: float = REDRAW_SECONDS) -> None:
        """Draw the panel anew if it was last drawn at least ``seconds`` ago."""
        now = time.monotonic()
        if now - self._drawn >= seconds:
            self._drawn = now
            self._live.refresh()

    def show_frame(self, frame: str) -> None:
        """Draw the frame of a progress bar inside the panel."""
        self._panel.frame = Text.from_ansi(frame)
        self._panel.frame.no_wrap = True
        self.redraw(FRAME_SECONDS)

    def _stand_in(self, stream: IO[str]) -> Any:
        self._stand_ins.append(_StandIn(self, stream))
        return self._stand_ins[-1]


class _StandIn:
    """A stream that writes through a screen while that is open, and to the real one after.

    Args:
        screen: Where whole lines go.
        stream: What it stands in for.
    """

    def __init__(self, screen: Screen, stream: IO[str]) -> None:
        self._screen = screen
        self._stream = stream
        self._line = ""
        self._frame = ""

    def write(self, text: str) -> int:
        """Print whole lines, keep what follows the last; a frame starts with a carriage return."""
        if not self._screen.is_open:
            return self._stream.write(text)
        self._screen.safely(self._put, text)
        return len(text)

    def progress(self, bar: int, frame: str) -> None:
        """Take a frame of Ultralytics' progress bar; an empty one, when it closes, is no news."""
        del bar
        if not self._screen.is_open:
            self._stream.write(frame)
        elif frame:
            self._screen.safely(self._put, frame)

    def flush(self) -> None:
        """Flush the real stream."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Whether the real stream is a terminal."""
        return self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def release(self) -> None:
        """Write what has no line end yet to the real stream."""
        self._stream.write(self._line)
        self._line = ""

    def _put(self, text: str) -> None:
        if text.startswith("\r") and not text.endswith("\n"):
            self._frame = text.rpartition("\r")[2].replace("\033[K", "")
            self._screen.show_frame(self._frame)
        elif text == "\n" and self._frame and not self._line:
            line, self._frame = self._frame, ""  # the bar is full: its last frame stays
            self._screen.show_frame("")
            self._screen.print(Text.from_ansi(line))
        else:
            *lines, self._line = (self._line + text).split("\n")
            if lines:
                self._screen.print(Text.from_ansi("\n".join(lines)))
