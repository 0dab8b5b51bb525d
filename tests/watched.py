"""Runs on disk as a training writes them."""

from __future__ import annotations

from dataclasses import asdict

from values import LAYOUT, Part, plan, put_meta, window, write_run

from yolo_gradwatch.diagnose.diagnosis import Diagnosis
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.clipping import EpochClipping
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.runs import process as processes
from yolo_gradwatch.runs.run import load_run
from yolo_gradwatch.runs.writer import RunLog

CONV = "model.1.conv"
START = Event(1, "start")
DEAD = [window(step, zero=[CONV]) for step in (1, 2, 3)]
EPOCH = EpochClipping(1, 3, 2, 1, 12.5, 80.0, 1.75, {"model.0": 0.75, "model.1": 0.25}, None)
MORE, _ = plan([*(Part(name) for name in LAYOUT.modules if "." in name), Part("model.2.c")])
"""The layout of a training resumed with fewer frozen layers."""

OTHER, _ = plan(
    [Part("model.0.conv"), Part("model.1.conv"), Part("model.1.new"), Part("model.2.a")]
)
"""`LAYOUT` without its norm layers and one leaf of the head, and with an additional leaf."""

DEAD_PID = 10**20
"""A process id that does not exist."""


def process(pid):
    return {**asdict(processes.own()), "pid": pid}


def write(folder, windows=(), changes=(), *, layout=LAYOUT, resume=False):
    """Write or append to the tables of a run; return the offset after each window."""
    log, ends = RunLog(folder, layout, resume=resume), []
    log.start()
    for one in windows:
        log.write_window(one)
        ends.append((folder / "gradwatch.csv").stat().st_size)
    log.write_changes(changes)
    log.close()
    return ends


def written(folder, windows, layout=LAYOUT, **meta):
    """Write a run and load it."""
    return load_run(write_run(folder, windows, layout, **meta))


def curve(norms, steps=1, layout=LAYOUT):
    """Return windows in which all modules have the same norm."""
    return [
        window(1 + i * steps, steps=steps, norm=norm, layout=layout) for i, norm in enumerate(norms)
    ]


class Training:
    """A training in another process, visible only through its files."""

    def __init__(self, folder, *, layout=LAYOUT, events=(START,), **meta):
        self.folder = folder
        self._log = RunLog(folder, layout, resume=len(events) > 1)
        self._meta = {"layout": layout, "events": events, **meta}
        self._log.start()
        self.say("running")

    def say(self, status):
        put_meta(self.folder, **self._meta, status=status)

    def write(self, *windows):
        for one in windows:
            self._log.write_window(one)

    def restart(self, event):
        self._meta["events"] += (event,)
        self.say("running")

    def end(self, status="finished"):
        self.close()
        self.say(status)

    def close(self):
        self._log.close()


def watch(folder, windows, events=(START,), **meta):
    """Watch a training as its recorder does; return the final diagnosis."""
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
