"""The pictures of a run, drawn from its files when the training is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.runs.outputs import OutputBase
from yolo_gradwatch.runs.run import load_run
from yolo_gradwatch.runs.schema import DEPTH_FILE, PICTURE_FILE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.runs.files import Files
    from yolo_gradwatch.runs.outputs import RunInfo
    from yolo_gradwatch.runs.run import Run


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


class DepthPicture(OutputBase):
    """Draws ``gradwatch/flow.png``, if a batch was traced.

    Args:
        files: From which it is drawn, if they are whole.
    """

    def __init__(self, files: Files) -> None:
        self._files = files

    def start(self, run: RunInfo) -> None:
        """Note where to draw."""
        self._folder = run.folder

    def end(self, report: Report) -> None:
        """Draw the run as it ended."""
        if self._files.is_whole:
            draw_depth(load_run(self._folder), report)


def draw_depth(run: Run, report: Report) -> None:
    """Draw ``gradwatch/flow.png``, if a batch was traced.

    Raises:
        FormatError: A file of the run cannot be read.
        OSError: It cannot be written.
    """
    from yolo_gradwatch.views.depth import depth  # noqa: PLC0415  # as above
    from yolo_gradwatch.views.png.depth import write  # noqa: PLC0415  # as above

    numbers = depth(run, report)
    if numbers.curves:
        write(numbers, report, run.folder / DEPTH_FILE)
