"""A training in launched processes, as seen by the process that launched them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.vocabulary import matches
from yolo_gradwatch.runs.run import load_run
from yolo_gradwatch.runs.schema import META_FILE, FormatError
from yolo_gradwatch.watch.ultralytics import ddp

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.runs.run import Run


class Launched:
    """A training on several GPUs: rank 0 watches it, and its files hold the findings.

    It has the interface of `Session`, and answers from the current state of the files.

    Args:
        folder: The run's folder; anything in it now belongs to an earlier run.
        stop_on: Rules, kinds of rules or severities that end the training.

    Attributes:
        folder: The run's folder.
    """

    def __init__(self, folder: Path, stop_on: Collection[str]) -> None:
        self.folder = folder
        self._stop_on = stop_on
        self._before = _written(folder)

    @property
    def has_started(self) -> bool:
        """Whether the training reached its first epoch, with a watch."""
        return _written(self.folder) not in {None, self._before}

    @property
    def has_report(self) -> bool:
        """Whether there is something to report."""
        return self.has_started

    @property
    def is_broken(self) -> bool:
        """Whether, by the files of a finished training, its watch ended too early."""
        run = self._run()
        return run is None or run.meta.status not in {"finished", "stopped"}

    @property
    def stopped_by(self) -> Finding | None:
        """The finding that stopped the training, if one did."""
        run = self._run() if self._stop_on else None  # otherwise skip reading the files
        return _first_named(run, self._stop_on) if run else None

    def report(self) -> Report:
        """Return the report so far.

        Raises:
            RuntimeError: The processes have written nothing.
            FormatError: Their files cannot be read.
        """
        if not self.has_started:
            raise RuntimeError(f"{self.folder}: there is nothing to report: {_why_nothing()}")
        return load_run(self.folder).report()

    def _run(self) -> Run | None:
        """Return the run, or None if its files are missing or unreadable."""
        try:
            return load_run(self.folder) if self.has_started else None
        except FormatError:
            return None


def _written(folder: Path) -> int | None:
    """Return when ``gradwatch.json`` was last written, in ns; None if it does not exist."""
    try:
        return (folder / META_FILE).stat().st_mtime_ns
    except OSError:
        return None


def _first_named(run: Run, words: Collection[str]) -> Finding | None:
    """Return the first matching finding to begin, return or worsen since the run was started."""
    started = [e.step for e in run.meta.events if e.kind in {"start", "resume"}]
    is_new = (run.alerts["step"] >= max(started, default=1)) & run.alerts["event"].isin(
        ["start", "worse"]
    )
    findings = {finding.number: finding for finding in run.report().findings}
    named = [findings[n] for n in run.alerts["finding"][is_new] if n in findings]
    return next((finding for finding in named if matches(finding, words)), None)


def _why_nothing() -> str:
    """Return a sentence on why the processes of a training wrote no file, and what to do."""
    if ddp.drops_callbacks():
        return ddp.dropped_callbacks()
    return (
        "the processes of this training have not started their first epoch under GradWatch; if "
        "they have ended, what they printed says why"
    )
