"""The package uses no network, runs no code from files, and writes to the run's folder only."""

from __future__ import annotations

import ast
import io
import json
import subprocess
from collections import Counter
from dataclasses import replace
from html import unescape
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path

import pandas as pd
import pytest
from audited import TREES, World, audit_loggers, audit_sweep, is_in, trouble, written
from stores import PACKAGES
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

LOGGERS = [
    ("tensorboard", "wandb", "mlflow"),
    *(pytest.param((name,), marks=pytest.mark.full) for name in ("comet", "clearml", "dvc")),
]

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs yolo-gradwatch[ray]")

DRAFT = f".{Path(LAST_HEALTHY).name}.tmp"

# --- an audited process ---------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


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
    "has a library write": "import numpy; numpy.save('saved', 0)",
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
def injected(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("injected"))
    (world.here / "run").mkdir()
    seen = world.run("injected", json.dumps({**VIOLATIONS, **INNOCENT}))
    return trouble(seen["events"], world.here / "run"), world


@pytest.mark.parametrize("name", VIOLATIONS)
def test_audit_reports_code_that(injected, name):
    assert any(line.startswith(f"{name}, injected_code.") for line in injected[0])


@pytest.mark.parametrize("name", INNOCENT)
def test_audit_accepts_code_that(injected, name):
    assert not [line for line in injected[0] if line.startswith(f"{name}, ")]


def test_injected_code_was_run(injected):
    _, world = injected
    names = {path.name for path in world.here.iterdir()}
    assert names >= {"by-log", "by-save", "folder", "kept", "link", "low", "run", "x"}


# --- trainings ------------------------------------------------------------------------------------


@pytest.mark.train
@pytest.mark.full
def test_training_in_a_log_writes_only_to_its_folder(world):
    seen = world.run("training", world.root / "project")
    assert "spike" in seen["outcome"]
    assert_trained(world, seen, world.root / "project" / "run", evidence=["step-00008.json"])


@pytest.mark.train
def test_demo_on_a_terminal_writes_only_to_its_folder(world):
    out = world.root / "demo"
    arguments = ("demo", "--out", out, "--epochs", "1", "--fault", "detached")
    seen, shown = world.run_in_terminal("command", *arguments)
    assert "── GradWatch" in shown
    assert seen["outcome"] == 0
    assert_trained(world, seen, out / "run", out)


@pytest.mark.train
@pytest.mark.full
def test_failed_and_resumed_training_writes_only_to_its_folder(world):
    seen = world.run("failing", world.root / "project")
    folder = world.root / "project" / "run"
    assert [event.kind for event in load_run(folder).meta.events] == ["start", "resume"]
    assert_trained(world, seen, folder, evidence=["step-00008.json", "step-00019.json"])


@pytest.mark.train
@pytest.mark.full
def test_copies_of_checkpoints_are_written_next_to_the_checkpoints(world):
    seen = world.run("keeping", world.root / "project")
    folder = world.root / "project" / "run"
    assert_trained(world, seen, folder, evidence=["step-00008.json"], others=["weights"])
    weights = folder / "weights"
    names = {Path(path).name for path in written(seen["events"]) if is_in(path, [weights])}
    assert Path(LAST_HEALTHY).name in names
    assert names <= {"weights", *(Path(one).name for one in (LAST_HEALTHY, ONE_BEFORE)), DRAFT}


@pytest.mark.train
def test_training_in_a_notebook_writes_only_to_its_folder(world):
    seen = world.run("shown", world.root / "project")
    assert seen["outcome"] >= 2  # as it begins and as it ends
    assert_trained(world, seen, world.root / "project" / "run", evidence=["step-00008.json"])


@pytest.mark.train
def test_check_writes_only_to_a_temporary_folder_that_it_removes(world):
    """From Python, and as a command."""
    seen = world.run("checked")
    assert seen["outcome"] == [3, 0]
    temporary = world.root / "temporary"
    for during in ("python", "command"):
        events = [event for event in seen["events"] if event["during"] == during]
        inside = [event for event in events if not is_of_folder(event, temporary)]
        assert len(inside) < len(events)
        assert trouble(inside, temporary, world.fonts) == []
        paths = {Path(path) for path in written(inside) if is_in(path, [temporary])}
        assert {path.name for path in paths} >= {WINDOWS_FILE, META_FILE}
        assert {path.relative_to(temporary).parts[0][:15] for path in paths} == {"yolo-gradwatch-"}
        assert not [path for path in paths if path.exists()]
    assert list(world.here.iterdir()) == []


def is_of_folder(event, temporary):
    """Return whether a check creates or removes its folder; its files are removed by descriptor."""
    if event["by"] != "check.check":
        return False
    kinds = {"tempfile.mkdtemp", "shutil.rmtree"}
    is_whole = event["event"] in kinds and is_in(event["args"][0], [temporary])
    return is_whole or event["from"].startswith("shutil._rmtree")


@pytest.mark.train
@pytest.mark.parametrize("names", LOGGERS, ids="-".join)
def test_logger_adapters_use_no_network_process_or_other_file(world, names):
    if missing := [name for name in names if not find_spec(PACKAGES[name])]:
        pytest.skip(f"{missing[0]} is not installed")
    injected, others = audit_loggers(world, names)
    assert injected == [*names]
    assert others == []


@needs_ray
@pytest.mark.train
@pytest.mark.full
def test_trial_of_a_sweep_writes_only_to_its_folder(world):
    """Every process of Ray is audited from its start."""
    trials = audit_sweep(world)
    assert Counter(name[:3] for name in trials) == {"own": 2, "tun": 2}
    for injected, others in trials.values():
        assert len(injected) == 1
        assert others == []


def assert_trained(world, seen, folder, *data, evidence=(), others=()):
    """Check that the package wrote the files of a run, and otherwise only its own data set."""
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


# --- commands on hostile files --------------------------------------------------------------------

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
    """Write a run whose files name the kanari, a word like no other, wherever there can be text."""
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
"""Every form of every command that reads files; each file it writes is written twice."""

DRAWN = {
    "compare pictures": {COMPARED_FILE, COMPARED_PAGE},
    "plot": {PICTURE_FILE},
    "plot again": {PICTURE_FILE},
    "html": {"page.html"},
}
DRAWN["runs html"] = DRAWN["html"]


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Return the events and output of the commands, with the files before and after."""
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


def test_reading_commands_write_only_the_requested_files(read):
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
def test_command_writes_only_its_own_file(read, name):
    world, _, _, seen, _ = read
    paths = [Path(path) for path in written(seen["events"], name)]
    first = {path for path in paths if is_in(str(path), [world.fonts]) and name == "plot"}
    names = {path.name for path in {*paths} - first}
    drawn = DRAWN.get(name, set())
    assert names == drawn | {f".{file}.tmp" for file in drawn}


@pytest.mark.parametrize("name", LINES)
def test_content_of_files_is_printed_as_text(read, name):
    _, _, _, seen, _ = read
    code, out, err = seen["outcome"][name]
    assert code == {"fail": 1, "nowhere": 2}.get(name, 0), err
    assert "\x1b" not in out + err
    assert "\x07" not in out + err


@pytest.mark.parametrize("name", ["modules", "csv", "compare csv", "json", "compare json", "html"])
def test_every_name_is_printed_as_in_the_file(read, name):
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


def test_no_text_of_a_file_is_run_or_imported(read):
    _, _, _, seen, _ = read
    run = [event for event in seen["events"] if not event["paths"]]
    assert len(run) > 100
    assert [event for event in run if "kanari" in "".join(event["args"])] == []


def test_following_a_run_writes_nothing(world):
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "name"), [("--plot", PICTURE_FILE), ("--html={}", "page.html")], ids=["plot", "html"]
)
@pytest.mark.parametrize("form", ["{}", ".{}.tmp"])
def test_link_at_the_path_of_a_picture_is_replaced(tmp_path, victim, option, name, form):
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
"""How often modules look up an attribute by a name that is not a constant.

Each name comes from a constant of the module or from the fields of a record, none from a file.
"""


def calls(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_no_module_compiles_text_or_imports_by_a_name():
    """In addition to what ruff's banned-api and its rules on eval, exec and breakpoint refuse."""
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


def test_no_text_of_a_file_is_a_format_string():
    """A format string such as ``{0.__class__}`` can read attributes of its arguments."""
    patterns = {
        f"{module}: {ast.unparse(call.func)}"
        for module, tree in TREES.items()
        for call in calls(tree)
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in {"format", "format_map", "substitute", "safe_substitute"}
        and not isinstance(call.func.value, ast.Constant)
    }
    assert patterns == {"views/html/frame: template.substitute"}
