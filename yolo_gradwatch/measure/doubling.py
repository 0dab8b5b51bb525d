"""Steps 1, 2, 4, 8, ..., at which what costs more is measured."""

from __future__ import annotations


class Doubling:
    """Says of steps that it is asked about in order whether one is due.

    The first is, and then the first from each power of two on.
    """

    def __init__(self) -> None:
        self._next = 0

    def is_due(self, step: int) -> bool:
        """Whether something is due at ``step``, which counts from 1."""
        if step < self._next:
            return False
        self._next = 1 << step.bit_length()
        return True
