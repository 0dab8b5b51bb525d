"""Shares a terminal between the live panel and whatever else a training prints.

A stand-in for ``sys.stdout`` and ``sys.stderr`` sends whole lines above the panel and keeps the
frame of Ultralytics' progress bar, which is drawn inside it.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from threading import RLock
from typing import IO, TYPE_CHECKING, Any

from rich.ansi import AnsiDecoder
from rich.live import Live
from rich.text import Text

from yolo_gradwatch.console import live_console

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Sequence

    from yolo_gradwatch.console import Panel

REDRAW_SECONDS = 0.25
FRAME_SECONDS = 0.1
"""Ultralytics' bar has a new frame that often; no need to draw it more often."""

DRAWN_SHARE = 0.005
"""Of the time, what drawing anew may take: a panel that takes 5 ms is drawn once a second."""

MOST_SECONDS = 5.0
"""Between two drawings at the most, whatever the last one took."""

_TAKING_OVER = RLock()
"""Held while a screen looks whether another one has the terminal, takes it, or gives it back."""


def is_live_terminal() -> bool:
    """Whether standard output is a terminal on which lines can be drawn anew."""
    return _is_terminal(sys.stdout) and os.environ.get("TERM", "") not in {"dumb", "unknown"}


def draws_panel(live: bool | None) -> bool:  # noqa: FBT001  # an option of the user's
    """Whether to draw the panel: as the user says, or on a terminal only; never in a notebook.

    A notebook would show each drawing below the last one.
    """
    if type(sys.stdout).__module__.startswith("ipykernel."):
        return False
    return is_live_terminal() if live is None else live


def _is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal that can show the panel; a stand-in may lack every method."""
    try:
        "─█▁".encode(getattr(stream, "encoding", None) or "utf-8")
        return bool(stream.isatty())
    except (AttributeError, LookupError, ValueError):  # no such method, not UTF-8, or closed
        return False


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
        self.console = live_console()
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
        self._costs = (0.0, 0.0)  # seconds of the last two drawings: one may have been hindered
        self.is_open = False

    def open(self) -> bool:
        """Take over the terminal, unless another screen of this process has it."""
        with _TAKING_OVER:
            is_other = sys.stdout is not self._streams[0]  # it was taken or given back since
            if is_other or (isinstance(sys.stdout, _StandIn) and sys.stdout.is_drawn):
                return False
            self._take_over()
        return True

    def _take_over(self) -> None:
        out, err = self._streams
        self.is_open = True
        self._live.start()
        self.console.show_cursor(show=True)  # a killed training must not leave it hidden
        sys.stdout = self._stand_in(out)
        if _is_terminal(err):
            sys.stderr = self._stand_in(err)
        for handler in self._handlers:
            if handler.stream is out:
                handler.stream = sys.stdout  # setStream would flush, and fail where nobody reads

    def close(self) -> None:
        """Leave the last panel and give the terminal back; a second call does nothing."""
        if not self.is_open:
            return
        with _TAKING_OVER:
            self._give_back()
        self._panel.frame = Text()
        with ExitStack() as stack:  # each is done, even if the one before fails
            for stand_in in self._stand_ins:
                stack.callback(stand_in.release)
            stack.callback(self._live.stop)
            self._live.refresh()

    def _give_back(self) -> None:
        self.is_open = False
        out, err = self._streams
        for handler in self._handlers:
            if handler.stream in self._stand_ins:
                handler.stream = out
        if sys.stdout in self._stand_ins:
            sys.stdout = out
        if sys.stderr in self._stand_ins:
            sys.stderr = err

    def print(self, text: Text) -> None:
        """Print above the panel; a long line is wrapped by the terminal."""
        self.console.print(text, soft_wrap=True)
        self._drawn = time.monotonic()

    def redraw(self, seconds: float = REDRAW_SECONDS) -> None:
        """Draw the panel anew if it was last drawn at least ``seconds`` ago, or later if slow."""
        pause = min(min(self._costs) / DRAWN_SHARE, MOST_SECONDS)
        if time.monotonic() - self._drawn >= max(seconds, pause):
            self.draw()

    def draw(self) -> None:
        """Draw the panel anew at once."""
        begin = time.monotonic()
        self._live.refresh()
        self._drawn = time.monotonic()
        self._costs = (self._costs[1], self._drawn - begin)

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
        return self._stream.write(pending + text if pending else text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def progress(self, bar: int, frame: str) -> None:
        """Take a frame of Ultralytics' progress bar; an empty one says that the bar closes."""
        if not self.is_drawn:
            getattr(self._stream, "progress", lambda _bar, text: self._stream.write(text))(
                bar, frame
            )
        elif frame:
            self._screen.safely(self._show, frame)
        else:
            self._frame_is_over = True

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
        line, self._line = self._line, ""
        self._stream.write(line)

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
            *lines, self._line = (self._line + text).split("\n")
            if lines:
                decode = AnsiDecoder().decode_line  # keeps what follows the last carriage return
                shown = [decode(line.rstrip("\r")) for line in lines]
                self._screen.print(Text("\n").join(shown))
            self._frame_is_newest = False
        return text

    def _show(self, frame: str) -> None:
        self._frame = frame.rpartition("\r")[2].replace("\033[K", "")
        self._frame_is_newest = True
        self._screen.show_frame(self._frame)

    def _end_frame(self) -> None:
        """The bar is full or given up: its last frame stays as a line."""
        line, self._frame, self._frame_is_over = self._frame, "", False
        self._screen.show_frame("")
        self._screen.print(Text.from_ansi(line))
