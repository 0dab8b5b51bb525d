"""How many fine stretches a run may open, so that its files stay small whatever happens."""

from __future__ import annotations

from math import log2

MOST = 10.0
"""Fine stretches that are left when a run begins, and at the most."""

RENEWED = 3.0
"""How many become free again while the number of steps doubles."""

RESERVED = 4.0
"""How many of those left are for shifts alone: noise cannot use them up."""


class Allowance:
    """Renews with the logarithm of the steps, as the number of windows grows.

    Args:
        begin: Step from which on it renews: before, windows are fine enough anyway.
    """

    def __init__(self, begin: int) -> None:
        self._left = MOST
        self._step = begin

    def allows(self, step: int, *, is_shift: bool) -> bool:
        """Whether a fine stretch may begin at ``step``; if it may, it is taken."""
        if step > self._step:
            self._left = min(MOST, self._left + RENEWED * log2(step / self._step))
            self._step = step
        if self._left < (1.0 if is_shift else 1.0 + RESERVED):
            return False
        self._left -= 1.0
        return True
