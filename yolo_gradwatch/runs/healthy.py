"""The files of the checkpoints that are kept: the newest, and an older one that is set aside."""

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
"""Rules whose warnings spoil a checkpoint, too: a file of weights that grow ten-fold is no way
back."""


def spoils(finding: Finding) -> bool:
    """Whether what is saved while a finding lasts is no way back."""
    return finding.severity == "critical" or finding.rule in BLOCKING


def is_kept(folder: Path) -> bool:
    """Whether the file is in a run's folder."""
    with suppress(OSError):  # one that may not be entered
        return (folder / LAST_HEALTHY).exists()
    return False


def kept_of(folder: Path, meta: Meta) -> tuple[Kept, ...]:
    """What was kept of a run, in that order; nothing if the file is gone by now."""
    return meta.kept if meta.kept and is_kept(folder) else ()


class Shelf:
    """Holds the newest copy, and an older one as long as the training runs.

    What a killed training has set aside is no use: no finding of a resumed one dates from before
    the resume.

    Args:
        folder: The run's folder.

    Attributes:
        path: Of the newest.
        before: What is set aside; None if nothing is.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self._aside = folder / LAST_HEALTHY, folder / ONE_BEFORE
        self.before: Kept | None = None

    @contextmanager
    def renewing(self, old: Kept | None, steps: int) -> Iterator[Path]:
        """A draft that becomes the newest once it is whole.

        Args:
            old: What it replaces, which is set aside if the one there is old enough; None if there
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
            if old and self.before is old:  # it was set aside, and nothing took its place
                self.before = None
                self._aside.replace(self.path)
            raise

    def go_back(self, step: int) -> Kept | None:
        """Put the one set aside in the place of the newest, if it is from before a step.

        Returns:
            What there is now; None if all is as it was.
        """
        before = self.before
        with suppress(OSError):
            if before and before.step < step:
                self._aside.replace(self.path)
                self.before = None
                return before
        return None

    def remove(self) -> None:
        """Remove all that is kept."""
        self.clear()
        with suppress(OSError):
            self.path.unlink()

    def clear(self) -> None:
        """Remove what is set aside."""
        self.before = None
        with suppress(OSError):
            self._aside.unlink()
