"""The command ``check``, which trains a few steps to look for problems, as a user types it."""

import json
import logging
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from commands import SMALL, failures, outcome
from fake_trainer import FakeModel
from short import at, leave, spoil
from training import data_folder, shapes, small

from yolo_gradwatch.watch.check import NOWHERE
from yolo_gradwatch.watch.ultralytics import command

GIVEN = {"batch": 4, "nbs": 4, "epochs": 40, "amp": False}


@pytest.fixture(autouse=True)
def _leaves_no_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert not [*tmp_path.glob("yolo-*")]


@pytest.fixture
def fake(monkeypatch):
    """Train with the fake trainer; gives Ultralytics' arguments, and callbacks to append to."""
    data_folder()  # else Ultralytics prints a message when it is first imported
    received, calls = [], []

    def run(arguments, begin):
        received.append(arguments)
        if "help" in arguments:
            return
        words = dict(one.split("=", 1) for one in arguments if "=" in one)
        model = FakeModel()
        for event, call in [("on_pretrain_routine_start", begin), *calls]:
            model.add_callback(event, call)
        model.train(
            **GIVEN,
            images=int(words.get("images", 8)),
            save=False,
            val=False,
            project=words["project"],
            name=words["name"],
            plots=False,
        )

    monkeypatch.setattr(command, "run_command", run)
    return received, calls


def test_healthy_training_prints_report_blocks_and_cost(fake):
    code, out, err = outcome("check", "--steps", "6", "model=x.yaml")
    assert code == 0
    assert out.startswith("GradWatch: healthy, nothing found in 6 steps")
    assert out.count("Blocks in forward order") == out.count("Time and memory") == 1
    assert err.splitlines()[-1] == "GradWatch check: 6 of 6 optimizer steps"


def test_arguments_of_the_check_override_those_of_the_user(fake):
    given = ["segment", "project=runs", "name=mine", "save_dir=runs/x", "val=True", "imgsz=64"]
    assert outcome("check", "--steps", "1", *given)[0] == 0
    ((first, *words),) = fake[0]
    assert first == "train"
    assert [one for one in words if one in given] == [one for one in given if "save_dir" not in one]
    last = dict(one.split("=", 1) for one in words if "=" in one)
    assert (last["name"], last["val"], last["save"], last["plots"]) == (
        *("check", "False", "False", "False"),
    )
    assert not Path(last["project"]).exists()


@pytest.mark.parametrize("words", [["segment", "check"], ["check", "segment"]])
def test_task_may_come_first(fake, words):
    assert outcome(*words, "--steps=1", "model=x.yaml")[0] == 0
    assert fake[0][0][:3] == ["train", "segment", "model=x.yaml"]


@pytest.mark.parametrize(("word", "code"), [("nonfinite", 1), ("dead", 0)])
def test_finding_gives_exit_code_1_under_fail_on(fake, word, code):
    fake[1].append(spoil("model.1.conv.weight", at=3))
    found, out, err = outcome("check", "--steps=6", "model=x.yaml", f"--fail-on={word}")
    assert found == code
    assert "critical nonfinite: " in out
    assert len(failures(err)) == code
    assert outcome("check", "--steps=6", "model=x.yaml")[0] == 0


def test_check_without_a_step_fails_under_fail_on(fake):
    fake[1].append(("on_train_start", lambda trainer: setattr(trainer, "accumulate", 999)))
    assert outcome("check", "model=x.yaml", "--fail-on=dead")[0] == 1
    code, out, _ = outcome("check", "model=x.yaml")
    assert (code, out.startswith("GradWatch: no verdict")) == (0, True)


def test_failing_training_prints_the_report_and_its_traceback(fake):
    fake[1].append(at("on_train_batch_start", 4, leave(ZeroDivisionError)))
    code, out, err = outcome("check", "--steps=6", "model=x.yaml")
    assert code == 1
    assert "3 optimizer steps were watched; training or GradWatch failed" in out
    assert err.rstrip().endswith("ZeroDivisionError")


def test_training_that_fails_before_its_first_step_prints_only_a_traceback(fake):
    fake[1].append(("on_pretrain_routine_end", leave(ZeroDivisionError)))
    code, out, err = outcome("check", "model=x.yaml")
    assert (code, out) == (1, "")
    assert err.rstrip().endswith("ZeroDivisionError")


def test_ctrl_c_gives_exit_code_130(fake):
    fake[1].append(at("on_train_batch_start", 2, leave(KeyboardInterrupt)))
    code, out, err = outcome("check", "model=x.yaml")
    assert (code, out, "Traceback" in err) == (130, "", False)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signal_restores_its_handler_and_removes_the_files(fake, name):
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip(f"there is no {name} here")
    before = signal.signal(number, signal.SIG_DFL)  # nohup ignores some, and so does the command
    fake[1].append(at("on_train_batch_start", 2, lambda _: signal.raise_signal(number)))
    try:
        assert outcome("check", "model=x.yaml")[:2] == (128 + number, "")
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_help_of_ultralytics_runs_no_check(fake):
    assert outcome("check", "help") == (0, "", "")


def test_json_is_the_only_standard_output(fake):
    from ultralytics.utils import LOGGER

    handlers = [one for one in LOGGER.handlers if type(one) is logging.StreamHandler]
    before = [one.stream for one in handlers]
    fake[1].append(("on_pretrain_routine_start", lambda _: print("loud")))  # noqa: T201
    code, out, err = outcome("check", "--steps=4", "model=x.yaml", "--json")
    content = json.loads(out, parse_constant=pytest.fail)
    assert (code, content["steps"], content["run"]) == (0, 4, str(NOWHERE))
    assert {"verdict", "findings", "modules", "meta", "blocks", "losses", "cost"} <= set(content)
    assert "loud" in err
    assert [one.stream for one in handlers] == before


@pytest.mark.parametrize("argument", ["epchs=3", "data=missing.yaml", "model=missing.yaml"])
@pytest.mark.train
def test_bad_argument_gives_one_line(argument):
    given = {a.partition("=")[0]: a for a in [f"model={small()}", f"data={shapes()}", *SMALL]}
    words = {**given, argument.partition("=")[0]: argument}.values()
    code, _, err = outcome("check", *words)
    assert code == 2
    assert len([line for line in err.splitlines() if line.startswith("Error: ")]) == 1
    assert "Traceback" not in err


@pytest.mark.train
def test_check_through_the_real_command_line_leaves_no_trace(tmp_path, monkeypatch):
    from ultralytics.utils import SETTINGS
    from ultralytics.utils.callbacks.base import default_callbacks

    before = dict(SETTINGS), [*default_callbacks["on_pretrain_routine_start"]], sys.argv[:]
    monkeypatch.chdir(tmp_path)
    words = [f"model={small()}", f"data={shapes()}", *SMALL, "epochs=5", "val=True", "plots=True"]
    code, out, _ = outcome("check", *words, "--steps=3", "--json")
    content = json.loads(out)
    assert (code, content["steps"], content["status"]) == (0, 3, "finished")
    assert [block["type"] for block in content["blocks"]][-1] == "Detect"
    assert len(content["losses"]) == 3
    assert not [*tmp_path.iterdir()]
    after = dict(SETTINGS), [*default_callbacks["on_pretrain_routine_start"]], sys.argv[:]
    assert after == before
