"""A watched training whose console is recorded as experiment loggers do.

    python recorded.py KIND MOMENT RECORD OPTIONS

KIND is a function of this file: a stand-in for a logger, or a real logger. MOMENT is ``early``,
when Ultralytics opens its loggers, or ``late``, in the first batch. The recording is written to the
file RECORD at the end.
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
    """A stand-in for a stream with only the methods that Ultralytics needs."""

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
    """A stand-in for a stream that forwards all other attributes."""

    def __init__(self, stream, write):
        super().__init__(stream)
        self._write = write

    def write(self, text):
        self._write(text)
        RECORD.append(text)

    def __getattr__(self, name):
        return getattr(self.stream, name)


class Impostor(Wrapper):
    """Records nothing and claims to be a terminal."""

    def write(self, text):
        self.stream.write(text)

    def isatty(self):
        return True


def patched():
    """Replace ``write`` by a function, as W&B does."""
    for stream in (sys.stdout, sys.stderr):
        stream.write = noted(stream.write)


def noted(write):
    def writes(text):
        count = write(text)
        RECORD.append(text)
        return count

    return writes


def wrapped():
    """Replace the streams by objects, as Ultralytics' platform and Comet do."""
    sys.stdout, sys.stderr = Wrapper(sys.stdout), Wrapper(sys.stderr)


def replaced():
    """Replace both, including the original streams, as ClearML does."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        proxy = Proxy(stream, stream.write)
        stream.write = proxy.write
        setattr(sys, name, proxy)
        setattr(sys, f"__{name}__", proxy)


def piped():
    """Replace the descriptor by a pipe behind a stream that denies it, as Comet's native mode."""
    relay(*os.pipe(), (1,))
    sys.stdout = Impostor(sys.stdout)


def in_terminals():
    """Replace each descriptor by a terminal, as W&B's ``console="redirect"``."""
    for descriptor in (1, 2):
        relay(*pty.openpty(), (descriptor,))


def relay(read, write, descriptors):
    """Forward the output of descriptors to their original target, from another thread."""
    there = os.dup(descriptors[0])
    for descriptor in descriptors:
        os.dup2(write, descriptor)

    def run():
        with suppress(OSError):  # raised when the terminal is closed
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
    """Start W&B."""
    import wandb

    run = wandb.init(mode="offline", dir=folder, settings=wandb.Settings(console=console))

    def end():
        run.finish()
        RECORD.extend(
            path.read_text("utf-8") for path in folder.glob("wandb/offline-*/files/output.log")
        )

    ENDS.append(end)


def wandb_redirect(folder):
    """Start W&B with redirected file descriptors."""
    wandb(folder, console="redirect")


def comet_ml(folder, mode="simple"):
    """Start Comet."""
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
    """Start Comet with redirected file descriptors."""
    comet_ml(folder, mode="native")


def clearml(folder):
    """Start ClearML."""
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
    """Start the console logger of Ultralytics' platform."""
    from ultralytics.utils.logger import ConsoleLogger

    logger = ConsoleLogger(folder / "console.txt")
    logger.start_capture()

    def end():
        logger.stop_capture()
        text = (folder / "console.txt").read_text("utf-8")
        RECORD.append(re.sub(r"(?m)^\[[\d :-]+\] ", "", text))  # remove the time of each line

    ENDS.append(end)


KINDS = (patched, wrapped, replaced, piped, in_terminals)
REAL = (wandb, wandb_redirect, comet_ml, comet_ml_native, clearml, ultralytics)


def main(kind, moment, record, options):
    """Train with the recording started at the given moment."""
    folder = Path(record).parent
    begins = {one.__name__: one for one in KINDS}
    begins |= {one.__name__: partial(one, folder) for one in REAL}
    begin = begins[kind]
    settings.update(dict.fromkeys(("clearml", "comet", "wandb"), False))  # disable Ultralytics' own
    model = YOLO("yolo26n.yaml")
    once = [begin]

    def start(_trainer):
        if once:
            once.pop()()

    event = {"early": "on_pretrain_routine_start", "late": "on_train_batch_start"}[moment]
    model.add_callback(event, start)
    watch = GradWatch().attach(model)
    model.train(**json.loads(options))
    print(watch.report())  # noqa: T201  # as users do
    for end in ENDS:
        end()
    Path(record).write_text("".join(RECORD), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
