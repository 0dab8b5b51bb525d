"""Time and memory for the table of 500 runs of 5 MB each.

    python benchmarks/many_runs.py OUT [--runs 500] [--repeats 5] >> benchmarks/RESULTS.md

Writes runs with the layout of YOLO26n into the folder OUT, as `review.py` does. A tenth of them has
a finding, another tenth is unfinished. Then runs each command in a separate process, as a user
does, and prints its wall time, CPU time and peak memory. The files were just written, so they come
from the page cache.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from machine import heading, spread, table
from review import SINGLE, measure, write
from ultralytics import YOLO

from yolo_gradwatch.measure import model_layout
from yolo_gradwatch.runs import schema
from yolo_gradwatch.runs.results import RESULTS_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence

WINDOWS = 110  # of 433 modules: 5 MB
STEPS = SINGLE + (WINDOWS - SINGLE) * 20
EPOCHS = 100
COMMANDS = {
    "runs": ["runs", "{out}"],
    "runs --json": ["runs", "{out}", "--json"],
    "runs --sort mAP --unhealthy": ["runs", "{out}", "--sort", "mAP", "--unhealthy"],
    "runs --html": ["runs", "{out}", "--html", "{out}/runs.html"],
}
FINDING = (
    "1,start,71,71,5,critical,vanishing,model.4,3.5,2,model.4 (C3k2): its gradient is 3200 times "
    "weaker than that of the blocks it feeds since step 69.,69\n"
)
RESULTS = (
    "epoch,time,train/box_loss,train/cls_loss,train/dfl_loss,metrics/precision(B),"
    "metrics/recall(B),metrics/mAP50(B),metrics/mAP50-95(B),val/box_loss,val/cls_loss,"
    "val/dfl_loss,lr/pg0,lr/pg1,lr/pg2\n"
)


def create_runs(out: Path, runs: int) -> None:
    """Create a tree of runs: write one and copy it."""
    model, _ = model_layout.read(YOLO("yolo26n.yaml").model, ())
    first = out / "train"
    write(first, model, WINDOWS, unhealthy=False)
    _write_results(first)
    _describe(first, "finished")
    for number in range(2, runs + 1):
        folder = out / f"train{number}"
        shutil.copytree(first, folder, dirs_exist_ok=True)
        if number % 10 == 3:
            with (folder / schema.ALERTS_FILE).open("a", encoding="utf-8") as file:
                file.write(FINDING)
        if number % 10 == 7:
            _describe(folder, "running")


def _describe(folder: Path, status: str) -> None:
    """Set the run's status, and spread its epochs over all its steps."""
    meta = json.loads((folder / schema.META_FILE).read_text("utf-8"))
    for epoch in meta["epochs"]:
        epoch["step_last"] = STEPS * epoch["epoch"] // EPOCHS
    text = json.dumps({**meta, "status": status}, indent=1)
    (folder / schema.META_FILE).write_text(text, encoding="utf-8")


def _write_results(folder: Path) -> None:
    """Write Ultralytics' results file with a line per epoch."""
    rows: Sequence[str] = [
        ",".join(
            f"{value:.5g}" for value in (epoch, 9 * epoch, *(1 / (epoch + n) for n in range(13)))
        )
        for epoch in range(1, EPOCHS + 1)
    ]
    text = RESULTS + "".join(f"{row}\n" for row in rows)
    (folder / RESULTS_FILE).write_text(text, encoding="utf-8")


def main() -> None:
    """Write the runs, measure the commands and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    create_runs(chosen.out, chosen.runs)
    size = (chosen.out / "train" / schema.WINDOWS_FILE).stat().st_size / 1e6
    what = f"{chosen.runs:,} runs of {size:.1f} MB of CSV and {EPOCHS} epochs"
    times = f"{chosen.repeats} runs of each command"
    print(heading("A table of many runs", ("numpy", "pandas", "msgspec"), what, times))
    rows = []
    for title, words in COMMANDS.items():
        command = [word.format(out=chosen.out) for word in words]
        found = [measure(command) for _ in range(chosen.repeats)]
        seconds, busy, memory = zip(*found, strict=True)
        rows.append([title, spread(seconds), spread(busy), f"{max(memory):.0f}"])
    print(table(["command", "seconds", "of a processor", "memory, MB"], rows) + "\n")


if __name__ == "__main__":
    main()
