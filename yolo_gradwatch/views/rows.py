"""Groups of rows in a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def inside(names: Sequence[str], row: int) -> range:
    """Return a row with the rows of its submodules, which follow it."""
    last = row
    while last + 1 < len(names) and names[last + 1].startswith(f"{names[row]}."):
        last += 1
    return range(row, last + 1)


def stretches(rows: set[int]) -> list[range]:
    """Group neighbouring rows."""
    found: list[range] = []
    for row in sorted(rows):
        if found and found[-1].stop == row:
            found[-1] = range(found[-1].start, row + 1)
        else:
            found.append(range(row, row + 1))
    return found
