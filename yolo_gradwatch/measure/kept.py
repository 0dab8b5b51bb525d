"""The copy of a checkpoint that is kept while all is well."""

from __future__ import annotations

from dataclasses import dataclass

LAST_HEALTHY = "weights/last_healthy.pt"
"""Its name within the run's folder."""

ONE_BEFORE = "weights/last_healthy.before.pt"
"""Name of an older one, which is set aside: a finding may date from before the newest."""

LEAST_STEPS = 20
"""Optimizer steps, at the least, by which the one set aside is older before another replaces it."""

LEAST_SHARE = 0.002
"""The same as a share of the steps so far, because findings of later windows reach back farther."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What `LAST_HEALTHY` is a copy of, until the next one: the checkpoint of an epoch.

    Attributes:
        epoch: The epoch, counted from 1; 0 if the file was removed.
        step: The newest optimizer step that was captured by its end; 0 if the file was removed.
        since: First step of the window from which this holds, if it is not the next one after
            ``step``: an older copy has taken the place of a newer one, or none has; else 0.
    """

    epoch: int
    step: int
    since: int = 0

    @property
    def begins(self) -> int:
        """The first optimizer step at which this is what is kept."""
        return self.since or self.step + 1

    def is_after(self, other: Kept) -> bool:
        """Whether it was noted later, of two; an epoch may have no step of its own."""
        return self._order > other._order

    def is_well_after(self, other: Kept, steps: int) -> bool:
        """Whether another one is old enough to make room for this one.

        Args:
            other: An older one.
            steps: Optimizer steps so far.
        """
        return self.step - other.step >= max(LEAST_STEPS, LEAST_SHARE * steps)

    @property
    def _order(self) -> tuple[int, bool, int, int]:
        return (self.begins, bool(self.since), self.step, self.epoch)


def removed(since: int) -> Kept:
    """That there is none from the window on that begins with this step."""
    return Kept(0, 0, since)
