"""One training as its trainer drives it: when to read gradients, and the one safety net."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from yolo_gradwatch import contract
from yolo_gradwatch import layout as layouts
from yolo_gradwatch import trainer as trainers
from yolo_gradwatch.capture import Capture
from yolo_gradwatch.evidence import Note
from yolo_gradwatch.recorder import Options, Recorder, Training
from yolo_gradwatch.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from yolo_gradwatch.records import Finding

MOST_BATCHES = 1024
"""Batches of one optimizer step whose images are remembered."""

_LOG = logging.getLogger(__name__)


def tell_own_error(error: Exception) -> None:
    """Say that an error of ours has ended the watch; called while it is handled."""
    _LOG.warning(
        "GradWatch stops watching because of an error of its own; the training goes on. "
        "Please report it, with the traceback that YOLO_GRADWATCH_DEBUG=1 in the environment "
        "shows: %s: %s",
        type(error).__name__,
        error,
        exc_info=_LOG.isEnabledFor(logging.DEBUG),
    )


class Session:
    """Watches one training; afterwards nothing of it is left in the trainer.

    Args:
        trainer: It has not begun to train.
        options: Of the watch.

    Attributes:
        folder: The run's folder.
        is_broken: Whether an error of ours has ended the watch before the training.
    """

    def __init__(self, trainer: Any, options: Options) -> None:
        self._trainer = trainer
        self._options = options
        self._recorder: Recorder | None = None
        self._cleanup = ExitStack()
        self._is_on = True
        self._step = 0
        self._epoch = 0
        self._is_read = False
        self._has_stepped = False
        self._images: deque[Sequence[str]] = deque(maxlen=MOST_BATCHES)
        self.folder: Path = trainers.save_dir(trainer)
        self.is_broken = False
        self._remarks: tuple[str, ...] = ()
        self._safely(self._wait)

    @property
    def stopped_by(self) -> Finding | None:
        """The finding that stopped the training, if one did."""
        return self._recorder.stop_wanted if self._recorder else None

    @property
    def has_started(self) -> bool:
        """Whether the training got as far as its first epoch."""
        return self._recorder is not None

    def report(self) -> Report:
        """What was found so far; if the watch has ended before the training, why.

        Raises:
            RuntimeError: The training has not begun yet.
        """
        if self._recorder is not None:
            return replace(self._recorder.report(), remarks=self._remarks)
        if self.is_broken:
            return Report(self.folder, "failed", 0, 0, (), (), remarks=self._remarks)
        raise RuntimeError("the training has not begun yet, so there is nothing to report")

    def _safely(self, call: Callable[..., None], *args: Any) -> None:
        """Call a part of the watch; what it raises ends the watch, never the training."""
        if not self._is_on:
            return
        try:
            call(*args)
        except contract.Unwatchable as reason:
            self._give_up(str(reason))
            _LOG.warning("GradWatch does not watch this training: %s", reason)
        except Exception as error:  # noqa: BLE001  # the one safety net
            self._give_up(f"an error of its own, {type(error).__name__}: {error}")
            tell_own_error(error)

    def _give_up(self, why: str) -> None:
        self.is_broken = True
        self._remarks = (f"not watched to its end: {why}",)
        with suppress(Exception):
            self._release()

    def _listen(self, event: str, call: Callable[[], None], *, is_first: bool = False) -> None:
        """Have the trainer call us at an event, until the watch is over."""

        def listener(_trainer: Any) -> None:
            self._safely(call)

        contract.check_event(type(self._trainer), event)
        trainers.add_callback(self._trainer, event, listener, is_first=is_first)
        self._cleanup.callback(trainers.remove_callback, self._trainer, event, listener)

    def _wait(self) -> None:
        contract.check_step(type(self._trainer))
        trainers.around_training(self._trainer, partial(self._safely, self._finish))
        self._listen("on_train_start", self._start)

    def _start(self) -> None:
        model = trainers.model_of(self._trainer)
        meant_frozen = trainers.meant_frozen(self._trainer)
        layout, members = layouts.read(model, meant_frozen)
        training = Training(
            folder=self.folder,
            options=trainers.training_options(self._trainer),
            epochs=trainers.epochs_of(self._trainer),
            resumes=trainers.resumes(self._trainer),
            versions=trainers.versions(),
            handlers=trainers.log_handlers(),
            has_known_bar=trainers.has_known_bar(),
        )
        self._capture = Capture(layouts.watched(model, meant_frozen))
        self._recorder = Recorder(layout, members, training, self._options)
        self._cleanup.callback(self._recorder.close)
        self._recorder.open(self._safely)
        self._step = self._recorder.first_step - 1
        read = partial(self._safely, self._read, self._recorder)
        self._cleanup.callback(trainers.after_unscale(self._trainer, read))
        self._cleanup.callback(trainers.after_step(self._trainer, self._note_step))
        see = partial(self._safely, self._see)
        self._cleanup.callback(trainers.before_batch(self._trainer, see))
        for event, call in {
            "on_train_epoch_start": self._start_epoch,
            "on_train_batch_end": self._end_batch,
            "on_train_epoch_end": self._end_epoch,
            "on_fit_epoch_end": self._end_fit_epoch,
        }.items():
            self._listen(event, partial(call, self._recorder))
        self._listen("on_train_end", partial(self._end_training, self._recorder), is_first=True)

    def _read(self, recorder: Recorder) -> None:
        """Read the gradients of this optimizer step, unscaled and not yet clipped."""
        if self._epoch == 0:
            raise contract.never_began(type(self._trainer), "on_train_epoch_start")
        self._step += 1
        self._is_read = True
        images = list(self._images)
        self._images.clear()
        if (self._step - recorder.first_step) % self._options.interval == 0:
            names, losses = trainers.losses(self._trainer)
            rates = trainers.learning_rates(self._trainer)
            recorder.evidence.note(self._step, Note(images, rates, names))
            self._capture.take(
                self._epoch,
                self._step,
                trainers.amp_state(self._trainer),
                losses,
                detailed=recorder.opens_window(self._step),
            )

    def _note_step(self) -> None:
        """Note that the optimizer stepped; inside a step, nothing can be undone."""
        self._has_stepped = True

    def _check_step(self) -> None:
        """Give up if the optimizer stepped in this batch and the gradients were not read.

        Raises:
            Unwatchable: It did.
        """
        if self._has_stepped and not self._is_read:
            raise contract.skipped_unscale(type(self._trainer))
        self._has_stepped = self._is_read = False

    def _see(self, images: Sequence[str]) -> None:
        """Remember the images of a batch until the optimizer steps."""
        self._images.append(images)

    def _start_epoch(self, recorder: Recorder) -> None:
        epoch = trainers.epoch_of(self._trainer)
        if epoch <= self._epoch:  # recovery from NaN or from too little memory repeats it
            recorder.take(self._capture.drain(wait=True))
            recorder.begin_anew(trainers.restart_kind(self._trainer), self._step + 1)
            self._images.clear()  # what they have given to the gradient is gone
        self._epoch = epoch
        recorder.start_epoch(epoch, trainers.epochs_of(self._trainer))

    def _end_batch(self, recorder: Recorder) -> None:
        self._check_step()
        recorder.take(self._capture.drain())
        recorder.redraw()
        if recorder.stop_wanted and trainers.stops_between_batches(self._trainer):
            trainers.stop(self._trainer)

    def _end_epoch(self, recorder: Recorder) -> None:
        recorder.take(self._capture.drain(wait=True))
        recorder.end_epoch()

    def _end_fit_epoch(self, recorder: Recorder) -> None:
        """Stop after a possible NaN recovery, before several processes agree to go on or not."""
        if recorder.stop_wanted:
            trainers.stop(self._trainer)

    def _end_training(self, recorder: Recorder) -> None:
        """Draw the picture while integrations, which come after us, can still take it along."""
        recorder.take(self._capture.drain(wait=True))
        recorder.draw("finished", partial(trainers.announce_picture, self._trainer))

    def _finish(self, outcome: str) -> None:
        try:
            if self._recorder:
                self._take_rest(self._recorder)
                self._recorder.finish(outcome)
            elif outcome == "finished":
                raise contract.never_began(type(self._trainer), "on_train_start")
        except KeyboardInterrupt:  # the second one, as a rule
            if self._recorder:
                self._recorder.mark("interrupted")
            raise
        finally:
            self._release()

    def _take_rest(self, recorder: Recorder) -> None:
        try:
            recorder.take(self._capture.drain(wait=True))
        finally:  # a device that has failed hands nothing over, but some steps have landed
            recorder.settle()

    def _release(self) -> None:
        """Undo everything in the trainer and let go of it, because it holds the model."""
        self._is_on = False
        try:
            self._cleanup.close()
        finally:
            self.__dict__.pop("_capture", None)
            self.__dict__.pop("_trainer", None)
