"""The one safety net: what a part of the watch raises ends the watch, never the training."""

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
        release: Called once, when the watch is over, before everything is undone.
        end: Ends the watch at the user's wish.

    Attributes:
        undo: What to do when the watch is over, the last first.
        is_on: Whether the watch goes on.
        is_broken: Whether an error of ours has ended it before the training.
        remarks: Why it did not go on to the end of the training, in sentences.
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
        except Exception as error:  # noqa: BLE001  # the one safety net
            self._give_up(f"an internal error, {type(error).__name__}: {error}")
            warn_of_own_error(error)

    def at_event(self, call: Callable[..., None], *args: Any) -> None:
        """Call a part of the watch at a moment of the training at which the watch may end."""
        self._is_busy = True
        try:
            self.safely(call, *args)
        finally:
            self._is_busy = False
        if self._is_unwanted:
            self.detach()

    def detach(self) -> None:
        """End the watch as if the training were interrupted here; it goes on by itself.

        Called by a function of the user's that we have called, it does so once that is over.
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
        self.remarks = ("not watched to the end: the watch was detached",)
        self._end()

    def _give_up(self, why: str) -> None:
        self.is_broken = True
        self.remarks = (f"not watched to the end: {why}",)
        with suppress(Exception):
            self.release()


def warn_of_own_error(error: Exception) -> None:
    """Say that an error of ours has ended the watch; called while it is handled."""
    _LOG.warning(
        "GradWatch stops watching because of an internal error; the training continues. "
        "Please report it, with the traceback that YOLO_GRADWATCH_DEBUG=1 in the environment "
        "shows: %s: %s",
        type(error).__name__,
        error,
        exc_info=_LOG.isEnabledFor(logging.DEBUG),
    )
