"""Memory on the device over many steps of a tiny model, without and with the watch."""

from __future__ import annotations

import contextlib
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
MARKS = (100, 500, 1000, 1500, STEPS)


class EnoughError(Exception):
    """The time is up."""


def measure(job: Job) -> None:
    """Print the memory at some steps, and the most."""
    marks = (4, 8) if job.is_small else MARKS
    where = "on the device" if has_cuda() else "of the process"
    titles = [f"at {mark:,}" for mark in marks]
    job.head("watch", f"MB {where} {titles[0]}", *titles[1:], "most", "steps", "seconds")
    for name, half in (("off", 0.5), ("on", 0.95)):
        found = Marks(marks, job.left * half)
        found.train(is_watched=name == "on")
        cells = [
            f"{found.megabytes[mark]:.3f}" if mark in found.megabytes else "-" for mark in marks
        ]
        most = f"{torch.cuda.max_memory_allocated() / 1e6:.3f}" if has_cuda() else "-"
        job.row(name, *cells, most, f"{found.steps:,}", f"{found.seconds:.0f}")


class Marks:
    """Notes the memory at the beginning of some steps, when there are no gradients.

    Args:
        steps: Which.
        seconds: After which the training ends.
    """

    def __init__(self, steps: tuple[int, ...], seconds: float) -> None:
        self._marks = steps
        self._clock = StepClock()
        self._end = time.perf_counter() + seconds
        self.megabytes: dict[int, float] = {}
        self.seconds = 0.0

    @property
    def steps(self) -> int:
        """That were taken."""
        return len(self._clock.begins) - 1

    def train(self, *, is_watched: bool) -> None:
        """Train until the last step that is asked for, or the end of the time."""
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
                training(attach, clock=self._clock, steps=self._marks[-1] + 1, **chosen)
        self.seconds = time.perf_counter() - begin

    def _note(self, _trainer: Any) -> None:
        if self.steps in self._marks:
            self.megabytes[self.steps] = _megabytes()
        if time.perf_counter() > self._end:
            raise EnoughError


def _megabytes() -> float:
    if has_cuda():
        return torch.cuda.memory_allocated() / 1e6
    return psutil.Process().memory_info().rss / 1e6
