"""A watched training whose console is recorded, as experiment loggers do it.

    python recorded.py KIND MOMENT RECORD OPTIONS

KIND is a function of this file: a stand-in for a logger, or a logger itself. MOMENT is ``early``,
when Ultralytics opens its loggers, or ``late``, in the first batch. What was recorded is written to
the file RECORD at the end.
"""

import json
import os
import pty
import re
import sys
import threading
import zipfile
from contextlib import suppress
from functools import partial
from pathlib import Path

from ultralytics import YOLO, settings

from yolo_gradwatch import GradWatch

RECORD, ENDS = [], []


class Wrapper:
    """Stands in for a stream and has no more than Ultralytics needs of one."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        self.stream.write(text)
        RECORD.append(text)

    def flush(self):
        self.stream.flush()

    def isatty(self):
        return self.stream.isatty()


class Proxy(Wrapper):
    """Stands in for a stream; what it lacks is the stream's."""

    def __init__(self, stream, write):
        super().__init__(stream)
        self._write = write

    def write(self, text):
        self._write(text)
        RECORD.append(text)

    def __getattr__(self, name):
        return getattr(self.stream, name)


class Impostor(Wrapper):
    """Records nothing, and says that it is a terminal, whatever is below it."""

    def write(self, text):
        self.stream.write(text)

    def isatty(self):
        return True


def patched():
    """A function in the place of ``write``, as W&B."""
    for stream in (sys.stdout, sys.stderr):
        stream.write = noted(stream.write)


def noted(write):
    def writes(text):
        count = write(text)
        RECORD.append(text)
        return count

    return writes


def wrapped():
    """Another object in the place of the stream, as Ultralytics' platform and Comet."""
    sys.stdout, sys.stderr = Wrapper(sys.stdout), Wrapper(sys.stderr)


def replaced():
    """Both, in the place of the original streams too, as ClearML."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        proxy = Proxy(stream, stream.write)
        stream.write = proxy.write
        setattr(sys, name, proxy)
        setattr(sys, f"__{name}__", proxy)


def piped():
    """A pipe in the place of the descriptor, which the stream denies, as Comet's native mode."""
    relay(*os.pipe(), (1,))
    sys.stdout = Impostor(sys.stdout)


def in_terminals():
    """A terminal in the place of each descriptor, as W&B's ``console="redirect"``."""
    for descriptor in (1, 2):
        relay(*pty.openpty(), (descriptor,))


def relay(read, write, descriptors):
    """Hand what is written to descriptors on to where they led, from another thread."""
    there = os.dup(descriptors[0])
    for descriptor in descriptors:
        os.dup2(write, descriptor)

    def run():
        with suppress(OSError):  # how the reader of a terminal hears that it is closed
            while data := os.read(read, 4096):
                RECORD.append(data.decode("utf-8", "replace"))
                os.write(there, data)

    def end():
        sys.stdout.flush()
        for descriptor in descriptors:
            os.dup2(there, descriptor)
        os.close(write)
        thread.join()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ENDS.append(end)


def wandb(folder, console="wrap"):
    """W&B itself."""
    import wandb

    run = wandb.init(mode="offline", dir=folder, settings=wandb.Settings(console=console))

    def end():
        run.finish()
        RECORD.extend(
            path.read_text("utf-8") for path in folder.glob("wandb/offline-*/files/output.log")
        )

    ENDS.append(end)


def wandb_redirect(folder):
    """W&B, with file descriptors redirected."""
    wandb(folder, console="redirect")


def comet_ml(folder, mode="simple"):
    """Comet itself."""
    import comet_ml

    experiment = comet_ml.OfflineExperiment(
        offline_directory=folder, project_name="p", workspace="w", auto_output_logging=mode
    )

    def end():
        experiment.end()
        (archive,) = folder.glob("*.zip")
        with zipfile.ZipFile(archive) as packed:
            messages = map(json.loads, packed.read("messages.json").splitlines())
            RECORD.extend(
                message["payload"]["output"]
                for message in messages
                if message["type"] == "standard_output"
            )

    ENDS.append(end)


def comet_ml_native(folder):
    """Comet, with file descriptors redirected."""
    comet_ml(folder, mode="native")


def clearml(folder):
    """ClearML itself."""
    from clearml import Task

    Task.set_offline(offline_mode=True)
    Task.force_store_standalone_script()
    (folder / "requirements.txt").write_text("torch\n", encoding="utf-8")
    Task.force_requirements_env_freeze(force=False, requirements_file=folder / "requirements.txt")
    task = Task.init("p", "t", auto_connect_frameworks=False, auto_resource_monitoring=False)

    def end():
        task.flush(wait_for_uploads=True)
        for path in folder.glob("offline/*/log.jsonl"):
            for line in path.read_text("utf-8").splitlines():
                events = json.loads(line)
                RECORD.extend(f"{event['msg']}\n" for event in events)

    ENDS.append(end)


def ultralytics(folder):
    """The console logger of Ultralytics' platform."""
    from ultralytics.utils.logger import ConsoleLogger

    logger = ConsoleLogger(folder / "console.txt")
    logger.start_capture()

    def end():
        logger.stop_capture()
        text = (folder / "console.txt").read_text("utf-8")
        RECORD.append(re.sub(r"(?m)^\[[\d :-]+\] ", "", text))  # the time of each line

    ENDS.append(end)


KINDS = (patched, wrapped, replaced, piped, in_terminals)
REAL = (wandb, wandb_redirect, comet_ml, comet_ml_native, clearml, ultralytics)


def main(kind, moment, record, options):
    """Train, and have it recorded from a moment on."""
    folder = Path(record).parent
    begins = {one.__name__: one for one in KINDS}
    begins |= {one.__name__: partial(one, folder) for one in REAL}
    begin = begins[kind]
    settings.update(dict.fromkeys(("clearml", "comet", "wandb"), False))  # not Ultralytics' own
    model = YOLO("yolo26n.yaml")
    once = [begin]

    def start(_trainer):
        if once:
            once.pop()()

    event = {"early": "on_pretrain_routine_start", "late": "on_train_batch_start"}[moment]
    model.add_callback(event, start)
    watch = GradWatch().attach(model)
    model.train(**json.loads(options))
    print(watch.report())  # noqa: T201  # as a user does
    for end in ENDS:
        end()
    Path(record).write_text("".join(RECORD), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
