"""How a trainer calls the watch, from the training's start until the watch is over."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.watch.ultralytics import checkpoints, contract, hooks

if TYPE_CHECKING:
    from collections.abc import Callable

    from yolo_gradwatch.watch.events import Events
    from yolo_gradwatch.watch.guard import Guard
    from yolo_gradwatch.watch.keeping import Keeping


def listen(
    trainer: Any, guard: Guard, event: str, call: Callable[[], None], *, is_first: bool = False
) -> None:
    """Have a trainer call us at an event, until the watch is over.

    Raises:
        Unwatchable: It has no such event.
    """

    def listener(_trainer: Any) -> None:
        guard.at_event(call)

    contract.check_event(type(trainer), event)
    hooks.add_callback(trainer, event, listener, is_first=is_first)
    guard.undo.callback(_unlisten, weakref.ref(trainer), event, weakref.ref(listener))


def around_training(trainer: Any, guard: Guard, finish: Callable[[str], None]) -> None:
    """Have a trainer call us with the outcome when its training is over."""
    undo = hooks.around_training(trainer, partial(guard.at_event, finish))
    guard.undo.callback(_call_if_alive, weakref.ref(undo))  # the trainer keeps it alive


def connect(trainer: Any, guard: Guard, events: Events, keeping: Keeping | None) -> None:
    """Have a trainer call us at each step and event from now on."""
    if keeping:
        _connect_keeping(trainer, guard, keeping)
    guard.undo.callback(hooks.after_unscale(trainer, partial(guard.safely, events.read)))
    guard.undo.callback(events.step_hooks.remove)
    events.step_hooks.attach(trainer)
    guard.undo.callback(events.tracing.discard)
    guard.undo.callback(hooks.before_batch(trainer, partial(guard.safely, events.see)))
    for event, call in {
        "on_train_epoch_start": events.start_epoch,
        "on_train_batch_end": events.end_batch,
        "on_fit_epoch_end": events.end_fit_epoch,
    }.items():
        listen(trainer, guard, event, call)
    listen(trainer, guard, "on_train_batch_end", events.tracing.stop, is_first=True)
    # Before W&B begins its row of the epoch, which would be cut in two by one of ours.
    listen(trainer, guard, "on_train_epoch_end", events.end_epoch, is_first=True)
    listen(trainer, guard, "on_train_end", events.end_training, is_first=True)


def _connect_keeping(trainer: Any, guard: Guard, keeping: Keeping) -> None:
    """Have a trainer call us when it has saved; one that does not say so is watched all the same.

    First of all who listen, so that the file is as it was written.
    """
    keep = partial(keeping.keep, weakref.ref(trainer))
    guard.undo.callback(keeping.close)
    try:
        listen(trainer, guard, checkpoints.EVENT, keep, is_first=True)
        keeping.begin(trainer)
    except contract.Unwatchable as reason:
        keeping.warn(str(reason))


def _unlisten(
    trainer: weakref.ref[Any], event: str, listener: weakref.ref[Callable[[Any], None]]
) -> None:
    known, call = trainer(), listener()
    if known is not None and call is not None:
        hooks.remove_callback(known, event, call)


def _call_if_alive(function: weakref.ref[Callable[[], None]]) -> None:
    call = function()
    if call:
        call()
