"""Check that the advice of a finding helps: inject a fault, follow the message, train again.

    python benchmarks/remedies.py [--only FAULT ...] [--steps 52]
        >> benchmarks/RESULTS.md

Each fault is injected into a short training from scratch. The expected rule must have a finding,
and the first advice of its message must contain the phrase in ``TRIALS``, so a changed wording
fails here. The code for that phrase (``repairs``) then changes the module that the finding names,
and the same training runs again with the same seed. Where the advice is to find something, the
repair knows its class: that tests the place, not the search. The advice helps if the rule is
silent, there is no alarm that the control lacks, and the loss falls from the first quarter of the
steps to the last and ends within ``NEAR`` of the control's. If it does not help, the next advice of
the message is applied too; the column *helped* counts how many it took. A fault without a finding
is also a row.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

import repairs
from machine import heading, table
from more_faults import MORE
from trainings import HOME, ONE_EPOCH, YOLO, InMemory, draw_dataset

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.demo.faults import FAULTS, Fault
from yolo_gradwatch.diagnose.catalog import RULES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from repairs import Repair

    from yolo_gradwatch.diagnose.finding import Finding

NEAR = 1.5
"""How many times the control's last-quarter loss still counts as equally good."""


@dataclass(frozen=True)
class Trial:
    """A fault, the rule that must find it, and the advice to follow.

    Attributes:
        fault: Name of the fault.
        rule: Rule of the first alarm.
        advice: Phrases of the message in order, each with the repair that implements it.
        model: Model to train.
    """

    fault: str
    rule: str
    advice: dict[str, Repair]
    model: str = "yolo26n.yaml"


@dataclass(frozen=True)
class Outcome:
    """The result of a training.

    Attributes:
        alarms: The findings above notices.
        losses: Loss of each batch.
        advised: The remedy text of each alarm.
    """

    alarms: tuple[Finding, ...]
    losses: tuple[float, ...]
    advised: tuple[str, ...] = field(default=())

    @property
    def quarters(self) -> tuple[float, float]:
        """Mean loss of the first and the last quarter of the batches."""
        count = max(len(self.losses) // 4, 1)
        return fmean(self.losses[:count]), fmean(self.losses[-count:])

    def is_as_good_as(self, control: Outcome) -> bool:
        """Return whether the loss falls and ends near the control's."""
        first, last = self.quarters
        return last < first and last <= NEAR * control.quarters[1]

    def new_rules(self, control: Outcome) -> list[str]:
        """Return the rules of alarms that the control lacks."""
        known = {finding.rule for finding in control.alarms}
        return sorted({finding.rule for finding in self.alarms} - known)


SILU = {"SiLU or ReLU instead of": repairs.SMOOTH}
PLAIN = {"BatchNorm after each": repairs.NORMALIZED}
TRIALS = [
    Trial("saturated", "vanishing", {**PLAIN, **SILU, "residual connection": repairs.BYPASSED}),
    Trial("gradient-cut", "vanishing", {"a small factor": repairs.OPENED}),
    Trial("tanh-stack", "vanishing", {"residual connection": repairs.BYPASSED, **PLAIN, **SILU}),
    Trial("dying-relu", "dead", {"a bias of 0": repairs.RESET}),
    Trial("detached", "no_gradient", {"look for detach()": repairs.OPENED}),
    Trial("learning-rate", "weight_growth", {"find the callback": repairs.USUAL_RATE}),
    Trial("loss-spike", "spike", {"look for what multiplies the loss": repairs.WITHOUT_FACTOR}),
    Trial("nan", "nonfinite", {"find that operation": repairs.UNHOOKED}),
    Trial(
        "amp-overflow", "nonfinite", {"amp=False": repairs.WITHOUT_AMP, "find that": repairs.OPENED}
    ),
]
V8 = "yolov8n.yaml"
TRIALS += [
    Trial("root", "nonfinite", {"an epsilon under the root": repairs.EPSILON}, V8),
    Trial("log", "nonfinite", {"find the division": repairs.EPSILON}, V8),
    Trial("half-exp", "nonfinite", {"find the division": repairs.SINGLE}, V8),
    Trial("large-factor", "exploding", {"look there for a large factor": repairs.OPENED}, V8),
    Trial("large-init", "large_weights", {"Ultralytics' initialization": repairs.INITIAL}, V8),
    Trial("small-init", "small_weights", {"Ultralytics' initialization": repairs.INITIAL}, V8),
    Trial("large-head", "initial_loss", {"Ultralytics' initialization": repairs.HEAD}, V8),
    Trial("forgotten", "not_updated", {"all of model.parameters()": repairs.COMPLETE}, V8),
    Trial("box-gain", "loss_imbalance", {"lower it first": repairs.USUAL_GAINS}, V8),
    Trial("box-item", "loss_imbalance", {"what multiplies box_loss": repairs.WITHOUT_FACTOR}, V8),
    Trial("box-zero", "dead_branch", {"Set a gain above 0": repairs.USUAL_GAINS}, V8),
    Trial("detached-boxes", "no_gradient", {"look for detach()": repairs.OPENED}, V8),
    Trial("relu-stack", "vanishing", {**PLAIN, "residual": repairs.BYPASSED_BY_TWO}, V8),
    Trial("tanh-stack-4", "vanishing", {**PLAIN, **SILU}, V8),
    Trial("rate-jump", "rate_jump", {"remove that change": repairs.WITHOUT_CALLBACK}, V8),
    Trial("high-rate", "weight_growth", {"lower lr0": repairs.LOWER_RATE}, V8),
    Trial("huge-loss", "total_high", {"scale the loss down": repairs.SCALED_LOSS}, V8),
    Trial("nan-image", "nonfinite", {"check the images": repairs.WITHOUT_IMAGES}, V8),
]


def trained(
    fault: Fault, model: str, steps: int, repair: Repair | None = None, found: Any = None
) -> Outcome:
    """Train with a fault, and optionally with a repair.

    Args:
        fault: Injected before the watch reads the model.
        model: Model to train from scratch.
        steps: Number of optimizer steps, each of one batch.
        repair: Applied after the fault; None to leave the fault alone.
        found: The finding to follow.
    """
    losses: list[float] = []
    net = YOLO(model)
    fault.inject(net)
    if repair:
        repair.apply(net, found)
    watch = GradWatch(live=False).attach(net)
    net.add_callback(
        "on_train_batch_end", lambda trainer: losses.append(float(trainer.loss.detach()))
    )
    options = {**ONE_EPOCH, **fault.options, **(repair.options if repair else {})}
    data = str(draw_dataset(HOME / "shapes", train=16, val=1))
    kind = type("Timed", (InMemory,), {"steps": steps})
    no_checkpoint = contextlib.suppress(FileNotFoundError)  # YOLO.train looks for one
    with contextlib.redirect_stdout(sys.stderr), no_checkpoint:
        net.train(trainer=kind, data=data, project=str(HOME / "runs"), name="run", **options)
    alarms = tuple(watch.report().alarms)
    run = load_run(watch.run_dir)
    words = (RULES[one.rule].message(run.layout, run.meta.options.training, one) for one in alarms)
    return Outcome(alarms, tuple(losses), tuple(one.remedy for one in words))


HARMLESS = "Clipping limits that step. "
"""The sentence before the advice on a spike."""


def first_advice(remedy: str) -> str:
    """Return the first advice of a remedy text."""
    return re.split(r"[.,;] ", remedy.removeprefix(HARMLESS))[0]


def tried(trial: Trial, control: Outcome, steps: int) -> Iterator[str]:
    """Yield the cells of a trial's row."""
    fault = {**FAULTS, **MORE}[trial.fault]
    faulty = trained(fault, trial.model, steps)
    yield from (trial.fault, trial.model.removesuffix(".yaml"))
    finding = next((one for one in faulty.alarms if one.rule == trial.rule), None)
    if finding is None:
        yield from (f"not found: {', '.join(one.rule for one in faulty.alarms)}", "", "", "", "no")
        return
    yield f"`{finding.rule}` {finding.module}"
    remedy = faulty.advised[faulty.alarms.index(finding)]
    phrase = next(iter(trial.advice))
    if phrase.lower() not in first_advice(remedy).lower():
        yield from (f"not advised first: {first_advice(remedy)}", _course(faulty), "", "", "no")
        return
    made = list(_followed(trial, finding, control, steps))
    repaired, is_helped = made[-1]
    yield from (phrase, _course(faulty), _course(repaired))
    yield ", ".join(sorted({one.rule for one in repaired.alarms})) or "none"
    yield ("yes" if len(made) == 1 else f"with advice {len(made)}") if is_helped else "no"


def _followed(
    trial: Trial, finding: Finding, control: Outcome, steps: int
) -> Iterator[tuple[Outcome, bool]]:
    """Apply the first advice, then also the next ones until it helps; yield each result."""
    fault, repair = {**FAULTS, **MORE}[trial.fault], repairs.NOTHING
    for one in trial.advice.values():
        repair += one
        repaired = trained(fault, trial.model, steps, repair, finding)
        is_gone = all(left.rule != trial.rule for left in repaired.alarms)
        is_helped = is_gone and not repaired.new_rules(control) and repaired.is_as_good_as(control)
        yield repaired, is_helped
        if is_helped:
            return


def _course(outcome: Outcome) -> str:
    first, last = outcome.quarters
    return f"{first:.3g} to {last:.3g}"


COLUMNS = (
    *("fault", "model", "finding", "first advice", "loss", "loss after", "alarms after"),
    "helped",
)


def main() -> None:
    """Run the trials and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--only", nargs="*", help="names of faults")
    parser.add_argument("--steps", type=int, default=52)
    options = parser.parse_args()
    trials = [t for t in TRIALS if not options.only or t.fault in options.only]
    controls: dict[tuple[str, str], Outcome] = {}
    rows = []
    for trial in trials:
        own = {**FAULTS, **MORE}[trial.fault].options
        optimizer = str(own.get("optimizer", ONE_EPOCH["optimizer"]))
        kind = (trial.model, optimizer)
        if kind not in controls:
            plain = Fault("", options={"optimizer": optimizer})
            controls[kind] = trained(plain, trial.model, options.steps)
        rows.append([*tried(trial, controls[kind], options.steps)])
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    notes = (f"{options.steps} steps of 4 images at 64 pixels, lr0=0.002 from scratch",)
    print(heading("Remedies", ("ultralytics", "torch"), *notes))
    for kind, control in controls.items():
        rules = ", ".join(one.rule for one in control.alarms) or "no alarm"
        print(f"Control {' '.join(kind)}: loss {_course(control)}, {rules}.")
    print()
    print(table(COLUMNS, rows))
    helped = sum(row[-1] == "yes" for row in rows)
    print(f"\nThe first advice helped in {helped} of {len(rows)}.")


if __name__ == "__main__":
    main()
