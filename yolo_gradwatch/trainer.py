"""All knowledge of Ultralytics' trainer: names, moments, and how to undo what was wrapped.

Read in ultralytics 8.4.0 to 8.4.190. ``BaseTrainer.optimizer_step`` calls ``scaler.unscale_``, then
clips, steps and zeroes the gradients; right after ``unscale_`` they are what the step sees.
"""

from __future__ import annotations

import logging
import math
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.contract import clip_norm, shows_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from yolo_gradwatch.records import EventKind

LEAST_WARMUP = 100
"""Batches for which older versions warm up at the least, unless ``warmup_epochs`` is 0."""

TAKE_PICTURES = ("base", "clearml", "wb")
"""Callbacks of Ultralytics that take a picture in any case; others do not look, or may fail."""


def is_trainer(target: Any) -> bool:
    """Whether this is a trainer, which has a ``_do_train``, and not a model."""
    return hasattr(type(target), "_do_train") and hasattr(type(target), "run_callbacks")


def has_begun(trainer: Any) -> bool:
    """Whether the training of this trainer has been set up, so that it is under way or over."""
    return getattr(trainer, "scaler", None) is not None


def check_trainable(model: Any) -> None:
    """Raise if this is not a model that Ultralytics can train.

    Raises:
        TypeError: It is no Ultralytics model, or one that cannot be trained.
    """
    kind = type(model)  # asked instead of the instance, which hands unknown names on to its network
    if not (hasattr(kind, "add_callback") and hasattr(kind, "train")):
        raise TypeError(
            f"attach needs an Ultralytics model (YOLO, RTDETR, ...) or trainer, got {kind.__name__}"
        )
    tasks = getattr(model, "task_map", None) or {}
    task = getattr(model, "task", None)
    if "trainer" not in tasks.get(task, {"trainer": None}):
        raise TypeError(
            f"{kind.__name__} has no train() in Ultralytics, so there is nothing to watch"
        )


def around_training(trainer: Any, finish: Callable[[str], None]) -> Callable[[], None]:
    """Call ``finish`` with the outcome when the training ends, however it ends.

    ``on_train_end`` comes on success only, and ``teardown`` is in a ``finally`` in late versions
    only, so the training itself is wrapped, on the instance. The outcome is ``finished``,
    ``failed`` or ``interrupted`` (Ctrl+C). ``SystemExit(0)``, by which a scheduler such as Ray Tune
    stops a training from a callback, is no failure.

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
        except SystemExit as stop:
            outcome = "finished" if _is_success(stop.code) else "failed"
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


def add_callback(
    trainer: Any, event: str, callback: Callable[[Any], None], *, is_first: bool = False
) -> None:
    """Add a callback, after or before all others, those of Ultralytics' integrations too."""
    others = trainer.callbacks[event]
    trainer.callbacks[event] = [callback, *others] if is_first else [*others, callback]


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


def _may_fail(callback: Callable[[Any], None]) -> bool:
    """Whether an integration of Ultralytics may not take a picture, as far as is known."""
    module = getattr(callback, "__module__", None) or ""  # None for a method of a built-in type
    package, _, name = module.rpartition(".")
    return package == "ultralytics.utils.callbacks" and name not in TAKE_PICTURES


def remove_callback(trainer: Any, event: str, callback: Callable[[Any], None]) -> None:
    """Take a callback away; the list is replaced, because the trainer may be walking through it."""
    trainer.callbacks[event] = [c for c in trainer.callbacks[event] if c is not callback]


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


def after_step(trainer: Any, call: Callable[[], None]) -> Callable[[], None]:
    """Call ``call`` after each step of the optimizer that was not left out.

    Returns:
        A function that takes the hook away, which is not allowed during a step.
    """
    register = getattr(trainer.optimizer, "register_step_post_hook", None)
    if register is None:  # an optimizer of the user's own that is none of torch's
        return lambda: None

    def hook(_optimizer: Any, _args: Any, _options: Any) -> None:
        call()

    remove: Callable[[], None] = register(hook).remove
    return remove


def before_batch(trainer: Any, call: Callable[[Sequence[str]], None]) -> Callable[[], None]:
    """Call ``call`` with the image files of each batch as it goes to the model.

    ``preprocess_batch`` is the only place that sees them; a classification has none.

    Returns:
        A function that takes the wrap away; a second call does nothing.
    """
    preprocess = trainer.preprocess_batch

    def watched_preprocess(batch: Any, *args: Any, **kwargs: Any) -> Any:
        call(batch.get("im_file", ()) if isinstance(batch, dict) else ())
        return preprocess(batch, *args, **kwargs)

    return replaced(trainer, "preprocess_batch", watched_preprocess)


def losses(trainer: Any) -> tuple[tuple[str, ...], list[Tensor]]:
    """Names and values of the loss items of the last batch, left on the device.

    ``loss_items`` is a tensor in 8.4.0 and a dict in 8.4.190.
    """
    items, where = trainer.loss_items, trainer.device.type
    if isinstance(items, dict):
        there = {name: item for name, item in items.items() if _lies_on(item, where)}
        return tuple(there), list(there.values())
    if _lies_on(items, where):
        names = getattr(trainer, "loss_names", ())
        return tuple(names if isinstance(names, (list, tuple)) else (names,)), [items]
    return (), []


def _lies_on(item: Any, kind: str) -> bool:
    """Whether this is a tensor on such a device."""
    return bool(getattr(getattr(item, "device", None), "type", None) == kind)


def learning_rates(trainer: Any) -> tuple[float, ...]:
    """Of the optimizer's groups of parameters, at this moment."""
    return tuple(float(group["lr"]) for group in trainer.optimizer.param_groups)


def meant_frozen(trainer: Any) -> tuple[str, ...]:
    """Parts of the names of parameters that the training froze by its own options.

    The teacher of a distillation comes into the model after the list of names is made (8.4.190).
    """
    names = getattr(trainer, "freeze_layer_names", None)
    return (*names, "teacher_model.") if names else ("",)


def amp_state(trainer: Any) -> list[Tensor]:
    """Whether an overflow was found (above 0) and the loss scale, left on the device.

    Returns:
        Two tensors of one element; none where no loss scaler is at work (CPU, bf16, amp=False).
    """
    scaler = trainer.scaler
    if not scaler.is_enabled():
        return []
    found = list(scaler._found_inf_per_device(trainer.optimizer).values())
    return [found[0], scaler._scale] if found else []


def model_of(trainer: Any) -> nn.Module:
    """The model that is trained, wrapped by DDP and ``torch.compile`` as it may be."""
    model: nn.Module = trainer.model
    return model


def save_dir(trainer: Any) -> Path:
    """The run's folder."""
    return Path(trainer.save_dir)


def epoch_of(trainer: Any) -> int:
    """The current epoch, counted from 1 as in ``results.csv``."""
    return int(trainer.epoch) + 1


def epochs_of(trainer: Any) -> int:
    """How many epochs the training is to have."""
    return int(trainer.epochs)


def resumes(trainer: Any) -> bool:
    """Whether this training continues an earlier one in the same folder."""
    return bool(trainer.resume)


def restart_kind(trainer: Any) -> EventKind:
    """Why an epoch that begins again does so: NaN recovery, or half the batch after an OOM."""
    return "nan_recovery" if getattr(trainer, "nan_recovery_attempts", 0) else "oom_restart"


def given_options(trainer: Any) -> dict[str, object]:
    """All arguments of the training, as the user gave them if it has not been set up yet.

    ``_setup_train`` overwrites some: ``optimizer``, ``lr0`` and ``warmup_bias_lr`` under
    ``optimizer=auto`` (from 8.4.172 on), ``batch``, ``imgsz``, ``workers``.
    """
    return {name: _plain(value) for name, value in vars(trainer.args).items()}


def training_options(trainer: Any, given: dict[str, object]) -> dict[str, object]:
    """What ``gradwatch.json`` has of the arguments of a training that begins.

    Args:
        trainer: Everything is set up.
        given: What `given_options` said before.

    Returns:
        ``given``, the total norm ``clip`` above which the trainer clips, and ``fitted``: those
        arguments that are not at work as they were given, as Ultralytics made them.
    """
    at_work = {**given_options(trainer), **_optimizer(trainer, given)}
    at_work |= {"amp": bool(trainer.scaler.is_enabled()), "device": str(trainer.device)}
    at_work |= _warmup(trainer)
    fitted = {name: value for name, value in at_work.items() if value != given.get(name)}
    return {**given, "clip": clip_norm(trainer), "fitted": fitted}


def _optimizer(trainer: Any, given: dict[str, object]) -> dict[str, object]:
    """The optimizer, and under ``auto`` its ``lr0``, which ``args`` do not tell in all versions.

    MuSGD has some groups at three times ``lr0``.
    """
    asked, name = str(given.get("optimizer")), type(trainer.optimizer).__name__
    if name.lower() == asked.lower():
        return {"optimizer": asked}
    if asked.lower() != "auto":
        return {"optimizer": name}
    groups = trainer.optimizer.param_groups
    return {"optimizer": name, "lr0": min(float(g.get("initial_lr", g["lr"])) for g in groups)}


def _warmup(trainer: Any) -> dict[str, object]:
    """For how many epochs the learning rate warms up.

    8.4.0 and 8.4.100 do it for 100 batches at least, 8.4.190 not in the last epoch.
    """
    epochs, batches = float(trainer.args.warmup_epochs), len(trainer.train_loader)
    count = getattr(trainer, "_get_warmup_iterations", None)
    if count:
        return {"warmup_epochs": count(batches) / batches}
    return {"warmup_epochs": max(epochs, LEAST_WARMUP / batches) if epochs > 0 else epochs}


def _plain(value: Any) -> object:
    """A value as JSON has it, else as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if isinstance(value, (int, float, str, type(None))) else str(value)


def train_model(name: str, attach: Callable[[Any], object], options: dict[str, Any]) -> None:
    """Build a model from its file, attach to it, and train it.

    Args:
        name: A ``.yaml`` or ``.pt`` file that Ultralytics finds.
        attach: Called with the model.
        options: Arguments of ``train``.
    """
    from ultralytics import YOLO  # noqa: PLC0415  # heavy; only a training pays for it

    model = YOLO(name)
    attach(model)
    model.train(**options)


def stop(trainer: Any) -> None:
    """Ask the trainer to end after this batch, or this epoch where it looks no earlier."""
    trainer.stop = True


def stops_between_batches(trainer: Any) -> bool:
    """Whether `stop` may be asked for at any batch: several processes agree at an epoch's end."""
    return int(getattr(trainer, "world_size", 0) or 0) <= 1


def versions() -> dict[str, str]:
    """Versions of what a run depends on."""
    names = ("torch", "ultralytics", "yolo-gradwatch")
    return {"python": sys.version.split()[0], **{name: _version(name) for name in names}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # it runs from a checkout
        return "unknown"


def log_handlers() -> list[logging.StreamHandler[Any]]:
    """The handlers through which Ultralytics, and every other logger, writes to a stream."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = [handler for logger in loggers for handler in getattr(logger, "handlers", ())]
    streams = [h for h in dict.fromkeys(handlers) if isinstance(h, logging.StreamHandler)]
    return [h for h in streams if "stream" in vars(h)]  # logging.lastResort has none to be set


def has_known_bar() -> bool:
    """Whether Ultralytics' progress bar can be drawn inside a panel."""
    try:
        from ultralytics.utils import TQDM  # noqa: PLC0415

        return shows_bar(TQDM)
    except Exception:  # noqa: BLE001  # whatever it has become, it costs the panel only
        return False
