"""Facts about a training, read from its Ultralytics trainer.

Read in ultralytics 8.4.0 to 8.4.190.
"""

from __future__ import annotations

import logging
import math
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_gradwatch import __version__
from yolo_gradwatch.measure import model_layout as layouts
from yolo_gradwatch.plain import printable
from yolo_gradwatch.watch.ultralytics.contract import clip_norm, shows_bar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from yolo_gradwatch.measure.event import EventKind

LEAST_WARMUP = 100
"""Minimum warm-up of older versions in batches, unless ``warmup_epochs`` is 0."""


def is_trainer(target: Any) -> bool:
    """Return whether this is a trainer, which has a ``_do_train``, and not a model."""
    return hasattr(type(target), "_do_train") and hasattr(type(target), "run_callbacks")


def has_begun(trainer: Any) -> bool:
    """Return whether this trainer's training has been set up: it is in progress or over."""
    return getattr(trainer, "scaler", None) is not None


def check_trainable(model: Any) -> None:
    """Raise if this is not a model that Ultralytics can train.

    Raises:
        TypeError: It is not an Ultralytics model, or one that cannot be trained.
    """
    kind = type(model)  # not the instance, which forwards unknown names to its network
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


def losses(trainer: Any) -> tuple[tuple[str, ...], list[Tensor]]:
    """Return names and values of the loss items of the last batch, left on the device.

    ``loss_items`` is a tensor in 8.4.0 and a dict in 8.4.190; None after a batch that did not fit
    into memory.

    Returns:
        A name for each number, and tensors on the trainer's device that hold that many numbers.
    """
    items: Any = getattr(trainer, "loss_items", None)
    where: torch.device = trainer.device
    if isinstance(items, dict):
        there = {name: item for name, item in items.items() if _is_on(item, where)}
        names = [one for name, item in there.items() for one in _numbered(str(name), item.numel())]
        return _distinct(names), list(there.values())
    if _is_on(items, where):
        known = getattr(trainer, "loss_names", ())
        names = [str(name) for name in (known if isinstance(known, (list, tuple)) else [known])]
        is_known = len(names) == items.numel()
        return _distinct(names if is_known else _numbered("loss", items.numel())), [items]
    return (), []


def _is_on(item: Any, where: torch.device) -> bool:
    """Return whether this is a real-valued tensor on a device."""
    device: Any = getattr(item, "device", None)
    is_there = getattr(device, "type", None) == where.type
    return is_there and where.index in {None, device.index} and not item.is_complex()


def _numbered(name: str, count: int) -> list[str]:
    """Return a name for each number of an item."""
    return [name] if count == 1 else [f"{name}/{number}" for number in range(count)]


def _distinct(names: list[str]) -> tuple[str, ...]:
    """Return unique names for the rows of a table."""
    shown = [printable(name) for name in names]
    is_distinct = len(set(shown)) == len(shown)
    return tuple(shown if is_distinct else _numbered("loss", len(shown)))


def optimizer_of(trainer: Any) -> Any:
    """Return the optimizer."""
    return trainer.optimizer


def learning_rates(trainer: Any) -> tuple[float, ...]:
    """Return the current learning rate of each parameter group; NaN for one on a device."""
    return tuple(_rate(group.get("lr")) for group in trainer.optimizer.param_groups)


def _rate(value: Any) -> float:
    """Return a number, or a one-element tensor on the host; NaN otherwise, to avoid waiting."""
    is_here = getattr(getattr(value, "device", None), "type", "") == "cpu"
    return float(value) if isinstance(value, (int, float)) or is_here else math.nan


def meant_frozen(trainer: Any) -> tuple[str, ...]:
    """Return name fragments of the parameters that the training froze by its own options.

    The teacher of a distillation enters the model after the list of names is made (8.4.190).
    """
    names = getattr(trainer, "freeze_layer_names", None)
    return (*names, "teacher_model.") if names else ("",)


def amp_state(trainer: Any) -> list[Tensor]:
    """Return whether an overflow was found (above 0) and the loss scale, left on the device.

    Returns:
        Two tensors of one element; none if no loss scaler is active (CPU, bf16, amp=False).
    """
    scaler = trainer.scaler
    if not scaler.is_enabled():
        return []
    found = list(scaler._found_inf_per_device(trainer.optimizer).values())
    return [found[0], scaler._scale] if found else []


def loss_scale(trainer: Any) -> Tensor | None:
    """Return the factor by which AMP scales the loss, left on the device; None without scaling."""
    scale: Tensor | None = trainer.scaler._scale if trainer.scaler.is_enabled() else None
    return scale


def replicas(trainer: Any) -> int:
    """Return the factor by which DDP scales the loss: the number of processes."""
    return max(int(getattr(trainer, "world_size", 0) or 0), 1)


def is_compiled(trainer: Any) -> bool:
    """Return whether ``torch.compile`` is active in the model."""
    return bool(getattr(trainer.args, "compile", False)) or layouts.is_compiled(trainer.model)


def model_of(trainer: Any) -> nn.Module:
    """Return the trained model, possibly wrapped by DDP and ``torch.compile``."""
    model: nn.Module = trainer.model
    return model


def save_dir(trainer: Any) -> Path:
    """Return the run's folder."""
    return Path(trainer.save_dir)


def epoch_of(trainer: Any) -> int:
    """Return the current epoch, counted from 1 as in ``results.csv``."""
    return int(trainer.epoch) + 1


def epochs_of(trainer: Any) -> int:
    """Return the planned number of epochs."""
    return int(trainer.epochs)


def resumes(trainer: Any) -> bool:
    """Return whether this training continues an earlier one in the same folder."""
    return bool(trainer.resume)


def restart_kind(trainer: Any) -> EventKind:
    """Return why an epoch begins again: NaN recovery, or half the batch after an OOM."""
    return "nan_recovery" if getattr(trainer, "nan_recovery_attempts", 0) else "oom_restart"


def given_options(trainer: Any) -> dict[str, object]:
    """Return all arguments of the training, as the user gave them if it has not been set up yet.

    ``_setup_train`` overwrites some: ``optimizer``, ``lr0`` and ``warmup_bias_lr`` under
    ``optimizer=auto`` (from 8.4.172 on), ``batch``, ``imgsz``, ``workers``.
    """
    return {name: _plain(value) for name, value in vars(trainer.args).items()}


def training_options(trainer: Any, given: dict[str, object]) -> dict[str, object]:
    """Return what ``gradwatch.json`` stores of the arguments of a training that begins.

    Args:
        trainer: A trainer that is fully set up.
        given: The earlier result of `given_options`.

    Returns:
        ``given``, the total norm ``clip`` above which the trainer clips, and ``fitted``: the
        effective values of the arguments that Ultralytics changed.
    """
    at_work = {**given_options(trainer), **_optimizer(trainer, given)}
    at_work |= {"amp": bool(trainer.scaler.is_enabled()), "device": str(trainer.device)}
    at_work |= _warmup(trainer)
    fitted = {name: value for name, value in at_work.items() if value != given.get(name)}
    return {**given, "clip": clip_norm(trainer), "fitted": fitted}


def _optimizer(trainer: Any, given: dict[str, object]) -> dict[str, object]:
    """Return the optimizer, and under ``auto`` its ``lr0``, which ``args`` lack in some versions.

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
    """Return the number of warm-up epochs.

    8.4.0 and 8.4.100 warm up for at least 100 batches; 8.4.190 not in the last epoch.
    """
    epochs, batches = float(trainer.args.warmup_epochs), len(trainer.train_loader)
    count = getattr(trainer, "_get_warmup_iterations", None)
    if count:
        return {"warmup_epochs": count(batches) / batches}
    return {"warmup_epochs": max(epochs, LEAST_WARMUP / batches) if epochs > 0 else epochs}


def _plain(value: Any) -> object:
    """Return a value that JSON can represent; others as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if isinstance(value, (int, float, str, type(None))) else str(value)


def versions() -> dict[str, str]:
    """Return the versions of the software that a run depends on."""
    others = {name: _version(name) for name in ("torch", "ultralytics")}
    return {"python": sys.version.split()[0], **others, "yolo-gradwatch": __version__}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # running from a checkout
        return "unknown"


def log_handlers() -> list[logging.StreamHandler[Any]]:
    """Return the handlers through which any logger, including Ultralytics', writes to a stream."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = [handler for logger in loggers for handler in getattr(logger, "handlers", ())]
    streams = [h for h in dict.fromkeys(handlers) if isinstance(h, logging.StreamHandler)]
    return [h for h in streams if "stream" in vars(h)]  # logging.lastResort has no settable one


def has_known_bar() -> bool:
    """Return whether Ultralytics' progress bar can be drawn inside a panel."""
    try:
        from ultralytics.utils import TQDM

        return shows_bar(TQDM)
    except Exception:  # noqa: BLE001  # an unknown bar only costs the panel
        return False
