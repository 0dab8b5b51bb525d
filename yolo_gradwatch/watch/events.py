"""What is done at each event of a training that is watched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.measure import model_layout as layouts
from yolo_gradwatch.measure.capture import Capture
from yolo_gradwatch.watch.batches import Batches
from yolo_gradwatch.watch.step_change import StepChange
from yolo_gradwatch.watch.tracing import Tracing
from yolo_gradwatch.watch.ultralytics import contract, hooks
from yolo_gradwatch.watch.ultralytics import training as facts
from yolo_gradwatch.watch.ultralytics.optimizer import Membership

if TYPE_CHECKING:
    import weakref
    from collections.abc import Sequence

    from torch import Tensor, nn

    from yolo_gradwatch.measure.layout import Layout, Members
    from yolo_gradwatch.watch.assembly import Parts


@dataclass(frozen=True, slots=True)
class View:
    """A model as it is watched.

    Attributes:
        layout: Its modules.
        members: Which parameters make up each.
        watched: Parameters that the training moves, or has moved before.
        outside: All others.
        others: These and the floating-point buffers.
    """

    layout: Layout
    members: Members
    watched: Sequence[nn.Parameter]
    outside: Sequence[nn.Parameter]
    others: Sequence[Tensor]


def view(trainer: Any, known: Sequence[nn.Parameter] = ()) -> View:
    """The model of a trainer with what the training moves by now, and known parameters."""
    model = facts.model_of(trainer)
    meant_frozen = facts.meant_frozen(trainer)
    watched = layouts.watched(model, meant_frozen, known)
    inside = {id(p) for p in watched}
    outside = [p for p in model.parameters() if id(p) not in inside]
    others = [*layouts.others(model, watched).values()]
    return View(*layouts.read(model, meant_frozen, known), watched, outside, others)


class Events:
    """Reads the gradients of each optimizer step and drives the recorder.

    Args:
        trainer: The trainer, as long as it lives.
        seen: Its model.
        parts: Of the watch.
        interval: Optimizer steps from one captured step to the next.

    Attributes:
        tracing: Of batches through the modules.
        step_hooks: Of the optimizer.
    """

    def __init__(self, trainer: weakref.ref[Any], seen: View, parts: Parts, interval: int) -> None:
        self._alive = trainer
        self._recorder, self._evidence, self._stop = parts.recorder, parts.evidence, parts.stop
        self.tracing = Tracing(trainer, parts)
        self._interval = interval
        self._read_from(seen)
        self._membership = Membership(parts.optimizer)
        self.step_hooks = hooks.StepHooks(self._before_step, self._after_step)
        self._first_step = self._recorder.last_step + 1
        self._epoch = 0
        self._batches = Batches()

    @property
    def _trainer(self) -> Any:
        return self._alive()

    def read(self) -> None:
        """Read the gradients of this optimizer step, unscaled and not yet clipped."""
        if self._epoch == 0:
            raise contract.never_began(type(self._trainer), "on_train_epoch_start")
        self.tracing.stop()
        recorder = self._recorder
        recorder.last_step += 1
        step = recorder.last_step
        batches = self._batches.read(self._trainer)
        if (step - self._first_step) % self._interval == 0:
            self._take_in_thawed(step)
            self._evidence.note(step, batches)
            opens, weighs = recorder.wanted(step)
            if opens:
                self._note_membership(step)
            self._capture.take(
                self._epoch,
                step,
                facts.amp_state(self._trainer),
                self._batches.take_losses(self._trainer),
                detailed=opens,
                weighed=weighs,
            )
            self._change.read(opens=opens, weighs=weighs)

    def _before_step(self) -> None:
        """The optimizer is about to step."""
        self._change.begin()

    def _after_step(self) -> None:
        """The optimizer has stepped; inside a step, nothing can be undone."""
        self._batches.note_step()
        self._change.end(self._recorder.last_step)

    def see(self, images: Sequence[str], objects: int | None) -> None:
        """Remember what a batch is made of until the optimizer steps; it goes to the model now."""
        self._batches.begin(images, objects)
        self.tracing.begin_batch(self._epoch, self._recorder.last_step + 1)

    def start_epoch(self) -> None:
        """Begin a pass over an epoch; one that comes again is a restart."""
        epoch = facts.epoch_of(self._trainer)
        if epoch <= self._epoch:  # recovery from NaN or from too little memory repeats it
            self.end_epoch()
            kind = facts.restart_kind(self._trainer)
            self._recorder.restart(kind, self._recorder.last_step + 1)
            self.tracing.discard()
            self._batches.forget()
            self.step_hooks.attach(self._trainer)  # some versions build another optimizer
        self._epoch = epoch
        self._recorder.start_epoch(epoch, facts.epochs_of(self._trainer))
        self._note_membership(self._recorder.last_step + 1, thorough=True)

    def end_batch(self) -> None:
        """Take what has landed; stop the training where that can be done between batches."""
        self._batches.end(self._trainer)
        self._change.end_batch()
        self.tracing.end_batch()
        self.drain()
        if self._stop.wanted and hooks.stops_between_batches(self._trainer):
            hooks.stop(self._trainer)

    def end_epoch(self) -> None:
        """Take every step of the epoch."""
        self.drain(wait=True)
        self._recorder.end_epoch()

    def end_fit_epoch(self) -> None:
        """Stop after a possible NaN recovery, before several processes agree to go on or not."""
        if self._stop.wanted:
            hooks.stop(self._trainer)

    def end_training(self) -> None:
        """End while every logger is still open: integrations come after us."""
        self.drain(wait=True)
        self._recorder.end("finished")

    def drain(self, *, wait: bool = False) -> None:
        """Hand over the steps that have landed, or wait for all."""
        samples = list(self._capture.drain(wait=wait))
        self._change.landed(samples)
        self.tracing.drain(wait=wait)
        self._recorder.take(samples)

    def finish(self, outcome: str) -> None:
        """End the watch of a training that is over, however it has ended."""
        try:
            self._take_rest()
            self._recorder.end(outcome)
        except KeyboardInterrupt:  # the second one, as a rule
            self._recorder.end("interrupted")
            raise

    def _read_from(self, seen: View) -> None:
        self._view = seen
        self._capture = Capture(seen.watched, seen.others)
        self._change = StepChange(self._capture, seen.watched, self._recorder.remarks)

    def _take_rest(self) -> None:
        try:
            self.drain(wait=True)
        finally:  # a device that has failed hands nothing over, but some steps have landed
            self._recorder.settle()

    def _take_in_thawed(self, step: int) -> None:
        """Watch layers that were frozen on purpose from the step at which they are trained."""
        if any(p.requires_grad for p in self._view.outside):
            self.drain(wait=True)
            self._read_from(view(self._trainer, self._view.watched))
            self._recorder.regroup(self._view.layout, self._view.members, step)

    def _note_membership(self, step: int, *, thorough: bool = False) -> None:
        """Hand on what the optimizer moves from a step on, where that is not as it was."""
        optimizer = self._membership.changed(self._trainer, step, thorough=thorough)
        if optimizer:
            self.drain(wait=True)
            self._recorder.membership(optimizer)
