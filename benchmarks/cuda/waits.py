"""Count how often the host waits for the device, in trainings with each installed tool.

In its debug mode, PyTorch warns of each wait except waits for an event, which are counted here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import math
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import meter
import torch
from meter import PARTS
from peers import BARE, WAYS
from trainings import StepClock, training

from benchmarks.cuda.job import has_cuda, options, quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.cuda.job import Job

WARM = 5
COUNTED = 12
CONTROL = "an .item() a parameter"
"""A tool that certainly waits."""

MESSAGE = "called a synchronizing"
"""Start of PyTorch's warning; a different one, that the mode is a prototype, appears once."""


def measure(job: Job) -> None:
    """Print a row for each tool."""
    ways = dict(list(WAYS.items())[:2]) if job.is_small else WAYS
    job.head("way", "waits a step", "above the bare run", "inside our code")
    counts: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        chosen = options(job, Path(folder))
        for name, (attach, package) in ways.items():
            if package and not importlib.util.find_spec(package):
                job.row(name, "not installed", "-", "-")
                continue
            try:
                waits = _count(attach, chosen)
            except Exception as error:  # noqa: BLE001  # any error of another tool
                job.row(name, f"failed: {type(error).__name__}", "-", "-")
                continue
            counts[name] = a_step = waits.count / COUNTED
            if not has_cuda():
                job.row(name, *["-"] * 3)
                continue
            inside = f"{waits.inside / COUNTED:.2f}" if name == "yolo_gradwatch" else "-"
            job.row(name, f"{a_step:.2f}", f"{a_step - counts.get(BARE, math.nan):.2f}", inside)
    if not has_cuda():
        job.text("Needs CUDA: a CPU has no device to wait for.")
        return
    job.text(f"In {COUNTED} steps after the first {WARM}.")
    if CONTROL in ways and not counts.get(CONTROL, 0.0) > counts.get(BARE, 0.0):
        job.text("Not even those of an `.item()` were counted: these counts mean nothing.")


class Waits:
    """Counts waits while it is active.

    Args:
        mode: Sets PyTorch's debug mode; by default that of CUDA, if available.
    """

    def __init__(self, mode: Callable[[str], None] | None = None) -> None:
        self._mode = mode or (torch.cuda.set_sync_debug_mode if has_cuda() else lambda _: None)
        self._stack = contextlib.ExitStack()
        self._caught: list[Any] = []
        self._events = 0
        self._depth = 0
        self.inside = 0

    @property
    def count(self) -> int:
        """Number of waits so far."""
        return self._events + sum(str(one.message).startswith(MESSAGE) for one in self._caught)

    def start(self) -> None:
        """Start counting."""
        caught = self._stack.enter_context(warnings.catch_warnings(record=True))
        self._caught = [] if caught is None else caught
        warnings.simplefilter("always")
        waiting = self._waiting(torch.cuda.Event.synchronize)
        self._stack.enter_context(mock.patch.object(torch.cuda.Event, "synchronize", waiting))
        self._mode("warn")
        self._stack.callback(self._mode, "default")

    def stop(self) -> None:
        """Stop counting."""
        self._stack.close()

    @contextlib.contextmanager
    def marking(self) -> Iterator[None]:
        """Count waits inside our calls separately until the block ends."""
        with contextlib.ExitStack() as stack:
            for owner, name in (function for part in PARTS.values() for function in part):
                original = vars(owner).get(name)
                stack.callback(meter.restore, owner, name, original)  # as a Meter
                setattr(owner, name, self.marked(getattr(owner, name)))
            yield

    def marked(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function of ours so that its waits count as inside."""

        @functools.wraps(call)
        def inside(*args: Any, **kwargs: Any) -> Any:
            before = self.count if not self._depth else 0
            self._depth += 1
            try:
                result = call(*args, **kwargs)
                return list(result) if hasattr(result, "__next__") else result  # exhaust it here
            finally:
                self._depth -= 1
                if not self._depth:
                    self.inside += self.count - before

        return inside

    def _waiting(self, wait: Callable[..., Any]) -> Callable[..., Any]:
        def waiting(event: torch.cuda.Event) -> None:
            self._events += 1
            wait(event)

        return waiting


def _count(attach: Callable[[Any], None], chosen: dict[str, Any]) -> Waits:
    clock, waits = StepClock(), Waits()

    def tick(_trainer: Any) -> None:
        if len(clock.begins) == WARM + 1:
            waits.start()
        elif len(clock.begins) == WARM + COUNTED + 1:
            waits.stop()

    def watch(trainer: Any) -> None:
        attach(trainer)
        trainer.add_callback("on_train_batch_start", tick)

    try:
        with quiet(), waits.marking():
            training(watch, clock=clock, steps=WARM + COUNTED + 1, **chosen)
    finally:
        waits.stop()
    return waits
