"""Streams that take the place of ``sys.stdout``, ``sys.stderr`` and those of log handlers.

Whole lines go above the panel of a screen, and the frame of Ultralytics' progress bar into it.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from rich.ansi import AnsiDecoder
from rich.text import Text

from yolo_gradwatch.views.terminal.console import live_console
from yolo_gradwatch.views.terminal.streams import is_terminal

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable, Sequence

    from yolo_gradwatch.views.terminal.screen import Screen


class StandIn:
    """A stream that writes through a screen while that is open, and to the real one after.

    Args:
        screen: Above whose panel whole lines go.
        stream: What it stands in for.

    Attributes:
        stream: What it stands in for.
    """

    def __init__(self, screen: Screen, stream: Any) -> None:
        self._screen = screen
        self.stream = stream
        self._above = live_console(stream)
        self._process = os.getpid()
        self._line = ""
        self._frame = ""
        self._frame_is_over = False
        self._frame_is_newest = False

    @property
    def is_drawn(self) -> bool:
        """Whether this process draws; a worker of the data loader that was forked does not."""
        return self._screen.is_open and os.getpid() == self._process

    def write(self, text: Any) -> int:
        """Print whole lines, keep what follows the last; a frame starts with a carriage return.

        Anything but text goes to the real stream, which raises as it would without us, and so does
        what cannot be drawn.
        """
        drawn: list[str] = []
        pending = self._line
        if self.is_drawn and isinstance(text, str):
            self._screen.safely(lambda: drawn.append(self._put(text)))
        if drawn:
            return len(text)
        self._line = ""
        written: int = self.stream.write(pending + text if pending else text)
        return written

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def progress(self, bar: int, frame: str) -> None:
        """Take a frame of Ultralytics' progress bar; an empty one says that the bar closes."""
        if not self.is_drawn:
            getattr(self.stream, "progress", lambda _bar, text: self.stream.write(text))(bar, frame)
        elif frame:
            self._screen.safely(self._show, frame)
        else:
            self._frame_is_over = True

    def flush(self) -> None:
        """Flush the real stream."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Whether the real stream is a terminal."""
        return bool(self.stream.isatty())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def release(self) -> None:
        """Write what has no line end yet to the real stream."""
        line, self._line = self._line, ""
        self.stream.write(line)

    def _put(self, text: str) -> str:
        if (
            text == "\n"
            and self._frame
            and (self._frame_is_over or self._frame_is_newest or not self._line)
        ):
            self._end_frame()
        elif text.startswith("\r") and len(text) > 1 and not text.endswith("\n"):
            self._show(text)
        elif text.endswith("\r"):  # what is printed next overwrites the line
            self._show(self._line + text[:-1])
            self._line, self._frame = "", ""
        else:
            *lines, rest = (self._line + text).split("\n")
            self._line = ""  # it may be released while the lines are put
            if lines:
                decode = AnsiDecoder().decode_line  # keeps what follows the last carriage return
                shown = [decode(line.rstrip("\r")) for line in lines]
                self._screen.put(Text("\n").join(shown), self._above)
            self._line = rest
            if not self.is_drawn:
                self.release()
            self._frame_is_newest = False
        return text

    def _show(self, frame: str) -> None:
        self._frame = frame.rpartition("\r")[2].replace("\033[K", "")
        self._frame_is_newest = True
        self._screen.show_frame(self._frame)

    def _end_frame(self) -> None:
        """The bar is full or given up: its last frame stays as a line."""
        line, self._frame, self._frame_is_over = self._frame, "", False
        pending, self._line = self._line, ""
        self._screen.show_frame("")
        self.write(f"{line}\n")  # by what a logger may have put in its place
        self._line = pending


class StandIns:
    """Those of one screen, for the standard streams and for log handlers on the terminal.

    Args:
        screen: Above whose panel they write.
        handlers: Log handlers that write to the terminal.

    Attributes:
        by_stream: All of them, in use or not, by the identity of the stream.
    """

    def __init__(self, screen: Screen, handlers: Sequence[logging.StreamHandler[Any]]) -> None:
        self._screen = screen
        self._handlers = handlers
        self.by_stream: dict[int, StandIn] = {}

    def take_over(self) -> None:
        """Put a stand-in in the place of every stream that writes to the terminal."""
        out, err = sys.stdout, sys.stderr
        sys.stdout = self._of(out)
        if is_terminal(err):
            sys.stderr = self._of(err)
        for handler in self._handlers:
            if handler.stream is out or is_terminal(handler.stream):
                # setStream would flush, and fail where nobody reads
                handler.stream = self._of(handler.stream)

    def give_back(self) -> None:
        """Take them away, but not from a logger that has replaced their ``write``."""
        unused = {
            id(one): one.stream for one in self.by_stream.values() if "write" not in vars(one)
        }
        for handler in self._handlers:
            handler.stream = unused.get(id(handler.stream), handler.stream)
        sys.stdout = unused.get(id(sys.stdout), sys.stdout)
        sys.stderr = unused.get(id(sys.stderr), sys.stderr)

    def _of(self, stream: Any) -> Any:
        return self.by_stream.setdefault(id(stream), StandIn(self._screen, stream))
