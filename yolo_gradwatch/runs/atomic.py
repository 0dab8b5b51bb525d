"""Replaces files atomically, so that a reader never sees half of one."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a draft next to a file; on success, it replaces the file."""
    draft = path.with_name(f".{path.name}.tmp")
    draft.unlink(missing_ok=True)  # never write through a link
    try:
        yield draft
        for seconds in (0.01, 0.05, 0.1):
            with suppress(PermissionError):  # Windows: someone is reading the old file
                draft.replace(path)
                return
            time.sleep(seconds)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
