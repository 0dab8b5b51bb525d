"""The watch with ``compile=True``."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from trainings import StepClock, training

from benchmarks.cuda.job import has_cuda, quiet, tiny_options
from yolo_gradwatch import GradWatch

if TYPE_CHECKING:
    from benchmarks.cuda.job import Job
    from yolo_gradwatch.diagnose.report import Report

STEPS = 20


def measure(job: Job) -> None:
    """Train a tiny model without and with ``compile=True``, and print the watch's reports."""
    job.head("compile", "steps watched", "modules", "status", "findings", "remarks", "seconds")
    for is_compiled in (False, True) if has_cuda() else (False,):
        begin = time.perf_counter()
        report = _watched(is_compiled=is_compiled)
        findings = ", ".join(finding.rule for finding in report.findings) or "none"
        remarks = " ".join(report.remarks).replace("|", "/") or "none"
        counts = [f"{report.steps} of {_steps()}", f"{report.modules}", report.status]
        taken = f"{time.perf_counter() - begin:.0f}"
        job.row(str(is_compiled), *counts, findings, remarks, taken)
    if not has_cuda():
        job.text("Compiled: needs CUDA.")


def _watched(*, is_compiled: bool) -> Report:
    watch = GradWatch(live=False)
    with tempfile.TemporaryDirectory() as folder, quiet():
        chosen = {**tiny_options(Path(folder)), "compile": is_compiled}
        training(watch.attach, clock=StepClock(), steps=_steps(), **chosen)
    return watch.report()


def _steps() -> int:
    return STEPS if has_cuda() else 4
