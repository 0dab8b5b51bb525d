"""The commands that train, run as a user types them."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from commands import SMALL, failures, outcome, trained
from short import spoil
from training import data_folder, official, shapes
from values import window, write_run
from watched import CONV, DEAD

from yolo_gradwatch import __version__, load_run
from yolo_gradwatch.cli import check as cli_check
from yolo_gradwatch.cli import demo as cli_demo
from yolo_gradwatch.cli import train as cli_train
from yolo_gradwatch.cli.main import app, main
from yolo_gradwatch.cli.watching import exit_codes
from yolo_gradwatch.watch.attachment import Attachment
from yolo_gradwatch.watch.launched import Launched


@pytest.fixture
def add_callback(monkeypatch):
    """Add a callback to every training of a command."""
    begin = Attachment.on_begin

    def add(event, call):
        def begin_with_callback(self, trainer):
            begin(self, trainer)
            trainer.add_callback(event, call)

        monkeypatch.setattr(Attachment, "on_begin", begin_with_callback)

    return add


# --- arguments and help ---------------------------------------------------------------------------

REFUSED = """
    --wibble
    tain data=coco8.yaml
    reviw {run}
    track model=yolo26n.pt
    train --intervall 3
    train --wibble
    train --interval 0 model=yolo26n.yaml
    train --stop-on tired
    train --stop-on vanishin
    train --stop-on=
    train --fail-on amp_overflow
    train --fail-on ,
    train --loggers wandb,neptune
    train --thresholds nowhere.toml
    val model=yolo26n.yaml
    segment mode=predict
    demo --fault gradient-cat
    demo --fault ?
    demo --out /dev/null/demo
    check --stepz 3
    check --fail-on tired
    check --thresholds nowhere.toml
    check val model=yolo26n.yaml
    check model=yolo26n.yaml resume
    check model=yolo26n.yaml data=[a.yaml,b.yaml]
    segment check model=yolo26n.yaml resume=runs/last.pt
    review {run} --csv --json
    review {run} --html {run}
    compare {run}
    runs {run} --csv --json
    runs {run} --sort mAp50
    runs {run} --sort lr
    runs {run} --html {run}
    runs {run} --fail-on tired
    runs {run}/nowhere
    compare {run} --plot {run}
    compare {run} {run} {run} --html
    compare {run} {run} --plot {run}/gradwatch.csv
"""


def test_bad_input_gives_one_line_and_exit_code_2(tmp_path, golden, monkeypatch):
    data_folder()
    monkeypatch.setattr(
        "yolo_gradwatch.watch.ultralytics.command.argument_names",
        lambda: frozenset(["imgsz"]),
    )
    write_run(tmp_path, DEAD)
    messages = ""
    for line in map(str.strip, REFUSED.strip().splitlines()):
        code, out, err = outcome(*shlex.split(line.format(run=tmp_path)))
        assert (code, out, err.count("\n")) == (2, "", 1)
        messages += f"$ yolo-gradwatch {line}\n{err.replace(str(tmp_path), '{run}')}"
    golden("refused", messages)


def test_missing_file_is_named_by_its_argument(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("yolo_gradwatch.watch.ultralytics.command.is_bad_input", lambda _: True)
    given = ["train", f"model={tmp_path / 'nope.pt'}", "data=coco8.yaml"]
    for path, named in (("nope.pt", "model: "), ("other.pt", "")):
        with pytest.raises(typer.Exit), exit_codes(given):
            (tmp_path / path).open()
        assert capsys.readouterr().err.startswith(f"Error: {named}{tmp_path / path}")


def test_help_describes_every_option(golden):
    """The words only: boxes, colours and line widths are up to Typer."""
    group = typer.main.get_command(app)
    text = f"{group.help}\n\n{group.epilog}\n"
    for name, command in group.commands.items():
        has_stop = any("--stop-on" in option.opts for option in command.params)
        assert ("3 stopped" in command.epilog) == has_stop
        text += f"\n$ yolo-gradwatch {name}\n{command.help}\n\n"
        for option in command.params:
            names = ", ".join((*option.opts, *option.secondary_opts))
            default = f" [{option.default}]" if isinstance(option.default, str | int) else ""
            text += f"{names}: {option.help}{default}\n"
    golden("help", text)


COMMANDS = ("train", "check", "demo", "review", "compare", "runs")


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_every_command_has_help(command):
    code, out, err = outcome(*command, "--help")
    assert (code, err) == (0, "")
    assert "--help" in out
    assert "bool" not in out.casefold()  # a flag takes no value


def test_hint_knows_every_option_of_a_training():
    for name, module in {"train": cli_train, "check": cli_check}.items():
        params = typer.main.get_command(app).commands[name].params
        names = {name for option in params for name in (*option.opts, *option.secondary_opts)}
        assert set(module._OURS) == names


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "yolo_gradwatch"],
        pytest.param([Path(sys.executable).with_name("yolo-gradwatch")], marks=pytest.mark.train),
    ],
    ids=["module", "script"],
)
def test_version_is_printed(command):
    command = [sys.executable, *command] if command[0] == "-m" else command
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"yolo-gradwatch {__version__}\n")


# --- errors of Ultralytics and of the user --------------------------------------------------------

BAD_ARGUMENTS = [
    *("epchs=3", "epochs=many", "lr0=abc", "cos_lr=5", "mosaic=2", "epochs=", "val=abc", "wibble"),
    *("task=wibble", "mode=wibble", "imgsz=abc", "imgsz=[a]", "optimizer=wibble", "trian"),
    *("device=wibble", "device=99", "device=0,1", "project=/dev/null/x", "project=/proc/x"),
    *("model=missing.yaml", "model=missing.pt", "data=missing.yaml", "data=/no/where.yaml"),
    *("cfg=missing.yaml", "model={folder}", "data={folder}", "model={text}", "data={text}"),
    *("model={broken}", "data={broken}", "cfg={broken}", "model={pickle}", "model={empty}"),
    *("data={alone}", "data={nowhere}", "copy_paste_mode=wibble", "model=wibble"),
]


NAMED = ["epchs=3", "epochs=many", "trian", "data=missing.yaml", "model=missing.pt"]
"""Arguments that every version of Ultralytics names in its message."""

BAD_FILES = {
    "text": "hello",
    "broken": "a: [1,2\nb: }",
    "pickle": "hello",
    "empty": "",
    "alone": "names: {0: a}\nval: images",
    "nowhere": "path: /no/where\ntrain: images\nval: images\nnames: {0: a}",
}
ENDINGS = {"text": ".txt", "pickle": ".pt", "empty": ".pt"}


@pytest.fixture
def bad_files(tmp_path):
    """Files that Ultralytics cannot use, by the kind of error."""
    paths = {name: tmp_path / f"{name}{ENDINGS.get(name, '.yaml')}" for name in BAD_FILES}
    for name, path in paths.items():
        path.write_text(BAD_FILES[name], encoding="utf-8")
    (folder := tmp_path / "folder").mkdir()
    return {**paths, "folder": folder}


@pytest.mark.parametrize("argument", BAD_ARGUMENTS)
def test_bad_argument_of_a_training_gives_one_line(tmp_path, capfd, bad_files, argument):
    assert trained(tmp_path, argument.format(**bad_files)) == 2
    out, err = capfd.readouterr()
    (line,) = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in out + err
    assert "Docs: https" not in out
    if argument in NAMED:  # before 8.4.100, Ultralytics looks for any model on GitHub
        assert argument.rpartition("=")[2] in line or argument[:5] in line or "github" in line


def bug(body, module):
    """A function with this body in a module of the user's or in an edited Ultralytics."""
    names = {"__name__": module}
    exec(f"def bug(*_arguments, **_options):\n    {body}", names)  # noqa: S102  # our own text
    return names["bug"]


BUGS = [
    *(bug(f"return {one}", "ultralytics.data.dataset") for one in ("len(None)", "int('x')")),
    bug("return open(None)", "ultralytics.data.dataset"),
    *(bug(one, "users") for one in ("len(None)", "open('/no/where.json')", "raise ValueError")),
    bug("from ultralytics.utils import checks; checks.check_file('/no/where.yaml')", "users"),
]


def chained(*_arguments, **_options):
    """An error of Ultralytics, raised while handling a bug of the user."""
    try:
        BUGS[3]()
    except TypeError:
        bug("raise TypeError('bad')", "ultralytics.data.dataset")()


@pytest.mark.slow
@pytest.mark.parametrize("one", [*BUGS, chained])
@pytest.mark.parametrize("place", ["get_labels", "build_transforms", "__getitem__"])
def test_bug_in_a_custom_dataset_prints_its_traceback(tmp_path, capfd, monkeypatch, one, place):
    from ultralytics.data.dataset import YOLODataset

    monkeypatch.setattr(YOLODataset, place, one)
    assert trained(tmp_path) == 1
    err = capfd.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "in bug" in err
    assert "\nError: " not in err


@pytest.mark.parametrize("is_wanted", [False, True])
def test_internal_error_prints_its_traceback_on_demand(is_wanted):
    script = """
from yolo_gradwatch.watch.guard import warn_of_own_error
try:
    1 / 0
except ZeroDivisionError as error:
    warn_of_own_error(error)
"""
    environment = {**os.environ, "YOLO_GRADWATCH_DEBUG": "1" if is_wanted else ""}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "YOLO_GRADWATCH_DEBUG=1" in done.stderr
    assert ("Traceback" in done.stderr) is is_wanted


def test_coloured_error_is_printed_as_plain_text(monkeypatch):
    text = "'\\x1b[31m\\x1b[1mepchs\\x1b[0m' is not a valid \\u202eargument"
    refused = bug(f'raise SyntaxError("{text}")', "ultralytics.cfg")
    monkeypatch.setattr("yolo_gradwatch.watch.ultralytics.command.run_command", refused)
    err = "Error: 'epchs' is not a valid ?argument\n"
    assert outcome("train", "epochs=3") == (2, "", err)


# --- trainings ------------------------------------------------------------------------------------

SPELLINGS = """
    train model=yolo26n.yaml data={data}
    detect train model=yolo26n.yaml data={data}
    train detect model=yolo26n.yaml data={data}
    task=detect mode=train model=yolo26n.yaml data={data}
    train --model=yolo26n.yaml --data={data}
    train model = yolo26n.yaml data={data}
    --model=yolo26n.yaml train data={data} --interval=1
"""


@pytest.mark.train
@pytest.mark.parametrize("line", SPELLINGS.strip().splitlines())
def test_every_spelling_is_watched_and_leaves_no_callbacks(tmp_path, line):
    from ultralytics.utils.callbacks.base import default_callbacks

    starters, argv = list(default_callbacks["on_pretrain_routine_start"]), sys.argv[:]
    arguments = line.format(data=shapes()).split()
    assert main([*arguments, *SMALL, f"project={tmp_path}", "--no-live"]) == 0
    assert load_run(tmp_path / "run").report().steps == 2
    assert default_callbacks["on_pretrain_routine_start"] == starters
    assert sys.argv == argv


@pytest.mark.train
def test_segmentation_is_watched(tmp_path):
    data = official("coco8-seg")
    model = "model=yolo26n-seg.yaml"
    assert main(["segment", "train", model, f"data={data}", *SMALL, f"project={tmp_path}"]) == 0
    assert load_run(tmp_path / "run").layout.blocks[-1][1].startswith("Segment")


@pytest.mark.train
@pytest.mark.parametrize(
    ("option", "code"),
    [
        ("--fail-on=nonfinite", 1),
        ("--fail-on=dead", 0),
        ("--stop-on=nonfinite", 3),
        ("val=False", 0),
    ],
)
def test_exit_codes_of_an_unhealthy_training(tmp_path, add_callback, capfd, option, code):
    add_callback(*spoil("model.6.cv2.conv.weight", float("nan"), at=2))
    assert trained(tmp_path, "model=yolo26n.yaml", option) == code
    failed = failures(capfd.readouterr().err)
    assert len(failed) == (code == 1)
    if failed:
        (finding,) = load_run(tmp_path / "run").report().findings
        assert f"{finding.rule} in {finding.module} at step {finding.step}" in failed[0]
        assert str(tmp_path / "run") in failed[0]


@pytest.mark.train
def test_training_without_a_step_fails_under_fail_on(tmp_path, add_callback, capfd):
    add_callback("on_train_start", lambda trainer: setattr(trainer, "accumulate", 99))
    assert trained(tmp_path, "warmup_epochs=0", "--fail-on=dead") == 1
    (failed,) = failures(capfd.readouterr().err)
    assert str(tmp_path / "run") in failed
    assert "nbs" in failed  # the remedy
    assert main(["review", str(tmp_path), "--fail-on=dead"]) == 1
    assert failures(capfd.readouterr().err) == [failed]
    assert trained(tmp_path, "warmup_epochs=0") == 0


@pytest.mark.train
@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (ValueError, 1)])
def test_exit_codes_of_a_training_that_raises(tmp_path, add_callback, capfd, error, code):
    def broken(_trainer):
        raise error("injected")

    add_callback("on_train_epoch_end", broken)
    assert trained(tmp_path) == code
    assert ("ValueError: injected" in capfd.readouterr().err) == (error is ValueError)


@pytest.mark.train
def test_demo_needs_no_data_and_writes_the_files(tmp_path):
    assert main(["demo", "--out", str(tmp_path), "--epochs", "1"]) == 0
    report = load_run(tmp_path / "run").report()
    assert (report.healthy, report.steps) == (True, 6)
    assert (tmp_path / "data" / "data.yaml").exists()


# --- several trainings in one command -------------------------------------------------------------

LATE = [window(step, zero=[CONV]) for step in (1218, 1219, 1220)]
RUNS = {
    "healthy": ([window(step) for step in range(1, 9)], "finished", ""),
    "short": ([window(1)], "finished", "only 1 optimizer step was watched"),
    "dead": (DEAD, "finished", f"dead in {CONV} at step 1"),
    "stepless": ([], "finished", "no optimizer step was watched"),
    "cut": ([window(1)], "interrupted", "not watched to the end: the run is interrupted"),
    "dead and cut": (LATE, "failed", f"dead in {CONV} at step 1,218; not watched to the end"),
    "nothing": (None, "", "nothing to report"),
}
"""Windows and status of trainings that ran in separate processes, and the message about each."""


@pytest.mark.parametrize("names", [*((name,) for name in RUNS), ("healthy", "dead"), (*RUNS,)])
def test_every_failed_training_is_named(tmp_path, monkeypatch, names):
    def launch(_out, watch, *_arguments):
        for name in names:
            watch._attachment.sessions.append(Launched(tmp_path / name, ()))
            windows, status, _ = RUNS[name]
            if windows is not None:
                write_run(tmp_path / name, windows, status=status)

    monkeypatch.setattr(cli_demo, "train_on_shapes", launch)
    bad = [name for name in names if RUNS[name][2]]
    code, _, err = outcome("demo", "--fail-on", "dead")
    failed = failures(err)
    assert (code, len(failed)) == (bool(bad), len(bad))
    for name, line in zip(bad, failed, strict=True):
        assert f"{tmp_path / name}: " in line
        assert RUNS[name][2] in line


@pytest.mark.parametrize(("rank", "code"), [(-1, 1), (0, 1), (1, 0), (7, 0)])
def test_command_that_watched_nothing_fails_under_fail_on(monkeypatch, as_rank, rank, code):
    """Under torchrun only rank 0 fails."""
    as_rank(rank)
    monkeypatch.setattr(cli_demo, "train_on_shapes", lambda *_arguments: None)
    assert main(["demo"]) == 0
    found, _, err = outcome("demo", "--fail-on", "dead")
    assert (found, len(failures(err))) == (code, code)


def test_demo_lists_the_faults():
    from yolo_gradwatch.demo.faults import FAULTS

    code, out, _ = outcome("demo", "--list")
    assert code == 0
    assert all(name in out for name in FAULTS)
