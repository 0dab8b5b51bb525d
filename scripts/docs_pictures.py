"""Train with injected faults and draw the documentation's pictures from these runs.

    PYTHONPATH=benchmarks:scripts python scripts/docs_pictures.py [--only demo lessons findings]

The measured numbers are stored next to the pictures in ``docs/pictures/*.json``; the pages quote
them. A training takes a few seconds on a CPU, everything about ten minutes.
``terminal_recording.py`` makes ``docs/live.svg``, ``notebook_picture.py`` ``docs/notebook.png``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

import docs_lessons
from docs_faults import EXAMPLES
from docs_runs import HOME, PICTURES, keep, trained, write_json

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.cli.demo import train_on_shapes
from yolo_gradwatch.demo.faults import FAULTS
from yolo_gradwatch.diagnose.catalog import RULES


def main() -> None:
    """Draw the selected pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=["findings", "lessons", "demo"])
    parser.add_argument("--rules", nargs="*", default=list(EXAMPLES))
    given = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    if "demo" in given.only:
        demo()
    if "lessons" in given.only:
        docs_lessons.main()
    if "findings" in given.only:
        findings(given.rules)


def findings(rules: list[str]) -> None:
    """Draw a picture for each rule and store the message of its finding."""
    path = PICTURES / "findings.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for rule in rules:
        example = EXAMPLES[rule]
        run = trained(example, rule)
        found = [one for one in run.report().findings if one.rule == rule]
        if not found:
            others = ", ".join(f"{one.rule} {one.module}" for one in run.report().findings)
            print(f"{rule}: NOT FOUND, but {others or 'nothing'}", flush=True)
            continue
        first = found[0]
        known[rule] = {
            "fault": example.fault.title,
            "model": example.model.removesuffix(".yaml"),
            "steps": example.steps,
            "module": first.module,
            "since": first.episodes[0].step,
            "message": first.message,
        }
        keep(run.plot(), f"finding-{rule}")
        print(f"{rule}: {first.module}", flush=True)
    ordered = {rule: known[rule] for rule in RULES if rule in known}
    write_json(path, ordered)


def demo() -> None:
    """Run the demo with a fault; draw its heat map and the curves along the network."""
    folder = HOME / "gradwatch-demo"
    folder.mkdir(exist_ok=True)
    watch = GradWatch(live=False, loggers=())
    with contextlib.chdir(HOME), contextlib.redirect_stdout(sys.stderr):
        train_on_shapes(Path("gradwatch-demo"), watch, FAULTS["gradient-cut"], 8)
        run = load_run("gradwatch-demo/run")
        keep(run.plot(), "gradwatch", width=1200)
        keep(run.plot_flow(), "flow")


if __name__ == "__main__":
    main()
