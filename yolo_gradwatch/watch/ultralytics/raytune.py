"""What Ultralytics reports to Ray Tune after each epoch, and how numbers get beside its own.

Read in ultralytics 8.4.0 to 8.4.190 and ray 2.60. Ultralytics' callback copies ``trainer.metrics``
into the result, so it finds more of them there while it runs; nobody else does. It is among the
callbacks only if Ray can be imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MODULE = "ultralytics.utils.callbacks.raytune"
_EVENT = "on_fit_epoch_end"


class _Beside:
    """A callback that finds more metrics in its trainer than everybody else.

    Args:
        callback: What to call.
        numbers: Gives them, of this trainer; never raises.
    """

    def __init__(
        self, callback: Callable[[Any], None], numbers: Callable[[], Mapping[str, object]]
    ) -> None:
        self.callback = callback
        self._numbers = numbers

    def __call__(self, trainer: Any) -> None:
        """Call it; what it raises passes, such as the ``SystemExit`` that stops a trial."""
        metrics = trainer.metrics
        if isinstance(metrics, dict):
            trainer.metrics = {**metrics, **self._numbers()}
        try:
            self.callback(trainer)
        finally:
            trainer.metrics = metrics


def report_beside(trainer: Any, numbers: Callable[[], Mapping[str, object]]) -> Callable[[], None]:
    """Have Ultralytics report numbers of ours with its own, where it reports to Ray Tune.

    Args:
        trainer: Its integrations are among its callbacks by now.
        numbers: Gives them; called before each report, never raises.

    Returns:
        A function that gives the callbacks back as they were; it keeps the trainer alive as long as
        it is there itself.
    """
    calls = trainer.callbacks[_EVENT]  # changed in place: somebody may be walking through it
    calls[:] = [_Beside(call, numbers) if _reports(call) else call for call in calls]

    def undo() -> None:
        calls[:] = [call.callback if isinstance(call, _Beside) else call for call in calls]

    return undo


def _reports(callback: object) -> bool:
    return getattr(callback, "__module__", None) == _MODULE
