"""Train healthy models on Ultralytics' tiny data sets and check that the watch stays silent.

    python scripts/healthy_trainings.py OUT [--short] >> benchmarks/RESULTS.md

Trains three generations of models on every task, from scratch and fine-tuned from the resulting
checkpoint, for 30 and 300 optimizer steps: 60 trainings, about an hour on one CPU core. ``--short``
skips those of 300 steps. OUT is a folder for the runs. Ultralytics downloads missing data sets.
Prints a table for the record and exits with 1 if there was an alarm.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from ultralytics import YOLO

from yolo_gradwatch import GradWatch, Report

if TYPE_CHECKING:
    from collections.abc import Iterator

TASKS = {
    "": "coco8.yaml",
    "-seg": "coco8-seg.yaml",
    "-pose": "coco8-pose.yaml",
    "-obb": "dota8.yaml",
    "-cls": "imagenet10",
}
"""Data set of each task, by suffix of the model's name."""

MODELS = ("yolo26n", "yolo11n", "yolov8n")
BATCH = 2


def trainings(lengths: tuple[int, ...], out: Path) -> Iterator[tuple[str, Report]]:
    """Run all trainings and yield the name and report of each."""
    for name in MODELS:
        for suffix, data in TASKS.items():
            weights = f"{name}{suffix}.yaml"
            for start in ("scratch", "fine-tuned"):
                for steps in lengths:
                    title = f"{name}{suffix} {start} {steps} steps"
                    report = train(weights, data, steps, out / title.replace(" ", "-"))
                    yield title, report
                weights = str(report.run / "weights" / "last.pt")


def train(weights: str, data: str, steps: int, folder: Path) -> Report:
    """Run one watched training of about the given number of steps."""
    watch = GradWatch(live=False)
    model = YOLO(weights)
    watch.attach(model)
    images = 10 if data.startswith("imagenet") else 4
    model.train(
        data=data,
        epochs=max(steps * BATCH // images, 1),
        imgsz=64 if data.startswith("imagenet") else 96,
        batch=BATCH,
        nbs=BATCH,
        workers=0,
        device="cpu",
        amp=False,
        plots=False,
        val=False,
        save=False,  # the last epoch is still saved
        verbose=False,
        project=str(folder.parent),
        name=folder.name,
        exist_ok=True,
    )
    return watch.report()


def main() -> int:
    """Print the table and return 1 if there was an alarm."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("out", type=Path, help="folder for the runs")
    parser.add_argument("--short", action="store_true", help="only trainings of 30 steps")
    options = parser.parse_args()
    sys.stdout.flush()
    table = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Ultralytics prints is not part of the record
    today = datetime.now(timezone.utc).date()
    versions = ", ".join(f"{name} {version(name)}" for name in ("ultralytics", "torch"))
    print(f"\n## Healthy trainings, {today}\n", file=table)
    print(
        f"{os.cpu_count()} CPU cores, Python {platform.python_version()}, {versions}; "
        f"{torch.get_num_threads()} threads; batch {BATCH}, 64 or 96 pixels.\n",
        file=table,
    )
    print("| training | steps | alarms | notices |\n| --- | --- | --- | --- |", file=table)
    alarms = 0
    for title, report in trainings((30,) if options.short else (30, 300), options.out.resolve()):
        notices = [f.rule for f in report.findings if f.severity == "notice"]
        found = [f"{f.rule} in {f.module} at step {f.step}" for f in report.alarms]
        alarms += bool(found)
        row = (title, str(report.steps), ", ".join(found) or "none", ", ".join(notices) or "none")
        print(f"| {' | '.join(row)} |", file=table, flush=True)
    print(f"\nTrainings with an alarm: {alarms}.", file=table, flush=True)
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
