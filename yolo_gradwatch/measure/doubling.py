"""Steps 1, 2, 4, 8, ..., at which costlier measurements are taken."""

from __future__ import annotations


class Doubling:
    """Decides, for steps asked about in order, whether a measurement is due.

    It is at the first step, and then at the first one from each power of two on.
    """

    def __init__(self) -> None:
        self._next = 0

    def is_due(self, step: int) -> bool:
        """Whether a measurement is due at ``step``, which counts from 1."""
        if step < self._next:
            return False
        self._next = 1 << step.bit_length()
        return True
