"""Shares a terminal between the live panel and whatever else a training prints.

A stand-in for ``sys.stdout`` and ``sys.stderr`` sends whole lines above the panel and keeps the
frame of Ultralytics' progress bar, which is drawn inside it. Experiment loggers record what is
written to these streams: lines go through them, the panel goes past them to the terminal.
"""

from __future__ import annotations

import io
import os
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from threading import RLock
from typing import TYPE_CHECKING, Any

import psutil
from rich.ansi import AnsiDecoder
from rich.live import Live
from rich.text import Text

from yolo_gradwatch.console import live_console, plain_console

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from rich.console import Console

    from yolo_gradwatch.console import Panel

REDRAW_SECONDS = 0.25
FRAME_SECONDS = 0.1
"""Ultralytics' bar has a new frame that often; no need to draw it more often."""

DRAWN_SHARE = 0.005
"""Of the time, what drawing anew may take: a panel that takes 5 ms is drawn once a second."""

MOST_SECONDS = 5.0
"""Between two drawings at the most, whatever the last one took."""

MOST_WAITED = 1.0
"""Seconds that a thread waits for another one to have written and drawn."""

_TAKING_OVER = RLock()
"""Held while a screen looks whether another one has the terminal, takes it, or gives it back."""

HOSTED_NOTEBOOKS = ("COLAB_RELEASE_TAG", "COLAB_GPU", "KAGGLE_KERNEL_RUN_TYPE")
"""Variables of machines that exist to run notebooks; a terminal on them may have them, too."""

_KERNEL = {"TERM": "xterm-color", "GIT_PAGER": "cat"}
"""What ipykernel (7.4) sets for the commands of its cells, also where no Jupyter started it."""


def is_live_terminal() -> bool:
    """Whether standard output is a terminal on which lines can be drawn anew."""
    return (
        _is_terminal(sys.stdout)
        and _below(sys.stdout) is not None
        and os.environ.get("TERM", "") not in {"dumb", "unknown"}
        and not is_notebook()
        and not any(name in os.environ for name in HOSTED_NOTEBOOKS)
    )


def draws_panel(live: bool | None) -> bool:  # noqa: FBT001  # an option of the user's
    """Whether to draw the panel: as the user says, or on a terminal only; never in a notebook.

    A notebook would show each drawing below the last one.
    """
    return not is_notebook() and (is_live_terminal() if live is None else live)


def is_notebook() -> bool:
    """Whether a notebook shows the output: of this process, or of a command in one of its cells.

    ``!command`` runs on a pseudo-terminal, but what it writes ends up in the cell, which obeys no
    cursor movement. A terminal of JupyterLab is started by the server and has none of these marks.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is not None and not _is_terminal_shell(shell):
        return True
    return any(map(_is_of_kernel, (os.environ, *_environments_above())))


def _is_of_kernel(environment: Mapping[str, str]) -> bool:
    """Whether a process with these variables is a kernel of a notebook, or was started by one."""
    is_below_kernel = all(environment.get(name) == value for name, value in _KERNEL.items())
    return is_below_kernel or "JPY_PARENT_PID" in environment


def _environments_above() -> Iterator[Mapping[str, str]]:
    """Of the processes that have led to this one, as far as the system tells.

    ``!sudo`` and ``!env -i`` hand no variables on.
    """
    with suppress(psutil.Error, OSError, RuntimeError):
        for process in psutil.Process().parents():
            with suppress(psutil.Error, OSError, RuntimeError):
                yield process.environ()


def _is_terminal_shell(shell: Any) -> bool:
    """Whether this shell of IPython's is the one of ``ipython`` in a terminal."""
    kind = getattr(
        sys.modules.get("IPython.terminal.interactiveshell"), "TerminalInteractiveShell", None
    )
    return kind is not None and isinstance(shell, kind)


def _is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal that can show the panel; a stand-in may lack every method."""
    try:
        "─█▁".encode(getattr(stream, "encoding", None) or "utf-8")
        return bool(stream.isatty())
    except (AttributeError, LookupError, ValueError):  # no such method, not UTF-8, or closed
        return False


def _is_plain(stream: Any) -> bool:
    """Whether what is written to a stream is seen by nobody in this process.

    Loggers put an object of their own in its place (Comet, ClearML, Ultralytics' platform), or a
    function in the place of its ``write`` (W&B, ClearML).
    """
    return isinstance(stream, io.TextIOBase) and "write" not in getattr(stream, "__dict__", {})


def _below(stream: Any) -> Any | None:
    """The terminal that a stream writes to, past everybody who records it; None if there is none.

    There is none where a descriptor has been redirected (W&B's ``console="redirect"``, Comet's
    native mode): what is read from there reaches the terminal later, on another thread.
    """
    descriptor = _descriptor(stream)
    if _is_plain(stream):
        return stream if descriptor is None or _is_direct(descriptor) else None
    if descriptor is None:  # a stand-in that has only what Ultralytics needs
        descriptor = _descriptor(sys.__stdout__)
    if descriptor is None or not _is_direct(descriptor):
        return None
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return open(descriptor, "w", encoding=encoding, closefd=False)


def _descriptor(stream: Any) -> int | None:
    try:
        return int(stream.fileno())
    except (AttributeError, OSError, TypeError, ValueError):  # no such method, no file, or closed
        return None


def _is_direct(descriptor: int) -> bool:
    """Whether this is the terminal itself: the only one among the standard descriptors."""
    terminals = {os.fstat(n).st_rdev for n in (0, 1, 2, descriptor) if os.isatty(n)}
    return os.isatty(descriptor) and len(terminals) == 1


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
        below = _below(sys.stdout)
        self._descriptor = None if below is None else _descriptor(below)
        self.console = live_console(sys.stdout if below is None else below)
        self._live = Live(
            panel,
            console=self.console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._stand_ins: dict[int, _StandIn] = {}  # by the identity of the stream
        self._writing = RLock()
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
        out.flush()  # the panel may go past it
        self._live.start()
        self.console.show_cursor(show=True)  # a killed training must not leave it hidden
        sys.stdout = self._stand_in(out)
        if _is_terminal(err):
            sys.stderr = self._stand_in(err)
        for handler in self._handlers:
            if handler.stream is out or _is_terminal(handler.stream):
                # setStream would flush, and fail where nobody reads
                handler.stream = self._stand_in(handler.stream)

    def close(self) -> None:
        """Leave the last panel and give the terminal back; a second call does nothing."""
        if not self.is_open:
            return
        with _TAKING_OVER:
            self._give_back()
        self._panel.frame = Text()
        with ExitStack() as stack:  # each is done, even if the one before fails
            for stand_in in self._stand_ins.values():
                stack.callback(stand_in.release)
            stack.callback(self._live.stop)
            self._live.refresh()

    def _give_back(self) -> None:
        """Take the stand-ins away, but not from a logger that has replaced their ``write``."""
        self.is_open = False
        stand_ins = self._stand_ins.values()
        unused = {id(one): one.stream for one in stand_ins if "write" not in vars(one)}
        for handler in self._handlers:
            handler.stream = unused.get(id(handler.stream), handler.stream)
        sys.stdout = unused.get(id(sys.stdout), sys.stdout)
        sys.stderr = unused.get(id(sys.stderr), sys.stderr)

    @property
    def is_recorded(self) -> bool:
        """Whether somebody records what is printed, who does not get to see the panel."""
        out = sys.stdout
        is_ours = isinstance(out, _StandIn) and out in self._stand_ins.values()
        return not is_ours or "write" in vars(out) or not _is_plain(self._streams[0])

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
        """Draw the panel anew if it was last drawn at least ``seconds`` ago, or later if slow."""
        pause = min(min(self._costs) / DRAWN_SHARE, MOST_SECONDS)
        if self.is_open and time.monotonic() - self._drawn >= max(seconds, pause):
            self.draw()

    def draw(self) -> None:
        """Draw the panel anew at once."""
        if not self._keeps_terminal():
            return
        begin = time.monotonic()
        with self._alone():
            self._live.refresh()
        self._drawn = time.monotonic()
        self._costs = (self._costs[1], self._drawn - begin)

    def _keeps_terminal(self) -> bool:
        """Whether there is a terminal to draw on: it is given up once it has been redirected."""
        if self.is_open and self._descriptor is not None and not _is_direct(self._descriptor):
            self.console.file = io.StringIO()  # the last panel is not for who reads there
            self.close()
        return self.is_open

    def show_frame(self, frame: str) -> None:
        """Draw the frame of a progress bar inside the panel."""
        self._panel.frame = Text.from_ansi(frame)
        self._panel.frame.no_wrap = True
        self.redraw(FRAME_SECONDS)

    def _stand_in(self, stream: Any) -> Any:
        return self._stand_ins.setdefault(id(stream), _StandIn(self, stream))


class _StandIn:
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
