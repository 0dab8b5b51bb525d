"""The single safety net: an error in the watch ends the watch, never the training."""

from __future__ import annotations

import logging
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.watch.ultralytics.contract import Unwatchable

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG = logging.getLogger(__name__)


class Guard:
    """Calls the parts of one watch until it is over.

    Args:
        release: Called once when the watch is over, after everything is undone.
        end: Ends the watch when the user detaches it.

    Attributes:
        undo: What to undo when the watch is over, last entry first.
        is_on: Whether the watch is active.
        is_broken: Whether an internal error ended the watch before the training ended.
        remarks: Sentences on why the watch ended before the training.
    """

    def __init__(self, release: Callable[[], None], end: Callable[[], None]) -> None:
        self._release = release
        self._end = end
        self._is_busy = False
        self._is_unwanted = False
        self.undo = ExitStack()
        self.is_on = True
        self.is_broken = False
        self.remarks: tuple[str, ...] = ()

    def safely(self, call: Callable[..., None], *args: Any) -> None:
        """Call a part of the watch."""
        if not self.is_on:
            return
        try:
            call(*args)
        except Unwatchable as reason:
            self._give_up(str(reason))
            _LOG.warning("GradWatch does not watch this training: %s", reason)
        except Exception as error:  # noqa: BLE001  # the single safety net
            self._give_up(f"an internal error, {type(error).__name__}: {error}")
            warn_of_own_error(error)

    def at_event(self, call: Callable[..., None], *args: Any) -> None:
        """Call a part of the watch at an event of the training at which the watch may end."""
        self._is_busy = True
        try:
            self.safely(call, *args)
        finally:
            self._is_busy = False
        if self._is_unwanted:
            self.detach()

    def detach(self) -> None:
        """End the watch as if the training were interrupted here; the training itself continues.

        If user code that we are calling asks for it, the watch ends once that call returns.
        """
        self._is_unwanted = True
        if not self._is_busy:
            self.safely(self._detach)

    def release(self) -> None:
        """Undo everything; the watch is over."""
        self.is_on = False
        try:
            self.undo.close()
        finally:
            self._release()

    def _detach(self) -> None:
        self.remarks = ("not watched to the end: GradWatch was detached",)
        self._end()

    def _give_up(self, why: str) -> None:
        self.is_broken = True
        self.remarks = (f"not watched to the end: {why}",)
        with suppress(Exception):
            self.release()


def warn_of_own_error(error: Exception) -> None:
    """Warn that an internal error ended the watch; call it while handling the error."""
    _LOG.warning(
        "GradWatch stops watching because of an internal error; the training continues. "
        "Please report it, with the traceback that YOLO_GRADWATCH_DEBUG=1 in the environment "
        "shows: %s: %s",
        type(error).__name__,
        error,
        exc_info=_LOG.isEnabledFor(logging.DEBUG),
    )
