"""Train with each experiment logger on several Ultralytics versions, with and without the watch.

    python scripts/loggers.py OUT [--only wandb] [--python 8.4.100=PATH] >> benchmarks/RESULTS.md

Builds a virtual environment with all loggers for each version of Ultralytics in the folder OUT, or
uses the given Python. Everything is offline. Prints a dated section for the record and exits with 1
if a metric, weight or run differs from the unwatched training, or if one of our numbers is missing
or duplicated.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from logging_run import train  # noqa: E402  # from the tests
from stores import PACKAGES  # noqa: E402  # from the tests

from yolo_gradwatch.loggers.catalog import LOGGERS  # noqa: E402
from yolo_gradwatch.runs.run import load_run  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from logging_run import Ran
    from stores import Stored

VERSIONS = ("8.4.0", "8.4.100", "8.4.190")

GROUPS = (
    ("tensorboard", "wandb", "mlflow", "dvc"),
    *(("comet",), ("clearml",), ("comet", "tensorboard"), ("clearml", "tensorboard")),
)
"""Loggers used together; Comet and ClearML record TensorBoard."""

HEADINGS = (
    *("Ultralytics", "logger", "their metrics", "weights", "runs", "our series"),
    *("points of `gradwatch/model`", "finding", "verdict", "seconds without, with"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """The table row of one logger, and whether everything in it is right."""

    cells: tuple[str, ...]
    is_ok: bool


def interpreter(version: str, out: Path) -> str:
    """Return the Python of a new or existing environment."""
    folder = out / version
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", f"ultralytics=={version}"]
    subprocess.run([*install, *PACKAGES.values(), f"{ROOT}[html]"], check=True, stdout=sys.stderr)
    return str(python)


def compared(version: str, python: str, on: tuple[str, ...], out: Path) -> list[Row]:
    """Train without and with the watch and return a row for each logger."""
    folder = out / f"{version}-{'-'.join(on)}-{time.time_ns()}"
    ran, seconds = [], []
    for watch in (None, {}):
        begin = time.monotonic()
        name = "alone" if watch is None else "watched"
        ran.append(train(folder / name, python=python, settings=on, watch=watch, draws=True))
        seconds.append(time.monotonic() - begin)
    took = ", ".join(f"{one:.0f}" for one in seconds)
    if any(one.code for one in ran):
        last = (ran[0].said if ran[0].code else ran[1].said).strip().splitlines()[-1]
        failed = f"failed{' without us too' if ran[0].code else ''}: {last[:80]}"
        cells = (version, " + ".join(on), failed, *[""] * 6, took)
        return [Row(cells, is_ok=bool(ran[0].code))]
    return [judged((version, name, *on), ran, took) for name in on]


def judged(names: tuple[str, ...], ran: list[Ran], took: str) -> Row:
    """Compare what a logger stored of both trainings.

    Args:
        names: The version, the logger, and all active loggers.
        ran: The trainings without and with the watch.
        took: Their durations in seconds.
    """
    version, name, *on = names
    alone, watched = (one.stored(name) for one in ran)
    run = load_run(ran[1].folder / "run")
    metrics = alone.ultralytics_metrics()
    same = bool(metrics) and watched.ultralytics_metrics() == metrics
    bits = ran[0].weights == ran[1].weights
    steps = [step for step, _ in watched.ours().get("gradwatch/model", [])]
    windows = [window.step_last for window in run.windows_in_order()]
    finding, verdict = (in_texts(watched, one) for one in ("dead: model.1", run.report().verdict))
    once = steps == sorted(set(steps)) and len(steps) in {4, len(windows)}
    others = [one for one in on if one != name]
    beside = f"{name}, beside {others[0]}" if len(others) == 1 else name
    cells = (
        *(version, beside, f"same ({len(metrics)})" if same else "DIFFER"),
        *("same" if bits else "DIFFER", str(watched.runs), str(len(watched.ours()))),
        *(f"{len(steps)} of {len(windows)}", yes(finding), yes(verdict), took),
    )
    return Row(cells, is_ok=same and bits and once and watched.runs == alone.runs == 1)


def in_texts(stored: Stored, words: str) -> bool:
    """Return whether one of the logger's texts contains these words."""
    return any(words in str(text) for text in stored.texts.values())


def yes(found: bool) -> str:  # noqa: FBT001  # formats a cell
    """Format a cell."""
    return "yes" if found else "not in its files"


def rows(given: dict[str, str], chosen: list[str], out: Path) -> Iterator[Row]:
    """Yield a row for each version and logger."""
    for version in VERSIONS:
        python = given.get(version) or interpreter(version, out)
        for on in GROUPS:
            if not chosen or set(on) & set(chosen):
                yield from compared(version, python, on, out)


def main() -> int:
    """Print the section and return 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("out", type=Path, help="folder for environments and runs")
    parser.add_argument("--only", action="append", default=[], choices=[*LOGGERS])
    parser.add_argument("--python", action="append", default=[], metavar="VERSION=PATH")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    given = dict(one.split("=", 1) for one in options.python)
    print(f"\n## Experiment loggers, {datetime.now(timezone.utc).date()}\n")
    print(f"{os.cpu_count()} CPU cores, {platform.platform()}. `scripts/loggers.py`, offline:")
    print("16 optimizer steps in 4 epochs of a small model, a convolution without a gradient up to")
    print("step 5, unwatched and watched with the same seed; every logger draws random numbers.\n")
    print(f"| {' | '.join(HEADINGS)} |\n|{' --- |' * len(HEADINGS)}", flush=True)
    is_ok = True
    for row in rows(given, options.only, out):
        print(f"| {' | '.join(row.cells)} |", flush=True)
        is_ok &= row.is_ok
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())
