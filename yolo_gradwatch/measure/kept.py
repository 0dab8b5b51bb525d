"""The copy of the last healthy checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

LAST_HEALTHY = "weights/last_healthy.pt"
"""Its name in the run's folder."""

ONE_BEFORE = "weights/last_healthy.before.pt"
"""Name of an older copy that is set aside: a finding may date from before the newest."""

LEAST_STEPS = 20
"""Optimizer steps by which the copy set aside must be older before another replaces it."""

LEAST_SHARE = 0.002
"""`LEAST_STEPS` as a share of the steps so far: findings of later windows reach back farther."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Which epoch's checkpoint `LAST_HEALTHY` is a copy of, until the next entry.

    Attributes:
        epoch: The epoch, counted from 1; 0 if the file was removed.
        step: Newest optimizer step captured by the end of the epoch; 0 if the file was removed.
        since: First step of the window from which this holds, if that is not ``step + 1``: an older
            copy has replaced a newer one, or the file was removed; else 0.
    """

    epoch: int
    step: int
    since: int = 0

    @property
    def begins(self) -> int:
        """The first optimizer step for which this holds."""
        return self.since or self.step + 1

    def is_after(self, other: Kept) -> bool:
        """Whether it was noted later than another; an epoch may have no step of its own."""
        return self._order > other._order

    def is_well_after(self, other: Kept, steps: int) -> bool:
        """Whether another copy is old enough to make room for this one.

        Args:
            other: The older copy.
            steps: Optimizer steps so far.
        """
        return self.step - other.step >= max(LEAST_STEPS, LEAST_SHARE * steps)

    @property
    def _order(self) -> tuple[int, bool, int, int]:
        return (self.begins, bool(self.since), self.step, self.epoch)


def removed(since: int) -> Kept:
    """Return the entry for no copy, from the window that begins with this step."""
    return Kept(0, 0, since)
