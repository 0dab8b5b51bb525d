"""Files that are replaced whole, so that a reader never sees half of one."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft beside a file, which takes its place once it is whole."""
    draft = path.with_name(f".{path.name}.tmp")
    draft.unlink(missing_ok=True)  # a link there would be written through
    try:
        yield draft
        for seconds in (0.01, 0.05, 0.1):
            with suppress(PermissionError):  # Windows: somebody is reading the old one
                draft.replace(path)
                return
            time.sleep(seconds)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
