"""The copy of a checkpoint that is kept while all is well."""

from __future__ import annotations

from dataclasses import dataclass

LAST_HEALTHY = "weights/last_healthy.pt"
"""Its name within the run's folder."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What `LAST_HEALTHY` is a copy of, until the next one: the checkpoint of an epoch.

    Attributes:
        epoch: The epoch, counted from 1.
        step: The newest optimizer step that was captured by its end.
    """

    epoch: int
    step: int

    def is_after(self, other: Kept) -> bool:
        """Whether it is the later one of two; an epoch may have no step of its own."""
        return (self.step, self.epoch) > (other.step, other.epoch)
