"""Follows a training that runs elsewhere, from its files as they grow."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.live import Live
from rich.text import Text

from yolo_gradwatch import console, runlog, tables
from yolo_gradwatch.board import Board
from yolo_gradwatch.causes import at_work
from yolo_gradwatch.clipping import CLIP_NORM
from yolo_gradwatch.diagnosis import Diagnosis, replay
from yolo_gradwatch.evidence import existing
from yolo_gradwatch.layout import watched_at
from yolo_gradwatch.review import (
    find_run,
    interval_of,
    is_killed,
    last_said,
    meta_of,
    thresholds_of,
)
from yolo_gradwatch.screen import Screen, is_live_terminal
from yolo_gradwatch.windows import narrowed, windows_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from yolo_gradwatch.event import Event
    from yolo_gradwatch.finding import News
    from yolo_gradwatch.layout import Layout
    from yolo_gradwatch.thresholds import Thresholds
    from yolo_gradwatch.windows import Window

SECONDS = 0.5
"""From one look at the files to the next."""

WAIT_SECONDS = 600
"""From one line of a log to the next that says what is waited for."""


def follow(
    path: Path, limits: Callable[[Thresholds], Thresholds], *, on_stderr: bool = False
) -> Path:
    """Show the live report of a training that runs elsewhere, until it ends.

    Args:
        path: The run's folder or one above; it need not exist yet.
        limits: Gives those to judge under from those of the training.
        on_stderr: Tell the news on standard error and draw no panel.

    Returns:
        The run's folder.

    Raises:
        runlog.FormatError: Its files cannot be read, or its folder is gone.
    """
    is_live = is_live_terminal() and not on_stderr
    view = _Terminal() if is_live else _Log(on_stderr=on_stderr)
    try:
        folder = _awaited(path, view)
        view.say(Text(f"GradWatch follows {folder} (Ctrl+C to leave)", "dim"))
        _watch(folder, partial(Judge, folder, limits), view)
    finally:
        view.close()
    return folder


def _awaited(path: Path, view: _Terminal | _Log) -> Path:
    """The folder of a run, once there is one."""
    folder = _found(path)
    if folder is None:
        lack = "" if path.exists() else ", which does not exist yet"
        text = f"GradWatch waits for a watched training in {path}{lack} (Ctrl+C to leave)"
        with suppress(runlog.FormatError, OSError):
            text = f"{_over(path)} is over, {text}"
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
                raise runlog.FormatError(f"{path}: the folder is gone, and no run was in it")
            lack = "no training that goes on" if is_there else "the path does not exist yet"
            view.wait(lack, time.monotonic() - began)
    return folder


def _over(path: Path) -> Path:
    """The newest run in a folder, which has ended.

    Raises:
        runlog.FormatError: There is none.
    """
    folder = find_run(path)
    meta_of(folder)
    return folder


def _found(path: Path) -> Path | None:
    """The folder of the run that is meant; in a folder above, the newest if it goes on."""
    with suppress(runlog.FormatError, OSError):
        folder = find_run(path)
        if folder in {path, path.parent}:
            return folder if _has_files(folder) else None
        meta, _ = meta_of(folder)
        if meta["status"] == "running" and not is_killed(meta):
            return folder
    return None


def _has_files(folder: Path) -> bool:
    return all((folder / name).exists() for name in (runlog.WINDOWS_FILE, runlog.META_FILE))


def _watch(folder: Path, judge_of: Callable[[Look], Judge], view: _Terminal | _Log) -> None:
    """Look until the training is over."""
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
            raise runlog.FormatError(f"{folder}: the folder is gone, and the run with it")
        else:
            view.wait("the files of the run are gone", time.monotonic() - changed)
        time.sleep(SECONDS)


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the files has found.

    Attributes:
        is_new: Whether a run begins with it: the first look, or other files than before.
        meta: The content of ``gradwatch.json``.
        layout: Of the model that is watched.
        windows: Those that were not there at the look before.
        is_killed: Whether the process of the training is gone without a word.
    """

    is_new: bool
    meta: dict[str, Any]
    layout: Layout
    windows: tuple[Window, ...]
    is_killed: bool = False

    @property
    def is_over(self) -> bool:
        """Whether the training has ended."""
        return self.is_killed or bool(self.meta["status"] != "running")

    def by_epoch(self) -> list[Look]:
        """The same in parts with the windows of one epoch each; one part if there are none."""
        groups = [tuple(group) for _, group in groupby(self.windows, lambda window: window.epoch)]
        return [replace(self, windows=windows) for windows in groups or [()]]

    @property
    def events(self) -> list[Event]:
        """The points at which the run began anew, those of all ``windows`` among them."""
        return runlog.events_of_meta(self.meta)


class _Known(NamedTuple):
    """What is known of the run that is followed, to distinguish it from another one."""

    layout: Layout
    thresholds: dict[str, Any]
    options: dict[str, Any]

    def continues(self, before: _Known) -> bool:
        """Whether this is the same run, which may have taken in layers that have thawed."""
        is_same = (self.thresholds, self.options) == (before.thresholds, before.options)
        has_all = set(before.layout.modules) <= set(self.layout.modules)
        return is_same and has_all and self.layout.blocks == before.layout.blocks


class Tail:
    """Reads what a training has added to its files.

    Reads bytes that are new, up to the end of the last whole window. The line before them is read
    again: if it has changed, somebody has begun another run in the folder.

    Args:
        folder: The run's folder; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / runlog.WINDOWS_FILE
        self._run: _Known | None = None
        self._end = 0
        self._line = b""
        self._names: tuple[str, ...] = ()
        self._meta_state: tuple[int, ...] = ()
        self._meta_read: tuple[dict[str, Any], Layout]

    def look(self) -> Look | None:
        """What is new; None as long as there is no run.

        Raises:
            runlog.FormatError: The files cannot be read, by this version or at all.
        """
        fresh = self._fresh()
        if fresh is None:
            return None
        # Read after the table: a training notes an event before the windows that follow it.
        try:
            meta, layout, is_gone = last_said(self._meta)
        except FileNotFoundError:
            return None
        run = _Known(layout, meta["thresholds"], meta["options"])
        is_new = self._run is None or not run.continues(self._run)
        self._run = run
        if is_new:
            self._end, self._line = 0, b""
        look = Look(is_new, meta, layout, (), is_killed=is_gone)
        if is_new or look.is_over:  # it may have grown up to its end
            fresh = self._fresh() or b""
        return replace(look, windows=self._windows(fresh, layout))

    def _meta(self) -> tuple[dict[str, Any], Layout]:
        """The content of ``gradwatch.json``, parsed once as long as it stays the same."""
        file = (self._folder / runlog.META_FILE).stat()
        state = (file.st_mtime_ns, file.st_size, file.st_ino)
        if state != self._meta_state:
            self._meta_read, self._meta_state = meta_of(self._folder), state
        return self._meta_read

    def _fresh(self) -> bytes | None:
        """What follows the last whole window that was read; None if there is no file."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._end - len(self._line))
                if file.read(len(self._line)) != self._line:
                    self._run, self._end, self._line = None, 0, b""
                    file.seek(0)
                return file.read()
        except FileNotFoundError:
            self._run, self._end, self._line = None, 0, b""
            return None
        except OSError as error:
            raise runlog.FormatError(
                f"{self._path}: {error.strerror}; is the folder still there?"
            ) from None

    def _windows(self, fresh: bytes, layout: Layout) -> tuple[Window, ...]:
        """The whole windows at the beginning of what was read."""
        content = self._line + fresh
        begin = 0 if self._line else content.find(b"\n") + 1
        if begin:
            header = content[: begin - 1]
            self._names = tables.checked_header(self._path, header, runlog.WINDOW_NEEDED)
        end = runlog.whole_windows(content, layout.modules[-1], self._names)
        if end <= max(begin, len(self._line)):
            return ()
        try:
            table = tables.parse(content[begin:end], self._names)
        except ValueError:
            raise runlog.FormatError(
                f"{self._path}: a line cannot be read; yolo-gradwatch review tells which"
            ) from None
        known = 1 if self._line else 0
        self._end += end - len(self._line)
        self._line = content[content.rfind(b"\n", 0, end - 1) + 1 : end]
        return tuple(windows_of(tables.grid_of(table[known:], layout)))


class Judge:
    """Judges a run that is growing, as its own training does.

    Args:
        folder: The run's folder.
        limits: Gives those to judge under from those of the training.
        look: The first one at the run.

    Attributes:
        board: What the panel shows.
    """

    def __init__(
        self, folder: Path, limits: Callable[[Thresholds], Thresholds], look: Look
    ) -> None:
        training = look.meta["options"]["training"]
        own = limits(thresholds_of(look.meta))
        self._layout = look.layout
        self._diagnosis = Diagnosis(look.layout, own, training, partial(existing, folder))
        self._events = 0
        first = look.windows[0].step_first if look.windows else 1
        self._shown = watched_at(look.layout, first)
        self.board = Board(
            self._shown,
            epochs=int(at_work(training, "epochs") or 0),  # type: ignore[call-overload]
            clip=float(training.get("clip", CLIP_NORM)),
            interval=interval_of(look.meta),
        )

    def update(self, look: Look) -> list[News]:
        """What the new windows change."""
        if look.layout != self._layout:
            self._layout = look.layout
            self._diagnosis.regroup(look.layout)
        for window in look.windows:
            self._show(window)
        due = [e for e in look.events if look.windows and e.step <= look.windows[-1].step_first]
        news = replay(self._diagnosis, look.windows, due[self._events :])
        self._events = max(self._events, len(due))
        self.board.show(self._diagnosis.findings.all.values())
        return news

    def _show(self, window: Window) -> None:
        """Take a window to the board, with the modules that were watched then."""
        watched = watched_at(self._layout, window.step_first)
        if watched.modules != self._shown.modules:
            self.board.regroup(watched)
        self._shown = watched
        self.board.add_window(narrowed(window, self._layout, watched))


class _Terminal:
    """The live panel, with what is told above it."""

    def __init__(self) -> None:
        self._panel: console.Panel | None = None
        self._screen: Screen | None = None
        self._waiting: Live | None = None

    def say(self, text: Text) -> None:
        """Print a line before the panel is there."""
        self._end_wait()
        console.plain_console().print(text, soft_wrap=True)

    def wait(self, lack: str, seconds: float) -> None:
        """Keep in sight what has been lacking for so long, below the panel if that is there."""
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

    def show(self, board: Board, news: list[News], quiet: float) -> None:
        """Bring the panel up to date; ``quiet`` seconds have passed without a window."""
        if self._panel is None or self._screen is None:
            self._panel = console.Panel(board)
            self._screen = Screen(self._panel, (), lambda call, *args: call(*args))
            self._screen.open()
        self._panel.board = board
        self._panel.frame = Text(_quiet(quiet), "dim")
        for one in news:
            self._screen.print(console.fitted(console.news_line(one), self._screen.console))
        self._screen.redraw()

    def end_epoch(self, board: Board) -> None:
        """The panel goes on."""

    def close(self) -> None:
        """Give the terminal back."""
        self._end_wait()
        if self._screen:
            self._screen.close()


class _Log:
    """News and a table an epoch, as lines."""

    def __init__(self, *, on_stderr: bool) -> None:
        self.say = partial(console.plain_console(on_stderr=on_stderr).print, soft_wrap=True)
        self._told = 0

    def wait(self, lack: str, seconds: float) -> None:
        """Say now and then what has been lacking for so long."""
        times = int(seconds // WAIT_SECONDS)
        if times > self._told:
            self.say(f"GradWatch still waits, for {int(seconds // 60)} min: {lack}")
        self._told = times

    def show(self, board: Board, news: list[News], quiet: float) -> None:
        """Print what is new."""
        del board, quiet
        for one in news:
            self.say(console.news_line(one))

    def end_epoch(self, board: Board) -> None:
        """Print the table of an epoch that had a step."""
        if board.step:
            self.say(console.epoch_table(board))

    def close(self) -> None:
        """There is nothing to give back."""


def _quiet(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"no news for {minutes} min: a long step, or the training was killed" if minutes else ""
