"""Cost of the watch with many modules and many steps, without a training.

    python benchmarks/scale.py CLAIM [--steps N] [--device cpu] >> benchmarks/RESULTS.md

CLAIM selects the measurement.

``modules``: start-up, a reading and a window of YOLO26 n to x and of a model with 5,000 modules.
``steps``: a simulated training of 2.2 million steps, like 300 epochs of COCO with batches of 16,
with 1,000 steps that AMP skips and 40 anomalies, through roll-up, rules and files.
``memory``: growth of host and device memory over 100,000 readings of YOLO26n.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil
import review
import simulation
import torch
from machine import heading, spread, table
from simulation import pool_of, recorder_of, step_of
from torch import nn
from trainings import YOLO

from yolo_gradwatch import GradWatch
from yolo_gradwatch.measure import model_layout
from yolo_gradwatch.measure.capture import Capture

if TYPE_CHECKING:
    from collections.abc import Callable

    from yolo_gradwatch.measure.sample import Sample
    from yolo_gradwatch.watch.recorder import Recorder

WINDOWS = 300
MANY = 32
LATE = 1_000_000  # a step after which windows are long
PACKAGES = ("torch", "ultralytics", "numpy")


def wide(modules: int) -> nn.Module:
    """Return a model of about the given number of modules: a chain of blocks of five."""

    def block() -> nn.Module:
        return nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.SiLU())

    return nn.Sequential(*(block() for _ in range(modules // 4)))


def modules(chosen: argparse.Namespace) -> None:
    """Print the cost for models of different sizes."""
    rows = []
    for name in ("yolo26n", "yolo26s", "yolo26m", "yolo26l", "yolo26x", "5,000 modules"):
        is_yolo = name.startswith("yolo")
        model = (YOLO(f"{name}.yaml").model if is_yolo else wide(5000)).to(chosen.device)
        rows.append([name, *_costs(model, chosen.device)])
    columns = ["model", "modules", "parameters", "tensors", "layout, ms", "reading, ms"]
    columns += ["with details, ms", "the trainer's clip, ms"]
    columns += ["step alone, µs", f"step with {MANY - 1} others, µs", "window, µs"]
    note = f"{chosen.device}, median of {WINDOWS} windows"
    print(heading("Cost by the number of modules", PACKAGES, note))
    print(table(columns, rows) + "\n")
    statements = ["import yolo_gradwatch", "from yolo_gradwatch import GradWatch"]
    loads = [f"`{one}`: {_milliseconds(_imports(one))} ms" for one in statements]
    attach = f"Attaching to YOLO26x: {_milliseconds(_attach_seconds())} ms"
    print(f"{'; '.join([attach, *loads])}.\n")


def _attach_seconds() -> list[float]:
    models = [YOLO("yolo26x.yaml") for _ in range(5)]
    return [_seconds(functools.partial(GradWatch().attach, model), 1) for model in models]


def _milliseconds(seconds: list[float]) -> str:
    return spread([1e3 * one for one in seconds])


def _imports(statement: str) -> list[float]:
    """Return the seconds of an import in new processes."""
    script = f"import time; a = time.perf_counter(); {statement}; "
    command = [sys.executable, "-c", f"{script}print(time.perf_counter() - a)"]
    runs = [subprocess.run(command, capture_output=True, check=True) for _ in range(5)]  # noqa: S603  # our own script
    return [float(run.stdout) for run in runs]


def _costs(model: nn.Module, device: str) -> list[str]:
    layout_seconds = _seconds(lambda: model_layout.read(model), 5)
    found, members = model_layout.read(model)
    parameters = model_layout.watched(model)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    capture = Capture(parameters)
    plain, detailed = (_reading_seconds(capture, device, detailed=d) for d in (False, True))
    pool = pool_of(members)
    with tempfile.TemporaryDirectory() as folder:
        recorder = recorder_of(Path(folder), found, members)
        alone, _ = _step_and_window_seconds(recorder, pool, 1)
        step, window = _step_and_window_seconds(recorder, pool, MANY)
        recorder.close()
    clip = _seconds(lambda: torch.nn.utils.clip_grad_norm_(parameters, 10.0), 30)
    counts = [f"{len(found.modules):,}", f"{found.parameters[0]:,}", f"{len(parameters):,}"]
    times = [f"{1e3 * s:.2f}" for s in (layout_seconds, plain, detailed, clip)]
    return [*counts, *times, *(f"{1e6 * s:.0f}" for s in (alone, step, window))]


def _reading_seconds(capture: Capture, device: str, *, detailed: bool) -> float:
    """Return the host's seconds for a reading; on CUDA the device runs in parallel."""

    def read() -> None:
        capture.take(1, 1, [], detailed=detailed)
        list(capture.drain(wait=device == "cpu"))

    found = _seconds(read, 30)
    list(capture.drain(wait=True))
    return found


def _step_and_window_seconds(
    recorder: Recorder, pool: list[Sample], many: int
) -> tuple[float, float]:
    """Return the seconds of a step, processed in groups of ``many``, and of a window's end."""
    steps, windows = [], []
    step = recorder.last_step + 1 + LATE
    for _ in range(WINDOWS):
        samples = [step_of(pool[i], step + i, detailed=i == 0, weighed=i == 0) for i in range(many)]
        step += many
        begin = time.perf_counter()
        recorder.take(samples)
        recorder.settle()
        middle = time.perf_counter()
        recorder._close_window()  # noqa: SLF001  # an epoch's end would print and write more
        end = time.perf_counter()
        steps.append((middle - begin) / many)
        windows.append(end - middle)
    recorder.last_step = step - 1
    return median(steps), median(windows)


def steps(chosen: argparse.Namespace) -> None:
    """Simulate a long training in a process without torch, and print its cost."""
    model = model_layout.read(YOLO("yolo26n.yaml").model)
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "model.pickle"
        plan.write_bytes(pickle.dumps(model))
        script, run = Path(__file__).with_name("simulation.py"), Path(folder) / "run"
        run.mkdir()
        command = [sys.executable, str(script), str(plan), str(chosen.steps), str(run)]
        done = subprocess.run(command, capture_output=True, check=True)  # noqa: S603  # our own
        result = json.loads(done.stdout.splitlines()[-1])
        for words in (["review"], ["review", "--json"], ["review", "--plot"]):
            measured = [review.measure([*words, str(run)]) for _ in range(chosen.repeats)]
            wall, cpu, memory = zip(*measured, strict=True)
            title = " ".join(words)
            result[f"{title}: s"] = spread(wall)
            result[f"{title}: s of CPU"] = spread(cpu)
            result[f"{title}: MB of memory"] = f"{max(memory):.0f}"
    size = f"{chosen.steps:,} steps of {len(model[0].modules)} modules, {simulation.EPOCHS} epochs"
    kinds = f"{simulation.SKIPS:,} AMP skips and {simulation.ANOMALIES} anomalies"
    print(heading("A simulated long training", PACKAGES, size, kinds))
    print(table(["what", "measured"], list(result.items())) + "\n")


def memory(chosen: argparse.Namespace) -> None:
    """Take many readings and print the growth of the memory."""
    model = YOLO("yolo26n.yaml").model.to(chosen.device)
    found, members = model_layout.read(model)
    parameters = model_layout.watched(model)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        recorder = recorder_of(Path(folder), found, members)
        capture = Capture(parameters)
        _read_many(recorder, capture, range(1, 1001))
        before = _memory()
        _read_many(recorder, capture, range(1001, chosen.steps + 1001))
        after = _memory()
        recorder.close()
    for where, b, a in zip(("host", "device"), before, after, strict=True):
        rows.append([where, f"{b:.1f}", f"{a:.1f}", f"{a - b:.1f}"])
    note = f"{chosen.device}, {chosen.steps:,} captured steps after the first 1,000"
    print(heading("Memory over the steps", PACKAGES, note))
    print(table(["MB of the", "before", "after", "growth"], rows) + "\n")


def _read_many(recorder: Recorder, capture: Capture, numbers: range) -> None:
    for step in numbers:
        detailed, weighed = recorder.wanted(step)
        capture.take(1, step, [], detailed=detailed, weighed=weighed)
        recorder.take(capture.drain())
    recorder.take(capture.drain(wait=True))
    recorder.settle()


def _memory() -> tuple[float, float]:
    gc.collect()
    device = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    return psutil.Process().memory_info().rss / 1e6, device / 1e6


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return median(taken)


def main() -> None:
    """Run the selected measurement."""
    claims = {"modules": modules, "steps": steps, "memory": memory}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("claim", choices=claims)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--repeats", type=int, default=3, help="reviews of the long training")
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    chosen.steps = chosen.steps or {"steps": 2_200_000, "memory": 100_000}.get(chosen.claim, 0)
    claims[chosen.claim](chosen)


if __name__ == "__main__":
    sys.exit(main())
