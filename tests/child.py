"""A watched training in a separate process that waits at given places for a signal.

    python child.py OPTIONS [PLACE ...]

OPTIONS are the options of ``train`` as JSON, with the model's file. At each PLACE in turn, it
prints ``<PLACE>`` and waits to be killed or interrupted.
"""

import json
import os
import signal
import sys
import time
from io import StringIO
from pathlib import Path

from yolo_gradwatch import GradWatch
from yolo_gradwatch.runs import schema
from yolo_gradwatch.runs import writer as runlog
from yolo_gradwatch.views.png import figure as png
from yolo_gradwatch.watch.events import Events
from yolo_gradwatch.watch.recorder import Recorder

LONGEST = 120
"""Seconds after which the process kills itself, unless OPTIONS have a ``longest``."""


def wait(place):
    """Print the place, once, and wait for a signal."""
    if place in PLACES:
        PLACES.remove(place)
        os.write(1, f"\n<{place}>\n".encode())
        while True:  # the signal may arrive before the wait
            time.sleep(0.05)


def wait_before(owner, name, place, *, is_there=lambda *_args: True):
    """Wait before calls of a function."""
    function = getattr(owner, name)

    def waiting(*args, **options):
        if is_there(*args):
            wait(place)
        return function(*args, **options)

    setattr(owner, name, waiting)


def tear(table, text):
    """Write half of a window of the second epoch, then wait."""
    if "window" in PLACES and table._path.name == schema.WINDOWS_FILE and text.startswith("2,"):
        write_text(table, text[: len(text) // 2])
        wait("window")
    write_text(table, text)


def replaces_meta(path, target):
    return path.name.startswith(f".{schema.META_FILE}") and target.exists()


def wait_in_batch(trainer):
    if trainer.epoch == 1:
        trainer.model.model[2].register_forward_pre_hook(lambda *_args: wait("batch"))


class Terminal(StringIO):
    def isatty(self):
        return True


options, PLACES = json.loads(sys.argv[1]), sys.argv[2:]
signal.alarm(options.pop("longest", LONGEST))
signal.signal(signal.SIGINT, signal.default_int_handler)  # the test run may ignore it
write_text = runlog._Table.write_text
runlog._Table.write_text = tear
wait_before(runlog.RunLog, "write_meta", "tables")
wait_before(Path, "replace", "meta", is_there=replaces_meta)
wait_before(Events, "_take_rest", "end")
wait_before(png, "write", "picture")
wait_before(Recorder, "close", "close")
if options.pop("live", False):
    sys.stdout = Terminal()

from ultralytics import YOLO  # noqa: E402  # its log handlers use the current stream
from ultralytics.utils import LOGGER  # noqa: E402

before = (sys.stdout, sys.stderr, [handler.stream for handler in LOGGER.handlers])
model = YOLO(options.pop("model"))
if options.pop("watched", True):
    GradWatch(live=sys.stdout is not sys.__stdout__).attach(model)
model.add_callback("on_train_epoch_start", wait_in_batch)
try:
    model.train(**options)
finally:
    after = (sys.stdout, sys.stderr, [handler.stream for handler in LOGGER.handlers])
    os.write(1, b"<restored>" if after == before else b"<torn>")
