"""Runs jobs of `audit` in processes of their own, and judges what was seen of them."""

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
from logging_run import HIDES, offline
from places import TESTS
from stores import READERS
from training import trial_options

from yolo_gradwatch.runs.schema import META_FILE

SCRIPT = TESTS / "audit.py"
TREES = {
    path.relative_to(OURS).with_suffix("").as_posix(): ast.parse(path.read_text("utf-8"))
    for path in Path(OURS).rglob("*.py")
}


class World:
    """A home, a folder for temporary files and a place to stand, all of them empty at first."""

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
        """Begin a job of `audit`."""
        command = [sys.executable, SCRIPT, self.report, job, *map(str, arguments)]
        return subprocess.Popen(command, cwd=self.here, env=self._environment, **pipes)

    def run(self, job, *arguments, **variables):
        """What was seen of a job of `audit`, with more variables of the environment."""
        hidden = [n for n in self._environment if n.startswith(HIDES)] if variables else []
        self._environment = {n: v for n, v in self._environment.items() if n not in hidden}
        self._environment |= variables
        with self.start(job, *arguments, stdout=subprocess.DEVNULL) as process:
            assert process.wait(timeout=300) == 0
        return self.seen()

    def run_in_terminal(self, job, *arguments):
        """The same, and what the job has shown on a terminal."""
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
        """Sweep with Ray as `ray_sweeps` does, twice each way; what was seen of each process."""
        diaries = self.root / "diaries"
        diaries.mkdir()
        inherited = {n: v for n, v in self._environment.items() if not n.startswith(HIDES)}
        path = [str(TESTS / "audited_processes"), str(TESTS.parent)]
        variables = {
            "PYTHONPATH": os.pathsep.join(path),
            "YOLO_CONFIG_DIR": str(self.root / "config"),
            "RAY_TMPDIR": tempfile.gettempdir(),  # the paths of its sockets must be short
            "RAY_USAGE_STATS_ENABLED": "0",
            "AUDIT_FOLDER": str(diaries),
        }
        done = subprocess.run(
            [sys.executable, TESTS / "ray_sweeps.py", json.dumps(options), "2", *ways],
            cwd=self.here,
            env={**inherited, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return [read_diary(path) for path in diaries.iterdir()]

    def seen(self):
        return json.loads(self.report.read_text("utf-8"))

    def files(self):
        """Every file and what is in it, links by where they point to."""
        return {
            str(path.relative_to(self.root)): str(path.readlink())
            if path.is_symlink()
            else path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_symlink() or path.is_file()
        }


def read_diary(path):
    """The events of a `Diary`, the last of which may be cut off."""
    lines = path.read_text("utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def read_terminal(end):
    """What a terminal shows next; nothing once no process has it any more."""
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
"""Programs that torch and matplotlib ask for libraries and fonts while they are imported."""


def trouble(events, *places):
    """Of what the package has caused, that which it promises not to do; it may write in places."""
    found = [(event, complaint(event, places)) for event in events]
    return [f"{event['during']}, {event['by']}: {told}" for event, told in found if told]


def complaint(event, places):
    """What is wrong with an event, "" if nothing is."""
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
    """Whether this is how Python imports a module, or what torch and matplotlib do then."""
    name, first = event["event"], event["args"][0]
    if name in {"subprocess.Popen", "os.posix_spawn"}:
        return event["is_import"] and Path(first).name in LOOKS
    if event["by"] == "ddp.gpus" and name.startswith("ctypes."):
        return True  # torch counts CUDA devices
    kinds = ("compile", "exec", "marshal.loads", "code.__new__", "ctypes.", "_thread.")
    return event["is_import"] and name.startswith(kinds)


def is_definition(event):
    """Whether this defines a class, reads an annotation, or parses source that is never run."""
    name, by, source = event["event"], event["by"], event["from"]
    if by == "contract._calls":
        return name == "compile" and source == "ast.parse"
    if name not in {"compile", "exec"}:
        return False
    if source == "basevalidators.build_validator":
        return True  # plotly 7 evaluates the name of a class of its own
    if by.endswith(".<module>") and source.startswith(DEFINERS):
        return True
    return source.startswith(EVALUATORS) and (name == "exec" or event["args"][0] in ANNOTATIONS)


def written(events, during=None):
    """The files that the package has written, removed or renamed."""
    events = [event for event in events if during in {None, event["during"]}]
    return {path for event in events for path in event["paths"] if path != os.devnull}


def planted_and_others(events, *places):
    """What stands in `trouble`: of code that a test has planted, and of the package itself."""
    told = trouble(events, *places)
    planted = [one for one in told if ", planted." in one]
    return planted, [one for one in told if one not in planted]


def audit_loggers(world, names):
    """Train with loggers; whose planted code was seen, and what else the package has done.

    Raises:
        AssertionError: A logger has got nothing of ours.
    """
    asked = json.dumps({"settings": names, "watch": {}})
    seen = world.run("logging", asked, **offline(world.here))
    places = (world.here / "run", world.here / "data", world.fonts)
    planted, others = planted_and_others(seen["events"], *places)
    assert all(READERS[name](world.here).ours() for name in names)
    assert (world.here / "run" / META_FILE).is_file()
    return [name for name in names if any(f", planted.{name}: " in one for one in planted)], others


def audit_sweep(world):
    """Sweep; of each trial's folder, the trouble of its process: what was planted, and others.

    Raises:
        AssertionError: A process has written the files of several trials.
    """
    project = world.root / "project"
    found = {}
    for events in world.sweep(trial_options(project), "own"):
        folders = {Path(path).parent for path in written(events) if Path(path).name == META_FILE}
        assert len(folders) <= 1
        planted, others = planted_and_others(events, *folders, world.fonts)
        name = "".join(folder.name for folder in folders)
        if name or planted or others:
            found[name] = (planted, others)
    return found
