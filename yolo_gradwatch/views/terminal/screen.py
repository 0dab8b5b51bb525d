"""Shares a terminal between the live panel and whatever else a training prints.

Lines go above the panel, by stand-ins for the streams. Experiment loggers record what is written
to these streams: lines go through them, the panel goes past them to the terminal.
"""

from __future__ import annotations

import io
import sys
import time
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.text import Text

from yolo_gradwatch.views.terminal.console import live_console, plain_console
from yolo_gradwatch.views.terminal.stand_in import StandIn, StandIns
from yolo_gradwatch.views.terminal.streams import below, descriptor_of, is_direct, is_plain

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from yolo_gradwatch.views.terminal.panel import Panel

REDRAW_SECONDS = 0.25
FRAME_SECONDS = 0.1
"""Ultralytics' bar has a new frame that often; no need to draw it more often."""

DRAWN_SHARE = 0.005
"""Of the time, what redrawing may take: a panel that takes 5 ms is drawn once a second."""

MOST_SECONDS = 5.0
"""Between two drawings at the most, whatever the last one took."""

MOST_WAITED = 1.0
"""Seconds that a thread waits for another one to have written and drawn."""

_TAKING_OVER = RLock()
"""Held while a screen looks whether another one has the terminal, takes it, or gives it back."""


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
        self._out = sys.stdout
        terminal = below(sys.stdout)
        self._descriptor = None if terminal is None else descriptor_of(terminal)
        self.console = live_console(sys.stdout if terminal is None else terminal)
        self._live = Live(
            panel,
            console=self.console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._stand_ins = StandIns(self, handlers)
        self._writing = RLock()
        self._drawn = 0.0
        self._costs = (0.0, 0.0)  # seconds of the last two drawings: one may have been hindered
        self.is_open = False

    def open(self) -> bool:
        """Take over the terminal, unless another screen of this process has it."""
        with _TAKING_OVER:
            is_other = sys.stdout is not self._out  # it was taken or given back since
            if is_other or (isinstance(sys.stdout, StandIn) and sys.stdout.is_drawn):
                return False
            self.is_open = True
            sys.stdout.flush()  # the panel may go past it
            self._live.start()
            self.console.show_cursor(show=True)  # a killed training must not leave it hidden
            self._stand_ins.take_over()
        return True

    def close(self) -> None:
        """Leave the last panel and give the terminal back; a second call does nothing."""
        if not self.is_open:
            return
        with _TAKING_OVER:
            self._stand_ins.give_back()  # if it fails, the next call tries again
            self.is_open = False
        self._panel.frame = Text()
        with ExitStack() as stack:  # each is done, even if the one before fails
            for stand_in in self._stand_ins.by_stream.values():
                stack.callback(stand_in.release)
            stack.callback(self._live.stop)
            self._live.refresh()

    @property
    def is_recorded(self) -> bool:
        """Whether somebody records what is printed, who does not get to see the panel."""
        out = sys.stdout
        is_ours = isinstance(out, StandIn) and out in self._stand_ins.by_stream.values()
        return not is_ours or "write" in vars(out) or not is_plain(self._out)

    def print(self, text: Text) -> None:
        """Print above the panel, and to whoever records standard output by now.

        A long line is wrapped by the terminal.
        """
        plain_console().print(text, soft_wrap=True)

    def put(self, text: Text, above: Console) -> None:
        """Write lines to the console of a stream, above the panel."""
        with self._alone():
            if self._keeps_terminal():
                self._live.update(Text(), refresh=True)
            above.print(text, soft_wrap=True)
            if self.is_open:
                self.safely(self._bring_back)
        self._drawn = time.monotonic()

    def _bring_back(self) -> None:
        self._live.update(self._panel, refresh=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other threads out, for a while: a torn panel is better than a deadlock.

        A logger may hold a lock of its own while it writes to us or we write to it.
        """
        is_alone = self._writing.acquire(timeout=MOST_WAITED)
        try:
            yield
        finally:
            if is_alone:
                self._writing.release()

    def redraw(self, seconds: float = REDRAW_SECONDS) -> None:
        """Redraw the panel if it was last drawn at least ``seconds`` ago, or later if slow."""
        pause = min(min(self._costs) / DRAWN_SHARE, MOST_SECONDS)
        if self.is_open and time.monotonic() - self._drawn >= max(seconds, pause):
            self.draw()

    def draw(self) -> None:
        """Redraw the panel at once."""
        if not self._keeps_terminal():
            return
        begin = time.monotonic()
        with self._alone():
            self._live.refresh()
        self._drawn = time.monotonic()
        self._costs = (self._costs[1], self._drawn - begin)

    def _keeps_terminal(self) -> bool:
        """Whether there is a terminal to draw on: it is given up once it has been redirected."""
        if self.is_open and self._descriptor is not None and not is_direct(self._descriptor):
            self.console.file = io.StringIO()  # the last panel is not for who reads there
            self.close()
        return self.is_open

    def show_frame(self, frame: str) -> None:
        """Draw the frame of a progress bar inside the panel."""
        self._panel.frame = Text.from_ansi(frame)
        self._panel.frame.no_wrap = True
        self.redraw(FRAME_SECONDS)
