"""One training as its trainer drives it: when to read gradients, and the one safety net."""

from __future__ import annotations

import logging
import weakref
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from yolo_gradwatch import contract, runlog
from yolo_gradwatch import model_layout as layouts
from yolo_gradwatch import trainer as trainers
from yolo_gradwatch.capture import Capture
from yolo_gradwatch.evidence import Note
from yolo_gradwatch.recorder import Options, Recorder, Training, earlier_run
from yolo_gradwatch.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import nn

    from yolo_gradwatch.finding import Finding
    from yolo_gradwatch.layout import Layout, Members

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

    It does not keep its trainer alive, and once the watch is over, nothing but the outcome.

    Args:
        trainer: It has not begun to train.
        options: Of the watch.

    Attributes:
        folder: The run's folder.
        is_broken: Whether an error of ours has ended the watch before the training.
    """

    def __init__(self, trainer: Any, options: Options) -> None:
        self._alive = weakref.ref(trainer)
        self._options = options
        self._recorder: Recorder | None = None
        self._report: Report | None = None
        self._stopped_by: Finding | None = None
        self._cleanup = ExitStack()
        self._is_on = True
        self._is_busy = False
        self._is_unwanted = False
        self._step = 0
        self._epoch = 0
        self._is_read = False
        self._has_stepped = False
        self._images: deque[Sequence[str]] = deque(maxlen=MOST_BATCHES)
        self.folder: Path = trainers.save_dir(trainer)
        self._given: dict[str, object] = {}
        self.is_broken = False
        self._remarks: tuple[str, ...] = ()
        self._safely(self._wait)

    @property
    def _trainer(self) -> Any:
        return self._alive()

    @property
    def stopped_by(self) -> Finding | None:
        """The finding that stopped the training, if one did."""
        return self._recorder.stop_wanted if self._recorder else self._stopped_by

    @property
    def has_started(self) -> bool:
        """Whether the training got as far as its first epoch."""
        return self._recorder is not None or self._report is not None

    @property
    def has_report(self) -> bool:
        """Whether there is something to report."""
        return self.has_started or self.is_broken

    @property
    def trainer(self) -> Any:
        """The trainer that is watched, or will be; None if it is gone, or the watch is over."""
        return self._trainer if self._is_on else None

    @property
    def is_waiting(self) -> bool:
        """Whether the training is to come."""
        return self._is_on and not self.has_started

    def report(self) -> Report:
        """What was found so far; if the watch has ended before the training, why.

        Raises:
            RuntimeError: The training has not begun yet.
        """
        report = self._recorder.report() if self._recorder else self._report
        if report is None and self.is_broken:
            report = Report(self.folder, "failed", 0, 0, (), ())
        if report is None:
            raise RuntimeError("the training has not begun yet, so there is nothing to report")
        return replace(report, remarks=self._remarks)

    def end(self) -> None:
        """End the watch as if the training were interrupted here; it goes on by itself.

        Called by a function of the user's that we have called, it does so once that is over.
        """
        self._is_unwanted = True
        if not self._is_busy:
            self._safely(self._end)

    def _end(self) -> None:
        self._remarks = ("not watched to its end: the watch was detached",)
        self._finish("interrupted")

    def _hear(self, call: Callable[..., None], *args: Any) -> None:
        """Call a part of the watch at a moment of the training at which the watch may end."""
        self._is_busy = True
        try:
            self._safely(call, *args)
        finally:
            self._is_busy = False
        if self._is_unwanted:
            self.end()

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
            self._hear(call)

        contract.check_event(type(self._trainer), event)
        trainers.add_callback(self._trainer, event, listener, is_first=is_first)
        self._cleanup.callback(self._unlisten, event, weakref.ref(listener))

    def _unlisten(self, event: str, listener: weakref.ref[Callable[[Any], None]]) -> None:
        trainer, call = self._trainer, listener()
        if trainer is not None and call is not None:
            trainers.remove_callback(trainer, event, call)

    def _wait(self) -> None:
        given = trainers.given_options(self._trainer)
        workers = runlog.arguments_of(self.folder).get("workers")  # on a CPU they are 0 by now
        self._given = given if workers is None else {**given, "workers": workers}
        contract.check_step(type(self._trainer))
        undo = trainers.around_training(self._trainer, partial(self._hear, self._finish))
        self._cleanup.callback(_call_if_alive, weakref.ref(undo))  # the trainer keeps it alive
        self._listen("on_train_start", self._start)

    def _start(self) -> None:
        earlier = earlier_run(self.folder) if trainers.resumes(self._trainer) else None
        model = trainers.model_of(self._trainer)
        known = layouts.owned(model, earlier.layout.modules) if earlier else ()
        layout, members = self._look_at_model(known)
        training = Training(
            folder=self.folder,
            options=trainers.training_options(self._trainer, self._given),
            epochs=trainers.epochs_of(self._trainer),
            resumes=trainers.resumes(self._trainer),
            earlier=earlier,
            versions=trainers.versions(),
            handlers=trainers.log_handlers(),
            has_known_bar=trainers.has_known_bar(),
        )
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

    def _look_at_model(self, known: Sequence[nn.Parameter] = ()) -> tuple[Layout, Members]:
        """Capture from now on what the training moves, and what it has moved before."""
        model = trainers.model_of(self._trainer)
        meant_frozen = trainers.meant_frozen(self._trainer)
        self._watched = layouts.watched(model, meant_frozen, known)
        self._capture = Capture(self._watched)
        inside = {id(p) for p in self._watched}
        self._outside = [p for p in model.parameters() if id(p) not in inside]
        return layouts.read(model, meant_frozen, known)

    def _take_in_thawed(self, recorder: Recorder) -> None:
        """Watch layers that were frozen on purpose from the step at which they are trained."""
        if any(p.requires_grad for p in self._outside):
            recorder.take(self._capture.drain(wait=True))
            layout, members = self._look_at_model(self._watched)
            recorder.take_in(layout, members, self._step)

    def _read(self, recorder: Recorder) -> None:
        """Read the gradients of this optimizer step, unscaled and not yet clipped."""
        if self._epoch == 0:
            raise contract.never_began(type(self._trainer), "on_train_epoch_start")
        self._step += 1
        recorder.last_step = self._step
        self._is_read = True
        images = list(self._images)
        self._images.clear()
        if (self._step - recorder.first_step) % self._options.interval == 0:
            self._take_in_thawed(recorder)
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
        recorder.draw("finished", self._announce)

    def _announce(self, picture: Path) -> None:
        self._cleanup.callback(trainers.announce_picture(self._trainer, picture))

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
        """Undo everything in the trainer, and let go of all but the outcome."""
        self._is_on = False
        try:
            self._cleanup.close()
        finally:
            recorder, self._recorder = self._recorder, None
            for name in ("_capture", "_watched", "_outside"):  # they hold the model
                self.__dict__.pop(name, None)
            self._images.clear()
            self._given = {}
            if recorder:
                self._report, self._stopped_by = recorder.report(), recorder.stop_wanted


def _call_if_alive(function: weakref.ref[Callable[[], None]]) -> None:
    call = function()
    if call:
        call()
