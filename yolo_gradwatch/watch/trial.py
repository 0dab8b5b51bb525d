"""A training that is a trial of Ray Tune: what its results get, and how its watch outlasts a stop.

Read in ray 2.60; Ray is not imported here, and not asked for anything.
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
"""For which Ray waits for the files and pictures of a trial that it stops; it allows for 15."""


def numbers(report: Report) -> dict[str, object]:
    """What a result of Ray Tune gets, by key.

    Returns:
        ``gradwatch/verdict``, a sentence on what was watched so far; ``gradwatch/findings``, how
        many are more than a notice; ``gradwatch/total_norm``, the median total norm of the newest
        epoch with a step: Inf if no step of it was finite, NaN if there was no step.
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
    """Have our numbers in each result that this training reports to Ray Tune."""

    def safe_numbers() -> dict[str, object]:
        found: dict[str, object] = {}
        guard.safely(lambda: found.update(numbers(recorder.report())))
        return found

    guard.undo.callback(raytune.report_beside(trainer, safe_numbers))


def outlast_stop(undo: ExitStack) -> None:
    """Have Ray wait for the end of the watch before it lets the process of a stopped trial die.

    Ray runs a trial in a thread. To stop it, it makes ``tune.report`` raise ``SystemExit(0)`` there
    and joins the thread with a timeout of 0; the process is gone within a second.

    Args:
        undo: Of the watch; nothing is undone after this.
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
