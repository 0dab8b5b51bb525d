"""Short trainings on the fake or the real trainer, and checks that a watch changes nothing."""

import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from training import TINY, amp_trainer, fast_trainer, shapes, small


class Way:
    """The trainer that a test uses.

    Args:
        is_real: Whether to use Ultralytics' trainer instead of the fake one.

    Attributes:
        base: The trainer class, which tests may derive from.
    """

    def __init__(self, *, is_real):
        from fake_trainer import FakeTrainer

        self.is_real = is_real
        self.base = fast_trainer() if is_real else FakeTrainer

    def model(self):
        """Return a model of six blocks."""
        from fake_trainer import FakeModel

        if not self.is_real:
            return FakeModel()
        from ultralytics import YOLO

        return YOLO(small())

    def trainer(self, folder, *, kind=None, images=8, attached=None, **options):
        """Return an unstarted trainer; by default four epochs of two batches, one step each."""
        data = shapes(images) if self.is_real else "noise"
        overrides = {**TINY, "imgsz": 32, "epochs": 4, "save": False, "model": small()}
        overrides |= {"data": data, "project": str(folder), **options}
        overrides |= {} if self.is_real else {"images": images}
        callbacks = attached.callbacks if attached else None
        return (kind or self.base)(overrides=overrides, _callbacks=callbacks)

    def train(self, folder, *, watch=None, first=(), calls=(), attached=None, **options):
        """Train, and return the trainer.

        Args:
            folder: Project folder; the run is ``folder / "run"``.
            watch: Attached after the callbacks of ``first``, before those of ``calls``.
            first: Pairs of an event and a callback.
            calls: As ``first``.
            attached: An existing result of `model`.
            options: As in `trainer`.
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
        """Return a trainer class with a loss scaler of 65536."""
        return amp_trainer(self.base)

    @cache  # noqa: B019  # there are two ways
    def bare(self):
        """Return the weights of the unwatched `spoiled` training."""
        with TemporaryDirectory() as folder:
            return bits_of(self.spoiled(Path(folder)))

    def spoiled(self, folder, *, calls=(), **options):
        """Train eight steps, the last of which is not finite."""
        return self.train(folder, calls=[spoil("model.1.conv.weight", at=8), *calls], **options)


FAKE = Way(is_real=False)

PICTURES = ("yolo_gradwatch.views.png.figure.write", "yolo_gradwatch.views.png.depth.write")
"""The functions that draw pictures, which take half of the time of a fake training."""


def blank_pictures(monkeypatch):
    """Create empty files instead of pictures."""
    for picture in PICTURES:
        monkeypatch.setattr(picture, lambda _numbers, _report, path: path.touch())


@cache
def real():
    """Return Ultralytics' trainer; this loads Ultralytics.

    In 8.4.0 and 8.4.100, the first training of a process gets other random numbers than later ones,
    so one training runs first.
    """
    way = Way(is_real=True)
    with TemporaryDirectory() as folder:
        way.train(Path(folder), epochs=1)
    return way


def run(folder, **options):
    """Run a real training of eight steps, see `Way.spoiled`."""
    return real().spoiled(folder, **options)


def bare():
    """Return the weights of the unwatched real training."""
    return real().bare()


def spoil(name, value=float("nan"), *, at, until=None):
    """Return a callback that multiplies a parameter's gradient in some backward passes."""

    def inject(trainer):
        passes = []

        def hook(gradient):
            passes.append(1)
            return gradient * value if at <= len(passes) <= (until or at) else gradient

        dict(trainer.model.named_parameters())[name].register_hook(hook)

    return ("on_train_start", inject)


def ruin(trainer):
    """Set a weight to NaN."""
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
    """Return a callback for an event that calls ``call`` at its ``count``-th time."""
    times = []

    def counted(trainer):
        times.append(1)
        if len(times) == count:
            call(trainer)

    return (event, counted)


def leave(error):
    """Return a callback that raises."""

    def call(_trainer):
        raise error

    return call


def bits_of(trainer):
    """Return the bytes of the weights and of their moving average."""
    states = (trainer.model.state_dict(), trainer.ema.ema.state_dict())
    return [(name, v.cpu().numpy().tobytes()) for state in states for name, v in state.items()]


def streams():
    """Return all output streams."""
    from ultralytics.utils import LOGGER

    streams = [getattr(handler, "stream", None) for handler in LOGGER.handlers]
    return (sys.stdout, sys.stderr, streams)


def assert_nothing_left(trainer):
    assert "unscale_" not in vars(trainer.scaler)
    assert not trainer.optimizer._optimizer_step_post_hooks
    assert not {"preprocess_batch", "_do_train"} & set(vars(trainer))
    ours = [c for calls in trainer.callbacks.values() for c in calls if "yolo_gradwatch" in repr(c)]
    assert [c.__name__ for c in ours] == ["on_begin"]


def warnings_of(caplog):
    """Return the watch's log messages."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("yolo_gradwatch")]
