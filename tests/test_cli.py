import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from test_review import CONV, DEAD
from training import HOME, TINY, data_folder, official, shapes, small
from values import window, write_run

from yolo_gradwatch import GradWatch, __version__, load_run
from yolo_gradwatch.cli_main import main
from yolo_gradwatch.cli_train import _failed
from yolo_gradwatch.launched import Launched

SMALL = [f"{name}={value}" for name, value in TINY.items()]


def release():
    """The version of Ultralytics."""
    return tuple(int(part) for part in version("ultralytics").split("."))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--intervall", "3"], "--intervall is neither .* did you mean --interval?"),
        (["train", "--wibble"], "--wibble is neither"),
        (["train", "--interval", "0", "model=yolo26n.yaml"], "--interval must be .* 1, got 0"),
        (["train", "--stop-on", "tired"], "--stop-on: 'tired' is not one of collapse, dead"),
        (["train", "--fail-on", "amp_overflow"], "--fail-on: 'amp_overflow' is not one of"),
        (["train", "--thresholds", "nowhere.toml"], "nowhere.toml: cannot read thresholds"),
        (["train", "epchs=3"], r"'epchs' is not a valid YOLO argument.*epochs"),
        (["train", "epochs=many", "model=yolo26n.yaml"], "'epochs=many'"),
        (["train", "model=missing.pt", "data=coco8.yaml"], "missing.pt"),
        (["train", "model=yolo26n.yaml", "data=missing.yaml"], "missing.yaml"),
        (["val", "model=yolo26n.yaml"], "val: only trainings are watched"),
        (["segment", "mode=predict"], "predict: only trainings are watched"),
        (["trian", "model=yolo26n.yaml"], "'trian' is not a valid YOLO argument.*train"),
        (["demo", "--out", "/dev/null/demo"], "/dev/null"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(capfd, arguments, said):
    data_folder()
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    line = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert len(line) == 1
    if said == "missing.pt" and release() < (8, 4, 100) and "api.github.com" in line[0]:
        pytest.skip("this Ultralytics looks for any model on GitHub, and tells of that failure")
    assert pytest.importorskip("re").search(said, line[0])
    assert "Traceback" not in out + err
    assert "Docs: https" not in out


BAD_ARGUMENTS = [
    *("epchs=3", "epochs=many", "lr0=abc", "cos_lr=5", "mosaic=2", "epochs=", "val=abc", "wibble"),
    *(
        "task=wibble",
        "mode=wibble",
        "imgsz=abc",
        "imgsz=[a]",
        "optimizer=wibble",
    ),
    *("device=wibble", "device=99", "device=0,1", "project=/dev/null/x", "project=/proc/x"),
    *("model=missing.yaml", "model=wibble", "data=missing.yaml", "data=/no/where.yaml"),
    *("cfg=missing.yaml", "model={folder}", "data={folder}", "model={text}", "data={text}"),
    *("model={broken}", "data={broken}", "cfg={broken}", "model={pickle}", "model={empty}"),
    *("data={alone}", "data={nowhere}", "copy_paste_mode=wibble"),
]


@pytest.fixture
def bad_files(tmp_path):
    """Files that Ultralytics cannot use, by what is wrong with them."""
    content = {
        "text.txt": "hello",
        "broken.yaml": "a: [1,2\nb: }",
        "pickle.pt": "hello",
        "empty.pt": "",
        "alone.yaml": "names: {0: a}\nval: images",
        "nowhere.yaml": "path: /no/where\ntrain: images\nval: images\nnames: {0: a}",
    }
    for name, text in content.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "folder").mkdir()
    return {**{Path(name).stem: tmp_path / name for name in content}, "folder": tmp_path / "folder"}


def trained(folder, *arguments):
    """The exit code of a small training that gets these arguments instead of its own."""
    given = {a.partition("=")[0]: a for a in arguments}
    own = [f"model={small()}", f"data={shapes()}", *SMALL, f"project={folder}"]
    return main(["train", *{**{a.partition("=")[0]: a for a in own}, **given}.values()])


@pytest.mark.parametrize("argument", BAD_ARGUMENTS)
def test_a_bad_argument_of_a_training_is_one_sentence(tmp_path, capfd, bad_files, argument):
    assert trained(tmp_path, argument.format(**bad_files)) == 2
    out, err = capfd.readouterr()
    assert len([line for line in err.splitlines() if line.startswith("Error: ")]) == 1
    assert "Traceback" not in out + err


def own_bug(*_arguments, **_options):
    return len(None)


def own_check(*_arguments, **_options):
    raise ValueError("labels are in the wrong order")


def own_file(*_arguments, **_options):
    Path("/no/where.json").read_bytes()


def own_use_of_theirs(*_arguments, **_options):
    from ultralytics.utils.checks import check_file

    check_file("/no/where.yaml")


def edited(body):
    """A function of a copy of Ultralytics that somebody has changed."""
    names = {"__name__": "ultralytics.data.dataset"}
    exec(f"def edited(*_arguments, **_options):\n    {body}", names)  # noqa: S102  # our own text
    return names["edited"]


@pytest.mark.parametrize(
    "bug",
    [
        *(own_bug, own_check, own_file, own_use_of_theirs),
        *map(edited, ("return len(None)", "return int('x')", "return open(None)")),
    ],
)
@pytest.mark.parametrize("place", ["get_labels", "build_transforms", "__getitem__"])
def test_a_bug_in_a_users_data_set_shows_its_traceback(tmp_path, capfd, monkeypatch, bug, place):
    from ultralytics.data.dataset import YOLODataset

    monkeypatch.setattr(YOLODataset, place, bug)
    assert trained(tmp_path) == 1
    err = capfd.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert f"in {bug.__name__}" in err
    assert "\nError: " not in err


def test_a_bug_behind_an_error_of_ultralytics_shows_its_traceback(tmp_path, capfd, monkeypatch):
    from ultralytics.data.dataset import YOLODataset

    def chained(self, *_arguments):
        try:
            own_check()
        except ValueError as error:
            edited("raise TypeError('bad') from _arguments[0]")(error)

    monkeypatch.setattr(YOLODataset, "get_labels", chained)
    assert trained(tmp_path) == 1
    assert "labels are in the wrong order" in capfd.readouterr().err


@pytest.mark.parametrize("is_wanted", [False, True])
def test_an_error_of_our_own_shows_its_traceback_on_demand(is_wanted):
    script = (
        "from yolo_gradwatch.session import tell_own_error\n"
        "try:\n    1 / 0\n"
        "except ZeroDivisionError as error:\n    tell_own_error(error)\n"
    )
    environment = {**os.environ, "YOLO_GRADWATCH_DEBUG": "1" if is_wanted else ""}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "YOLO_GRADWATCH_DEBUG=1" in done.stderr
    assert ("Traceback" in done.stderr) is is_wanted


def test_an_error_that_is_coloured_is_told_as_plain_text(capfd, monkeypatch):
    names = {"__name__": "ultralytics.cfg"}
    text = "'\\x1b[31m\\x1b[1mepchs\\x1b[0m' is not a valid \\u202eargument"
    exec(f'def refused(*_arguments):\n    raise SyntaxError("{text}")', names)  # noqa: S102
    monkeypatch.setattr("yolo_gradwatch.command.run_command", names["refused"])
    assert main(["train", "epochs=3"]) == 2
    assert capfd.readouterr().err == "Error: 'epchs' is not a valid ?argument\n"


def test_a_folder_that_cannot_be_written_is_named(capfd):
    where = "/dev/null/runs"
    assert (
        main(["train", "model=yolo26n.yaml", f"data={shapes()}", *SMALL, f"project={where}"]) == 2
    )
    err = capfd.readouterr().err
    assert where in err
    assert "choose another folder with" in err


def test_a_bad_type_is_refused_before_anything_runs(capfd):
    assert main(["train", "--interval", "soon"]) == 2
    assert "--interval" in capfd.readouterr().err


def test_version(capfd):
    assert main(["--version"]) == 0
    assert capfd.readouterr().out.strip() == f"yolo-gradwatch {__version__}"


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["demo", "--help"]])
def test_help_explains_both_kinds_of_arguments(capfd, arguments):
    assert main(arguments) == 0
    out = capfd.readouterr().out
    assert "Exit codes: 0 fine" in out
    if arguments[0] == "train":
        assert "ARGS are those of yolo" in out
        for option in ("--interval", "--no-live", "--thresholds", "--stop-on", "--fail-on"):
            assert option in out


def test_the_hint_knows_every_option_of_the_help(capfd):
    from yolo_gradwatch.cli_train import _OURS

    main(["train", "--help"])
    words = capfd.readouterr().out.split()
    assert {word for word in words if word.startswith("--")} - {"--help"} >= set(_OURS)


def spellings():
    model, data = "model=yolo26n.yaml", "data={data}"
    return [
        ["train", model, data],
        ["detect", "train", model, data],
        ["train", "detect", model, data],
        ["task=detect", "mode=train", model, data],
        ["train", "--model=yolo26n.yaml", f"--{data}"],
        ["train", "model", "=", "yolo26n.yaml", data],
        ["--model=yolo26n.yaml", "train", data, "--interval=1"],
    ]


@pytest.mark.train
@pytest.mark.parametrize("arguments", spellings())
def test_every_spelling_of_yolo_is_watched(tmp_path, arguments):
    filled = [argument.format(data=shapes()) for argument in arguments]
    assert main([*filled, *SMALL, f"project={tmp_path}", "--no-live"]) == 0
    assert load_run(tmp_path / "run").report().steps == 2


@pytest.mark.train
def test_another_task_is_watched(tmp_path):
    data = official("coco8-seg")
    model = "model=yolo26n-seg.yaml"
    assert main(["segment", "train", model, f"data={data}", *SMALL, f"project={tmp_path}"]) == 0
    assert load_run(tmp_path / "run").layout.blocks[-1][1].startswith("Segment")


def spoiled(monkeypatch):
    """Have every training of this process meet a NaN in its second step."""
    from test_training import spoil

    event, plant = spoil("model.6.cv2.conv.weight", float("nan"), at=2)
    begin = GradWatch.begin

    def begin_spoiled(self, trainer):
        begin(self, trainer)
        trainer.add_callback(event, plant)

    monkeypatch.setattr(GradWatch, "begin", begin_spoiled)


def failures(err):
    """What a command says of a run that does not pass --fail-on, one line for each."""
    return [line for line in err.splitlines() if line.startswith("failed under --fail-on: ")]


@pytest.mark.train
@pytest.mark.parametrize(
    ("option", "code"),
    [
        (["--fail-on", "nonfinite"], 1),
        (["--fail-on", "dead"], 0),
        (["--stop-on", "nonfinite"], 3),
        ([], 0),
    ],
)
def test_exit_codes_of_a_sick_training(tmp_path, monkeypatch, capfd, option, code):
    spoiled(monkeypatch)
    data = f"data={shapes()}"
    arguments = ["train", "model=yolo26n.yaml", data, *SMALL, f"project={tmp_path}", *option]
    assert main(arguments) == code
    told = failures(capfd.readouterr().err)
    assert len(told) == (code == 1)
    if told:
        (finding,) = load_run(tmp_path / "run").report().findings
        assert f"{finding.rule} in {finding.module} at step {finding.step}" in told[0]
        assert str(tmp_path / "run") in told[0]


@pytest.mark.train
def test_a_training_without_a_step_fails_under_fail_on(tmp_path, monkeypatch, capfd):
    begin = GradWatch.begin

    def begin_slowly(self, trainer):
        begin(self, trainer)
        trainer.add_callback("on_train_start", lambda one: setattr(one, "accumulate", 99))

    monkeypatch.setattr(GradWatch, "begin", begin_slowly)
    arguments = ["warmup_epochs=0", "--fail-on=dead"]
    assert trained(tmp_path, *arguments) == 1
    (told,) = failures(capfd.readouterr().err)
    assert str(tmp_path / "run") in told
    assert "no optimizer step" in told
    assert "nbs" in told
    assert main(["review", str(tmp_path), "--fail-on=dead"]) == 1
    (again,) = failures(capfd.readouterr().err)
    assert again == told
    assert trained(tmp_path, *arguments[:-1]) == 0


def test_a_demo_that_nobody_watched_fails_under_fail_on(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("yolo_gradwatch.cli_train.train_on_shapes", lambda *_arguments, **_options: None)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert main(["demo", "--out", str(tmp_path), "--fail-on", "dead"]) == 1
    assert failures(capfd.readouterr().err) == ["failed under --fail-on: no training was watched"]


RUNS = {
    "healthy": ([window(1)], "finished", ""),
    "dead": (DEAD, "finished", f"dead in {CONV} at step 1"),
    "stepless": ([], "finished", "no optimizer step was watched"),
    "cut": ([window(1)], "interrupted", "not watched to its end: the run is interrupted"),
    "dead and cut": (DEAD, "failed", f"dead in {CONV} at step 1; not watched to its end"),
}
"""What trainings in processes of their own have left, and what is said of each."""


@pytest.mark.parametrize(
    "names", [*((name,) for name in RUNS), ("nothing",), ("healthy", "dead"), (*RUNS, "nothing")]
)
def test_each_training_of_a_series_that_fails_is_named(tmp_path, monkeypatch, capfd, names):
    def launch(_out, watch, **_options):
        for name in names:
            watch.sessions.append(Launched(tmp_path / name, ()))
            if name in RUNS:
                windows, status, _ = RUNS[name]
                write_run(tmp_path / name, windows, status=status)

    monkeypatch.setattr("yolo_gradwatch.cli_train.train_on_shapes", launch)
    said = {name: RUNS[name][2] if name in RUNS else "nothing to report" for name in names}
    bad = [name for name in names if said[name]]
    assert main(["demo", "--fail-on", "dead"]) == bool(bad)
    told = failures(capfd.readouterr().err)
    assert len(told) == len(bad)
    for name, line in zip(bad, told, strict=True):
        assert f"{tmp_path / name}: " in line
        assert said[name] in line


@pytest.mark.train
@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (ValueError, 1)])
def test_exit_codes_of_a_training_that_breaks_off(tmp_path, monkeypatch, capfd, error, code):
    begin = GradWatch.begin

    def begin_broken(self, trainer):
        def broken(_trainer):
            raise error("planted")

        begin(self, trainer)
        trainer.add_callback("on_train_epoch_end", broken)

    monkeypatch.setattr(GradWatch, "begin", begin_broken)
    data = f"data={shapes()}"
    assert main(["train", "model=yolo26n.yaml", data, *SMALL, f"project={tmp_path}"]) == code
    assert ("ValueError: planted" in capfd.readouterr().err) == (error is ValueError)


@pytest.mark.train
def test_the_watch_is_gone_from_later_models(tmp_path):
    from ultralytics.utils.callbacks.base import default_callbacks

    before = list(default_callbacks["on_pretrain_routine_start"])
    argv = sys.argv[:]
    main(["train", "model=yolo26n.yaml", f"data={shapes()}", *SMALL, f"project={tmp_path}"])
    assert default_callbacks["on_pretrain_routine_start"] == before
    assert sys.argv == argv


@pytest.mark.train
def test_the_demo_needs_no_data_and_leaves_the_files(tmp_path, capfd):
    assert main(["demo", "--out", str(tmp_path), "--epochs", "1"]) == 0
    assert "GradWatch: healthy, nothing found in 6 steps" in capfd.readouterr().out
    run = load_run(tmp_path / "run")
    assert run.windows["step_last"].max() == 6
    assert (tmp_path / "data" / "data.yaml").exists()


@pytest.mark.train
def test_the_installed_command_runs():
    command = Path(sys.executable).with_name("yolo-gradwatch")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("yolo-gradwatch ")
    assert HOME.exists()


@pytest.mark.parametrize(("rank", "fails"), [(-1, True), (0, True), (1, False), (7, False)])
def test_on_other_ranks_nobody_watches_and_nothing_fails(monkeypatch, rank, fails):
    """Under torchrun, rank 0 answers for them."""
    monkeypatch.setattr("ultralytics.utils.RANK", rank)
    assert bool(_failed(GradWatch(), ("dead",))) == fails
