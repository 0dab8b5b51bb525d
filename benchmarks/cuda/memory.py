"""Device memory over many steps of a tiny model, without and with the watch."""

from __future__ import annotations

import contextlib
import gc
import math
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from trainings import StepClock, training

from benchmarks.cuda.job import has_cuda, quiet, tiny_options
from yolo_gradwatch import GradWatch

if TYPE_CHECKING:
    from benchmarks.cuda.job import Job

STEPS = 2000
EVERY = 100
"""Steps between two measurements."""


class EnoughError(Exception):
    """The time is up."""


def measure(job: Job) -> None:
    """Print the memory after the first steps, at the end and at its peak."""
    steps, every = (8, 4) if job.is_small else (STEPS, EVERY)
    where = "on the device" if has_cuda() else "of the process"
    columns = [f"MB {where} after {every:,} steps", "at the end", "grown, kB", "most, MB"]
    job.head("watch", *columns, "steps", "seconds")
    for name, share in (("off", 0.45), ("on", 0.9)):
        found = MemoryLog(steps, every, job.left * share)
        found.train(is_watched=name == "on")
        values = found.megabytes or [math.nan]
        first, last = values[0], values[-1]
        most = f"{torch.cuda.max_memory_allocated() / 1e6:.3f}" if has_cuda() else "-"
        cells = [f"{first:.3f}", f"{last:.3f}", f"{1e3 * (last - first):.1f}", most]
        job.row(name, *cells, f"{found.steps:,}", f"{found.seconds:.0f}")


class MemoryLog:
    """Measures the memory at the start of steps, when there are no gradients.

    Args:
        steps: Number of steps of the training.
        every: Steps between two measurements.
        seconds: Time limit of the training.
    """

    def __init__(self, steps: int, every: int, seconds: float) -> None:
        self._steps = steps
        self._every = every
        self._clock = StepClock()
        self._end = time.perf_counter() + seconds
        self.megabytes: list[float] = []
        self.seconds = 0.0

    @property
    def steps(self) -> int:
        """Number of finished steps."""
        return len(self._clock.begins) - 1

    def train(self, *, is_watched: bool) -> None:
        """Train to the last step or the time limit."""
        gc.collect()  # the trainer before
        if has_cuda():
            torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()

        def attach(trainer: Any) -> None:
            if is_watched:
                GradWatch(live=False).attach(trainer)
            trainer.add_callback("on_train_batch_start", self._note)

        with tempfile.TemporaryDirectory() as folder, quiet():
            chosen = tiny_options(Path(folder))
            with contextlib.suppress(EnoughError):
                training(attach, clock=self._clock, steps=self._steps + 1, **chosen)
        self.seconds = time.perf_counter() - begin

    def _note(self, _trainer: Any) -> None:
        if self.steps and self.steps % self._every == 0:
            self.megabytes.append(_megabytes())
        if time.perf_counter() > self._end:
            raise EnoughError


def _megabytes() -> float:
    if has_cuda():
        return torch.cuda.memory_allocated() / 1e6
    return psutil.Process().memory_info().rss / 1e6
