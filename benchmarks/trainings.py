"""Real Ultralytics trainings for benchmarks: no download, images in memory, a clock for the steps.

Settings of Ultralytics are kept in a temporary folder, so that a benchmark changes none of the
user's.
"""

from __future__ import annotations

import atexit
import contextlib
import os
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

with contextlib.redirect_stdout(sys.stderr):  # it prints its new settings as it is imported
    from ultralytics import YOLO  # noqa: F401  # for the scripts, after the environment
    from ultralytics.engine import trainer as engine
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.nn.modules import Conv  # noqa: F401  # the same

from yolo_gradwatch.demo.shapes import draw_dataset  # noqa: E402  # imports Ultralytics

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
"""Arguments of a short training that shows a fault: every batch is an optimizer step."""

ONE_EPOCH = {
    **SMALL,
    "epochs": 1,
    "mosaic": 0.0,
    "optimizer": "AdamW",
    "lr0": 0.002,
    "warmup_epochs": 0,
}
"""Arguments of a training of one epoch, with a constant learning rate from its first step."""

FIRST = 50
"""Steps that are kept apart from the steady state: each of them is a window of its own."""


class InMemory(DetectionTrainer):
    """Trains so many steps on batches that were made once; saves and validates nothing.

    Attributes:
        steps: Optimizer steps of the training, each of one batch.
    """

    steps = 100

    def get_dataloader(self, *args: Any, mode: str = "train", **options: Any) -> Any:
        """The loader's batches again and again, as long as one epoch is to be."""
        loader = super().get_dataloader(*args, mode=mode, **options)
        return _Repeated(loader, self.steps) if mode == "train" else loader

    def _setup_train(self) -> None:
        """Half precision is taken for granted: trying it out needs a checkpoint to download."""
        with mock.patch.object(engine, "check_amp", return_value=True):
            super()._setup_train()

    def validate(self) -> tuple[dict[str, float], float]:
        """No validation: it is not part of a step."""
        return {}, 0.0

    def save_model(self) -> bool:
        """No checkpoint."""
        return False

    def final_eval(self) -> None:
        """No checkpoint to validate."""


class _Repeated:
    """A data loader that hands its batches out again and again."""

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


class StepClock:
    """When each step of a training began.

    Attributes:
        begins: Seconds, one a step.
    """

    def __init__(self) -> None:
        self.begins: list[float] = []

    def tick(self, _trainer: Any) -> None:
        """A step begins."""
        self.begins.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Of each step but the last, from its beginning to that of the next."""
        return [b - a for a, b in zip(self.begins, self.begins[1:], strict=False)]


def training(
    watch: Callable[[Any], object] | None = None,
    *,
    clock: StepClock,
    steps: int,
    name: str = "Timed",
    **options: Any,
) -> None:
    """Train one epoch of so many steps.

    Args:
        watch: Attaches whatever watches to the trainer.
        clock: Notes when each step begins.
        steps: Optimizer steps.
        name: Of the trainer's class; Ultralytics opens its loggers for one that has the word
            Trainer in it.
        options: Arguments of Ultralytics' training; ``batch`` images make a step.
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
