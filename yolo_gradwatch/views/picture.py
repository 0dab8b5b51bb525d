"""The picture of a run, drawn from its files when the training is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.runs.outputs import OutputBase
from yolo_gradwatch.runs.run import load_run
from yolo_gradwatch.runs.schema import PICTURE_FILE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.runs.files import Files
    from yolo_gradwatch.runs.outputs import RunInfo


class Picture(OutputBase):
    """Draws ``gradwatch.png`` into the run's folder.

    Args:
        files: From which it is drawn, if they are whole.
        announce: Called with the path of the picture.
    """

    def __init__(self, files: Files, announce: Callable[[Path], None]) -> None:
        self._files = files
        self._announce = announce

    def start(self, run: RunInfo) -> None:
        """Note where to draw."""
        self._folder = run.folder

    def end(self, report: Report) -> None:
        """Draw the run as it ended."""
        if not self._files.is_whole:
            return
        from yolo_gradwatch.views.heatmap import heatmap  # noqa: PLC0415  # only the end pays for it
        from yolo_gradwatch.views.png.figure import write  # noqa: PLC0415  # loads matplotlib

        path = self._folder / PICTURE_FILE
        write(heatmap(load_run(self._folder), report), report, path)
        self._announce(path)
