"""Live diagnosis of a run from its growing files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.diagnosis import Diagnosis, replay
from yolo_gradwatch.measure.layout import watched_at
from yolo_gradwatch.measure.windows import rescoped
from yolo_gradwatch.runs.evidence import by_step
from yolo_gradwatch.runs.healthy import kept_of
from yolo_gradwatch.views.live import Board

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from yolo_gradwatch.diagnose.finding import Finding, FindingChange
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.windows import Window
    from yolo_gradwatch.runs.tail import Look


class Judge:
    """Diagnoses a growing run with the same result as its own training.

    Args:
        folder: Folder of the run.
        limits: Maps the thresholds of the training to those to judge under.
        look: First look at the files of the run.

    Attributes:
        board: Numbers for the panel.
    """

    def __init__(
        self, folder: Path, limits: Callable[[Thresholds], Thresholds], look: Look
    ) -> None:
        layout, options = look.meta.layout, look.meta.options
        own = limits(look.meta.thresholds)
        self._folder, self._layout = folder, layout
        self._diagnosis = Diagnosis(layout, own, options.training)
        self._events = 0
        first = look.windows[0].step_first if look.windows else 1
        self._shown = watched_at(layout, first)
        self.board = Board(
            self._shown,
            epochs=options.epochs,
            clip=options.clip,
            interval=options.interval,
        )

    def update(self, look: Look) -> list[FindingChange]:
        """Process the new windows and return how findings changed."""
        if look.meta.layout != self._layout:
            self._layout = look.meta.layout
            self._diagnosis.regroup(self._layout)
        for window in look.windows:
            self._show(window)
        last = look.windows[-1].step_first if look.windows else -1
        due = [event for event in look.meta.events if event.step <= last]
        seen = look.windows[-1].step_last if look.windows else -1
        events, files = due[self._events :], by_step(self._folder)
        kept = kept_of(self._folder, look.meta)
        if look.meta.kept and not kept:
            self._diagnosis.kept(None)
        changes = replay(
            self._diagnosis,
            look.windows,
            events,
            files=files,
            optimizers=look.meta.optimizers,
            flows=look.flows,
            kept=[one for one in kept if one.begins <= seen + 1],
        )
        self._events = max(self._events, len(due))
        self.board.show(self.findings)
        return changes

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Findings so far, in the order in which they began."""
        return tuple(self._diagnosis.findings.all.values())

    def _show(self, window: Window) -> None:
        """Add a window to the board, with the modules that were watched at that time."""
        window, self._shown = rescoped(window, self._layout, self._shown, self.board.regroup)
        self.board.add_window(window)
