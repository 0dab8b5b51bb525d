"""Runs with traced batches."""

from dataclasses import replace

import numpy as np
from values import LAYOUT, window, write_run
from watched import CONV

from yolo_gradwatch import load_run
from yolo_gradwatch.measure.trace import Call, Flow
from yolo_gradwatch.runs.writer import RunLog

BLOCKS = [name for name, _ in LAYOUT.blocks]


def flow_of(step, *, rms=1.0, gradient=2.0):
    """Return a trace in which block n of three has n times these numbers, and is called twice."""
    calls = [
        Call(3 * n + call, name, call, "Block", 8, rms * n * call, 1.0, 0.0, None, gradient * n)
        for n, name in enumerate(BLOCKS, 1)
        for call in (1, 2)
    ]
    return Flow(1, step, tuple(calls))


def run_of(folder, steps, *, dead_from=None, flows=None):
    """Write a run of one-step windows with an update ratio of step / 1000, except at step 3."""
    windows = []
    for step in range(1, 21):
        one = window(step, zero=[CONV] if dead_from and step >= dead_from else ())
        ratio = np.full(len(LAYOUT.modules), np.nan if step == 3 else step / 1000, np.float32)
        windows.append(replace(one, update_ratio=ratio))
    write_run(folder, windows)
    log = RunLog(folder, LAYOUT, resume=True)
    for flow in flows or map(flow_of, steps):
        log.write_flow(flow)
    log.close()
    return load_run(folder)
