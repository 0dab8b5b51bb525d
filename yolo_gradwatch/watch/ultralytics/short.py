"""Ends a training after a few optimizer steps and measures the cost of its batches.

Read in ultralytics 8.4.0 to 8.4.190. ``trainer.stop`` would be followed by a validation and a
checkpoint, and 8.4.0 checks it only at the end of an epoch. An exception from a callback ends every
version at once; making it a ``SystemExit`` with code 0 shows that nothing failed.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.views.checked import counted
from yolo_gradwatch.watch.ultralytics import ddp, hooks
from yolo_gradwatch.watch.ultralytics import training as facts
from yolo_gradwatch.watch.ultralytics.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from yolo_gradwatch.views.checked import Cost

_BASE = "ultralytics.utils.callbacks.base"
_LOGGERS = ("ultralytics.utils.callbacks.", "ultralytics.utils.events", "ultralytics.hub.")
"""Module prefixes of callbacks that send data elsewhere."""


class Refused(SystemExit):
    """A training that cannot be a short one: why, and what to do."""

    def __init__(self, why: str) -> None:
        super().__init__(2)
        self.why = why


def settled(folder: Path) -> dict[str, object]:
    """Return the arguments of a training that leaves no trace, with its run inside ``folder``.

    Images are read as needed, not all before the first batch, and not cached on disk.
    """
    return {
        "project": str(folder),
        "name": "check",
        "exist_ok": True,
        "val": False,
        "save": False,
        "save_period": -1,
        "plots": False,
        "cache": False,
        "resume": False,
    }


class Short:
    """Ends a training after a few optimizer steps, or before it would validate or save.

    Args:
        steps: Number of steps, including those that AMP skips.
        watch: Called with the trainer before its training begins.
        is_watched: Returns whether the training is still watched; if not, it is ended.
        tell: Called after each batch with the steps done, the steps planned and the estimated
            seconds left.

    Attributes:
        remarks: Sentences on why there were fewer steps than requested.
    """

    def __init__(
        self,
        steps: int,
        watch: Callable[[Any], None],
        is_watched: Callable[[], bool],
        tell: Callable[[int, int, float], None],
    ) -> None:
        self._steps, self._watch, self._is_watched, self._tell = steps, watch, is_watched, tell
        self._done, self._current = 0, 1
        self._is_first = True
        self._clock = Stopwatch()
        self._undo: list[Callable[[], object]] = []
        self._shape = (0, 0, 0)  # batches of a step, batches of an epoch, epochs
        self.remarks: list[str] = []

    def begin(self, trainer: Any) -> None:
        """Prepare a trainer that is about to train here, or to launch processes that do.

        Raises:
            Refused: It would train in several processes.
        """
        if ddp.launches_workers(trainer) or facts.replicas(trainer) > 1:
            raise Refused(
                "check trains in this process, on one device: pass one, as in device=0, with the "
                "batch size of one device"
            )
        without_loggers(trainer.callbacks)
        hooks.add_callback(trainer, "on_train_start", self._count_steps)
        self._watch(trainer)
        for event, call in {
            "on_train_start": self._start,
            "on_train_epoch_start": self._start_epoch,
            "on_train_epoch_end": self._end_epoch,
        }.items():
            hooks.add_callback(trainer, event, call)

    def cost(self) -> Cost:
        """Return the cost of the batches."""
        return self._clock.cost(*self._shape)

    def close(self) -> None:
        """Undo everything in this process."""
        while self._undo:
            self._undo.pop()()

    def _count_steps(self, trainer: Any) -> None:
        """Wrap the scaler before the watch does: wrappers are undone in reverse order."""
        self._undo.append(hooks.after_unscale(trainer, self._count))
        self._undo += [partial(_close_loaders, trainer), _undo_determinism]

    def _count(self) -> None:
        self._done += 1

    def _start(self, trainer: Any) -> None:
        """Add our callbacks after those of the watch."""
        self._batch = trainer.batch_size
        self._undo.append(_quiet())
        hooks.add_callback(trainer, "on_train_batch_end", self._end_batch)
        self._clock.start(trainer.device)

    def _start_epoch(self, trainer: Any) -> None:
        batches = len(trainer.train_loader)
        if batches != self._shape[1]:  # keep the first accumulate: the warm-up changes it
            self._shape = (trainer.accumulate, batches, 0)
        self._shape = (*self._shape[:2], facts.epochs_of(trainer))
        if trainer.batch_size < self._batch:
            self._batch = trainer.batch_size
            self.remarks.append(f"out of memory: the batch was cut to {self._batch:,}")
        self._is_first = True
        self._clock.again()

    def _end_batch(self, trainer: Any) -> None:
        # The first batch of an epoch waits for the loader. Tracing and reading weights are work
        # of the check, not of the training.
        step, self._current = self._current, self._done + 1
        is_measured = step & (step - 1) == 0 or step == self._steps
        self._clock.lap(is_plain=not (is_measured or self._is_first))
        self._is_first = False
        seconds = self._clock.seconds or 0.0
        _, batches, epochs = self._shape
        # A step has at least one batch; after a lack of memory, an epoch is repeated.
        planned = max(min(self._steps, batches * epochs), self._done)
        left = (planned - self._done) * trainer.accumulate * seconds
        self._tell(self._done, planned, left)
        if self._done >= self._steps or not self._is_watched():
            raise hooks.Ended

    def _end_epoch(self, trainer: Any) -> None:
        """End the training before a validation, a checkpoint or a recovery from one."""
        is_first = trainer.epoch == trainer.start_epoch
        if not is_first and not bool(trainer.loss.isfinite()):
            self.remarks.append(
                f"ended after step {self._done:,}: the loss was not finite at the end of epoch "
                f"{facts.epoch_of(trainer)}, where a training run would go back to its last "
                "checkpoint"
            )
            raise hooks.Ended
        if trainer.epoch + 1 >= facts.epochs_of(trainer):
            self.remarks.append(self._whole())
            raise hooks.Ended
        if trainer.stop:
            self.remarks.append(f"ended after step {self._done:,}: the training was stopped")
            raise hooks.Ended

    def _whole(self) -> str:
        together, batches, epochs = self._shape
        return (
            f"the whole training has {counted(self._done, 'optimizer step')}: "
            f"{counted(epochs, 'epoch')} of {counted(batches, 'batch')}, {together:,} per step"
        )


def without_loggers(callbacks: dict[str, list[Any]]) -> None:
    """Remove the callbacks of Ultralytics' integrations and of its usage statistics.

    The lists are changed in place, because a trainer may be iterating over one of them.
    """
    for calls in callbacks.values():
        calls[:] = [call for call in calls if not _logs(call)]


def _logs(call: Any) -> bool:
    module = getattr(call, "__module__", None) or ""
    return module != _BASE and module.startswith(_LOGGERS)


def _quiet() -> Callable[[], None]:
    """Silence Ultralytics' messages and bars, except warnings; return the undo function."""
    from ultralytics.utils import LOGGER  # heavy; only a training pays for it

    before = LOGGER.level
    LOGGER.setLevel(max(before, logging.WARNING))
    return lambda: LOGGER.setLevel(before)


def _close_loaders(trainer: Any) -> None:
    """Shut down the data loader processes; older versions leave that to garbage collection."""
    loaders: list[Any] = [trainer.train_loader, getattr(trainer, "test_loader", None)]
    for loader in loaders:
        if hasattr(loader, "close"):
            loader.close()


def _undo_determinism() -> None:
    """Reset determinism, which older versions leave on if a training does not complete."""
    from ultralytics.utils.torch_utils import unset_deterministic  # heavy

    unset_deterministic()
