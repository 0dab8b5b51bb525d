"""Shared use of a terminal by the live panel and everything else that a training prints.

Stand-ins replace the standard streams and print lines above the panel. Experiment loggers record
what is written to these streams: lines pass through the loggers, the panel bypasses them.

    training, log handlers
        | write
        v
    stand-in --- whole lines ---> logger, if any ---> terminal
        |                                                 ^
        +------- progress bar --> panel ------------------+
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
"""Seconds between two frames of Ultralytics' progress bar, so no need to draw more often."""

DRAWN_SHARE = 0.001
"""Share of the time that redrawing may take: a panel that takes 1 ms is drawn once a second."""

MOST_SECONDS = 5.0
"""Most seconds between two drawings, however slow the last one was."""

MOST_WAITED = 1.0
"""Most seconds that a thread waits for another one to finish writing and drawing."""

_TAKING_OVER = RLock()
"""Held while a screen checks whether the terminal is free, takes it over, or releases it."""


class Screen:
    """Draws a panel below everything that is printed, until it is closed.

    Args:
        panel: Panel to draw; its ``frame`` is set to that of the progress bar.
        handlers: Log handlers that write to the terminal.
        safely: Calls a function and keeps its exceptions from the training.

    Attributes:
        console: Console on the terminal.
        is_open: Whether the screen has taken over the terminal.
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
        self._costs = (0.0, 0.0)  # seconds of the last two drawings; the shorter one counts
        self.is_open = False

    def open(self) -> bool:
        """Take over the terminal; return False if another screen of this process has it."""
        with _TAKING_OVER:
            is_other = sys.stdout is not self._out  # replaced since this screen was created
            if is_other or (isinstance(sys.stdout, StandIn) and sys.stdout.is_drawn):
                return False
            self.is_open = True
            sys.stdout.flush()  # the panel may bypass its buffer
            self._live.start()
            self.console.show_cursor(show=True)  # a killed training must not leave it hidden
            self._stand_ins.take_over()
        return True

    def close(self) -> None:
        """Leave the last panel and release the terminal; a second call does nothing."""
        if not self.is_open:
            return
        with _TAKING_OVER:
            self._stand_ins.give_back()  # if it fails, the next call tries again
            self.is_open = False
        self._panel.frame = ""
        with ExitStack() as stack:  # runs every callback even if another one fails
            for stand_in in self._stand_ins.by_stream.values():
                stack.callback(stand_in.release)
            stack.callback(self._live.stop)
            self._live.refresh()

    @property
    def is_recorded(self) -> bool:
        """Whether a logger records what is printed; it does not get the panel."""
        out = sys.stdout
        is_ours = isinstance(out, StandIn) and out in self._stand_ins.by_stream.values()
        return not is_ours or "write" in vars(out) or not is_plain(self._out)

    def print(self, text: Text) -> None:
        """Print above the panel, through any logger that records standard output.

        A long line is wrapped by the terminal.
        """
        plain_console().print(text, soft_wrap=True)

    def put(self, text: Text, above: Console) -> None:
        """Write lines to the console of a stream, above the panel."""
        # panel shown -> erased -> lines printed in its place -> panel shown again below them
        # The lines go to the console of the stream, so that loggers record them, and rich can only
        # print above a panel on the same console. Printing may close the screen: then no panel.
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
        """Keep other threads out, but only for a while: a torn panel is better than a deadlock.

        A logger may hold its own lock while it writes to a stand-in or is written to.
        """
        is_alone = self._writing.acquire(timeout=MOST_WAITED)
        try:
            yield
        finally:
            if is_alone:
                self._writing.release()

    def redraw(self, seconds: float = REDRAW_SECONDS) -> None:
        """Redraw the panel if the last drawing is at least ``seconds`` ago, or longer if slow."""
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
        """Return whether the terminal is still there; close the screen if it was redirected."""
        if self.is_open and self._descriptor is not None and not is_direct(self._descriptor):
            self.console.file = io.StringIO()  # keep the last panel out of the redirected output
            self.close()
        return self.is_open

    def show_frame(self, frame: str) -> None:
        """Draw the frame of a progress bar inside the panel."""
        self._panel.frame = frame
        self.redraw(FRAME_SECONDS)
