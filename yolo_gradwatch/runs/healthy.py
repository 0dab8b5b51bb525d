"""Whether the checkpoint that was kept is still there, so that words may name it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from yolo_gradwatch.measure.kept import LAST_HEALTHY

if TYPE_CHECKING:
    from pathlib import Path

    from yolo_gradwatch.measure.kept import Kept
    from yolo_gradwatch.runs.meta import Meta


def is_kept(folder: Path) -> bool:
    """Whether the file is in a run's folder."""
    with suppress(OSError):  # one that may not be entered
        return (folder / LAST_HEALTHY).exists()
    return False


def kept_of(folder: Path, meta: Meta) -> tuple[Kept, ...]:
    """What was kept of a run, by step; nothing if the file is gone by now."""
    return meta.kept if meta.kept and is_kept(folder) else ()
