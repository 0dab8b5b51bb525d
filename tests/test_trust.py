"""Nothing of the package uses the network, runs what stands in a file, or writes elsewhere."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html import unescape
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path

import pandas as pd
import pytest
from audit import OURS
from logging_run import HIDES
from values import Part, plan, window, write_run
from watched import Training

from yolo_gradwatch.cli.main import main
from yolo_gradwatch.measure.kept import LAST_HEALTHY, ONE_BEFORE
from yolo_gradwatch.runs.evidence import FOLDER, OWN_FOLDER
from yolo_gradwatch.runs.run import load_run
from yolo_gradwatch.runs.schema import (
    ALERTS_FILE,
    CLAIM_FILE,
    COMPARED_FILE,
    COMPARED_PAGE,
    DEPTH_FILE,
    FLOW_FILE,
    LOSSES_FILE,
    META_FILE,
    PICTURE_FILE,
    WINDOWS_FILE,
)

SCRIPT = Path(__file__).with_name("audit.py")
OFFLINE = ("tensorboard", "wandb", "mlflow")
OFFLINE_ONLY = {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
"""Keep loggers from a server."""

DRAFT = f".{Path(LAST_HEALTHY).name}.tmp"
TREES = {
    path.relative_to(OURS).with_suffix("").as_posix(): ast.parse(path.read_text("utf-8"))
    for path in Path(OURS).rglob("*.py")
}


# --- a process of its own, and what it may do -----------------------------------------------------


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


def read_terminal(end):
    """What a terminal shows next; nothing once no process has it any more."""
    try:
        return os.read(end, 65536)
    except OSError:
        return b""


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


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


# --- the audit itself -----------------------------------------------------------------------------

VIOLATIONS = {
    "connects": "import socket; socket.socket()",
    "asks for an address": "import socket; socket.gethostbyname('localhost')",
    "opens an address": "import urllib.request; urllib.request.urlopen('data:,x')",
    "unpickles": "import pickle; pickle.loads(b'cos\\ngetcwd\\n.')",
    "loads code": "import marshal; marshal.loads(marshal.dumps(1))",
    "evaluates": "eval('1 + 1')",
    "executes": "exec('x = 1')",
    "compiles": "compile('x = 1', 'x', 'exec')",
    "evaluates what looks like an annotation": (
        "import typing\ndef f(): pass\n"
        "f.__annotations__ = {'x': '__import__(\"os\").getcwd'}; typing.get_type_hints(f)"
    ),
    "starts a process": "import subprocess, sys; subprocess.run([sys.executable, '-V'])",
    "runs a shell": "import os; os.system('true')",
    "loads a library": "import ctypes; ctypes.CDLL(None)",
    "writes": "open('elsewhere', 'w').close()",
    "writes with a descriptor": "import os; os.close(os.open('low', os.O_WRONLY | os.O_CREAT))",
    "makes a folder": "from pathlib import Path; Path('folder').mkdir()",
    "renames": "import os; os.rename('elsewhere', 'renamed')",
    "truncates": "import os; os.truncate('renamed', 0)",
    "removes": "import os; os.remove('renamed')",
    "makes a temporary file": "import tempfile; tempfile.TemporaryFile().close()",
    "links": "import os; os.symlink('x', 'link')",
    "writes through a link": "open('link', 'w').close()",
}

INNOCENT = {
    "reads": "open(__import__('os').__file__).close()",
    "imports": "import wave",
    "writes in the run": "open('run/x', 'w').close()",
    "writes to nobody": "open(__import__('os').devnull, 'w').close()",
    "has Ultralytics work": "save()",
    "has a logger work": "log()",
    "calls what a user has given": "keep()",
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("planted"))
    (world.here / "run").mkdir()
    seen = world.run("planted", json.dumps({**VIOLATIONS, **INNOCENT}))
    return trouble(seen["events"], world.here / "run"), world


@pytest.mark.parametrize("name", VIOLATIONS)
def test_the_audit_sees_code_that(planted, name):
    assert any(told.startswith(f"{name}, planted.") for told in planted[0])


@pytest.mark.parametrize("name", INNOCENT)
def test_the_audit_has_nothing_against_code_that(planted, name):
    assert not [told for told in planted[0] if told.startswith(f"{name}, ")]


def test_what_was_planted_has_happened(planted):
    _, world = planted
    names = {path.name for path in world.here.iterdir()}
    assert names >= {"by-log", "by-save", "folder", "kept", "link", "low", "run", "x"}


# --- trainings ------------------------------------------------------------------------------------


@pytest.mark.train
def test_a_training_in_a_log_writes_into_its_folder_only(world):
    seen = world.run("training", world.root / "project")
    assert "spike" in seen["outcome"]
    assert_trained(world, seen, world.root / "project" / "run", evidence=["step-00008.json"])


@pytest.mark.train
def test_the_demo_on_a_terminal_writes_into_its_folder_only(world):
    out = world.root / "demo"
    arguments = ("demo", "--out", out, "--epochs", "1", "--fault", "detached")
    seen, shown = world.run_in_terminal("command", *arguments)
    assert "── GradWatch" in shown
    assert seen["outcome"] == 0
    assert_trained(world, seen, out / "run", out)


@pytest.mark.train
@pytest.mark.full
def test_a_training_that_fails_and_is_resumed_writes_into_its_folder_only(world):
    seen = world.run("failing", world.root / "project")
    folder = world.root / "project" / "run"
    assert [event.kind for event in load_run(folder).meta.events] == ["start", "resume"]
    assert_trained(world, seen, folder, evidence=["step-00008.json", "step-00019.json"])


@pytest.mark.train
@pytest.mark.full
def test_copies_of_checkpoints_are_written_beside_those_of_the_training(world):
    seen = world.run("keeping", world.root / "project")
    folder = world.root / "project" / "run"
    assert_trained(world, seen, folder, evidence=["step-00008.json"], others=["weights"])
    weights = folder / "weights"
    names = {Path(path).name for path in written(seen["events"]) if is_in(path, [weights])}
    assert Path(LAST_HEALTHY).name in names
    assert names <= {"weights", *(Path(one).name for one in (LAST_HEALTHY, ONE_BEFORE)), DRAFT}


@pytest.mark.train
def test_a_training_in_a_notebook_writes_into_its_folder_only(world):
    seen = world.run("shown", world.root / "project")
    assert seen["outcome"] >= 2  # as it begins and as it ends
    assert_trained(world, seen, world.root / "project" / "run", evidence=["step-00008.json"])


@pytest.mark.train
def test_a_look_before_a_training_writes_into_a_temporary_folder_that_it_removes(world):
    seen = world.run("checked")
    assert seen["outcome"] == 3
    temporary = world.root / "temporary"
    events = [event for event in seen["events"] if event["during"] != "data"]
    inside = [event for event in events if not is_of_folder(event, temporary)]
    assert len(inside) < len(events)
    assert trouble(inside, temporary, world.fonts) == []
    paths = {Path(path) for path in written(inside) if is_in(path, [temporary])}
    assert {path.name for path in paths} >= {WINDOWS_FILE, META_FILE}
    assert {path.relative_to(temporary).parts[0][:15] for path in paths} == {"yolo-gradwatch-"}
    assert not [path for path in paths if path.exists()]
    assert list(world.here.iterdir()) == []


def is_of_folder(event, temporary):
    """Whether a check makes or removes its folder; files of it go by a descriptor and a name."""
    if event["by"] != "check.check":
        return False
    kinds = {"tempfile.mkdtemp", "shutil.rmtree"}
    is_whole = event["event"] in kinds and is_in(event["args"][0], [temporary])
    return is_whole or event["from"].startswith("shutil._rmtree")


@pytest.mark.train
@pytest.mark.skipif(not all(map(find_spec, OFFLINE)), reason="a logger is not installed")
def test_an_adapter_of_a_logger_uses_no_network_process_or_file_of_its_own(world):
    asked = {"settings": OFFLINE, "watch": {}}
    config = str(world.root / "config")  # which of them are on is a setting
    seen = world.run("logging", json.dumps(asked), YOLO_CONFIG_DIR=config, **OFFLINE_ONLY)
    assert {*seen["outcome"]} >= {*OFFLINE}
    assert trouble(seen["events"], world.here / "run", world.here / "data", world.fonts) == []
    sent = b"".join(path.read_bytes() for path in (world.here / "run").glob("events.out.*"))
    assert b"gradwatch/" in sent
    assert (world.here / "run" / META_FILE).is_file()


def assert_trained(world, seen, folder, *data, evidence=(), others=()):
    """The package has written the files of a run, and nothing else but a data set of its own."""
    events = [event for event in seen["events"] if event["during"] != "data"]
    assert trouble(events, folder, *data, world.fonts) == []
    names = {Path(path).name for path in written(events) if Path(path).parent == folder}
    whole = {WINDOWS_FILE, ALERTS_FILE, META_FILE, PICTURE_FILE}
    drafts = {f".{name}.tmp" for name in (META_FILE, PICTURE_FILE)}
    assert names == {*whole, *drafts, OWN_FOLDER, CLAIM_FILE, *others}
    assert all((folder / name).is_file() for name in whole)
    assert sorted(path.name for path in (folder / FOLDER).glob("*")) == list(evidence)
    inside = {path.name for path in (folder / OWN_FOLDER).iterdir() if path.is_file()}
    assert inside == {Path(one).name for one in (LOSSES_FILE, FLOW_FILE, DEPTH_FILE)}
    places = (world.fonts, world.report, folder.parent)
    left = [path for path in world.files() if not is_in(str(world.root / path), places)]
    assert [path for path in left if "Ultralytics" not in path] == []


# --- the commands, on files of somebody else ------------------------------------------------------

HOSTILE = (
    "__import__('os').system('touch kanari')",
    "os.system",
    "../../kanari",
    "/kanari",
    "{0.__class__.__init__.__globals__}",
    "%s%n%(kanari)s",
    "$kanari ${kanari} $(touch kanari) `touch kanari`",
    "[link=file:///kanari][bold]x[/bold][/link]",
    "!!python/object/apply:os.system ['touch kanari']",
    "<img src=kanari onerror=alert(1)>",
)

RED, TITLE = "\x1b[31m", "\x1b]0;kanari\x07"
"""Escapes that would colour a terminal and name its window."""


def hostile_run(folder):
    """A run whose files name the kanari wherever a text may stand."""
    layout, _ = plan([*(Part(f"model.{i}.{text}") for i, text in enumerate(HOSTILE))])
    layout = replace(layout, types=tuple(islice(cycle(HOSTILE), len(layout.modules))))
    windows = [window(step, zero=layout.modules[2:4], layout=layout) for step in range(1, 6)]
    texts = {name: HOSTILE[i] for i, name in enumerate(("model", "data", "optimizer", "device"))}
    training = {"amp": False, **texts, "seed": RED, HOSTILE[0]: list(HOSTILE)}
    write_run(
        folder,
        windows,
        layout,
        versions={**dict(zip(HOSTILE, HOSTILE, strict=True)), "torch": TITLE},
        options={"interval": 1, "stop_on": [HOSTILE[1]], "training": training},
        evidence=HOSTILE[2],
        __class__=HOSTILE[0],
    )
    with (folder / ALERTS_FILE).open("a", encoding="utf-8") as file:
        file.write(f"1,start,1,1,1,critical,os.system,{HOSTILE[2]},1,1,{HOSTILE[4]},1\n")
    return layout


LINES = {
    "review": "review {run}",
    "modules": "review {run} --module *",
    "rule": "review {run} --rule dead",
    "top": "review {run} --top 3",
    "epochs": "review {run} --epochs 1:1",
    "csv": "review {run} --csv",
    "json": "review {run} --json",
    "follow": "review {run} --follow",
    "newest": "review {above}",
    "limits": "review {run} --thresholds {limits} --vanishing 1.5",
    "fail": "review {run} --fail-on dead",
    "compare": "compare {run} {run}",
    "compare csv": "compare {run} {run} --module * --csv",
    "compare json": "compare {run} {run} --module * --json",
    "plot": "review {run} --plot",
    "plot again": "review {run} --plot --modules",
    "runs": "runs {above}",
    "runs csv": "runs {above} --csv",
    "runs json": "runs {above} --json --sort run",
    "runs html": "runs {above} --html {page}",
    "html": "review {run} --html {page}",
    "compare pictures": "compare {run} {run} --plot --html",
    "nowhere": "review {hostile}",
    "help": "review --help",
    "version": "--version",
}
"""Every form of every command that reads files; what is drawn is drawn twice."""

DRAWN = {
    "compare pictures": {COMPARED_FILE, COMPARED_PAGE},
    "plot": {PICTURE_FILE},
    "plot again": {PICTURE_FILE},
    "html": {"page.html"},
}
DRAWN["runs html"] = DRAWN["html"]


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """What the commands have done and printed, with the files before and after."""
    world = World(tmp_path_factory.mktemp("read"))
    folder = world.root / "a" / "b" / "run"
    layout = hostile_run(folder)
    for place in (world.root, world.here, world.root / "a"):
        (place / "kanari").write_text("alive", encoding="utf-8")
    page = world.root / "page" / "page.html"
    page.parent.mkdir()
    limits = world.root / "limits.toml"
    limits.write_text("vanishing = 2.5", encoding="utf-8")
    before = world.files()
    places = {"run": folder, "above": folder.parent, "page": page, "limits": limits}
    commands = {
        name: [word.format(**places, hostile=HOSTILE[0]) for word in line.split()]
        for name, line in LINES.items()
    }
    seen = world.run("commands", json.dumps(commands))
    return world, folder, layout, seen, (before, world.files())


def test_commands_that_read_write_nothing_but_what_they_draw(read):
    world, folder, _, seen, (before, after) = read
    assert trouble(seen["events"], folder, world.root / "page", world.fonts) == []
    new = {path for path in after if after[path] != before.get(path)} - {world.report.name}
    fonts = {path for path in new if path.startswith(world.fonts.name)}
    assert {world.root / path for path in new - fonts} == {
        *(folder / name for name in (PICTURE_FILE, COMPARED_FILE, COMPARED_PAGE)),
        world.root / "page" / "page.html",
    }
    assert before.keys() <= after.keys()


@pytest.mark.parametrize("name", LINES)
def test_a_command_writes_its_own_file_only(read, name):
    world, _, _, seen, _ = read
    paths = [Path(path) for path in written(seen["events"], name)]
    first = {path for path in paths if is_in(str(path), [world.fonts]) and name == "plot"}
    names = {path.name for path in {*paths} - first}
    drawn = DRAWN.get(name, set())
    assert names == drawn | {f".{file}.tmp" for file in drawn}


@pytest.mark.parametrize("name", LINES)
def test_what_stands_in_files_is_printed_as_text(read, name):
    _, _, _, seen, _ = read
    code, out, err = seen["outcome"][name]
    assert code == {"fail": 1, "nowhere": 2}.get(name, 0), err
    assert "\x1b" not in out + err
    assert "\x07" not in out + err


@pytest.mark.parametrize("name", ["modules", "csv", "compare csv", "json", "compare json", "html"])
def test_every_name_is_shown_as_it_is_in_the_file(read, name):
    world, _, layout, seen, _ = read
    _, out, _ = seen["outcome"][name]
    names = {*layout.modules[1:]}
    if name.endswith("json"):
        found = {module["module"] for module in json.loads(out)["modules"]}
    elif name.endswith("csv"):
        found = set(pd.read_csv(io.StringIO(out))["module"])
    else:
        page = (world.root / "page" / "page.html").read_text("utf-8")
        text = out if name == "modules" else unescape(page)
        found = {module for module in names if module in text}
    assert names <= found


def test_no_text_of_a_file_is_run_or_names_what_is_loaded(read):
    _, _, _, seen, _ = read
    run = [event for event in seen["events"] if not event["paths"]]
    assert len(run) > 100
    assert [event for event in run if "kanari" in "".join(event["args"])] == []


def test_following_a_training_writes_nothing(world):
    folder = world.root / "run"
    folder.mkdir()
    other = Training(folder)
    other.write(window(1))
    with world.start("command", "review", folder, "--follow", stdout=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"GradWatch is following")
        other.write(*map(window, range(2, 7)))
        other.end()
        assert b"nothing found in 6 steps" in process.stdout.read()
    seen = world.seen()
    assert trouble(seen["events"]) == []
    assert seen["outcome"] == 0


# --- links that point elsewhere -------------------------------------------------------------------


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim"
    path.write_text("precious", encoding="utf-8")
    yield path
    assert path.read_text("utf-8") == "precious"


@pytest.mark.parametrize(
    ("option", "name"), [("--plot", PICTURE_FILE), ("--html={}", "page.html")], ids=["plot", "html"]
)
@pytest.mark.parametrize("form", ["{}", ".{}.tmp"])
def test_a_link_in_the_place_of_a_drawing_is_replaced(tmp_path, victim, option, name, form):
    folder = write_run(tmp_path / "run", [window(1)])
    (folder / form.format(name)).symlink_to(victim)
    assert main(["review", str(folder), option.format(folder / name)]) == 0
    assert not (folder / name).is_symlink()
    assert (folder / name).stat().st_size > 1000


# --- the source -----------------------------------------------------------------------------------

LOOKED_UP = {
    1: (
        "__init__ cli/runs diagnose/record loggers/logger loggers/scalars "
        "measure/layout runs/writer views/compare views/html/hover views/html/runs views/paired "
        "views/summary views/terminal/console views/terminal/runs views/terminal/stand_in "
        "watch/fanout watch/ultralytics/rebuilt"
    ),
    2: "cli/main cli/options demo/faults runs/glance runs/meta watch/options",
    3: "diagnose/thresholds watch/ultralytics/hooks",
    4: "measure/windows",
    5: "watch/ultralytics/tuning",
}
"""How often modules look up an attribute by a name that is no constant.

Each name comes from a constant of the module or from the fields of a record, none from a file.
"""


def calls(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_no_module_compiles_text_or_imports_by_a_name():
    """Beside what ruff's banned-api and its rules on eval, exec and breakpoint refuse."""
    names = {
        node.id for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Name)
    }
    assert not names & {"__import__", "compile"}


def test_no_attribute_is_looked_up_by_a_name_from_a_file():
    kinds = {"delattr", "getattr", "hasattr", "setattr"}
    found = Counter(
        module
        for module, tree in TREES.items()
        for call in calls(tree)
        if ast.unparse(call.func) in kinds and not isinstance(call.args[1], ast.Constant)
    )
    modules = {count: [one for one in found if found[one] == count] for count in found.values()}
    assert {count: " ".join(sorted(names)) for count, names in modules.items()} == LOOKED_UP


def test_no_text_of_a_file_is_a_pattern_that_is_filled_in():
    """A pattern such as ``{0.__class__}`` reaches into what it is filled with."""
    patterns = {
        f"{module}: {ast.unparse(call.func)}"
        for module, tree in TREES.items()
        for call in calls(tree)
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in {"format", "format_map", "substitute", "safe_substitute"}
        and not isinstance(call.func.value, ast.Constant)
    }
    assert patterns == {"views/html/frame: template.substitute"}
