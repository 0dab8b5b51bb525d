"""Write watched runs of simulated steps in many processes at once: ``many.py FOLDER N``.

Each process uses different norms, so that mixed-up data is visible.
"""

import os
import sys
import traceback
from pathlib import Path

import numpy as np
from recording import Recording
from values import MEMBERS

from yolo_gradwatch.measure.sample import Sample
from yolo_gradwatch.views.png import depth, figure

STEPS = 90
EPOCH = 30


def norms_of(number, step):
    """Return the norms of the parameters in a step of a run."""
    return np.full(len(MEMBERS.elements), 1.0 + number) * (1 + 0.1 * np.sin(step))


def record(folder, number):
    """Record a run of several epochs."""
    folder.mkdir()
    recording = Recording(folder, loggers=())  # loggers would load torch
    missing = np.zeros(len(MEMBERS.elements), np.bool_)
    for step in range(1, STEPS + 1):
        epoch = 1 + (step - 1) // EPOCH
        if step % EPOCH == 1 and epoch > 1:
            recording.end_epoch()
            recording.start_epoch(epoch, STEPS // EPOCH)
        recording.step(Sample(epoch, step, norms_of(number, step), missing))
    recording.end_epoch()
    recording.finish()


def main(folder, count):
    for picture in (depth, figure):  # they take half of the time
        picture.write = lambda _numbers, _report, path: path.touch()
    ready, go = os.pipe()
    children = {}
    for number in range(count):
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(ready, 1)  # blocks until the parent closes it: all start at once
            code = 1
            try:
                record(folder / f"run-{number}", number)
                code = 0
            except BaseException:  # noqa: BLE001  # a child must not continue as its parent
                traceback.print_exc()
            os._exit(code)
        children[child] = number
    os.close(go)
    codes = {number: os.waitpid(child, 0)[1] for child, number in children.items()}
    return [number for number, code in codes.items() if code]


if __name__ == "__main__":
    sys.exit(str(failed) if (failed := main(Path(sys.argv[1]), int(sys.argv[2]))) else 0)
