"""Options of the watch, validated on construction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.thresholds import Thresholds, check_count, shown
from yolo_gradwatch.runs.outputs import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable

    from yolo_gradwatch.diagnose.finding import Finding


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of ``GradWatch``, documented there; ``loggers`` is None for ``auto``.

    Attributes:
        last_step: For a check, the optimizer step after which it ends: that step is traced, its
            update measured, and nothing is shown or drawn. None for a training.

    Raises:
        TypeError: An option is of the wrong type.
        ValueError: An option has an impossible value.
    """

    interval: int = 1
    thresholds: Thresholds = field(default_factory=Thresholds)
    live: bool | None = None
    on_finding: Callable[[Finding], None] | None = None
    stop_on: tuple[str, ...] = ()
    outputs: tuple[object, ...] = ()
    flow: bool = True
    keep_healthy: bool = False
    last_step: int | None = None
    loggers: tuple[str, ...] | None = None
    share_names: bool = False

    def __post_init__(self) -> None:
        check_count("interval", self.interval)
        if not isinstance(self.thresholds, Thresholds):
            raise TypeError(f"thresholds must be a Thresholds, got {_kind(self.thresholds)}")
        if not (self.live is None or isinstance(self.live, bool)):
            raise TypeError(f"live must be True, False or None, got {shown(self.live)}")
        for name in ("flow", "keep_healthy", "share_names"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False, got {shown(value)}")
        if not (self.on_finding is None or callable(self.on_finding)):
            raise TypeError(f"on_finding must be callable, got {_kind(self.on_finding)}")


def checked_outputs(outputs: object) -> tuple[object, ...]:
    """Return custom outputs as a tuple.

    Raises:
        TypeError: They are not a list of objects, or one has no method of `Output`.
    """
    if not isinstance(outputs, Iterable):
        raise TypeError(f"outputs must be a list or tuple, got {_kind(outputs)}")
    chosen = tuple(outputs)
    for output in chosen:
        if isinstance(output, type):
            raise TypeError(f"outputs: {output.__qualname__} is a class; pass an instance")
        if not any(callable(getattr(output, method, None)) for method in METHODS):
            raise TypeError(
                f"outputs: {_kind(output)} has none of the methods {', '.join(METHODS)}"
            )
    return chosen


def _kind(value: object) -> str:
    return type(value).__name__
