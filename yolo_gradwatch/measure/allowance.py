"""Limit on a run's fine stretches, so that its files stay small whatever happens."""

from __future__ import annotations

from math import log2

MOST = 10.0
"""Fine stretches available when a run begins, and the most at any time."""

RENEWED = 3.0
"""Stretches that become available each time the number of steps doubles."""

RESERVED = 4.0
"""Stretches reserved for shifts: noise cannot use them up."""


class Allowance:
    """A budget that renews with the logarithm of the steps, as the number of windows grows.

    Args:
        begin: Step from which it renews: before that, windows are fine enough anyway.
    """

    def __init__(self, begin: int) -> None:
        self._left = MOST
        self._step = begin

    def allows(self, step: int, *, is_shift: bool) -> bool:
        """Whether a fine stretch may begin at ``step``; if so, it is deducted."""
        if step > self._step:
            self._left = min(MOST, self._left + RENEWED * log2(step / self._step))
            self._step = step
        if self._left < (1.0 if is_shift else 1.0 + RESERVED):
            return False
        self._left -= 1.0
        return True
