"""Ultralytics trainings for benchmarks: no downloads, images in memory, a clock for the steps.

Ultralytics' settings are kept in a temporary folder, so a benchmark changes none of the user's.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

HOME = Path(tempfile.mkdtemp(prefix="gradwatch-benchmark-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ.setdefault("YOLO_CONFIG_DIR", str(HOME))
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")

with contextlib.redirect_stdout(sys.stderr):  # the import prints the new settings
    from ultralytics import YOLO  # noqa: F401  # for the scripts, after the environment
    from ultralytics.engine import trainer as engine
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.nn.modules import Conv  # noqa: F401  # for the scripts

from yolo_gradwatch.demo.shapes import COLOURS, draw_dataset, draw_image  # noqa: E402  # imports Ultralytics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SMALL = {
    "imgsz": 64,
    "batch": 4,
    "nbs": 4,
    "workers": 0,
    "device": "cpu",
    "amp": False,
    "plots": False,
    "val": False,
    "verbose": False,
    "exist_ok": True,
}
"""Arguments of a short training with a fault: every batch is an optimizer step."""

ONE_EPOCH = {
    **SMALL,
    "epochs": 1,
    "mosaic": 0.0,
    "optimizer": "AdamW",
    "lr0": 0.002,
    "warmup_epochs": 0,
}
"""Arguments of a training of one epoch with a constant learning rate."""

FIRST = 50
"""Steps reported separately from the steady state: each of them is a window."""


class Repeating:
    """Mixin for a trainer: batches loaded once are repeated, without checkpoints and validation.

    Attributes:
        steps: Number of optimizer steps, each of one batch.
    """

    steps = 100

    def get_dataloader(self, *args: Any, mode: str = "train", **options: Any) -> Any:
        """Repeat the loader's batches for the length of one epoch."""
        loader = super().get_dataloader(*args, mode=mode, **options)
        return _Repeated(loader, self.steps) if mode == "train" else loader

    def _setup_train(self) -> None:
        """Skip the check of half precision, which would download a checkpoint."""
        with mock.patch.object(engine, "check_amp", return_value=True):
            super()._setup_train()

    def validate(self) -> tuple[dict[str, float], float]:
        """Skip the validation: it is not part of a step."""
        return {}, 0.0

    def save_model(self) -> bool:
        """Skip the checkpoint."""
        return False

    def final_eval(self) -> None:
        """Skip the final validation: there is no checkpoint."""


class InMemory(Repeating, DetectionTrainer):
    """Detection trainer that repeats batches loaded once."""


class _Repeated:
    """A data loader that repeats its batches."""

    def __init__(self, loader: Any, steps: int) -> None:
        self._loader = loader
        self._batches = list(loader)
        self._steps = steps

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for step in range(self._steps):
            yield dict(self._batches[step % len(self._batches)])  # the trainer writes into it

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def draw_classes(folder: Path, *, train: int, val: int) -> Path:
    """Draw images for a classifier, in a folder per colour of their first shape."""
    chance = random.Random(0)  # noqa: S311  # pictures, not secrets
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            image, boxes = draw_image(chance)
            colour = folder / split / COLOURS[boxes[0][0]]
            colour.mkdir(parents=True, exist_ok=True)
            image.save(colour / f"{index:03}.png")
    return folder


class StepClock:
    """Records the start time of each training step.

    Attributes:
        begins: Start times in seconds, one per step.
    """

    def __init__(self) -> None:
        self.begins: list[float] = []

    def tick(self, _trainer: Any) -> None:
        """Record the start of a step."""
        self.begins.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Seconds from the start of each step to the start of the next."""
        return [b - a for a, b in zip(self.begins, self.begins[1:], strict=False)]


def training(
    watch: Callable[[Any], object] | None = None,
    *,
    clock: StepClock,
    steps: int,
    name: str = "Timed",
    **options: Any,
) -> None:
    """Train one epoch of the given number of steps.

    Args:
        watch: Attaches a watch to the trainer.
        clock: Records when each step begins.
        steps: Number of optimizer steps.
        name: Name of the trainer's class; Ultralytics opens its loggers only if it contains the
            word Trainer.
        options: Arguments of Ultralytics' training; a step has ``batch`` images.
    """
    batch = options["batch"]
    defaults = {
        "data": str(draw_dataset(HOME / f"shapes-{batch}", train=batch, val=1)),
        "project": str(HOME / "runs"),
        "name": "run",
        "exist_ok": True,
        "epochs": 1,
        "nbs": batch,
        "workers": 0,
        "plots": False,
        "val": False,
        "optimizer": "SGD",
        "mosaic": 0.0,
        "verbose": False,
    }
    kind = type(name, (InMemory,), {"steps": steps})
    trainer = kind(overrides={**defaults, **options})
    trainer.add_callback("on_train_batch_start", clock.tick)
    if watch:
        watch(trainer)
    trainer.train()
