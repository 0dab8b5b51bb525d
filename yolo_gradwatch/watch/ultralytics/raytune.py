"""Adds numbers to what Ultralytics reports to Ray Tune after each epoch.

Read in ultralytics 8.4.0 to 8.4.190 and ray 2.60. Ultralytics' callback copies ``trainer.metrics``
into the result, so we extend the metrics while that callback runs; no other callback sees the
extra ones. It is registered only if Ray can be imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MODULE = "ultralytics.utils.callbacks.raytune"
_EVENT = "on_fit_epoch_end"


class _WithNumbers:
    """A callback that sees more metrics in its trainer than other callbacks do.

    Args:
        callback: The original callback.
        numbers: Returns the extra metrics of this trainer; never raises.
    """

    def __init__(
        self, callback: Callable[[Any], None], numbers: Callable[[], Mapping[str, object]]
    ) -> None:
        self.callback = callback
        self._numbers = numbers

    def __call__(self, trainer: Any) -> None:
        """Call the callback; exceptions propagate, such as the ``SystemExit`` stopping a trial."""
        metrics = trainer.metrics
        if isinstance(metrics, dict):
            trainer.metrics = {**metrics, **self._numbers()}
        try:
            self.callback(trainer)
        finally:
            trainer.metrics = metrics


def report_beside(trainer: Any, numbers: Callable[[], Mapping[str, object]]) -> Callable[[], None]:
    """Have Ultralytics report our numbers along with its own, where it reports to Ray Tune.

    Args:
        trainer: A trainer whose integrations are already among its callbacks.
        numbers: Returns the numbers before each report; never raises.

    Returns:
        A function that restores the callbacks; it keeps the trainer alive for as long as the
        function itself exists.
    """
    calls = trainer.callbacks[_EVENT]  # changed in place: a trainer may be iterating over it
    calls[:] = [_WithNumbers(call, numbers) if _reports(call) else call for call in calls]

    def undo() -> None:
        calls[:] = [call.callback if isinstance(call, _WithNumbers) else call for call in calls]

    return undo


def _reports(callback: object) -> bool:
    return getattr(callback, "__module__", None) == _MODULE
