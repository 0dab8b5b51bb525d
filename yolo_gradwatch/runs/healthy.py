"""Files of the kept checkpoints: the newest one, and an older one set aside."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from yolo_gradwatch.measure.kept import LAST_HEALTHY, ONE_BEFORE
from yolo_gradwatch.runs.atomic import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.measure.kept import Kept
    from yolo_gradwatch.runs.meta import Meta

BLOCKING = frozenset({"weight_growth", "weight_jump", "rate_jump"})
"""Rules whose warnings also make a checkpoint unhealthy: weights that grow ten-fold are no way
back."""


def spoils(finding: Finding) -> bool:
    """Return whether checkpoints saved during this finding are unhealthy."""
    return finding.severity == "critical" or finding.rule in BLOCKING


def is_kept(folder: Path) -> bool:
    """Return whether the kept checkpoint is in a run's folder."""
    with suppress(OSError):  # an inaccessible folder
        return (folder / LAST_HEALTHY).exists()
    return False


def kept_of(folder: Path, meta: Meta) -> tuple[Kept, ...]:
    """Return the records of a run's kept checkpoints, in order; empty if the file is gone."""
    return meta.kept if meta.kept and is_kept(folder) else ()


class Shelf:
    """Holds the newest copy, and an older one while the training runs.

    A copy that a killed training set aside is useless: no finding of a resumed training
    predates the resume.

    Args:
        folder: The run's folder.

    Attributes:
        path: Path of the newest copy.
        before: Record of the copy set aside; None if there is none.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self._aside = folder / LAST_HEALTHY, folder / ONE_BEFORE
        self.before: Kept | None = None

    @contextmanager
    def renewing(self, old: Kept | None, steps: int) -> Iterator[Path]:
        """Yield a draft that becomes the newest copy once it is complete.

        Args:
            old: The copy that it replaces, set aside if the one there is old enough; None if there
                is none.
            steps: Optimizer steps so far.
        """
        is_due = old and (self.before is None or old.is_well_after(self.before, steps))
        try:
            with replacing(self.path) as draft:
                yield draft
                if is_due and self.path.exists():
                    self.path.replace(self._aside)
                    self.before = old
        except BaseException:
            if old and self.before is old:  # set aside, but nothing replaced it
                self.before = None
                self._aside.replace(self.path)
            raise

    def go_back(self, step: int) -> Kept | None:
        """Restore the copy set aside, if it predates a step.

        Returns:
            The record of the restored copy; None if nothing changed.
        """
        before = self.before
        with suppress(OSError):
            if before and before.step < step:
                self._aside.replace(self.path)
                self.before = None
                return before
        return None

    def remove(self) -> None:
        """Remove all copies."""
        self.clear()
        with suppress(OSError):
            self.path.unlink()

    def clear(self) -> None:
        """Remove the copy set aside."""
        self.before = None
        with suppress(OSError):
            self._aside.unlink()
