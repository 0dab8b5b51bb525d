"""Check that the measured cause of a finding names the right call and the right mechanism.

    python benchmarks/causes.py [NAME ...] [--runs FOLDER] >> benchmarks/RESULTS.md

Injects each fault of `cause_faults` into two models, trains them for a few dozen steps on drawn
shapes at 64 pixels and reads the cause from each finding. NAME selects faults. ``--runs`` keeps the
trainings, and a training that is already there is not repeated. Prints a Markdown table with
separate totals for the held-out faults, those not looked at while the analysis was written. About
30 minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cause_faults import CASES, Case
from machine import heading, table
from trainings import HOME, SMALL, YOLO, draw_classes, draw_dataset

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.diagnose.measured import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from yolo_gradwatch import Finding, Run
    from yolo_gradwatch.diagnose.finding import Reason

BATCH, IMAGE, STEPS = SMALL["batch"], SMALL["imgsz"], 28

JUDGED = ("call",)
"""Reason kinds of rules that name the call themselves."""


@dataclass(frozen=True)
class Outcome:
    """The result of one training with an injected fault.

    Attributes:
        rule: Rule of the finding; "" without one.
        reason: The cause in the finding; None if nothing was measured.
    """

    name: str
    model: str
    case: Case
    rule: str
    reason: Reason | None

    @property
    def is_call_right(self) -> bool:
        """Whether the cause names an expected call."""
        if not self.case.kinds:
            return self.reason is None
        name = self.reason.names[0] if self.reason else ""
        return re.match(self.case.calls, name) is not None

    @property
    def is_mechanism_right(self) -> bool:
        """Whether the cause gives an expected mechanism."""
        if not self.case.kinds:
            return self.reason is None
        return self.reason is not None and self.reason.kind in self.case.kinds


def train(name: str, case: Case, model: str, folder: Path) -> Run:
    """Train a model with a fault, unless the run already exists."""
    run = folder / f"{name}-{model}"
    if not (run / "gradwatch.json").exists():
        own = {"model": f"{model}.yaml", "data": _data(model), "project": str(folder)}
        options = {**_OPTIONS, **own, "name": run.name, **case.fault.options}
        net = YOLO(options["model"])
        case.fault.inject(net)
        GradWatch(live=False).attach(net)
        with contextlib.suppress(RuntimeError):  # a NaN, and no checkpoint to restore
            _fast_trainer(net)(overrides=options, _callbacks=net.callbacks).train()
    return load_run(run)


def reason_of(finding: Finding) -> Reason | None:
    """Return the cause if a trace measured it, directly or through the rule."""
    reason = finding.reason
    return reason if reason and reason.kind in {*KINDS, *JUDGED} else None


def outcome(name: str, model: str, folder: Path) -> Outcome:
    """Train, then take the earliest finding that has a cause."""
    case = CASES[name]
    run = train(name, case, model, folder)
    findings = [f for f in run.report().findings if f.severity != "notice"]
    causes = [(f.rule, reason_of(f)) for f in findings]
    rule, reason = next((one for one in causes if one[1]), (causes or [("", None)])[0])
    return Outcome(name, model, case, rule, reason)


def rows(outcomes: Sequence[Outcome]) -> Iterator[Sequence[str]]:
    """Yield a table row for each training."""
    for one in outcomes:
        names = ", ".join(one.reason.names) if one.reason else ""
        yield (
            *(one.name, one.model, one.rule or "none"),
            f"{one.reason.kind}: {names}" if one.reason else "none",
            "yes" if one.is_call_right else "**no**",
            "yes" if one.is_mechanism_right else "**no**",
            "yes" if one.case.is_held_out else "",
        )


def totals(outcomes: Sequence[Outcome], title: str) -> str:
    """Count the right calls and mechanisms, in one sentence."""
    calls = sum(one.is_call_right for one in outcomes)
    kinds = sum(one.is_mechanism_right for one in outcomes)
    many = len(outcomes) or 1
    return (
        f"{title}: call right in {calls}/{len(outcomes)} ({calls / many:.0%}), "
        f"mechanism in {kinds}/{len(outcomes)} ({kinds / many:.0%})."
    )


_OPTIONS = {**SMALL, "epochs": 2, "seed": 0}


def _fast_trainer(net: Any) -> Any:
    """Return the model's trainer class without validation and checkpoints."""
    empty = {"validate": lambda _: ({}, 0.0), "save_model": lambda _: False}
    return type(
        "FastTrainer", (net.task_map[net.task]["trainer"],), {**empty, "final_eval": lambda _: None}
    )


def _data(model: str) -> str:
    """Draw a data set for the task of the model."""
    images = BATCH * STEPS // 2
    if not model.endswith("-cls"):
        return str(draw_dataset(HOME / "shapes", train=images, val=BATCH))
    return str(draw_classes(HOME / "classes", train=images, val=BATCH))


def main() -> None:
    """Run the trainings and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=list(CASES), metavar="NAME")
    parser.add_argument("--runs", type=Path, default=HOME / "runs")
    chosen = parser.parse_args()
    sys.stdout.flush()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Ultralytics prints is not part of the record
    folder = chosen.runs.resolve()
    found = [outcome(n, model, folder) for n in chosen.names for model in CASES[n].models]
    columns = ("fault", "model", "rule", "measured", "call right", "mechanism right", "held out")
    steps = f"{STEPS} steps of {BATCH} images of {IMAGE} pixels"
    print(heading("Causes", ("torch", "ultralytics"), steps), file=out)
    print(table(columns, list(rows(found))), file=out)
    held = [one for one in found if one.case.is_held_out]
    seen = [one for one in found if not one.case.is_held_out]
    print(f"\n{totals(found, 'All')}\n{totals(seen, 'Looked at')}", file=out)
    print(totals(held, "Held out"), file=out, flush=True)


if __name__ == "__main__":
    main()
