"""Runs on disk, as a training leaves them."""

from __future__ import annotations

from dataclasses import asdict

from values import LAYOUT, Part, plan, put_meta, window

from yolo_gradwatch.diagnose.diagnosis import Diagnosis
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.clipping import EpochClipping
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.runs import process as processes
from yolo_gradwatch.runs.writer import RunLog

CONV = "model.1.conv"
START = Event(1, "start")
DEAD = [window(step, zero=[CONV]) for step in (1, 2, 3)]
EPOCH = EpochClipping(1, 3, 2, 1, 12.5, 80.0, 1.75, {"model.0": 0.75, "model.1": 0.25}, None)
MORE, _ = plan([*(Part(name) for name in LAYOUT.modules if "." in name), Part("model.2.c")])
"""The layout of a training that is resumed with fewer frozen layers."""

DEAD_PID = 10**20
"""No process has it."""


def process(pid):
    return {**asdict(processes.own()), "pid": pid}


def write(folder, windows=(), changes=(), *, layout=LAYOUT, resume=False):
    """Write the tables of a run, or append to them; where in the file each window ended."""
    log, ends = RunLog(folder, layout, resume=resume), []
    log.start()
    for one in windows:
        log.write_window(one)
        ends.append((folder / "gradwatch.csv").stat().st_size)
    log.write_changes(changes)
    log.close()
    return ends


def watch(folder, windows, events=(START,), **meta):
    """Watch a training as its recorder does; the diagnosis at its end."""
    diagnosis = Diagnosis(LAYOUT, Thresholds(), {"amp": False})
    pending, changes = list(events), []
    for one in windows:
        while pending and pending[0].step <= one.step_first:
            pending.pop(0)
            diagnosis.restart()
        changes += diagnosis.update(one)
    write(folder, windows, changes)
    put_meta(folder, events=events, **meta)
    return diagnosis
