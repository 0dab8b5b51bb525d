"""Stand-ins for ``sys.stdout``, ``sys.stderr`` and the streams of log handlers.

They print whole lines above the panel of a screen, and show the frame of Ultralytics' progress bar
inside it.
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
    """A stream that writes through a screen while it is open, and to the real stream afterwards.

    Args:
        screen: Screen above whose panel lines are printed.
        stream: Real stream.

    Attributes:
        stream: Real stream.
    """

    def __init__(self, screen: Screen, stream: Any) -> None:
        self._screen = screen
        self.stream = stream
        self._above = live_console(stream)
        self._process = os.getpid()
        self._line = ""  # text after the last newline
        self._frame = ""  # frame of the progress bar in the panel
        self._frame_is_over = False  # the bar was closed; its newline is still to come
        self._frame_is_newest = False  # nothing was written since the frame

    @property
    def is_drawn(self) -> bool:
        """Whether this process draws; a forked data loader worker does not."""
        return self._screen.is_open and os.getpid() == self._process

    def write(self, text: Any) -> int:
        """Print whole lines and keep the rest; text after a carriage return is a frame.

        Text that cannot be drawn, and anything that is not text, goes to the real stream, which
        then raises its usual errors.
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
        """Write each line."""
        for line in lines:
            self.write(line)

    def progress(self, bar: int, frame: str) -> None:
        """Show a frame of Ultralytics' progress bar; an empty one means that the bar closes."""
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
        """Write the unfinished line to the real stream."""
        line, self._line = self._line, ""
        self.stream.write(line)

    def _put(self, text: str) -> str:
        # The state is a pending line and a frame, either of which may be empty:
        #
        #   written        pending line      frame in the panel    printed above the panel
        #   "\rframe"      kept              replaced              -
        #   "\n", see (1)  kept              cleared               the frame
        #   "text\r"       cleared           line + text, see (2)  -
        #   "lines\nrest"  replaced by rest  kept                  line + lines
        #
        # (1) If there is a frame and the newline belongs to it: the bar was closed, the frame was
        #     written last, or there is no pending line that the newline could end.
        # (2) Shown, but not kept as a frame: the next text overwrites it, and no line is left.
        if (
            text == "\n"
            and self._frame
            and (self._frame_is_over or self._frame_is_newest or not self._line)
        ):
            self._end_frame()
        elif text.startswith("\r") and len(text) > 1 and not text.endswith("\n"):
            self._show(text)
        elif text.endswith("\r"):  # the next text overwrites this line
            self._show(self._line + text[:-1])
            self._line, self._frame = "", ""
        else:
            *lines, rest = (self._line + text).split("\n")
            self._line = ""  # printing may close the screen, which releases the pending line
            if lines:
                decode = AnsiDecoder().decode_line  # keeps the text after the last carriage return
                shown = [decode(line.rstrip("\r")) for line in lines]
                self._screen.put(Text("\n").join(shown), self._above)
            self._line = rest
            if not self.is_drawn:  # printing did close the screen
                self.release()
            self._frame_is_newest = False
        return text

    def _show(self, frame: str) -> None:
        self._frame = frame.rpartition("\r")[2].replace("\033[K", "")
        self._frame_is_newest = True
        self._screen.show_frame(self._frame)

    def _end_frame(self) -> None:
        """Print the last frame of a bar that is full or abandoned as a line."""
        line, self._frame, self._frame_is_over = self._frame, "", False
        pending, self._line = self._line, ""
        self._screen.show_frame("")
        self.write(f"{line}\n")  # a logger may have replaced this method to record lines
        self._line = pending


class StandIns:
    """The stand-ins of a screen, for the standard streams and for log handlers on the terminal.

    Args:
        screen: Screen above whose panel they print.
        handlers: Log handlers that write to the terminal.

    Attributes:
        by_stream: ``id`` of a stream -> its stand-in, in use or not.
    """

    def __init__(self, screen: Screen, handlers: Sequence[logging.StreamHandler[Any]]) -> None:
        self._screen = screen
        self._handlers = handlers
        self.by_stream: dict[int, StandIn] = {}

    def take_over(self) -> None:
        """Replace every stream that writes to the terminal by a stand-in."""
        out, err = sys.stdout, sys.stderr
        sys.stdout = self._of(out)
        if is_terminal(err):
            sys.stderr = self._of(err)
        for handler in self._handlers:
            if handler.stream is out or is_terminal(handler.stream):
                # setStream would flush first, and raise on a broken pipe
                handler.stream = self._of(handler.stream)

    def give_back(self) -> None:
        """Restore the streams, except where a logger has replaced the ``write`` of a stand-in."""
        unused = {
            id(one): one.stream for one in self.by_stream.values() if "write" not in vars(one)
        }
        for handler in self._handlers:
            handler.stream = unused.get(id(handler.stream), handler.stream)
        sys.stdout = unused.get(id(sys.stdout), sys.stdout)
        sys.stderr = unused.get(id(sys.stderr), sys.stderr)

    def _of(self, stream: Any) -> Any:
        return self.by_stream.setdefault(id(stream), StandIn(self._screen, stream))
