"""Sums the time that is spent inside the watch, by its parts and by training step."""

from __future__ import annotations

import contextlib
import functools
import gc
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch

from yolo_gradwatch.diagnose import diagnosis
from yolo_gradwatch.loggers.catalog import LOGGERS
from yolo_gradwatch.loggers.logger import Logger
from yolo_gradwatch.measure import capture, flow, losses, ring
from yolo_gradwatch.runs.writer import RunLog
from yolo_gradwatch.views.terminal import console, screen
from yolo_gradwatch.watch import guard, recorder, step_change

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trainings import StepClock

WRITES = ("write_window", "write_changes", "write_meta", "write_flow")

PARTS: dict[str, list[tuple[type, str]]] = {
    "capture": [(capture.Capture, "take")],
    "copy": [(ring.Ring, "send")],
    "landing": [(capture.Capture, "drain")],
    "losses": [(losses.LossMeter, name) for name in ("add", "take")],
    "updates": [(step_change.StepChange, name) for name in ("begin", "end")],
    "flow": [(flow.Probe, name) for name in ("start", "stop", "_safely")],
    "roll-up": [(recorder.Recorder, "take")],
    "rules": [(diagnosis.Diagnosis, "update")],
    "file": [(RunLog, name) for name in WRITES],
    "loggers": [(Logger, name) for name in ("window", "findings")],
    "sending": [(kind, "send") for kind in LOGGERS.values()],
    "console": [
        *((screen.Screen, name) for name in ("redraw", "print", "show_frame")),
        (console.Console, "print"),
    ],
    "the rest": [(guard.Guard, "safely")],
}
"""The measured functions by part; time in a nested part counts for that part only."""

GARBAGE = "garbage"
"""Garbage collections that start inside our code."""

CLIP = "clip"
"""The trainer's own clip, which reads the same gradients right after us."""

ON_DEVICE = ("capture", "copy")
DEVICE_PARTS = ("kernels", "copy on the device")


class Meter:
    """Sums the seconds spent in each part, by training step.

    Args:
        clock: Clock of the training, which counts its steps.
        now: The timer.

    Attributes:
        seconds: For each part, seconds by step.
        device: For the parts in ``ON_DEVICE``, on CUDA, steps and the events around each call.
    """

    def __init__(self, clock: StepClock, now: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._now = now or time.perf_counter
        self._inner: list[float] = []  # seconds of the nested parts, for each open part
        self.seconds: dict[str, dict[int, float]] = {
            part: defaultdict(float) for part in (*PARTS, GARBAGE, CLIP)
        }
        self.device: dict[str, list[tuple[int, torch.cuda.Event, torch.cuda.Event]]] = {
            part: [] for part in ON_DEVICE
        }

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Measure every call of the parts until the block ends."""
        with contextlib.ExitStack() as stack:
            gc.callbacks.append(self._collect)
            stack.callback(gc.callbacks.remove, self._collect)
            clip = torch.nn.utils.clip_grad_norm_
            stack.callback(restore, torch.nn.utils, "clip_grad_norm_", clip)
            torch.nn.utils.clip_grad_norm_ = self._clipping(clip)
            for part, functions in PARTS.items():
                for owner, name in functions:
                    original = vars(owner).get(name)
                    stack.callback(restore, owner, name, original)
                    setattr(owner, name, self._timed(part, getattr(owner, name)))
            yield

    def share(self, steps: range) -> dict[str, float]:
        """Return the mean seconds per step of each part, over these steps."""
        return {
            part: sum(spent.get(step, 0.0) for step in steps) / len(steps)
            for part, spent in self.seconds.items()
        }

    def device_share(self, steps: range) -> dict[str, float]:
        """Return the mean device seconds per step, on CUDA.

        A reading consists of its kernels and the copy to the host.
        """
        spent = {
            part: sum(begin.elapsed_time(end) / 1e3 for step, begin, end in found if step in steps)
            for part, found in self.device.items()
        }
        whole, copy = (seconds / len(steps) for seconds in spent.values())
        return {"kernels": whole - copy, "copy on the device": copy}

    def _collect(self, phase: str, _info: dict[str, int]) -> None:
        if not self._inner:
            return  # outside our code
        if phase == "start":
            self._collecting = self._now()
        else:
            spent = self._now() - self._collecting
            self.seconds[GARBAGE][len(self._clock.begins)] += spent
            self._inner[-1] += spent

    def _timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            step = len(self._clock.begins)
            on_device = part in ON_DEVICE and torch.cuda.is_available()
            begin = self._event() if on_device else None
            self._inner.append(0.0)
            start = self._now()
            try:
                result = call(*args, **kwargs)
                return list(result) if part == "landing" else result  # exhaust the generator here
            finally:
                spent = self._now() - start
                self.seconds[part][step] += spent - self._inner.pop()
                if self._inner:
                    self._inner[-1] += spent
                if begin is not None:
                    self.device[part].append((step, begin, self._event()))

        return timed

    def _clipping(self, clip: Callable[..., Any]) -> Callable[..., Any]:
        """Measure the trainer's clip, which is not our code."""

        @functools.wraps(clip)
        def clipping(*args: Any, **kwargs: Any) -> Any:
            start = self._now()
            try:
                return clip(*args, **kwargs)
            finally:
                self.seconds[CLIP][len(self._clock.begins)] += self._now() - start

        return clipping

    @staticmethod
    def _event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def restore(owner: Any, name: str, original: Any) -> None:
    """Undo a wrap of an attribute; ``original`` is None if a class had inherited it."""
    if original is None:
        delattr(owner, name)
    else:
        setattr(owner, name, original)
