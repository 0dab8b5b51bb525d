"""Overhead of the watch: seconds of a training step without and with it, and where they go.

    python benchmarks/overhead.py [--model yolo26n.yaml] [--imgsz 640] [--batch 4] [--steps 150]
        [--rounds 3] [--device cpu] [--amp] [--watches off,on] [--begin-at 5000]
        [--loggers tensorboard,wandb,mlflow] [--cpu-time] >> benchmarks/RESULTS.md

Runs the real Ultralytics trainer with images in memory, one batch per optimizer step, alternating
between configurations: no watch, the default watch, and on request one that captures every tenth
step or one with the most expensive options (live panel, output, callback). A round is one training
of each.

There are two measures. The ratio of median steps is what a user notices, but its noise is above
half a percent, and it hides work done in fewer than half of the steps. So the time inside our
callbacks and wraps is also summed over all steps and split into parts; on CUDA, events measure the
device's share of a reading. Start-up, the end of the epoch and the picture are not included. On a
CPU, the trainer's clip reads the same gradients right after us, then from warm caches: the column
``net`` subtracts the time that this saves.

The overhead depends on the step: windows are short at first, and each one runs the rules and writes
a file. ``--begin-at 5000`` numbers the steps from 5000, as late in a training.

Each of ``--loggers`` is a configuration too: Ultralytics opens the logger's run, offline and in a
temporary folder, and we send to it. The loggers' packages must be installed. ``--cpu-time``
measures our time as CPU time of the training's thread, for a machine shared with other work; waits
for a disk or server are then not included.

Python collects the garbage of the whole process whenever enough objects were allocated. Collections
that start inside our code are listed as ``garbage`` and are not part of the sum: without us they
would start elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from machine import heading, spread, table
from meter import CLIP, DEVICE_PARTS, GARBAGE, PARTS, Meter
from trainings import FIRST, HOME, StepClock, training
from ultralytics import settings

from yolo_gradwatch import GradWatch
from yolo_gradwatch.loggers.catalog import LOGGERS
from yolo_gradwatch.watch.gradwatch import sessions_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WATCHES: dict[str, dict[str, Any] | None] = {
    "off": None,
    "on": {"live": False},
    "no flow": {"live": False, "flow": False},
    "interval=10": {"live": False, "interval": 10},
    "everything": {"live": True},
    "everything but flow": {"live": True, "flow": False},
}


class Memory:
    """An output that keeps the last step of each window."""

    def __init__(self) -> None:
        self.steps_last: list[int] = []

    def window(self, window: Any) -> None:
        """Store the last step."""
        self.steps_last.append(window.step_last)


@dataclass
class Measured:
    """Measurements of one configuration, one per round.

    Attributes:
        first: Seconds of the median step among the first steps.
        steady: Seconds of the median step after them.
        own_first: Mean seconds per step inside our code, in the first steps.
        own_steady: Mean seconds per step inside our code, after them.
        clip_first: Mean seconds per step in the trainer's clip, in the first steps.
        clip_steady: Mean seconds per step in the trainer's clip, after them.
        parts: ``own_steady`` by part.
        device: Seconds per step on the device, by part.
    """

    first: list[float] = field(default_factory=list)
    steady: list[float] = field(default_factory=list)
    own_first: list[float] = field(default_factory=list)
    own_steady: list[float] = field(default_factory=list)
    clip_first: list[float] = field(default_factory=list)
    clip_steady: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    device: list[dict[str, float]] = field(default_factory=list)

    def add(self, clock: StepClock, meter: Meter) -> None:
        """Add the measurements of one training."""
        seconds = clock.seconds
        self.first.append(median(seconds[5:FIRST]))  # the first few are warm-up
        early, late = range(1, FIRST + 1), range(FIRST + 1, len(seconds) + 1)
        self.own_first.append(_ours(meter.share(early)))
        self.clip_first.append(meter.share(early)[CLIP])
        if late:
            self.steady.append(median(seconds[FIRST:]))
            self.parts.append(meter.share(late))
            self.own_steady.append(_ours(self.parts[-1]))
            self.clip_steady.append(self.parts[-1][CLIP])
            self.device.append(meter.device_share(late))


def _ours(share: dict[str, float]) -> float:
    return sum(share[part] for part in PARTS)


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Use a pseudo-terminal of 140 x 45, read by another process, as standard output."""
    reader, writer = os.openpty()
    os.environ |= {"COLUMNS": "140", "LINES": "45", "TERM": "xterm-256color"}
    drain = subprocess.Popen(["cat"], stdin=reader, stdout=subprocess.DEVNULL)  # noqa: S607
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as stream, contextlib.redirect_stdout(stream):
        yield
    drain.wait()


def keep_loggers_here() -> None:
    """Keep loggers offline, with their files in the temporary folder."""
    os.environ |= {
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": f"sqlite:///{HOME / 'mlflow.db'}",
        "COMET_START_ONLINE": "0",
        "CLEARML_OFFLINE_MODE": "1",
    }
    os.chdir(HOME)  # most of them write to the working directory


def measure(
    name: str,
    begin: int,
    steps: int,
    options: dict[str, Any],
    now: Callable[[], float] | None = None,
) -> tuple[StepClock, Meter]:
    """Run one training with the named configuration, its first step numbered ``begin``."""
    chosen = WATCHES["on" if name in LOGGERS else name]
    dict.update(settings, {one: one == name for one in LOGGERS})  # does not write the file
    trainer = "TimedTrainer" if name in LOGGERS else "Timed"
    is_live = chosen is not None and chosen["live"]
    extra = {"outputs": [Memory()], "on_finding": print} if is_live else {}
    clock = StepClock()
    meter = Meter(clock, now)

    def attach(trainer: Any) -> None:
        if chosen is not None:
            watch = GradWatch(**chosen, **extra).attach(trainer)
            trainer.add_callback("on_train_start", lambda _: _number_from(begin, watch))

    with terminal(), meter.measuring():
        training(attach, clock=clock, steps=steps, name=trainer, **options)
    if name in LOGGERS and not meter.seconds["sending"]:
        raise SystemExit(f"{name} was sent nothing: Ultralytics has opened no run")
    return clock, meter


def _number_from(begin: int, watch: GradWatch) -> None:
    """Make a training continue as if it had taken the steps before ``begin``."""
    watched = sessions_of(watch)[-1]
    watched._parts.recorder.last_step = begin - 1  # noqa: SLF001  # as a resumed training does
    watched._events._first_step = begin  # noqa: SLF001


def main() -> None:
    """Run the trainings and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="yolo26n.yaml")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--begin-at", type=int, default=1)
    parser.add_argument("--watches", default="off,on", help=f"some of {','.join(WATCHES)}")
    parser.add_argument("--loggers", default="", help=f"some of {','.join(LOGGERS)}")
    parser.add_argument("--cpu-time", action="store_true")
    chosen = parser.parse_args()
    now = time.thread_time if chosen.cpu_time else None
    loggers = [name for name in chosen.loggers.split(",") if name]
    if loggers:
        keep_loggers_here()
    options = {name: getattr(chosen, name) for name in ("model", "imgsz", "batch", "device", "amp")}
    measure("on", 1, 8, options)  # warm-up: loads modules
    found = {name: Measured() for name in (*chosen.watches.split(","), *loggers)}
    for _ in range(chosen.rounds):
        for name, measured in found.items():
            measured.add(*measure(name, chosen.begin_at, chosen.steps, options, now))
    print(report(chosen, found))


def report(chosen: argparse.Namespace, found: dict[str, Measured]) -> str:
    """Return the tables of all measurements."""
    title = f"Overhead on {chosen.model.removesuffix('.yaml')} at {chosen.imgsz}"
    where = f"{chosen.device}{', AMP' if chosen.amp else ''}, batch {chosen.batch}"
    count = f"{chosen.rounds} rounds of {chosen.steps} steps in turns, from {chosen.begin_at:,} on"
    count += ", our own seconds as processor time" if chosen.cpu_time else ""
    parts = [heading(title, ("torch", "ultralytics", "numpy"), where, count)]
    off = found["off"]
    parts.append(_steps_table(found, off))
    if any(own.parts for own in found.values()):
        parts.append(f"Inside of us after the first {FIRST}, µs a step, mean over the rounds:\n")
        parts.append(_parts_table(found))
    return "\n".join(parts) + "\n"


def _steps_table(found: dict[str, Measured], off: Measured) -> str:
    rows = []
    for name, own in found.items():
        row = [name, _milliseconds(own.first), _milliseconds(own.steady)]
        row += [_ratio(own.first, off.first), _ratio(own.steady, off.steady)]
        row += [_percent(own.own_first, off.first), _percent(own.own_steady, off.steady)]
        row += [
            _percent(_net(own.own_first, own.clip_first, off.clip_first), off.first),
            _percent(_net(own.own_steady, own.clip_steady, off.clip_steady), off.steady),
        ]
        rows.append(row)
    columns = ["watch", f"ms a step, first {FIRST}", "ms a step, after", "to off", "to off, after"]
    columns += [f"inside of us, first {FIRST}", "inside of us, after"]
    columns += [f"net, first {FIRST}", "net, after"]
    return table(columns, rows) + "\n"


def _parts_table(found: dict[str, Measured]) -> str:
    rows = []
    for name, own in found.items():
        if name != "off" and own.parts:
            means = [_mean(own.parts, part) for part in (*PARTS, GARBAGE)]
            device = [_mean(own.device, part) for part in DEVICE_PARTS]
            rows.append([name, *(f"{mean * 1e6:.0f}" for mean in (*means, *device))])
    return table(["watch", *PARTS, GARBAGE, *DEVICE_PARTS], rows) + "\n"


def _mean(rounds: list[dict[str, float]], part: str) -> float:
    return fmean(parts[part] for parts in rounds)


def _milliseconds(seconds: list[float]) -> str:
    if not seconds:
        return "-"
    return spread([1e3 * second for second in seconds], ",.0f" if min(seconds) > 0.1 else ".3g")


def _ratio(ours: list[float], off: list[float]) -> str:
    """Return the ratios of paired rounds."""
    pairs = [a / b for a, b in zip(ours, off, strict=True)]
    return spread(pairs, ".3f") if pairs else "-"


def _net(own: list[float], clip: list[float], alone: list[float]) -> list[float]:
    """Return our seconds less those that the watch saves the trainer's clip."""
    return [a + b - c for a, b, c in zip(own, clip, alone, strict=True)]


def _percent(own: list[float], off: list[float]) -> str:
    """Return the time as a percentage of a step without a watch."""
    return f"{100 * fmean(own) / fmean(off):.2f} %" if own else "-"


if __name__ == "__main__":
    sys.exit(main())
