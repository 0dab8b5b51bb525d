"""Support for trials of Ray Tune: extra numbers in results, and a watch that outlasts a stop.

Read in ray 2.60; Ray is neither imported nor called here.
"""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.watch.ultralytics import raytune
from yolo_gradwatch.watch.ultralytics.hooks import replaced

if TYPE_CHECKING:
    from contextlib import ExitStack

    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.watch.guard import Guard
    from yolo_gradwatch.watch.recorder import Recorder

MOST_SECONDS = 10.0
"""How long Ray waits for the files and pictures of a trial that it stops; it allows 15 s."""


def numbers(report: Report) -> dict[str, object]:
    """Return the numbers for a Ray Tune result, by key.

    Returns:
        ``gradwatch/verdict``, a sentence on the training so far; ``gradwatch/findings``, the number
        of findings above a notice; ``gradwatch/total_norm``, the median total norm of the newest
        epoch with a step: Inf if none of its steps was finite, NaN if there was no step.
    """
    norm: float | None = math.nan
    if report.epochs:
        norm = report.epochs[-1].norm_median
    return {
        "gradwatch/verdict": replace(report, status="finished").verdict,
        "gradwatch/findings": len(report.alarms),
        "gradwatch/total_norm": math.inf if norm is None else norm,
    }


def join_results(trainer: Any, guard: Guard, recorder: Recorder) -> None:
    """Add our numbers to each result that this training reports to Ray Tune."""

    def safe_numbers() -> dict[str, object]:
        found: dict[str, object] = {}
        guard.safely(lambda: found.update(numbers(recorder.report())))
        return found

    guard.undo.callback(raytune.report_beside(trainer, safe_numbers))


def outlast_stop(undo: ExitStack) -> None:
    """Have Ray wait for the end of the watch before the process of a stopped trial exits.

    Ray runs a trial in a thread. To stop it, ``tune.report`` raises ``SystemExit(0)`` there, and
    Ray joins the thread with a timeout of 0; the process is gone within a second.

    Args:
        undo: Undo stack of the watch, still empty, so that this is undone last.
    """
    thread = threading.current_thread()
    if not type(thread).__module__.startswith("ray."):
        return
    is_over, join = threading.Event(), thread.join

    def patient_join(timeout: float | None = None) -> Any:
        is_over.wait(MOST_SECONDS)
        return join(timeout)

    undo.callback(is_over.set)
    undo.callback(replaced(thread, "join", patient_join))
