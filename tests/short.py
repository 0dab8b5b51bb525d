"""Short trainings on the fake trainer or Ultralytics' own, and what a watch must not change."""

import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from training import TINY, amp_trainer, brisk_trainer, shapes, small


class Way:
    """How a test trains.

    Args:
        is_real: On Ultralytics' trainer instead of the fake one.

    Attributes:
        base: The class of its trainers, which tests may derive from.
    """

    def __init__(self, *, is_real):
        from fake_trainer import FakeTrainer

        self.is_real = is_real
        self.base = brisk_trainer() if is_real else FakeTrainer

    def model(self):
        """A model of six blocks."""
        from fake_trainer import FakeModel

        if not self.is_real:
            return FakeModel()
        from ultralytics import YOLO

        return YOLO(small())

    def trainer(self, folder, *, kind=None, images=8, attached=None, **options):
        """A trainer that has not begun: by default for four epochs of two batches, a step each."""
        data = shapes(images) if self.is_real else "noise"
        overrides = {**TINY, "imgsz": 32, "epochs": 4, "save": False, "model": small()}
        overrides |= {"data": data, "project": str(folder), **options}
        overrides |= {} if self.is_real else {"images": images}
        callbacks = attached.callbacks if attached else None
        return (kind or self.base)(overrides=overrides, _callbacks=callbacks)

    def train(self, folder, *, watch=None, first=(), calls=(), attached=None, **options):
        """Train, and return the trainer.

        Args:
            folder: Of the project; the run is ``folder / "run"``.
            watch: Attached after the callbacks of ``first``, before those of ``calls``.
            first: Pairs of an event and a callback.
            calls: As ``first``.
            attached: One of `model` that is there already.
            options: As for `trainer`.
        """
        model = attached or self.model()
        for event, call in first:
            model.add_callback(event, call)
        if watch is not None:
            watch.attach(model)
        for event, call in calls:
            model.add_callback(event, call)
        trainer = self.trainer(folder, attached=model, **options)
        trainer.train()
        return trainer

    def scaled(self):
        """The class of a trainer with a loss scaler of 65536."""
        return amp_trainer(self.base)

    @cache  # noqa: B019  # there are two ways
    def bare(self):
        """The weights of the training of `spoiled` that nobody watches."""
        with TemporaryDirectory() as folder:
            return bits_of(self.spoiled(Path(folder)))

    def spoiled(self, folder, *, calls=(), **options):
        """Train eight steps, the last of which is not finite."""
        return self.train(folder, calls=[spoil("model.1.conv.weight", at=8), *calls], **options)


FAKE = Way(is_real=False)

PICTURES = ("yolo_gradwatch.views.png.figure.write", "yolo_gradwatch.views.png.depth.write")
"""What draws each; half of the time of a fake training."""


def blank_pictures(monkeypatch):
    """Leave empty files in place of pictures."""
    for picture in PICTURES:
        monkeypatch.setattr(picture, lambda _numbers, _report, path: path.touch())


@cache
def real():
    """Ultralytics' trainer; a test that asks for it loads Ultralytics.

    In 8.4.0 and 8.4.100 the first training of a process has other random numbers than later ones.
    """
    way = Way(is_real=True)
    with TemporaryDirectory() as folder:
        way.train(Path(folder), epochs=1)
    return way


def run(folder, **options):
    """A real training of eight steps, see `Way.spoiled`."""
    return real().spoiled(folder, **options)


def bare():
    """The weights of the real training that nobody watches."""
    return real().bare()


def spoil(name, value=float("nan"), *, at, until=None):
    """A callback that multiplies a parameter's gradient in one backward pass, or in several."""

    def plant(trainer):
        passes = []

        def hook(gradient):
            passes.append(1)
            return gradient * value if at <= len(passes) <= (until or at) else gradient

        dict(trainer.model.named_parameters())[name].register_hook(hook)

    return ("on_train_start", plant)


def ruin(trainer):
    """Make a weight NaN."""
    dict(trainer.model.named_parameters())["model.2.conv.weight"].data.fill_(float("nan"))


def starve(trainer):
    """Run out of memory in the forward pass of the second batch, once."""
    passes = []

    def hook(_module, _inputs):
        passes.append(1)
        if len(passes) == 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.")

    trainer.model.model[2].register_forward_pre_hook(hook)


def at(event, count, call):
    """A callback that calls at the so-many-th time of an event, with the trainer."""
    times = []

    def counted(trainer):
        times.append(1)
        if len(times) == count:
            call(trainer)

    return (event, counted)


def leave(error):
    """A callback's function that raises."""

    def call(_trainer):
        raise error

    return call


def bits_of(trainer):
    """The weights, and their average over the steps."""
    states = (trainer.model.state_dict(), trainer.ema.ema.state_dict())
    return [(name, v.cpu().numpy().tobytes()) for state in states for name, v in state.items()]


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
    assert [c.__name__ for c in ours] == ["on_begin"]


def told(caplog):
    """What the watch said in the log."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("yolo_gradwatch")]
