"""Connects a trainer's events to the watch, until the watch is over."""

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
    """Have a trainer call ``call`` at an event, until the watch is over.

    Raises:
        Unwatchable: The trainer has no such event.
    """

    # The trainer owns the listener; the undo stack holds weak references alone, so that the watch
    # does not keep the trainer alive.
    def listener(_trainer: Any) -> None:
        guard.at_event(call)

    contract.check_event(type(trainer), event)
    hooks.add_callback(trainer, event, listener, is_first=is_first)
    guard.undo.callback(_unlisten, weakref.ref(trainer), event, weakref.ref(listener))


def around_training(trainer: Any, guard: Guard, finish: Callable[[str], None]) -> None:
    """Have a trainer call ``finish`` with the outcome when its training is over."""
    undo = hooks.around_training(trainer, partial(guard.at_event, finish))
    guard.undo.callback(_call_if_alive, weakref.ref(undo))  # the trainer's wrapper holds undo


def connect(trainer: Any, guard: Guard, events: Events, keeping: Keeping | None) -> None:
    """Have a trainer call the watch at each step and event from now on."""
    # In each batch, these run in the order preprocess_batch (events.see), unscale_ (events.read),
    # the optimizer's step hooks, on_train_batch_end.
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
    # First: the probe's hooks go before another callback can run the model.
    listen(trainer, guard, "on_train_batch_end", events.tracing.stop, is_first=True)
    # First: W&B begins its row of the epoch here, and a later row of ours would split it.
    listen(trainer, guard, "on_train_epoch_end", events.end_epoch, is_first=True)
    # First: integrations close their loggers here.
    listen(trainer, guard, "on_train_end", events.end_training, is_first=True)


def _connect_keeping(trainer: Any, guard: Guard, keeping: Keeping) -> None:
    """Have a trainer call ``keeping`` after each save; watch it anyway if it has no such event.

    It is called before all other callbacks, so that the file is still as written.
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
