"""Live report: a panel if standard output is a terminal, tables in a log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from rich.text import Text

from yolo_gradwatch.measure.kept import LAST_HEALTHY
from yolo_gradwatch.runs.healthy import is_kept
from yolo_gradwatch.runs.outputs import OutputBase
from yolo_gradwatch.runs.schema import DEPTH_FILE, PICTURE_FILE, RUN_FILES
from yolo_gradwatch.views.live import Board
from yolo_gradwatch.views.terminal import console, lines
from yolo_gradwatch.views.terminal.glyphs import encodable
from yolo_gradwatch.views.terminal.panel import Panel
from yolo_gradwatch.views.terminal.screen import Screen
from yolo_gradwatch.views.terminal.streams import draws_panel
from yolo_gradwatch.views.terminal.table import epoch_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from yolo_gradwatch.diagnose.finding import Finding, FindingChange
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.measure.arrays import Floats
    from yolo_gradwatch.measure.clipping import EpochClipping
    from yolo_gradwatch.measure.kept import Kept
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.sample import Sample
    from yolo_gradwatch.runs.outputs import RunInfo

_LOG = logging.getLogger(__name__)


class Terminal(OutputBase):
    """Output that shows a training live, and its report at the end.

    Args:
        live: Whether to draw the panel; None draws it if standard output is a terminal.
        handlers: Log handlers that write to the terminal.
        no_panel: Why this training cannot have a panel; "" if it can.
        safely: Calls a function and keeps its exceptions from the training.

    Attributes:
        beside: Returns whether another output, such as a notebook, shows the training and its
            findings in full: no tables are then printed, and lines on findings are held back until
            the end of the epoch.
    """

    def __init__(
        self,
        *,
        live: bool | None,
        handlers: Sequence[logging.StreamHandler[Any]],
        no_panel: str = "",
        safely: Callable[..., None],
    ) -> None:
        self._live = live
        self._handlers = handlers
        self._no_panel = no_panel
        self._safely = safely
        self._screen: Screen | None = None
        self._findings: dict[int, Finding] = {}
        self._held: list[Text] = []
        self.beside: Callable[[], bool] = lambda: False
        self._has_ended = False
        self._kept: Kept | None = None

    def start(self, run: RunInfo) -> None:
        """Open the panel, unless another training uses the terminal."""
        self._folder = run.folder
        self._modules = len(run.layout.modules)
        self._board = Board(run.layout, epochs=run.epochs, clip=run.clip, interval=run.interval)
        if self._draws_panel():
            self._screen = Screen(Panel(self._board), self._handlers, self._safely)
            if not self._screen.open():
                self._screen = None

    def epoch_start(self, epoch: int, epochs: int) -> None:
        """Update the planned number of epochs."""
        del epoch
        self._board.epochs = epochs

    def steps(self, samples: Sequence[Sample], norms: Floats) -> None:
        """Update the panel."""
        self._board.add(samples, norms)
        if self._screen:
            self._screen.redraw()

    def findings(self, changes: Sequence[FindingChange]) -> None:
        """Print a line per change; at the end of the epoch if another output shows the training."""
        self._findings.update({change.finding.number: change.finding for change in changes})
        self._board.show(self._findings.values())
        changed = [lines.change_line(change) for change in changes]
        if self.beside():
            self._held += changed
            return
        for line in changed:
            # In a log, the frame of Ultralytics' bar does not end with a newline yet.
            self.print(line if self._screen else Text("\n").append_text(line))

    def epoch(self, clipping: EpochClipping) -> None:
        """Print the table of an epoch if nobody can see a panel, or the output is recorded."""
        del clipping
        self._print_held()
        if not self.beside() and (self._screen is None or self._screen.is_recorded):
            self.print(epoch_table(self._board))

    def regroup(self, layout: Layout) -> None:
        """Add the blocks of thawed layers."""
        more = len(layout.modules) - self._modules
        self._modules = len(layout.modules)
        self._board.regroup(layout)
        what = "module is" if more == 1 else "modules are"
        step = max(layout.since, default=1)
        self.print(Text(f"GradWatch: {more} unfrozen {what} watched from step {step:,} on", "dim"))

    def kept(self, kept: Kept) -> None:
        """Remember the kept checkpoint for the list of files."""
        self._kept = kept

    def end(self, report: Report) -> None:
        """Close the panel and print the report."""
        self._close_screen()
        self._print_held()
        self.print(lines.end_report(report))
        self._has_ended = True

    def close(self) -> None:
        """Release the terminal, and list the files."""
        self._close_screen()
        if self._has_ended:
            paths = (self._folder / name for name in (*RUN_FILES, PICTURE_FILE, DEPTH_FILE))
            files: list[Path | str] = [path for path in paths if path.exists()]
            if self._kept and is_kept(self._folder):
                files.append(f"{self._folder / LAST_HEALTHY} (epoch {self._kept.epoch})")
            self.print(lines.file_list(files), fitted=False)

    def print(self, text: Text, *, fitted: bool = True) -> None:
        """Print to the terminal or the log, ignoring errors of the stream."""
        out = self._screen.console if self._screen else console.plain_console()
        text = encodable(console.fitted(text, out) if fitted else text, out)
        with console.forgiving(out):
            if self._screen:
                self._screen.print(text)
            else:
                out.print(text, soft_wrap=True)

    def _print_held(self) -> None:
        held, self._held = self._held, []
        for line in held:
            self.print(line)

    def _draws_panel(self) -> bool:
        is_wanted = draws_panel(self._live)
        if is_wanted and self._no_panel:
            _LOG.warning("GradWatch: %s", self._no_panel)
        return is_wanted and not self._no_panel

    def _close_screen(self) -> None:
        if self._screen:
            self._screen.close()  # if it fails, the next call tries again
            self._screen = None
