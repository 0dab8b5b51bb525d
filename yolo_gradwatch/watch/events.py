"""Handles each event of a watched training."""

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
    """A model as the watch sees it.

    Attributes:
        layout: Its modules.
        members: Which parameters make up each module.
        watched: Parameters that the training moves, or has moved before.
        outside: All other parameters.
        others: Those, and the floating-point buffers.
    """

    layout: Layout
    members: Members
    watched: Sequence[nn.Parameter]
    outside: Sequence[nn.Parameter]
    others: Sequence[Tensor]


def view(trainer: Any, known: Sequence[nn.Parameter] = ()) -> View:
    """Return the view of a trainer's model: parameters now trained, plus ``known`` ones."""
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
        trainer: Weak reference to the trainer.
        seen: View of its model.
        parts: Parts of the watch.
        interval: Optimizer steps between captured steps.

    Attributes:
        tracing: Traces batches through the modules.
        step_hooks: Hooks on the optimizer's steps.
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
        """Handle an optimizer step that is about to begin."""
        self._change.begin()

    def _after_step(self) -> None:
        """Handle a completed optimizer step; errors wait until the batch ends."""
        self._batches.note_step()
        self._change.end(self._recorder.last_step)

    def see(self, images: Sequence[str], objects: int | None) -> None:
        """Note the contents of a batch that is about to enter the model."""
        self._batches.begin(images, objects)
        self.tracing.begin_batch(self._epoch, self._recorder.last_step + 1)

    def start_epoch(self) -> None:
        """Begin a pass over an epoch; a repeated epoch number means a restart."""
        epoch = facts.epoch_of(self._trainer)
        if epoch <= self._epoch:  # recovery from NaN or an OOM repeats it
            self.end_epoch()
            kind = facts.restart_kind(self._trainer)
            self._recorder.restart(kind, self._recorder.last_step + 1)
            self.tracing.discard()
            self._batches.forget()
            self.step_hooks.attach(self._trainer)  # some versions build a new optimizer
        self._epoch = epoch
        self._recorder.start_epoch(epoch, facts.epochs_of(self._trainer))
        self._note_membership(self._recorder.last_step + 1, thorough=True)

    def end_batch(self) -> None:
        """Process samples that have landed; stop the training here if it can stop at a batch."""
        self._batches.end(self._trainer)
        self._change.end_batch()
        self.tracing.end_batch()
        self.drain()
        if hooks.stops_between_batches(self._trainer):
            self._stop.stop(self._trainer, self._recorder.remarks)

    def end_epoch(self) -> None:
        """Process every step of the epoch."""
        self.drain(wait=True)
        self._recorder.end_epoch()

    def end_fit_epoch(self) -> None:
        """Stop after a possible NaN recovery, before the ranks agree on whether to continue."""
        self._stop.stop(self._trainer, self._recorder.remarks)

    def end_training(self) -> None:
        """End the watch while every logger is still open: integrations run after us."""
        self.drain(wait=True)
        self._recorder.end("finished")

    def drain(self, *, wait: bool = False) -> None:
        """Pass on the steps that have landed, or wait for all."""
        samples = list(self._capture.drain(wait=wait))
        self._change.landed(samples)
        self.tracing.drain(wait=wait)
        self._recorder.take(samples)

    def finish(self, outcome: str) -> None:
        """End the watch of a training that is over, whatever its outcome."""
        try:
            self._take_rest()
            self._recorder.end(outcome)
        except KeyboardInterrupt:  # usually the second Ctrl+C
            self._recorder.end("interrupted")
            raise

    def _read_from(self, seen: View) -> None:
        self._view = seen
        self._capture = Capture(seen.watched, seen.others)
        self._change = StepChange(self._capture, seen.watched, self._recorder.remarks)

    def _take_rest(self) -> None:
        try:
            self.drain(wait=True)
        finally:  # a failed device delivers nothing, but earlier steps may have landed
            self._recorder.settle()

    def _take_in_thawed(self, step: int) -> None:
        """Watch layers frozen on purpose from the step at which they are first trained."""
        if any(p.requires_grad for p in self._view.outside):
            self.drain(wait=True)
            self._read_from(view(self._trainer, self._view.watched))
            self._recorder.regroup(self._view.layout, self._view.members, step)

    def _note_membership(self, step: int, *, thorough: bool = False) -> None:
        """Report the parameters the optimizer moves from a step on, if they have changed."""
        optimizer = self._membership.changed(self._trainer, step, thorough=thorough)
        if optimizer:
            self.drain(wait=True)
            self._recorder.membership(optimizer)
