"""Outputs that draw the pictures of a run from its files when the training is over."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from yolo_gradwatch.runs.outputs import OutputBase
from yolo_gradwatch.runs.run import load_run
from yolo_gradwatch.runs.schema import DEPTH_FILE, PICTURE_FILE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.runs.files import Files
    from yolo_gradwatch.runs.run import Run


class Ended:
    """A finished run, read from its files once for all its pictures.

    Args:
        files: Files of the run.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._report: Report | None = None

    def run(self, report: Report) -> Run | None:
        """Load the run of a report; None if its files are incomplete."""
        if not self._files.is_whole:
            return None
        if self._report is not report:
            self._run, self._report = load_run(report.run), report
        return self._run


class Picture(OutputBase):
    """Output that draws ``gradwatch.png`` into the run's folder.

    Args:
        ended: The finished run.
        announce: Called with the path of the picture.

    Attributes:
        files: Files that have been drawn.
    """

    def __init__(self, ended: Ended, announce: Callable[[Path], None]) -> None:
        self._ended = ended
        self._announce = announce
        self.files: tuple[Path, ...] = ()

    def end(self, report: Report) -> None:
        """Draw the finished run."""
        run = self._ended.run(report)
        if run is None:
            return
        from yolo_gradwatch.views.heatmap import heatmap  # noqa: PLC0415  # only the end pays for it
        from yolo_gradwatch.views.png.figure import write  # noqa: PLC0415  # loads matplotlib

        path = run.folder / PICTURE_FILE
        write(heatmap(run, report), report, path)
        self.files = (path,)
        self._announce(path)


class DepthPicture(OutputBase):
    """Output that draws ``gradwatch/flow.png``, if a batch was traced.

    Args:
        ended: The finished run.

    Attributes:
        files: Files that have been drawn.
    """

    def __init__(self, ended: Ended) -> None:
        self._ended = ended
        self.files: tuple[Path, ...] = ()

    def end(self, report: Report) -> None:
        """Draw the traces of the finished run."""
        run = self._ended.run(report)
        if run is not None and draw_depth(run, report):
            self.files = (run.folder / DEPTH_FILE,)


def page_of(ended: Ended, report: Report) -> str | None:
    """Return the HTML page of a finished run; None without Plotly, or if files are incomplete."""
    run = ended.run(report)
    if run is None or find_spec("plotly") is None:
        return None
    from yolo_gradwatch.views.html.page import page  # noqa: PLC0415  # loads plotly

    return page(run, report)


def draw_depth(run: Run, report: Report) -> bool:
    """Draw ``gradwatch/flow.png`` and return True if a batch was traced.

    Raises:
        FormatError: A file of the run cannot be read.
        OSError: The picture cannot be written.
    """
    from yolo_gradwatch.views.depth import depth  # noqa: PLC0415  # as above
    from yolo_gradwatch.views.png.depth import write  # noqa: PLC0415  # as above

    numbers = depth(run, report)
    if numbers.curves:
        write(numbers, report, run.folder / DEPTH_FILE)
    return bool(numbers.curves)
