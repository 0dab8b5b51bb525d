"""Watches the gradients of an Ultralytics YOLO training and names the unhealthy layer.

The exports are loaded on first use (PEP 562), so that importing the package loads neither torch
nor ultralytics nor pandas.
"""

from __future__ import annotations

import logging
from importlib import import_module
from os import environ
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yolo_gradwatch.diagnose.finding import Alert, Episode, Finding
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.windows import Window
    from yolo_gradwatch.runs.many import load_runs
    from yolo_gradwatch.runs.outputs import Output
    from yolo_gradwatch.runs.run import Run, load_run
    from yolo_gradwatch.runs.schema import FormatError
    from yolo_gradwatch.watch.gradwatch import GradWatch

__version__ = "0.2.0"

if environ.get("YOLO_GRADWATCH_DEBUG"):  # then warnings carry the traceback of their error
    logging.getLogger(__name__).setLevel(logging.DEBUG)

_HOME = {
    "Alert": "diagnose.finding",
    "Episode": "diagnose.finding",
    "Finding": "diagnose.finding",
    "FormatError": "runs.schema",
    "GradWatch": "watch.gradwatch",
    "Layout": "measure.layout",
    "Output": "runs.outputs",
    "Report": "diagnose.report",
    "Run": "runs.run",
    "Thresholds": "diagnose.thresholds",
    "Window": "measure.windows",
    "load_run": "runs.run",
    "load_runs": "runs.many",
}

__all__ = [
    "Alert",
    "Episode",
    "Finding",
    "FormatError",
    "GradWatch",
    "Layout",
    "Output",
    "Report",
    "Run",
    "Thresholds",
    "Window",
    "load_run",
    "load_runs",
]


def __getattr__(name: str) -> object:
    """Import the module that holds ``name`` and return the export."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
