"""Points at which a run restarts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EventKind = Literal["start", "resume", "nan_recovery", "oom_restart", "thaw"]


@dataclass(frozen=True, slots=True)
class Event:
    """A point at which a run restarts or takes in thawed layers; rules must forget what was before.

    Attributes:
        step: First optimizer step after it.
        kind: What happened: one of `EventKind`, or a kind that a later version knows.
    """

    step: int
    kind: str
