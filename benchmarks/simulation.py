"""Simulate a training of any length through roll-up, rules and files, without torch.

    python benchmarks/simulation.py MODEL.pickle STEPS [FOLDER]

``scale.py`` runs it in a separate process, so that the memory is that of this package alone. The
steps are random values around those of a healthy training, with three loss items, the learning
rates of three groups, and the largest number of traces. They arrive without a pause, so 32 are
processed together; in a training of ten steps per second, it is three. FOLDER keeps the run. The
last line of output is JSON.
"""

from __future__ import annotations

import json
import logging
import pickle
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from machine import peak_memory

from yolo_gradwatch.measure.loss_items import BatchItems
from yolo_gradwatch.measure.sample import Change, Detail, Sample, Weights
from yolo_gradwatch.measure.trace import Call, Flow
from yolo_gradwatch.views.notebook import View
from yolo_gradwatch.views.terminal.output import Terminal
from yolo_gradwatch.watch.assembly import Training, assemble
from yolo_gradwatch.watch.options import Options
from yolo_gradwatch.watch.schedule import MOST_TRACES

if TYPE_CHECKING:
    from yolo_gradwatch.measure.layout import Layout, Members
    from yolo_gradwatch.watch.recorder import Recorder

EPOCHS = 300
SKIPS, ANOMALIES = 1000, 40
LATE = (1000, 20_000, 200_000)
"""Steps at which only the weights begin to grow, each in a separate training."""
GROWTH, MOST_GROWN = 1.1, 100.0
"""Growth per step, and its maximum."""
ITEMS, GROUPS, RATE = ("box_loss", "cls_loss", "dfl_loss"), 3, 0.01
LEAST_SIZE = 0.05
"""Smallest size in MB of a file that is listed."""
APART = 7
"""Steps from the start of a window to the start of the growth."""


def recorder_of(folder: Path, found: Layout, members: Members) -> Recorder:
    """Return a recorder that writes into the folder, in its first epoch."""
    training = Training(
        folder, {"amp": True, "clip": 10.0}, EPOCHS, resumes=False, earlier=None, versions={}
    )
    terminal = Terminal(live=False, handlers=(), safely=lambda call: call())
    parts = assemble(
        found,
        members,
        training,
        Options(loggers=()),  # they load torch
        terminal=terminal,
        view=View(),
        announce=lambda _path: None,
    )
    recorder = parts.recorder
    recorder.open()
    recorder.start_epoch(1, EPOCHS)
    return recorder


def pool_of(members: Members, size: int = 512) -> list[Sample]:
    """Return steps of a healthy training, to be reused."""
    rng = np.random.default_rng(0)
    usual = 10 ** rng.normal(-1.5, 0.3, len(members.elements))
    spread = 10 ** rng.normal(0, 0.1, (size, len(usual)))
    present = np.zeros(len(usual), np.bool_)
    weights = 0.4 * members.elements**0.25  # as after initialization
    zeros = np.where(np.arange(len(usual)) % 3, np.nan, 0.0)
    detail = Detail(zeros, Weights(weights, rng.lognormal(size=len(members.names))))
    change = Change(weights, weights * 10 ** rng.normal(-3, 0.3, len(weights)))
    one = Sample(1, 1, usual, present, detail=detail, change=change)
    losses = rng.lognormal(0, 0.1, (size, 1, len(ITEMS)))
    return [
        replace(one, norms=usual * row, losses=(BatchItems(ITEMS, items),))
        for row, items in zip(spread, losses, strict=True)
    ]


def step_of(  # noqa: PLR0913  # the parts of a step
    one: Sample,
    step: int,
    *,
    epoch: int = 1,
    detailed: bool = False,
    weighed: bool = False,
    factor: float = 1.0,
    growth: float = 1.0,
) -> Sample:
    """Return a step of the pool renumbered and scaled, with or without details and weights."""
    norms = one.norms if factor == 1.0 else one.norms * factor
    detail, change = (one.detail, one.change) if detailed or weighed else (None, None)
    if detail and detail.weights:
        grown = detail.weights if growth == 1.0 else _grown(detail.weights, growth)
        zeros = detail.zeros if detailed else np.full_like(detail.zeros, np.nan)
        detail = Detail(zeros, grown if weighed else None)
    rates = (RATE * (1 - epoch / (EPOCHS + 1)),) * GROUPS
    return Sample(
        epoch,
        step,
        norms,
        one.missing,
        detail=detail,
        change=change,
        losses=one.losses,
        rates=rates,
    )


def trace_of(layout: Layout, step: int, epoch: int) -> Flow:
    """Return the trace of a batch in which every module is called once."""
    rng = np.random.default_rng(step)
    outputs, gradients = rng.lognormal(0, 0.3, (2, len(layout.modules))).tolist()
    calls = (
        Call(n, name, 1, kind, 10**5, output, 9 * output, 0.1, None, gradient)
        for n, (name, kind, output, gradient) in enumerate(
            zip(layout.modules, layout.types, outputs, gradients, strict=True), 1
        )
    )
    return Flow(epoch, step, tuple(calls))


def _grown(weights: Weights, growth: float) -> Weights:
    return Weights(weights.norms * growth, weights.largest * growth)


def reported_after(recorder: Recorder, pool: list[Sample], begin: int) -> int:
    """Return the steps from the first growth of the weights to its report."""
    simulate(recorder, pool, begin - APART, skips=0)
    recorder.start_epoch(EPOCHS + 1, EPOCHS + 1)
    step = begin - APART
    while not recorder.report().alarms:
        step += 1
        growth = min(GROWTH ** max(step - begin, 0), MOST_GROWN)
        detailed, weighed = recorder.wanted(step)
        one = pool[step % len(pool)]
        sample = step_of(
            one, step, epoch=EPOCHS + 1, detailed=detailed, weighed=weighed, growth=growth
        )
        recorder.take([sample])
    return step - begin


def simulate(recorder: Recorder, pool: list[Sample], count: int, skips: int = SKIPS) -> float:
    """Simulate steps, some skipped by AMP, and return the seconds spent in the recorder."""
    traced = _spread_out(count, MOST_TRACES) if skips else set()
    per_epoch = max(count // EPOCHS, 1)
    skipped = _spread_out(count, skips)
    strange = _spread_out(count, ANOMALIES)
    inside, epoch = 0.0, 0
    for step in range(1, count + 1):
        begin = time.perf_counter()
        if step > epoch * per_epoch:
            if epoch:
                recorder.end_epoch()
            epoch += 1
            recorder.start_epoch(epoch, EPOCHS)
        detailed, weighed = recorder.wanted(step)
        middle = time.perf_counter()
        one = pool[step % len(pool)]
        factor = 20.0 if step in strange else 1.0
        sample = step_of(one, step, epoch=epoch, detailed=detailed, weighed=weighed, factor=factor)
        if step in skipped:
            sample = replace(sample, norms=np.full_like(one.norms, np.inf), skipped=True)
        flow = trace_of(recorder._layout, step, epoch) if step in traced else None  # noqa: SLF001
        inside += middle - begin
        begin = time.perf_counter()
        if flow:
            recorder._diagnosing.flow(flow)  # noqa: SLF001  # as a training does
        recorder.take([sample])
        inside += time.perf_counter() - begin
    begin = time.perf_counter()
    recorder.end_epoch()
    return inside + time.perf_counter() - begin


def _spread_out(count: int, parts: int) -> set[int]:
    """Return steps of a training at equal distances."""
    return {count * n // (parts + 1) for n in range(1, parts + 1)}


def main() -> None:
    """Run the simulation and print its cost."""
    path, count = Path(sys.argv[1]), int(sys.argv[2])
    logging.disable(logging.WARNING)
    model: tuple[Layout, Members] = pickle.loads(path.read_bytes())  # noqa: S301  # written by scale.py
    pool = pool_of(model[1])
    keeps = nullcontext(sys.argv[3]) if len(sys.argv) > 3 else tempfile.TemporaryDirectory()
    with keeps as folder:
        recorder = recorder_of(Path(folder), *model)
        inside = simulate(recorder, pool, count)
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        sizes = {path.name: path.stat().st_size / 1e6 for path in files}
        findings = ", ".join(finding.rule for finding in recorder.report().findings)
        recorder.end("finished")
        recorder.close()
    late = {}
    for begin in LATE:
        with tempfile.TemporaryDirectory() as folder:
            recorder = recorder_of(Path(folder), *model)
            after = reported_after(recorder, pool, begin)
            rules = ", ".join(finding.rule for finding in recorder.report().alarms)
            late[f"weights grow from step {begin:,} on"] = f"{rules} after {after:,} steps"
            recorder.close()
    result = {
        "roll-up, rules, files: µs a step": f"{1e6 * inside / count:.1f}",
        "in all, s": f"{inside:.1f}",
        **{f"{name}, MB": f"{size:.1f}" for name, size in sizes.items() if size > LEAST_SIZE},
        "all files, MB": f"{sum(sizes.values()):.1f}",
        "most memory of the process, MB": f"{peak_memory():.0f}",
        "torch is loaded": str("torch" in sys.modules),
        "findings": findings or "none",
        **late,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
