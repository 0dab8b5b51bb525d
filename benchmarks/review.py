"""Time and memory to review a run of 60 MB.

    python benchmarks/review.py OUT [--windows 1400] [--repeats 5] >> benchmarks/RESULTS.md

Writes two runs with the layout of YOLO26n into the folder OUT, with the code that writes those of a
training. One is healthy; in the other, the gradient repeatedly vanishes in block 4, steps are NaN
and the norm jumps, so that findings start, grow and end. The norms are random values around those
of a training, with all their digits, so the file is as large as a real one. Then runs each command
in a separate process, as a user does, and prints its wall time, CPU time and peak memory.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from machine import heading, spread, table
from ultralytics import YOLO

from yolo_gradwatch import Window
from yolo_gradwatch.measure import model_layout
from yolo_gradwatch.measure.clipping import EpochClipping
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.measure.quantities import QUANTITIES
from yolo_gradwatch.runs import schema
from yolo_gradwatch.runs import writer as runlog
from yolo_gradwatch.runs.meta import Meta, RunOptions

if TYPE_CHECKING:
    from yolo_gradwatch import Layout

SCRIPT = "from yolo_gradwatch.cli.main import script; script()"
MEASURE = """
import resource, subprocess, sys, time
begin = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
seconds = time.perf_counter() - begin
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)
"""  # a small separate process: the memory of a child includes that of its parent
SINGLE = 50  # windows of one step, as at the start of a training; later ones have 20 steps
COMMANDS = {
    "review": ["review", "{run}"],
    "review --json": ["review", "{run}", "--json"],
    "review --vanishing 1.5": ["review", "{run}", "--vanishing", "1.5"],
    "review --plot": ["review", "{run}", "--plot"],
    "review --plot --modules": ["review", "{run}", "--plot", "--modules"],
    "review --html": ["review", "{run}", "--html", "{run}/page.html"],
    "compare": ["compare", "{run}", "{run}"],
}


def write(folder: Path, model: Layout, windows: int, *, unhealthy: bool) -> None:
    """Write a run with the given number of windows."""
    folder.mkdir(parents=True, exist_ok=True)
    log = runlog.RunLog(folder, model, resume=False)
    log.start()
    rng = np.random.default_rng(0)
    usual = rng.normal(-1.5, 0.3, len(model.modules))
    usual[0] = 2.0
    for number in range(windows):
        log.write_window(_window(rng, model, usual, number, unhealthy=unhealthy))
    log.close()
    epochs = tuple(
        EpochClipping(n, 20 * windows // 100, 20, 0, 90.0, 300.0, 9.0, {"model.23": 0.6}, None)
        for n in range(1, 101)
    )
    log.write_meta(
        Meta(
            status="finished",
            versions={"yolo-gradwatch": version("yolo-gradwatch")},
            options=RunOptions(training={"model": "yolo26n.yaml"}),
            layout=model,
            events=(Event(1, "start"),),
            epochs=epochs,
        )
    )


def _window(
    rng: np.random.Generator, model: Layout, usual: np.ndarray, number: int, *, unhealthy: bool
) -> Window:
    levels = usual + rng.normal(0, 0.1) + rng.normal(0, 0.05, len(usual))
    nonfinite = np.zeros(len(usual), np.int64)
    if unhealthy:
        upstream = np.isin(model.block_of, [f"model.{block}" for block in range(5)])
        levels[upstream] -= 3 if number % 200 > 100 else 0
        levels[1:] += 3 if number % 50 == 49 else 0
        nonfinite[:] = number % 70 == 69
    norms = np.where(nonfinite > 0, np.nan, 10.0**levels).astype(np.float32)
    first = number + 1 if number < SINGLE else SINGLE + 1 + (number - SINGLE) * 20
    steps = 1 if number < SINGLE else 20
    weights = np.isin(model.roles, ["weight"])
    measured = {
        **{row.name: row.unknown(len(usual)) for row in QUANTITIES},
        "nonfinite": nonfinite * steps,
        "zero_fraction": np.where(weights, 0, np.nan).astype(np.float32),
        "norm_min": norms * np.float32(0.71),
        "norm_mean": norms,
        "norm_max": norms * np.float32(1.63),
        "weight_norm": (10 ** (usual + 2)).astype(np.float32),
    }
    return Window(
        epoch=1 + number // 14,
        step_first=first,
        step_last=first + steps - 1,
        steps=steps,
        skipped=0,
        **measured,
    )


def measure(command: list[str]) -> tuple[float, float, float]:
    """Return a command's wall time, CPU time and peak memory in MB."""
    done = subprocess.run(  # noqa: S603  # our own command
        [sys.executable, "-c", MEASURE, sys.executable, "-c", SCRIPT, *command],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, cpu, memory = map(float, done.stderr.splitlines()[-1].split())
    return seconds, cpu, memory / 1024


def main() -> None:
    """Write the runs, measure the commands and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--windows", type=int, default=1400)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    model, _ = model_layout.read(YOLO("yolo26n.yaml").model, ())
    for name in ("healthy", "unhealthy"):
        write(chosen.out / name, model, chosen.windows, unhealthy=name == "unhealthy")
    size = (chosen.out / "healthy" / schema.WINDOWS_FILE).stat().st_size / 1e6
    what = f"{chosen.windows:,} windows of {len(model.modules)} modules, {size:.0f} MB of CSV"
    runs = f"{chosen.repeats} runs of each command"
    print(heading("Review of a long run", ("numpy", "pandas", "matplotlib"), what, runs))
    rows = []
    for title, words in COMMANDS.items():
        for name in ("healthy", "unhealthy"):
            command = [word.format(run=chosen.out / name) for word in words]
            measured = [measure(command) for _ in range(chosen.repeats)]
            seconds, cpu, memory = zip(*measured, strict=True)
            rows.append([title, name, spread(seconds), spread(cpu), f"{max(memory):.0f}"])
    print(table(["command", "run", "seconds", "of CPU", "memory, MB"], rows) + "\n")


if __name__ == "__main__":
    main()
