"""Keeps a copy of the newest healthy checkpoint to go back to later."""

from __future__ import annotations

import logging
import math
import os
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.measure.kept import LAST_HEALTHY, Kept
from yolo_gradwatch.runs.healthy import spoils
from yolo_gradwatch.watch.ultralytics import checkpoints
from yolo_gradwatch.watch.ultralytics import training as facts

if TYPE_CHECKING:
    import weakref
    from pathlib import Path

    from yolo_gradwatch.runs.healthy import Shelf
    from yolo_gradwatch.watch.diagnosing import Diagnosing
    from yolo_gradwatch.watch.recorder import Recorder

_LOG = logging.getLogger(__name__)

ROOM = 3
"""Checkpoints that must fit on the disk: the copy, and what Ultralytics writes next. Setting an
older copy aside needs no room, because it is renamed."""

CHUNK = 2**20
"""Bytes copied at a time."""


class Keeping:
    """Copies ``last.pt`` once it is written, at the end of each healthy epoch.

    An epoch is unhealthy while an active finding `spoils` checkpoints. A link would not do:
    Ultralytics writes into the same file again. A failure costs the copy of that epoch and,
    once, a warning; the previous copy stays as it was.

    A finding may predate the newest copy, so an older copy is set aside during the training to
    take its place if needed (`Diagnosing`).

    Args:
        shelf: Holds the copies.
        recorder: Has seen every step of the epoch by then; receives remarks.
        diagnosing: Knows the findings; receives records of kept checkpoints.
    """

    def __init__(self, shelf: Shelf, recorder: Recorder, diagnosing: Diagnosing) -> None:
        self._shelf = shelf
        self._recorder = recorder
        self._diagnosing = diagnosing
        self._has_warned = False

    def begin(self, trainer: Any) -> None:
        """Warn if the training saves nothing that could be kept."""
        self._shelf.clear()  # left by a killed training
        if not checkpoints.saves(trainer):
            self.warn("with save=False, Ultralytics writes no checkpoint before the last epoch")

    def keep(self, trainer: weakref.ref[Any]) -> None:
        """Copy the checkpoint just written, unless the training is unhealthy."""
        try:
            self._keep(trainer())
        except Exception as error:  # noqa: BLE001  # a copy is not worth the watch
            self.warn(f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Remove the copy set aside: the training is over."""
        self._shelf.clear()

    def warn(self, why: str) -> None:
        """Warn once why there is no copy."""
        if self._has_warned:
            return
        self._has_warned = True
        remark = f"{LAST_HEALTHY} is not kept up to date: {why}"
        self._recorder.remarks.append(remark)
        _LOG.warning("GradWatch: %s; the training continues", remark)

    def _keep(self, trainer: Any) -> None:
        findings = self._diagnosing.diagnosis.findings.all.values()
        if any(f.step_end is None and spoils(f) for f in findings):
            return
        if not checkpoints.is_storable(trainer):
            return
        newest, folder = checkpoints.last_of(trainer), self._shelf.path.parent
        folder.mkdir(exist_ok=True)
        size, free = newest.stat().st_size, _free(folder)
        if free < ROOM * size:
            needed = f"{ROOM * size / 1e6:,.0f} MB are needed"
            self.warn(f"only {free / 1e6:,.0f} MB are free on the disk; {needed}")
            return
        old, seen = self._diagnosing.diagnosis.way_back, self._recorder.seen
        with self._shelf.renewing(old, seen) as draft:
            _copy(newest, draft)
        self._diagnosing.kept(Kept(facts.epoch_of(trainer), seen))


def _copy(source: Path, target: Path) -> None:
    """Copy the content of a file."""
    with source.open("rb", buffering=0) as old, target.open("wb", buffering=0) as new:
        while chunk := memoryview(old.read(CHUNK)):
            while chunk:  # a write may be partial
                chunk = chunk[new.write(chunk) :]


def _free(folder: Path) -> float:
    """Return the free bytes on a disk; Inf where the system does not report them, as on Windows."""
    look = getattr(os, "statvfs", None)
    if look is None:
        return math.inf
    disk = look(folder)
    return float(disk.f_bavail * disk.f_frsize)
