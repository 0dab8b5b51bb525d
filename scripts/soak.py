"""Train with one fault after another for a long time, and check that the watch leaks nothing.

    python scripts/soak.py OUT [--minutes 30] [--bare] >> benchmarks/HOLD_UP.md

Runs watched trainings of YOLO26n at 64 pixels, with or without a fault from the gallery: in this
process or in separate ones, to the end, or interrupted by SIGINT at a random time and resumed.
After each, checks the files and the findings, and records the resident memory of this process.
Prints the problems and the slope of the memory over the last two thirds; exits with 1 if anything
went wrong. ``--bare`` trains without the watch, to see whose memory it is. Counts the interrupted
trainings that cannot be resumed, which is not the watch's doing. Needs no network.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from ultralytics import YOLO

from yolo_gradwatch import GradWatch, Report, load_run
from yolo_gradwatch.demo.faults import FAULTS
from yolo_gradwatch.demo.shapes import draw_dataset
from yolo_gradwatch.runs.schema import META_FILE

PACKAGES = ("ultralytics", "torch", "numpy", "pandas")
EPOCHS, BATCHES = 8, 6
FIRST_SIGNAL, LAST_SIGNAL = 8, 38
"""Range of batches for SIGINT: after the first checkpoint, before the end of the training."""
DELAY = 0.3
"""Most seconds from that batch to the signal."""
WAYS = ("whole", "resumed", "whole, own process", "resumed, own process")
MOST_GROWTH = 1.0
"""Allowed memory growth per training in MB; a leaked graph, figure or model is larger."""
OPTIONS: dict[str, Any] = {
    "epochs": EPOCHS,
    "imgsz": 64,
    "batch": 8,
    "nbs": 8,
    "workers": 0,
    "device": "cpu",
    "amp": False,
    "plots": False,
    "val": False,
    "verbose": False,
    "name": "run",
    "exist_ok": True,
}


@dataclass(frozen=True)
class Round:
    """A training of the soak.

    Attributes:
        way: One of ``WAYS``.
        fault: Name of the fault in the gallery.
        memory: Resident memory of this process after the training, in MB.
        trouble: The problems found.
        unresumed: Why it could not be resumed; empty if it was, or was not interrupted.
    """

    way: str
    fault: str
    memory: float
    trouble: tuple[str, ...]
    unresumed: str = ""


CHANCE = random.Random(0)  # noqa: S311  # no secret; Ultralytics seeds that of the module


Moment = tuple[int, float]
"""Batch after which SIGINT is sent, and the seconds to wait first."""


def train(
    folder: Path, data: str, fault: str, moment: Moment | None, *, bare: bool
) -> Report | None:
    """Train, or resume from a checkpoint; return the report, None without the watch.

    Args:
        folder: Folder of the project.
        data: The data set.
        fault: Name of the fault in the gallery.
        moment: When SIGINT is sent to this process; None for never.
        bare: Train without the watch.

    Raises:
        KeyboardInterrupt: The signal arrived.
    """
    last = folder / "run" / "weights" / "last.pt"
    resumes = last.exists()
    model = YOLO(str(last) if resumes else "yolo26n.yaml")
    FAULTS[fault].inject(model)
    if moment:
        model.add_callback("on_train_batch_end", send_signal_at(moment))
    watch = None if bare else GradWatch(keep_healthy=True).attach(model)
    options = {**OPTIONS, "data": data, "project": str(folder), **FAULTS[fault].options}
    model.train(**{"resume": True} if resumes else options)
    return watch.report() if watch else None


def send_signal_at(moment: Moment) -> Any:
    """Return a callback that sends SIGINT shortly after a batch."""
    batch, seconds = moment
    done = []

    def count(_trainer: Any) -> None:
        done.append(1)
        if len(done) == batch:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()

    return count


def train_here(
    folder: Path, data: str, fault: str, moment: Moment | None, *, bare: bool
) -> list[str]:
    """Train in this process and return the problems."""
    try:
        report = train(folder, data, fault, moment, bare=bare)
    except KeyboardInterrupt:
        return check_files(folder, "interrupted", bare=bare)
    trouble = check_files(folder, "finished", bare=bare)
    if report and load_run(folder / "run").report() != report:
        trouble.append("the files say something else than the watch")
    return trouble


def train_apart(
    folder: Path, data: str, fault: str, moment: Moment | None, *, bare: bool
) -> list[str]:
    """Train in a separate process and return the problems."""
    job = json.dumps([str(folder), data, fault, moment, bare])
    code = subprocess.run([sys.executable, __file__, "--job", job], check=False).returncode
    if code == -signal.SIGINT:
        return check_files(folder, "interrupted", bare=bare)
    trouble = check_files(folder, "finished", bare=bare)
    return [*trouble, f"left with {code}"] if code else trouble


def check_files(folder: Path, status: str, *, bare: bool) -> list[str]:
    """Return the problems with the files of an ended training."""
    run = folder / "run"
    if bare:
        return [f"there is a {META_FILE}"] if (run / META_FILE).exists() else []
    try:
        found = load_run(run)
        found.report()
    except Exception as error:  # noqa: BLE001  # the error is the result
        return [f"cannot be read: {type(error).__name__}: {error}"]
    wrong = [f"{found.status} instead of {status}"] if found.status != status else []
    drafts = [path.name for path in run.rglob(".*.tmp")]
    return [*wrong, *(f"left {name}" for name in drafts), *found.remarks]


def check_findings(folder: Path, fault: str, *, resumed: bool) -> list[str]:
    """Return the problems with the findings of a finished training."""
    run = load_run(folder / "run")
    alarms = [(one.rule, one.module) for one in run.report().alarms]
    expected = (FAULTS[fault].rule, FAULTS[fault].module)
    kinds = [event.kind for event in run.meta.events if event.kind in {"start", "resume"}]
    wrong = []
    if FAULTS[fault].rule and expected not in alarms:
        wrong.append(f"{expected} is not found, but {alarms}")
    if not FAULTS[fault].rule and alarms:
        wrong.append(f"healthy, and found {alarms}")
    if kinds != ["start", "resume"][: 1 + resumed]:
        wrong.append(f"its parts are {kinds}")
    return wrong


def one_round(number: int, out: Path, data: str, *, bare: bool) -> Round:
    """Run one training; over time, each fault runs in each way."""
    faults = list(FAULTS)
    fault = faults[number % len(faults)]
    way = WAYS[(number + number // len(faults)) % len(WAYS)]
    run = train_apart if "own process" in way else train_here
    folder = out / f"{number:03}"
    moment = CHANCE.randint(FIRST_SIGNAL, LAST_SIGNAL), CHANCE.uniform(0, DELAY)
    is_resumed = "resumed" in way
    trouble = run(folder, data, fault, moment if is_resumed else None, bare=bare)
    unresumed = _lack_of(folder / "run") if is_resumed else ""
    if is_resumed and not (trouble or unresumed):
        trouble = run(folder, data, fault, None, bare=bare)
    if not (trouble or unresumed or bare):
        trouble = check_findings(folder, fault, resumed=is_resumed)
    if not trouble:
        shutil.rmtree(folder)
    gc.collect()
    memory = psutil.Process().memory_info().rss / 1e6
    return Round(way, fault, memory, tuple(trouble), unresumed)


def _lack_of(run: Path) -> str:
    """Return why an interrupted training cannot be resumed; empty if it can."""
    table = run / "results.csv"
    if len(table.read_text(encoding="utf-8").splitlines()) > EPOCHS:
        return "the signal was lost"
    is_whole = zipfile.is_zipfile(run / "weights" / "last.pt")
    return "" if is_whole else "the checkpoint is torn"


def slope(rounds: list[Round]) -> float:
    """Return the memory growth per training in MB, over the last two thirds."""
    late = [one.memory for one in rounds[len(rounds) // 3 :]]
    return float(np.polyfit(range(len(late)), late, 1)[0]) if len(late) > 1 else 0.0


def section(rounds: list[Round], minutes: float, *, bare: bool) -> str:
    """Return the section of the record in Markdown."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    machine = f"{os.cpu_count()} CPU cores, {platform.system()}, Python {platform.python_version()}"
    third = rounds[len(rounds) // 3].memory
    ways = Counter(one.way for one in rounds)
    wrong = Counter(one.way for one in rounds if one.trouble)
    left = Counter(one.way for one in rounds if one.unresumed)
    table = [f"| {way} | {ways[way]} | {left[way]} | {wrong[way]} |" for way in WAYS]
    trouble = [
        f"- {one.way}, {one.fault}: {'; '.join(one.trouble) or one.unresumed}"
        for one in rounds
        if one.trouble or one.unresumed
    ]
    what = "without the watch" if bare else "watched"
    heading = f"\n## A soak, {datetime.now(timezone.utc).date()}\n"
    facts = (
        f"{machine}, {versions}; {len(rounds)} trainings {what} in {minutes:.0f} minutes, "
        f"{EPOCHS * BATCHES} steps of YOLO26n at 64 pixels each, {len(FAULTS) - 1} faults and "
        "healthy ones in turn.\n"
    )
    memory = (
        f"Resident memory: {rounds[0].memory:.0f} MB after the first training, {third:.0f} MB "
        f"after a third, {rounds[-1].memory:.0f} MB at the end; over the last two thirds it "
        f"changes by {slope(rounds):+.3f} MB with each training."
    )
    head = ["| way | trainings | not resumable | with trouble |", "| --- | --- | --- | --- |"]
    return "\n".join([heading, facts, *head, *table, "", *trouble, memory])


def main() -> int:
    """Train until the time is up, print the record, and return 1 if something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, nargs="?", help="folder for the runs")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--bare", action="store_true", help="train without the watch")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
    if chosen.job:
        folder, data, fault, moment, bare = json.loads(chosen.job)
        train(Path(folder), data, fault, moment, bare=bare)
        return 0
    sys.stdout.flush()
    record = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Ultralytics prints is not part of the record
    out = chosen.out.resolve()
    data = str(draw_dataset(out / "data", train=BATCHES * OPTIONS["batch"]))
    rounds: list[Round] = []
    begin = time.monotonic()
    while (spent := (time.monotonic() - begin) / 60) < chosen.minutes:
        rounds.append(one_round(len(rounds), out, data, bare=chosen.bare))
        print(rounds[-1], flush=True)
    print(section(rounds, spent, bare=chosen.bare), file=record, flush=True)
    grows = slope(rounds) > MOST_GROWTH and not chosen.bare
    return int(grows or any(one.trouble for one in rounds))


if __name__ == "__main__":
    sys.exit(main())
