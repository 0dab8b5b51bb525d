"""Run jobs of `audit` in separate processes, and check their events."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from audit import OURS
from logging_run import offline, visible
from places import TESTS
from stores import READERS
from sweeping import sweep
from training import trial_options

from yolo_gradwatch.runs.schema import META_FILE

SCRIPT = TESTS / "audit.py"
TREES = {
    path.relative_to(OURS).with_suffix("").as_posix(): ast.parse(path.read_text("utf-8"))
    for path in Path(OURS).rglob("*.py")
}


class World:
    """Empty folders for a process: its home, temporary files and working directory."""

    def __init__(self, root):
        self.root = root
        self.fonts = root / "matplotlib"
        self.here = root / "here"
        self.report = root / "report.json"
        for name in ("home", "temporary", "here"):
            (root / name).mkdir()
        home, temporary = (str(root / name) for name in ("home", "temporary"))
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("XDG_")},
            "HOME": home,
            "USERPROFILE": home,
            "TMPDIR": temporary,
            "MPLCONFIGDIR": str(self.fonts),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TERM": "xterm",
            "COLUMNS": "100",
            "LINES": "50",
        }

    def start(self, job, *arguments, **pipes):
        """Start a job of `audit`."""
        command = [sys.executable, SCRIPT, self.report, job, *map(str, arguments)]
        return subprocess.Popen(command, cwd=self.here, env=self._environment, **pipes)

    def run(self, job, *arguments, **variables):
        """Run a job of `audit`, with more environment variables, and return its report."""
        if variables:
            self._environment = {**visible(self._environment), **variables}
        with self.start(job, *arguments, stdout=subprocess.DEVNULL) as process:
            assert process.wait(timeout=300) == 0
        return self.seen()

    def run_in_terminal(self, job, *arguments):
        """Run a job of `audit` on a terminal, and return its report and its output."""
        pty = pytest.importorskip("pty")
        ours, its = pty.openpty()
        shown = b""
        with self.start(job, *arguments, stdin=its, stdout=its, stderr=its) as process:
            os.close(its)
            while part := read_terminal(ours):
                shown += part
            assert process.wait(timeout=300) == 0
        os.close(ours)
        return self.seen(), re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.decode("utf-8", "replace"))

    def sweep(self, options, *ways):
        """Run `ray_sweeps`, two trials each way, and return the events of each process."""
        diaries = self.root / "diaries"
        diaries.mkdir()
        path = [str(TESTS / "audited_processes"), str(TESTS.parent)]
        variables = {
            "PYTHONPATH": os.pathsep.join(path),
            "RAY_TMPDIR": tempfile.gettempdir(),  # the paths of its sockets must be short
            "AUDIT_FOLDER": str(diaries),
        }
        sweep(options, 2, *ways, folder=self.here, environment=self._environment, **variables)
        return [read_diary(path) for path in diaries.iterdir()]

    def seen(self):
        return json.loads(self.report.read_text("utf-8"))

    def files(self):
        """Return the content of each file, and the target of each link."""
        return {
            str(path.relative_to(self.root)): str(path.readlink())
            if path.is_symlink()
            else path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_symlink() or path.is_file()
        }


def read_diary(path):
    """Return the events of a `Diary`; the last line may be incomplete."""
    lines = path.read_text("utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def read_terminal(end):
    """Return the next output of a terminal; empty once no process uses it."""
    try:
        return os.read(end, 65536)
    except OSError:
        return b""


ANNOTATIONS = {
    ast.unparse(note)
    for tree in TREES.values()
    for node in ast.walk(tree)
    for note in (getattr(node, "annotation", None), getattr(node, "returns", None))
    if note
}
EVALUATORS = ("typing.", "inspect.", "annotationlib.")
DEFINERS = ("dataclasses.", "collections.namedtuple")

LOOKS = {"cc", "fc-list", "gcc", "ld", "ldconfig", "objdump", "system_profiler"}
"""Programs that torch and matplotlib start on import to find libraries and fonts."""


def trouble(events, *places):
    """Return the events that the package must not cause; it may write in ``places``."""
    found = [(event, complaint(event, places)) for event in events]
    return [f"{event['during']}, {event['by']}: {what}" for event, what in found if what]


def complaint(event, places):
    """Return what is wrong with an event, "" if nothing is."""
    name, paths = event["event"], event["paths"]
    outside = [path for path in paths if path != os.devnull and not is_in(path, places)]
    if outside:
        return f"{name} {' '.join(outside)}"
    if paths or name == "import" or is_loading(event) or is_definition(event):
        return ""
    return f"{name} {event['args']}"


def is_in(path, places):
    return any(path == str(place) or path.startswith(f"{place}{os.sep}") for place in places)


def is_loading(event):
    """Return whether Python causes this event by an import, or torch and matplotlib do."""
    name, first = event["event"], event["args"][0]
    if name in {"subprocess.Popen", "os.posix_spawn"}:
        return event["is_import"] and Path(first).name in LOOKS
    if event["by"] == "ddp.gpus" and name.startswith("ctypes."):
        return True  # torch counts CUDA devices
    kinds = ("compile", "exec", "marshal.loads", "code.__new__", "ctypes.", "_thread.")
    return event["is_import"] and name.startswith(kinds)


def is_definition(event):
    """Return whether this defines a class, reads an annotation, or only parses source."""
    name, by, source = event["event"], event["by"], event["from"]
    if by == "contract._calls":
        return name == "compile" and source == "ast.parse"
    if name not in {"compile", "exec"}:
        return False
    if source == "basevalidators.build_validator":
        return True  # plotly 7 evaluates the name of one of its classes
    if by.endswith(".<module>") and source.startswith(DEFINERS):
        return True
    return source.startswith(EVALUATORS) and (name == "exec" or event["args"][0] in ANNOTATIONS)


def written(events, during=None):
    """Return the files that the package wrote, removed or renamed."""
    events = [event for event in events if during in {None, event["during"]}]
    return {path for event in events for path in event["paths"] if path != os.devnull}


def injected_and_others(events, *places):
    """Split `trouble` into that of code injected by a test and that of the package itself."""
    found = trouble(events, *places)
    injected = [one for one in found if ", injected_code." in one]
    return injected, [one for one in found if one not in injected]


def audit_loggers(world, names):
    """Train with loggers; return those whose injected code was seen, and other trouble.

    Raises:
        AssertionError: A logger received nothing from us.
    """
    asked = json.dumps({"settings": names, "watch": {}})
    seen = world.run("logging", asked, **offline(world.here))
    places = (world.here / "run", world.here / "data", world.fonts)
    injected, others = injected_and_others(seen["events"], *places)
    assert all(READERS[name](world.here).ours() for name in names)
    assert (world.here / "run" / META_FILE).is_file()
    seen_of = [n for n in names if any(f", injected_code.{n}: " in one for one in injected)]
    return seen_of, others


def audit_sweep(world):
    """Run a sweep; return injected and other trouble of each process, by the trial's folder.

    Raises:
        AssertionError: A process wrote the files of several trials.
    """
    project = world.root / "project"
    found = {}
    for events in world.sweep(trial_options(project), "own"):
        folders = {Path(path).parent for path in written(events) if Path(path).name == META_FILE}
        assert len(folders) <= 1
        injected, others = injected_and_others(events, *folders, world.fonts)
        name = "".join(folder.name for folder in folders)
        if name or injected or others:
            found[name] = (injected, others)
    return found
