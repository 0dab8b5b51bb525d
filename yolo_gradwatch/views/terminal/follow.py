"""Live report of a training in another process, from its growing files."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from rich.live import Live
from rich.text import Text

from yolo_gradwatch.runs.find import find_run
from yolo_gradwatch.runs.meta import read_meta
from yolo_gradwatch.runs.run import is_killed
from yolo_gradwatch.runs.schema import META_FILE, WINDOWS_FILE, FormatError
from yolo_gradwatch.runs.tail import Tail
from yolo_gradwatch.views.judge import Judge
from yolo_gradwatch.views.terminal import console
from yolo_gradwatch.views.terminal.lines import change_line
from yolo_gradwatch.views.terminal.panel import Panel
from yolo_gradwatch.views.terminal.screen import Screen
from yolo_gradwatch.views.terminal.streams import is_live_terminal
from yolo_gradwatch.views.terminal.table import epoch_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from yolo_gradwatch.diagnose.finding import FindingChange
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.runs.tail import Look
    from yolo_gradwatch.views.live import Board

SECONDS = 0.5
"""Seconds between two looks at the files."""

WAIT_SECONDS = 600
"""Seconds between two log lines that say what is being waited for."""


def follow(
    path: Path, limits: Callable[[Thresholds], Thresholds], *, on_stderr: bool = False
) -> Path:
    """Show the live report of a training in another process, until it ends.

    Args:
        path: Folder of the run or one above; it need not exist yet.
        limits: Maps the thresholds of the training to those to judge under.
        on_stderr: Print changes to standard error and draw no panel.

    Returns:
        The folder of the run.

    Raises:
        FormatError: The files cannot be read, or the folder is gone.
    """
    is_live = is_live_terminal() and not on_stderr
    view = _Terminal() if is_live else _Log(on_stderr=on_stderr)
    try:
        folder = _awaited(path, view)
        view.say(Text(f"GradWatch is following {folder} (Ctrl+C to leave)", "dim"))
        _watch(folder, partial(Judge, folder, limits), view)
    finally:
        view.close()
    return folder


def _awaited(path: Path, view: _Terminal | _Log) -> Path:
    """Wait for a run and return its folder."""
    folder = _found(path)
    if folder is None:
        lack = "" if path.exists() else ", which does not exist yet"
        text = f"GradWatch is waiting for a watched run in {path}{lack} (Ctrl+C to leave)"
        with suppress(FormatError, OSError):
            text = f"{_over(path)} has ended; {text}"
        view.say(Text(text, "dim"))
    began = time.monotonic()
    was_there = False
    while folder is None:
        was_there |= path.exists()
        time.sleep(SECONDS)
        folder = _found(path)
        if folder is None:
            is_there = path.exists()
            if was_there and not is_there:
                raise FormatError(path, "the folder is gone, and it held no run")
            lack = "no training run is in progress" if is_there else "the path does not exist yet"
            view.wait(lack, time.monotonic() - began)
    return folder


def _over(path: Path) -> Path:
    """Return the newest run in a folder; `_found` has established that it is over.

    Raises:
        FormatError: There is no run.
    """
    folder = find_run(path)
    read_meta(folder)
    return folder


def _found(path: Path) -> Path | None:
    """Return the folder of the requested run; below a parent folder, the newest if it is running.

    None if there is no such run yet.
    """
    with suppress(FormatError, OSError):
        folder = find_run(path)
        if folder in {path, path.parent}:
            return folder if _has_files(folder) else None
        meta = read_meta(folder)
        if meta.status == "running" and not is_killed(meta):
            return folder
    return None


def _has_files(folder: Path) -> bool:
    return all((folder / name).exists() for name in (WINDOWS_FILE, META_FILE))


def _watch(folder: Path, judge_of: Callable[[Look], Judge], view: _Terminal | _Log) -> None:
    """Follow the files until the training is over."""
    tail = Tail(folder)
    judge: Judge | None = None
    changed = time.monotonic()
    while True:
        look = tail.look()
        if look:
            if judge is None or look.is_new:
                judge = judge_of(look)
            changed = time.monotonic() if look.windows or look.is_new else changed
            for part in look.by_epoch():
                if part.windows and judge.board.epoch not in {0, part.windows[0].epoch}:
                    view.end_epoch(judge.board)
                view.show(judge.board, judge.update(part), time.monotonic() - changed)
            if look.is_over:
                view.end_epoch(judge.board)
                return
        elif not folder.exists():
            raise FormatError(folder, "the folder is gone, and the run with it")
        else:
            view.wait("the files of the run are gone", time.monotonic() - changed)
        time.sleep(SECONDS)


class _Terminal:
    """Live panel with changes of findings printed above it."""

    def __init__(self) -> None:
        self._panel: Panel | None = None
        self._screen: Screen | None = None
        self._waiting: Live | None = None

    def say(self, text: Text) -> None:
        """Print a line before the panel opens."""
        self._end_wait()
        console.plain_console().print(text, soft_wrap=True)

    def wait(self, lack: str, seconds: float) -> None:
        """Show what is missing and for how long; at the bottom of the panel if there is one."""
        line = Text(f"waiting for {int(seconds)} s: {lack}", "dim", no_wrap=True)
        if self._panel and self._screen:
            self._panel.frame = line
            self._screen.redraw()
            return
        if self._waiting is None:
            out = console.live_console(sys.stdout)
            self._waiting = Live(
                console=out,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._waiting.start()
            out.show_cursor(show=True)  # a killed process must not leave it hidden
        self._waiting.update(line, refresh=True)

    def _end_wait(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting:
            waiting.stop()

    def show(self, board: Board, changes: list[FindingChange], quiet: float) -> None:
        """Update the panel; ``quiet`` is the number of seconds without a new window."""
        if self._panel is None or self._screen is None:
            self._panel = Panel(board)
            self._screen = Screen(self._panel, (), lambda call, *args: call(*args))
            self._screen.open()
        self._panel.board = board
        self._panel.frame = Text(_quiet(quiet), "dim")
        for one in changes:
            self._screen.print(console.fitted(change_line(one), self._screen.console))
        self._screen.redraw()

    def end_epoch(self, board: Board) -> None:
        """Do nothing: the panel continues."""

    def close(self) -> None:
        """Release the terminal."""
        self._end_wait()
        if self._screen:
            self._screen.close()


class _Log:
    """Log lines: changes of findings, and a table per epoch."""

    def __init__(self, *, on_stderr: bool) -> None:
        self.say = partial(console.plain_console(on_stderr=on_stderr).print, soft_wrap=True)
        self._said = 0

    def wait(self, lack: str, seconds: float) -> None:
        """Print what is missing and for how long, every `WAIT_SECONDS`."""
        times = int(seconds // WAIT_SECONDS)
        if times > self._said:
            self.say(f"GradWatch has been waiting for {int(seconds // 60)} min: {lack}")
        self._said = times

    def show(self, board: Board, changes: list[FindingChange], quiet: float) -> None:
        """Print the changes of findings."""
        del board, quiet
        for one in changes:
            self.say(change_line(one))

    def end_epoch(self, board: Board) -> None:
        """Print the table of an epoch, if it had a step."""
        if board.step:
            self.say(epoch_table(board))

    def close(self) -> None:
        """Do nothing: there is no terminal to release."""


def _quiet(seconds: float) -> str:
    minutes = int(seconds // 60)
    return (
        f"no new data for {minutes} min: a long step, or the training was killed" if minutes else ""
    )
