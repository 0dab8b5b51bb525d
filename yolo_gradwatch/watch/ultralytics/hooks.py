"""Hooks into Ultralytics' trainer, and how to undo each of them.

Read in ultralytics 8.4.0 to 8.4.190. ``BaseTrainer.optimizer_step`` calls ``scaler.unscale_``, then
clips, steps and zeroes the gradients; right after ``unscale_`` they are still unclipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

TAKE_PICTURES = ("base", "clearml", "wb")
"""Ultralytics callbacks that accept any picture; others ignore pictures, or may fail."""


class Ended(SystemExit):
    """Raised to end a short training."""

    def __init__(self) -> None:
        super().__init__(0)


def around_training(trainer: Any, finish: Callable[[str], None]) -> Callable[[], None]:
    """Call ``finish`` with the outcome when the training ends, however it ends.

    ``on_train_end`` runs on success only, and ``teardown`` is in a ``finally`` in late versions
    only, so ``_do_train`` is wrapped, on the instance. The outcome is ``finished``, ``failed``,
    ``interrupted`` (Ctrl+C) or ``stopped``: by ``SystemExit(0)``, with which a scheduler such as
    Ray Tune's stops a training from a callback.

    Returns:
        A function that removes the wrapper; a second call does nothing.
    """
    train = trainer._do_train

    def watched_train(*args: Any, **kwargs: Any) -> Any:
        outcome = "failed"
        try:
            result = train(*args, **kwargs)
            outcome = "finished"
        except KeyboardInterrupt:
            outcome = "interrupted"
            raise
        except Ended:
            outcome = "finished"
            raise
        except SystemExit as stop:
            outcome = "stopped" if _is_success(stop.code) else "failed"
            raise
        else:
            return result
        finally:
            try:  # a single Ctrl+C while polars reads results.csv raises twice
                undo()
            finally:
                finish(outcome)

    undo = replaced(trainer, "_do_train", watched_train)
    return undo


def _is_success(code: object) -> bool:
    """Return whether Python would exit with 0 after a ``SystemExit`` with this code."""
    return code is None or (isinstance(code, int) and code == 0)


def after_unscale(trainer: Any, call: Callable[[], None]) -> Callable[[], None]:
    """Call ``call`` in each optimizer step, once gradients are unscaled and not yet clipped.

    Returns:
        A function that removes the wrapper; a second call does nothing.
    """
    scaler = trainer.scaler
    unscale = scaler.unscale_

    def watched_unscale(optimizer: Any) -> Any:
        result = unscale(optimizer)
        call()
        return result

    return replaced(scaler, "unscale_", watched_unscale)


def has_step_hooks(trainer: Any) -> bool:
    """Return whether the optimizer has step hooks; only those derived from torch's have them."""
    return hasattr(trainer.optimizer, "register_step_pre_hook")


class StepHooks:
    """Calls ``before`` and ``after`` around each optimizer step that AMP does not skip.

    Args:
        before: Called before the step.
        after: Called after the step.
    """

    def __init__(self, before: Callable[[], None], after: Callable[[], None]) -> None:
        self._calls = before, after
        self._optimizer: Any = None
        self._handles: list[Any] = []

    def attach(self, trainer: Any) -> None:
        """Hook the trainer's optimizer if it has been replaced; not allowed during a step."""
        if trainer.optimizer is self._optimizer:
            return
        self.remove()
        if has_step_hooks(trainer):
            self._optimizer = optimizer = trainer.optimizer
            before, after = self._calls
            self._handles = [
                optimizer.register_step_pre_hook(lambda *_: before()),
                optimizer.register_step_post_hook(lambda *_: after()),
            ]

    def remove(self) -> None:
        """Remove the hooks, which is not allowed during a step; a second call does nothing."""
        handles, self._handles, self._optimizer = self._handles, [], None
        for handle in handles:
            handle.remove()


def before_batch(
    trainer: Any, call: Callable[[Sequence[str], int | None], None]
) -> Callable[[], None]:
    """Call ``call`` with the image files and object count of each batch entering the model.

    Only ``preprocess_batch`` sees them. A classification batch has no files, and one class per
    image. The object count is None if unknown.

    Returns:
        A function that removes the wrapper; a second call does nothing.
    """
    preprocess = trainer.preprocess_batch

    def watched_preprocess(batch: Any, *args: Any, **kwargs: Any) -> Any:
        call(batch.get("im_file", ()) if isinstance(batch, dict) else (), _objects(batch))
        return preprocess(batch, *args, **kwargs)

    return replaced(trainer, "preprocess_batch", watched_preprocess)


def _objects(batch: Any) -> int | None:
    """Return the number of objects in a batch, from their classes; None if it has none."""
    classes: Any = batch.get("cls") if isinstance(batch, dict) else None
    has_length = hasattr(classes, "__len__") and getattr(classes, "ndim", 1) > 0
    return len(classes) if has_length else None


def replaced(owner: Any, name: str, function: Callable[..., Any]) -> Callable[[], None]:
    """Replace a method of an instance or a function of a module.

    Returns:
        A function that restores it unless it was replaced again; a second call does nothing.
    """
    before = vars(owner).get(name)  # another replacement; None if the class's own method applies
    setattr(owner, name, function)

    def undo() -> None:
        if vars(owner).get(name) is function:
            delattr(owner, name)
            if before is not None:
                setattr(owner, name, before)

    return undo


def add_callback(
    trainer: Any, event: str, callback: Callable[[Any], None], *, is_first: bool = False
) -> None:
    """Add a callback after or before all others, including Ultralytics' integrations."""
    # Ultralytics calls the callbacks of an event in list order: its defaults, those that the user
    # added to the model, then its integrations. Ours are added once a training begins, so they come
    # last, unless ``is_first`` puts them ahead of all others; of several such, the last one added
    # comes first. The list is replaced, so an event that is running right now is not affected.
    others = trainer.callbacks[event]
    trainer.callbacks[event] = [callback, *others] if is_first else [*others, callback]


def remove_callback(trainer: Any, event: str, callback: Callable[[Any], None]) -> None:
    """Remove a callback by replacing the list: the trainer may be iterating over the old one."""
    trainer.callbacks[event] = [c for c in trainer.callbacks[event] if c is not callback]


def announce_picture(trainer: Any, path: Path) -> Callable[[], None]:
    """Pass a picture to the integrations, before they upload pictures in ``on_train_end``.

    If Ultralytics draws none (``plots=False``), it would be the only picture of the training. Then
    only integrations whose code is known to accept any picture see it: DVCLive, for one, ends a
    training with an error if it has logged a picture outside a DVC repository.

    Returns:
        A function that restores the callbacks; a second call does nothing.
    """
    if not trainer.args.plots:
        calls = trainer.callbacks["on_train_end"]  # changed in place: the trainer is iterating
        calls[:] = [_Unaware(call, path) if _may_fail(call) else call for call in calls]
    trainer.on_plot(path)

    def undo() -> None:
        calls = trainer.callbacks["on_train_end"]
        calls[:] = [call.callback if isinstance(call, _Unaware) else call for call in calls]

    return undo


class _Unaware:
    """A callback from which one picture is hidden.

    Args:
        callback: The original callback.
        picture: The picture's key in ``trainer.plots``.
    """

    def __init__(self, callback: Callable[[Any], None], picture: Path) -> None:
        self.callback = callback
        self._picture = picture

    def __call__(self, trainer: Any) -> None:
        """Call the callback without the picture."""
        hidden = trainer.plots.pop(self._picture, None)
        try:
            self.callback(trainer)
        finally:
            if hidden is not None:
                trainer.plots[self._picture] = hidden


def _may_fail(callback: Callable[[Any], None]) -> bool:
    """Return whether an Ultralytics integration might reject a picture, as far as is known."""
    module = getattr(callback, "__module__", None) or ""  # None for a method of a built-in type
    package, _, name = module.rpartition(".")
    return package == "ultralytics.utils.callbacks" and name not in TAKE_PICTURES


def stop(trainer: Any) -> None:
    """Ask the trainer to end after this batch, or after this epoch if it only checks then."""
    trainer.stop = True


def stops_between_batches(trainer: Any) -> bool:
    """Return whether `stop` may be called at any batch: several ranks agree at an epoch's end."""
    return int(getattr(trainer, "world_size", 0) or 0) <= 1
