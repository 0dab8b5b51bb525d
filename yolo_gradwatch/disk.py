"""The files of a run, written for as long as the disk takes them."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from yolo_gradwatch.runlog import RunLog

_LOG = logging.getLogger(__name__)


class Disk:
    """Writes to the files of a run until that fails, which is told once.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log: RunLog | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the files have begun, and hold everything that was to be written."""
        return self._log is not None

    def begin(self, log: RunLog) -> None:
        """Begin the files; nothing is written before."""
        self._log = log
        self.write(lambda log: log.start())

    def write(self, call: Callable[[RunLog], object]) -> None:
        """Write something; where that fails, nothing is written any more."""
        if self._log is None:
            return
        try:
            call(self._log)
        except OSError as error:
            _LOG.warning(
                "GradWatch writes no more to %s: %s; the training and the live report go on",
                self._folder,
                error.strerror,
            )
            with suppress(OSError):
                self._log.close()
            self._log = None

    def close(self) -> None:
        """Close the files.

        Raises:
            OSError: What was written last does not fit.
        """
        if self._log:
            self._log.close()
