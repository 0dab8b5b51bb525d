"""How the watch hooks into Ultralytics' trainer, and how each hook is undone.

Read in ultralytics 8.4.0 to 8.4.190. ``BaseTrainer.optimizer_step`` calls ``scaler.unscale_``, then
clips, steps and zeroes the gradients; right after ``unscale_`` they are what the step sees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

TAKE_PICTURES = ("base", "clearml", "wb")
"""Callbacks of Ultralytics that take a picture in any case; others do not look, or may fail."""


class Ended(SystemExit):
    """A training that is to be short has come to its end."""

    def __init__(self) -> None:
        super().__init__(0)


def around_training(trainer: Any, finish: Callable[[str], None]) -> Callable[[], None]:
    """Call ``finish`` with the outcome when the training ends, however it ends.

    ``on_train_end`` comes on success only, and ``teardown`` is in a ``finally`` in late versions
    only, so the training itself is wrapped, on the instance. The outcome is ``finished``,
    ``failed``, ``interrupted`` (Ctrl+C) or ``stopped``: by ``SystemExit(0)``, with which a
    scheduler such as that of Ray Tune stops a training from a callback.

    Returns:
        A function that takes the wrap away; a second call does nothing.
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
            undo()
            finish(outcome)

    undo = replaced(trainer, "_do_train", watched_train)
    return undo


def _is_success(code: object) -> bool:
    """Whether Python would exit with 0 after a ``SystemExit`` of this code."""
    return code is None or (isinstance(code, int) and code == 0)


def after_unscale(trainer: Any, call: Callable[[], None]) -> Callable[[], None]:
    """Call ``call`` in each optimizer step, once gradients are unscaled and not yet clipped.

    Returns:
        A function that takes the wrap away; a second call does nothing.
    """
    scaler = trainer.scaler
    unscale = scaler.unscale_

    def watched_unscale(optimizer: Any) -> Any:
        result = unscale(optimizer)
        call()
        return result

    return replaced(scaler, "unscale_", watched_unscale)


def has_step_hooks(trainer: Any) -> bool:
    """Whether the optimizer can call us; one of the user's own that is none of torch's cannot."""
    return hasattr(trainer.optimizer, "register_step_pre_hook")


class StepHooks:
    """Calls ``before`` and ``after`` around each step of an optimizer that is not left out.

    Args:
        before: Called first.
        after: Called last.
    """

    def __init__(self, before: Callable[[], None], after: Callable[[], None]) -> None:
        self._calls = before, after
        self._optimizer: Any = None
        self._handles: list[Any] = []

    def attach(self, trainer: Any) -> None:
        """Hook the trainer's optimizer, if it is another one by now; not during a step."""
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
        """Take the hooks away, which is not allowed during a step; a second call does nothing."""
        handles, self._handles, self._optimizer = self._handles, [], None
        for handle in handles:
            handle.remove()


def before_batch(
    trainer: Any, call: Callable[[Sequence[str], int | None], None]
) -> Callable[[], None]:
    """Call ``call`` with the image files of each batch as it goes to the model, and its objects.

    ``preprocess_batch`` is the only place that sees them; a classification has no files, and a
    class for each image. The number of objects is None where it is unknown.

    Returns:
        A function that takes the wrap away; a second call does nothing.
    """
    preprocess = trainer.preprocess_batch

    def watched_preprocess(batch: Any, *args: Any, **kwargs: Any) -> Any:
        call(batch.get("im_file", ()) if isinstance(batch, dict) else (), _objects(batch))
        return preprocess(batch, *args, **kwargs)

    return replaced(trainer, "preprocess_batch", watched_preprocess)


def _objects(batch: Any) -> int | None:
    """How many objects are in a batch, of which each has a class; None if it does not say."""
    classes: Any = batch.get("cls") if isinstance(batch, dict) else None
    has_length = hasattr(classes, "__len__") and getattr(classes, "ndim", 1) > 0
    return len(classes) if has_length else None


def replaced(owner: Any, name: str, function: Callable[..., Any]) -> Callable[[], None]:
    """Put a function in the place of a method of an instance, or of a function of a module.

    Returns:
        A function that takes it away, if it is still there; a second call does nothing.
    """
    before = vars(owner).get(name)  # somebody else's, else None: the method of the class
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
    """Add a callback, after or before all others, those of Ultralytics' integrations too."""
    others = trainer.callbacks[event]
    trainer.callbacks[event] = [callback, *others] if is_first else [*others, callback]


def remove_callback(trainer: Any, event: str, callback: Callable[[Any], None]) -> None:
    """Take a callback away; the list is replaced, because the trainer may be walking through it."""
    trainer.callbacks[event] = [c for c in trainer.callbacks[event] if c is not callback]


def announce_picture(trainer: Any, path: Path) -> Callable[[], None]:
    """Hand a picture to whatever uploads pictures in ``on_train_end``; called before they are.

    Where Ultralytics draws none (``plots=False``), it would be the only one of the training. Then
    an integration sees it only if it was read and found to take it in any case: DVCLive, for one,
    ends a training with an error if it has logged a picture where there is no DVC repository.

    Returns:
        A function that gives the callbacks back as they were; a second call does nothing.
    """
    if not trainer.args.plots:
        calls = trainer.callbacks["on_train_end"]  # changed in place: the trainer walks through it
        calls[:] = [_Unaware(call, path) if _may_fail(call) else call for call in calls]
    trainer.on_plot(path)

    def undo() -> None:
        calls = trainer.callbacks["on_train_end"]
        calls[:] = [call.callback if isinstance(call, _Unaware) else call for call in calls]

    return undo


class _Unaware:
    """A callback that does not see a picture.

    Args:
        callback: What to call.
        picture: Its key in ``trainer.plots``.
    """

    def __init__(self, callback: Callable[[Any], None], picture: Path) -> None:
        self.callback = callback
        self._picture = picture

    def __call__(self, trainer: Any) -> None:
        """Call it while the picture is away."""
        hidden = trainer.plots.pop(self._picture, None)
        try:
            self.callback(trainer)
        finally:
            if hidden is not None:
                trainer.plots[self._picture] = hidden


def _may_fail(callback: Callable[[Any], None]) -> bool:
    """Whether an integration of Ultralytics may not take a picture, as far as is known."""
    module = getattr(callback, "__module__", None) or ""  # None for a method of a built-in type
    package, _, name = module.rpartition(".")
    return package == "ultralytics.utils.callbacks" and name not in TAKE_PICTURES


def stop(trainer: Any) -> None:
    """Ask the trainer to end after this batch, or this epoch where it looks no earlier."""
    trainer.stop = True


def stops_between_batches(trainer: Any) -> bool:
    """Whether `stop` may be asked for at any batch: several processes agree at an epoch's end."""
    return int(getattr(trainer, "world_size", 0) or 0) <= 1
