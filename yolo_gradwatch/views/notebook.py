"""Live report in a notebook: an HTML display that is updated in place."""

from __future__ import annotations

import logging
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

from yolo_gradwatch.runs.outputs import OutputBase
from yolo_gradwatch.runs.run import load_run
from yolo_gradwatch.runs.schema import PICTURE_FILE, FormatError
from yolo_gradwatch.runs.tail import Tail
from yolo_gradwatch.views.html import live as pages
from yolo_gradwatch.views.judge import Judge
from yolo_gradwatch.views.live import Board
from yolo_gradwatch.views.terminal.streams import kernel_display

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from yolo_gradwatch.diagnose.finding import Finding, FindingChange
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.measure.arrays import Floats
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.sample import Sample
    from yolo_gradwatch.runs.outputs import RunInfo
    from yolo_gradwatch.runs.tail import Look
    from yolo_gradwatch.views.html.live import Page

_LOG = logging.getLogger(__name__)

SECONDS = 1.0
"""Least seconds between two updates of a display."""

DRAWN_SHARE = 0.005
"""Share of the training time that updates may take."""

MOST_SECONDS = 5.0
"""Most seconds between two updates, however slow the last one was."""

QUIET_SECONDS = 60.0
"""Seconds without a new window after which a view of files says so."""


class View:
    """A notebook display, shown in the cell that requested it last.

    Each such cell gets a new display id: nbclient, which executes and saves notebooks, cannot find
    a display in an earlier cell whose streams it has merged.

    Attributes:
        page: Page that is shown; None before the first.
        is_shown: Whether a cell shows the display.
        is_asked: Whether the user has requested it, in a separate cell.
    """

    def __init__(self) -> None:
        self._id = ""
        self.page: Page | None = None
        self.is_shown = False
        self.is_asked = False

    def show(self, page: Page | None = None) -> bool:
        """Move the display to the running cell; return False if there is no notebook.

        Args:
            page: Page to show; the current one by default.
        """
        door = kernel_display()
        if door is None:
            return False
        self.page = page or self.page
        self._id = f"gradwatch-{uuid.uuid4().hex}"
        door.display(_data(self.page or pages.waiting()), raw=True, display_id=self._id)
        self.is_shown = True
        return True

    def draw(self, page: Page) -> None:
        """Update the display in place."""
        self.page = page
        door = kernel_display() if self.is_shown else None
        if door:
            door.update_display(_data(page), raw=True, display_id=self._id)


class Notebook(OutputBase):
    """Output that shows a training in a notebook while it runs, and its report at the end.

    The display is created before Ultralytics' first progress bar, so it is at the top of the cell's
    output.

    Args:
        view: Display to use.
        live: False shows the training only if the user has requested the view.

    Attributes:
        picture: PNG file of the run, once it is drawn.
        is_drawn: Whether the training is shown.
    """

    def __init__(self, view: View, *, live: bool | None) -> None:
        self._view = view
        self._live = live
        self._findings: dict[int, Finding] = {}
        self._report: Report | None = None
        self._drawn = 0.0
        self._costs = (0.0, 0.0)  # seconds of the last two updates; the shorter one counts
        self.picture: Path | None = None
        self.is_drawn = False

    def start(self, run: RunInfo) -> None:
        """Create the display, unless the user has requested it in another cell."""
        self._board = Board(run.layout, epochs=run.epochs, clip=run.clip, interval=run.interval)
        page = pages.running(self._board, ())
        if self._view.is_asked:
            self.is_drawn = self._view.is_shown
            self._view.draw(page)
        elif self._live is not False:
            self.is_drawn = self._view.show(page)

    def epoch_start(self, epoch: int, epochs: int) -> None:
        """Update the planned number of epochs."""
        del epoch
        self._board.epochs = epochs

    def steps(self, samples: Sequence[Sample], norms: Floats) -> None:
        """Add steps, and update the display if the last update was long enough ago."""
        self._board.add(samples, norms)
        pause = min(min(self._costs) / DRAWN_SHARE, MOST_SECONDS)
        begin = time.monotonic()
        if self.is_drawn and begin - self._drawn >= max(SECONDS, pause):
            self._view.draw(pages.running(self._board, self._findings.values()))
            self._drawn = time.monotonic()
            self._costs = (self._costs[1], self._drawn - begin)

    def findings(self, changes: Sequence[FindingChange]) -> None:
        """Keep the changed findings for the next update."""
        self._findings.update({change.finding.number: change.finding for change in changes})
        self._board.show(self._findings.values())

    def regroup(self, layout: Layout) -> None:
        """Add the blocks of thawed layers."""
        self._board.regroup(layout)

    def end(self, report: Report) -> None:
        """Show the final report."""
        self._report = report
        if self.is_drawn:
            self._view.draw(pages.ended(report, self._board))

    def close(self) -> None:
        """Leave the final page, now with the picture of the run if there is one."""
        was_drawn, self.is_drawn = self.is_drawn, False
        if was_drawn and self._report:
            with suppress(OSError):  # the picture has been deleted
                self._view.draw(pages.ended(self._report, self._board, self.picture))
        elif was_drawn:
            note = "GradWatch ended before the training; this is the last state it saw."
            self._view.draw(pages.running(self._board, self._findings.values(), note))


def show_report(view: View, report: Report) -> None:
    """Show a report in a view, in the running cell."""
    view.draw(pages.ended(report, picture=_picture(report.run)))
    show_here(view)


def show_here(view: View) -> None:
    """Show a view in the running cell, or warn that there is none."""
    view.is_asked = True
    if not view.show():
        _LOG.warning("GradWatch: view() shows nothing here: this code does not run in a notebook")


def show_files(folder: Path) -> None:
    """Show a run from its files in the running cell, until its training is over.

    Raises:
        FormatError: The files are gone or cannot be read.
    """
    view = View()
    show_here(view)
    if not view.is_shown:
        return
    with suppress(KeyboardInterrupt):  # the notebook's stop button; the last state stays
        board = _follow(folder, view)
        view.draw(pages.ended(load_run(folder).report(), board, _picture(folder)))


def _picture(folder: Path) -> Path | None:
    """Return the picture in a run's folder, if there is one."""
    picture = folder / PICTURE_FILE
    return picture if picture.is_file() else None


def _follow(folder: Path, view: View) -> Board:
    """Show a run as its files grow; return its last numbers when it is over."""
    tail, judge, changed = Tail(folder), None, time.monotonic()
    while True:
        look = tail.look()
        if look is None:
            raise FormatError(folder, "the files of the run are gone")
        if judge is None or look.is_new:
            judge = Judge(folder, lambda own: own, look)
        changed = time.monotonic() if look.windows or look.is_new else changed
        _judge(judge, look)
        if look.is_over:
            return judge.board
        view.draw(pages.running(judge.board, judge.findings, _quiet(time.monotonic() - changed)))
        time.sleep(SECONDS)


def _judge(judge: Judge, look: Look) -> None:
    for part in look.by_epoch():
        judge.update(part)


def _quiet(seconds: float) -> str:
    if seconds < QUIET_SECONDS:
        return ""
    return f"No new data for {int(seconds // 60)} min: a long step, or the training was killed."


def _data(page: Page) -> dict[str, str]:
    return {"text/html": page.html, "text/plain": page.text}
