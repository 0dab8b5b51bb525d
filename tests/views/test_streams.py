"""Outputs of any kind: closed streams, files, pipes, other encodings and all sorts of terminals."""

import io
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from commands import SCRIPT, printed
from shown import board_of
from terminals import RULE, set_terminal
from terminals import Terminal as FakeTerminal
from training import HOME, TINY, shapes, train
from values import Part, plan, window, write_run

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.cli.main import main
from yolo_gradwatch.views.terminal.console import plain_console
from yolo_gradwatch.views.terminal.glyphs import encodable
from yolo_gradwatch.views.terminal.streams import draws_panel, is_live_terminal
from yolo_gradwatch.views.terminal.table import epoch_table

full = pytest.mark.full


# --- commands in separate processes ---------------------------------------------------------------

COMMANDS = [
    *(("review {run}", 0), ("review {run} --fail-on=dead", 1), ("review {run} --csv", 0)),
    *(("review {run} --json --fail-on=dead", 1), ("compare {run} {run}", 0)),
    *(("review {run} --follow", 0), ("review {run}/nowhere", 2), ("review {run} --json", 0)),
    *((f"review {{run}} {form}", 0) for form in ("--modules", "--top=3", "--help")),
    *((f"review {{run}} {form} --fail-on=dead", 1) for form in ("--csv", "--follow")),
    *((f"review {{run}} --fail-on=exploding {form}", 0) for form in ("", "--csv")),
    *((f"compare {{run}} {{run}} {form}", 0) for form in ("--csv", "--json", "--module=*")),
    *(("review {run} --html={run}/page.html", 0), ("demo --list", 0), ("train --wibble", 2)),
    *(("--version", 0), ("--help", 0)),
]
"""Commands and their exit codes, whatever their output is."""

CLOSED = (">&- 2>&-", ">&-", "2>&-")
READERS = ("2>&1 | true", "| head -1", "| true", "2>&1 | head -1")
ENCODINGS = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    *({"PYTHONIOENCODING": one} for one in ("ascii", "latin-1", "utf-16", "cp437", "cp1252")),
]
PIPED = '{{ sleep 0.1; "$@"; }} {} > /dev/null; exit ${{PIPESTATUS[0]}}'
OUTPUTS = [
    *((f'"$@" {where}', {}) for where in CLOSED),
    *((PIPED.format(pipe), {}) for pipe in READERS),
    *(('"$@"', environment) for environment in ENCODINGS),
]


def cases():
    """Every command with every output; outside the full tier, only a few of them."""
    for n, (command, code) in enumerate(COMMANDS):
        for m, output in enumerate(OUTPUTS):
            is_short = (n < 2 and m in {0, 7}) or (n < 6 and m == 3 + n % 2)
            yield pytest.param(command, code, *output, marks=() if is_short else full)


def shell(line, *arguments, **environment):
    """Run a line of shell script in which ``"$@"`` are the arguments."""
    if not (bash := shutil.which("bash")):
        pytest.skip("no bash on this system")
    return subprocess.run(
        [bash, "-c", line, "bash", *map(str, arguments)],
        env={**os.environ, "YOLO_CONFIG_DIR": str(HOME), **environment},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose table of modules is larger than the buffer of a pipe."""
    names = [f"model.{block}.m.{n}.conv" for block in range(10) for n in range(100)]
    layout, _ = plan([Part(name) for name in names])
    windows = [window(step, layout=layout, zero=names[:1]) for step in (1, 2, 3)]
    folder = write_run(tmp_path_factory.mktemp("big") / "train", windows, layout)
    (folder / "gradwatch_alerts.csv").touch()
    assert len(printed("review", folder, "--csv")) > 1 << 16
    return folder


@pytest.mark.parametrize(("command", "code", "line", "environment"), [*cases()])
def test_exit_code_does_not_depend_on_the_output(run, command, code, line, environment):
    own = (sys.executable, "-c", SCRIPT, *command.format(run=run).split())
    done = shell(line, *own, **environment)
    assert done.returncode == code
    assert not re.search("Traceback|Broken|Exception", done.stderr)
    assert bool(done.stdout) >= (bool(environment) and code != 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("form", ["", "--json", "--csv"])
def test_full_disk_gives_one_line_and_exit_code_2(run, form):
    command = f"review {run} {form}".split()
    done = shell('"$@" > /dev/full', sys.executable, "-c", SCRIPT, *command)
    message = "Error: cannot write the output: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_page_is_written_with_closed_streams(run, tmp_path):
    page = tmp_path / "page.html"
    command = (sys.executable, "-c", SCRIPT, "review", run, f"--html={page}")
    assert shell('"$@" >&- 2>&-', *command).returncode == 0
    assert page.read_text(encoding="utf-8").startswith("<!")


def test_csv_has_the_same_line_ends_on_every_system(run, monkeypatch):
    monkeypatch.setattr(os, "linesep", "\r\n")  # as on Windows, whose streams translate \n
    with redirect_stdout(io.StringIO(newline="")) as out:
        assert main(["review", str(run), "--csv"]) == 0
    assert "\r" not in out.getvalue()


# --- encodings, notebooks and replaced streams ----------------------------------------------------


def stream(encoding):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "cp1252", "utf-8", "utf-16"])
def test_log_in_any_encoding_gets_every_line(monkeypatch, encoding):
    from rich.text import Text

    monkeypatch.setattr(sys, "stdout", stream(encoding))
    console = plain_console()
    text = Text("23 Segmen… größe \ud800 名", "red")
    console.print(encodable(text, console))
    sys.stdout.flush()
    written = sys.stdout.buffer.getvalue().decode(encoding)
    assert written.startswith("23 Segmen")
    assert len(written.rstrip()) == len(text.plain)
    assert encodable(text, console).spans == text.spans
    assert text.plain.endswith("名")  # the original is unchanged


def test_encodable_text_is_not_copied(monkeypatch):
    table = epoch_table(board_of(levels=[1.0, 2.0]))
    monkeypatch.setattr(sys, "stdout", stream("ascii"))
    assert encodable(table, plain_console()) is table


class OddlyEncoded(io.StringIO):
    """A stream with an unknown encoding."""

    encoding = "that of a colleague"


def test_unknown_encoding_changes_nothing(monkeypatch):
    from rich.text import Text

    monkeypatch.setattr(sys, "stdout", OddlyEncoded())
    text = Text("größe")
    assert encodable(text, plain_console()) is text


HOSTED = ["COLAB_RELEASE_TAG", "COLAB_GPU", "KAGGLE_KERNEL_RUN_TYPE"]
PANELS = [  # for live=None, True, False
    pytest.param({}, (True, True, False), True, id="terminal"),
    *(pytest.param({name: ""}, (False, True, False), False, id=name) for name in HOSTED),
    pytest.param({"JPY_PARENT_PID": "7"}, (False, False, False), False, id="notebook"),
    pytest.param(
        {"TERM": "xterm-color", "GIT_PAGER": "cat"}, (False, False, False), False, id="pager"
    ),
]


@pytest.mark.parametrize(("variables", "drawn", "is_live"), PANELS)
def test_environments_that_draw_the_panel(monkeypatch, variables, drawn, is_live):
    set_terminal(monkeypatch, columns=80)
    monkeypatch.setattr(sys, "stdout", FakeTerminal())
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert tuple(draws_panel(live) for live in (None, True, False)) == drawn
    assert is_live_terminal() is is_live


@pytest.mark.parametrize(("encoding", "is_live"), [("ascii", False), ("utf-8", True)])
def test_terminal_that_cannot_encode_the_bars_gets_no_panel(monkeypatch, encoding, is_live):
    set_terminal(monkeypatch, columns=80)
    monkeypatch.setattr(sys, "stdout", terminal := FakeTerminal())
    monkeypatch.setattr(type(terminal), "encoding", encoding, raising=False)
    assert is_live_terminal() is is_live


def test_panel_is_drawn_into_a_file_only_with_live_true(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert [draws_panel(live) for live in (None, True, False)] == [False, True, False]


class Shell:
    """A stand-in for IPython's shell in a terminal."""


@pytest.mark.parametrize(
    ("kind", "is_drawn"),
    [(Shell, True), (type("Kernel", (), {}), False), (lambda: None, True)],  # the last: a script
)
def test_ipython_gets_the_panel_only_in_a_terminal(monkeypatch, kind, is_drawn):
    modules = {
        "IPython": SimpleNamespace(get_ipython=kind),
        "IPython.terminal.interactiveshell": SimpleNamespace(TerminalInteractiveShell=Shell),
    }
    set_terminal(monkeypatch, columns=80)
    monkeypatch.setattr(sys, "stdout", FakeTerminal())
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert [draws_panel(live) for live in (None, True, False)] == [is_drawn, is_drawn, False]


@full
@pytest.mark.parametrize("module", ["IPython", None])
def test_ipython_in_a_real_terminal_gets_the_panel(module):
    pytest.importorskip("IPython")
    from pseudo_terminal import Terminal

    code = (
        "from yolo_gradwatch.views.terminal.streams import draws_panel; "
        "print('drawn:', draws_panel(None))"
    )
    command = (sys.executable, *(("-m", module) if module else ()), "-c", code)
    terminal = Terminal(80, 24, command=command, PYTHONPATH=os.pathsep.join(sys.path))
    terminal.read_until(Terminal.is_over)
    assert terminal.code() == 0
    assert "drawn: True" in terminal.lines()


class Bare:
    """A minimal stream; Ultralytics needs nothing else."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


@pytest.mark.train
def test_stream_with_only_a_write_method_gets_tables_and_report(tmp_path, monkeypatch):
    watch = GradWatch()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Bare())
        train(tmp_path, watch=watch)
        written = sys.stdout.text
    assert watch.report().status == "finished"
    assert "GradWatch epoch 1/1" in written
    assert "GradWatch: no verdict, because only 2 optimizer steps were watched" in written


@pytest.mark.train
def test_ascii_log_replaces_characters_of_a_path(tmp_path, monkeypatch):
    watch = GradWatch()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream("ascii"))
        train(tmp_path / "größe", watch=watch)
        sys.stdout.flush()
        written = sys.stdout.buffer.getvalue().decode("ascii")
    assert load_run(tmp_path / "größe" / "run").report().status == "finished"
    assert "GradWatch epoch 1/1" in written
    assert f"{tmp_path}/gr??e/run/gradwatch.csv" in written


# --- python script.py, unwatched and watched ------------------------------------------------------

TRAINING = """
import sys
from ultralytics import YOLO
from yolo_gradwatch import GradWatch
kind, options = sys.argv[1], {options!r}
model = YOLO("yolo26n.yaml")
if kind != "bare":
    watch = GradWatch(live={{"None": None, "True": True}}[kind]).attach(model)
model.train(**options)
if kind != "bare":
    print(watch.report())
"""


@pytest.fixture
def script(tmp_path):
    """A user's script; its argument is "bare" for an unwatched training, or the value of live."""
    options = {**TINY, "data": shapes(), "project": str(tmp_path / "runs"), "epochs": 2}
    path = tmp_path / "script.py"
    path.write_text(TRAINING.format(options=options), encoding="utf-8")
    return path


INTO_LOG = "> {log}"
PLACES = [
    *((where, {}) for where in (">&-", INTO_LOG, "| head -1", ">&- 2>&-", "2>&-", "< /dev/null")),
    *((INTO_LOG, case) for case in ENCODINGS),
    *((INTO_LOG, {name: "1"}) for name in ("NO_COLOR", "FORCE_COLOR")),
    *((INTO_LOG, {"TERM": term}) for term in ("dumb", "")),
]


@pytest.mark.train
@full
@pytest.mark.parametrize(
    ("live", "redirection", "environment"),
    [*(("None", *case) for case in PLACES), *(("True", *case) for case in PLACES[:3])],
)
def test_watched_script_exits_like_an_unwatched(script, tmp_path, redirection, environment, live):
    log, codes = tmp_path / "log", []
    where = redirection.format(log=log)
    for kind in ("bare", live):
        command = f'{{ "$@"; echo $? > {tmp_path}/code; }} {where}'
        done = shell(command, sys.executable, script, kind, **environment)
        codes.append(
            ((tmp_path / "code").read_text(encoding="ascii"), done.stderr.count("Traceback"))
        )
    assert codes[0][0].strip().isdecimal()
    assert codes[1] == codes[0]
    assert "GradWatch stops watching" not in done.stdout + done.stderr
    if log.exists():
        text = log.read_bytes().decode(environment.get("PYTHONIOENCODING", "utf-8"), "replace")
        assert "GradWatch: no verdict, because only 4 optimizer steps were watched" in " ".join(
            text.split()
        )
        assert ("\x1b[1A" in text) == (live == "True")


@pytest.mark.train
@pytest.mark.parametrize(
    ("size", "later"),
    [
        pytest.param((20, 10), (100, 30), marks=full),
        pytest.param((100, 30), (20, 5), marks=full),
        pytest.param((20, 5), (20, 5), marks=full),
        pytest.param((1, 5), (1, 5), marks=full),
    ],
)
def test_small_terminal_can_be_resized_during_a_training(script, size, later):
    from pseudo_terminal import Terminal

    terminal = Terminal(*size, "None", command=(sys.executable, script))
    terminal.read_until(
        lambda t: any(line.startswith("──"[: size[0]]) for line in t.screen.display)
    )
    terminal.resize(*later)
    terminal.read_until(Terminal.is_over)
    assert terminal.code() == 0
    text = "".join("".join(line.split()) for line in terminal.lines())
    assert "Traceback" not in text
    assert "noverdict,becauseonly4optimizerstepswerewatched" in text
    if later[0] >= 80:
        assert sum(line.startswith(RULE) for line in terminal.lines()) == 1


@pytest.mark.train
@full
@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": None}, {"NO_COLOR": "1"}])
def test_limited_terminals_get_tables_or_a_panel(script, environment):
    from pseudo_terminal import Terminal

    terminal = Terminal(80, 24, "None", command=(sys.executable, script), **environment)
    terminal.read_until(Terminal.is_over)
    assert terminal.code() == 0
    lines = terminal.lines()
    panels = sum(line.startswith(RULE) for line in lines)
    tables = sum(line.startswith("GradWatch epoch ") for line in lines)
    assert (panels, tables) == ((0, 2) if environment.get("TERM", "") == "dumb" else (1, 0))


@pytest.mark.train
@full
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_one_stream_to_a_file_and_the_other_to_the_terminal(script, tmp_path, name):
    from pseudo_terminal import Terminal

    with (tmp_path / "log").open("wb") as log:
        terminal = Terminal(
            80, 24, "None", command=(sys.executable, script), streams={name: log}.items()
        )
        terminal.read_until(Terminal.is_over)
        assert terminal.code() == 0
    text = (tmp_path / "log").read_text(encoding="utf-8")
    report = "GradWatch: no verdict, because only 4 optimizer steps were watched"
    assert sum(line.startswith(RULE) for line in terminal.lines()) == (name == "stderr")
    assert (report in text) == (name == "stdout")
    assert any(report in line for line in terminal.lines()) == (name == "stderr")
    assert "\x1b[1A" not in text
    assert not re.search("Traceback|Error", text)


@pytest.mark.skipif(not psutil.LINUX, reason="parent processes are inspected on Linux only")
@pytest.mark.parametrize(
    "above", [{}, {"JPY_PARENT_PID": "1"}, {"TERM": "xterm-color", "GIT_PAGER": "cat"}]
)
def test_notebook_is_detected_through_a_parent_process(above):
    """Even if a command such as ``!env -i`` or ``!sudo`` clears the environment."""
    code = "from yolo_gradwatch.views.terminal.streams import is_notebook; print(is_notebook())"
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    inner = f"import subprocess; subprocess.run({command!r}, env={clean!r}, check=True)"
    outer = [sys.executable, "-c", inner]
    environment = {**clean, **above}
    found = subprocess.run(outer, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(bool(above))
