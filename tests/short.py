"""A training of eight steps on a model of six blocks, and what it must leave as it was."""

import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from training import brisk_trainer, small, trainer_of


def spoil_step_8(trainer):
    passes = []

    def hook(gradient):
        passes.append(1)
        return gradient * float("nan") if len(passes) == 8 else gradient

    dict(trainer.model.named_parameters())["model.1.conv.weight"].register_hook(hook)


def run(folder, *, watch=None, first=(), calls=()):
    """A training of eight steps, the last of which is not finite.

    Args:
        folder: Of the project.
        watch: Attached after the callbacks of ``first``, before those of ``calls``.
        first: Pairs of an event and a callback.
        calls: As ``first``.
    """
    from ultralytics import YOLO

    model = YOLO(small())
    for event, call in first:
        model.add_callback(event, call)
    if watch is not None:
        watch.attach(model)
    for event, call in [("on_train_start", spoil_step_8), *calls]:
        model.add_callback(event, call)
    options = {"kind": brisk_trainer(), "model": small(), "epochs": 4, "imgsz": 32}
    trainer = trainer_of(folder, calls=model.callbacks, **options)
    trainer.train()
    return trainer


def bits_of(trainer):
    """The weights, and their average over the steps."""
    states = (trainer.model.state_dict(), trainer.ema.ema.state_dict())
    return [(name, v.numpy().tobytes()) for state in states for name, v in state.items()]


@cache
def bare():
    """The weights of the training that nobody watches."""
    with TemporaryDirectory() as folder:
        return bits_of(run(Path(folder)))


def streams():
    """Where everything is printed to."""
    from ultralytics.utils import LOGGER

    streams = [getattr(handler, "stream", None) for handler in LOGGER.handlers]
    return (sys.stdout, sys.stderr, streams)


def assert_nothing_left(trainer):
    assert "unscale_" not in vars(trainer.scaler)
    assert not trainer.optimizer._optimizer_step_post_hooks
    assert not {"preprocess_batch", "_do_train"} & set(vars(trainer))
    ours = [c for calls in trainer.callbacks.values() for c in calls if "yolo_gradwatch" in repr(c)]
    assert [c.__name__ for c in ours] == ["_on_begin"]


def told(caplog):
    """What the watch said in the log."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("yolo_gradwatch")]
