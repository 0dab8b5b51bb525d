"""A training in other processes, found through its files."""

import os

import pytest
import typer
from fake_trainer import FakeModel, FakeTrainer
from training import TINY
from values import window
from watched import CONV, DEAD, START
from watched import watch as write_files

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.cli.watching import leave_after
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.runs.schema import FormatError
from yolo_gradwatch.watch.attachment import _begin_launched
from yolo_gradwatch.watch.launched import Launched
from yolo_gradwatch.watch.ultralytics import ddp

UNHEALTHY = [
    *(window(step, zero=[CONV]) for step in (1, 2, 3, 4)),
    window(5, zero=[CONV], nonfinite=["model.2.a"]),
]
"""Dead from step 1 on, reported in step 3; not finite in step 5."""


def launcher(folder, begin=None, *, ddp=True):
    """A trainer that launches processes by default and calls ``begin`` before its training."""
    kind = type("Launcher", (FakeTrainer,), {"ddp": ddp})
    calls = {"on_pretrain_routine_start": [begin] if ddp and begin else []}
    project = {"project": str(folder.parent), "name": folder.name}
    return kind({**TINY, **project}, calls)


def test_launched_training_has_no_report_before_its_first_file(tmp_path, monkeypatch):
    monkeypatch.setattr("ultralytics.__version__", "8.4.140")
    launched = Launched(tmp_path, ())
    assert launched.folder == tmp_path
    assert not launched.has_started
    assert launched.stopped_by is None
    assert launched.is_broken
    with pytest.raises(RuntimeError, match="have not started their first epoch"):
        launched.report()


def test_files_of_an_earlier_run_are_ignored(tmp_path):
    write_files(tmp_path, DEAD)
    launched = Launched(tmp_path, ("dead",))
    assert not launched.has_started
    assert launched.stopped_by is None
    with pytest.raises(RuntimeError, match="there is nothing to report"):
        launched.report()
    write_files(tmp_path, DEAD)
    os.utime(tmp_path / "gradwatch.json", ns=(1, 1))  # the clock may be coarse
    assert launched.has_started
    assert launched.stopped_by.rule == "dead"


def test_report_is_read_from_the_files(tmp_path):
    launched = Launched(tmp_path, ())
    write_files(tmp_path, UNHEALTHY, status="running")
    assert launched.has_started
    assert launched.report() == load_run(tmp_path).report()
    assert launched.report().status == "running"
    write_files(tmp_path, UNHEALTHY)
    assert launched.report().status == "finished"


@pytest.mark.parametrize(
    ("status", "is_broken"),
    [("finished", False), ("failed", True), ("running", True), ("interrupted", True)],
)
def test_watch_is_incomplete_unless_the_file_says_finished(tmp_path, status, is_broken):
    launched = Launched(tmp_path, ())
    write_files(tmp_path, UNHEALTHY, status=status)
    assert launched.is_broken is is_broken


def test_unreadable_files_are_named_in_the_error_of_a_report(tmp_path):
    launched = Launched(tmp_path, ("dead",))
    write_files(tmp_path, UNHEALTHY)
    (tmp_path / "gradwatch.json").write_text("{", encoding="utf-8")
    assert launched.is_broken
    assert launched.stopped_by is None
    with pytest.raises(FormatError, match=r"gradwatch\.json"):
        launched.report()


CURED = [window(step) for step in range(4, 16)]


@pytest.mark.parametrize(
    ("words", "rule", "windows", "event"),
    [
        ((), None, UNHEALTHY, None),
        (("exploding",), None, UNHEALTHY, None),
        (("dead",), "dead", UNHEALTHY, None),
        (("nonfinite",), "nonfinite", UNHEALTHY, None),
        (("nonfinite", "dead"), "dead", UNHEALTHY, None),  # the first of the two
        (("dead",), "dead", UNHEALTHY, Event(2, "resume")),
        (("dead",), None, UNHEALTHY, Event(4, "resume")),  # findings of before are in the past
        (("nonfinite",), "nonfinite", UNHEALTHY, Event(4, "resume")),
        (("nonfinite",), "nonfinite", UNHEALTHY, Event(5, "resume")),
        (("nonfinite",), None, UNHEALTHY, Event(6, "resume")),
        (("dead",), None, [*DEAD, *CURED], Event(4, "resume")),  # ended by the resume
        (("dead",), "dead", UNHEALTHY, Event(4, "nan_recovery")),  # not a new start
    ],
)
def test_training_stopped_at_the_first_finding_with_a_given_name(  # cases
    tmp_path, words, rule, windows, event
):
    launched = Launched(tmp_path, words)
    write_files(tmp_path, windows, events=(START, event) if event else (START,))
    finding = launched.stopped_by
    assert (finding and finding.rule) == rule
    assert finding is None or finding in launched.report().findings


def leave(folder, windows, fail_on=(), stop_on=(), **meta):
    """The exit code of a command whose launched training wrote these files."""
    gradwatch = GradWatch(stop_on=stop_on)

    def run():
        gradwatch._attachment.on_begin(launcher(folder))
        if windows is not None:
            write_files(folder, windows, **meta)

    try:
        leave_after(gradwatch, fail_on, run)
    except typer.Exit as left:
        return left.exit_code


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({}, 0),
        ({"fail_on": ("dead",)}, 1),
        ({"fail_on": ("exploding",)}, 0),
        ({"stop_on": ("dead",)}, 3),
        ({"stop_on": ("exploding",), "fail_on": ("nonfinite",)}, 1),
        ({"fail_on": ("exploding",), "status": "failed"}, 1),
        ({"status": "failed"}, 0),
    ],
)
def test_exit_codes_are_those_of_a_training_in_one_process(tmp_path, options, code):
    assert leave(tmp_path, UNHEALTHY, **options) == code


def test_stopped_training_says_why_it_fails(tmp_path, capsys):
    assert leave(tmp_path, UNHEALTHY, stop_on=("dead",), fail_on=("dead",)) == 3
    assert capsys.readouterr().err.count("dead in ") == 1


@pytest.mark.parametrize(("fail_on", "code"), [((), 0), (("dead",), 1)])
def test_launched_training_without_files_does_not_pass_fail_on(tmp_path, fail_on, code):
    assert leave(tmp_path, None, fail_on=fail_on) == code


def test_launch_is_reported_before_it_is_prepared(tmp_path, monkeypatch):
    from ultralytics.engine import trainer as engine

    calls = []

    def prepare(trainer):
        calls.append(("prepared", trainer))
        return "command", "file"

    monkeypatch.setattr(engine, "generate_ddp_command", prepare)
    undo = ddp.before_launch(lambda trainer: calls.append(("reported", trainer)))
    assert engine.generate_ddp_command(1) == ("command", "file")
    undo()
    assert engine.generate_ddp_command is prepare
    undo()
    assert engine.generate_ddp_command is prepare
    assert calls == [("reported", 1), ("prepared", 1)]


def test_watch_attached_to_a_launching_trainer_is_notified(tmp_path):
    ours, other = GradWatch(), GradWatch()
    _begin_launched(launcher(tmp_path, ours._attachment.on_begin))
    assert [type(session) for session in ours._attachment.sessions] == [Launched]
    assert ours.run_dir == tmp_path
    assert not ours.has_started
    with pytest.raises(RuntimeError, match="there is nothing to report"):
        ours.report()
    assert other._attachment.sessions == []


def dropped(caplog):
    return [r.getMessage() for r in caplog.records if "drops callbacks" in r.getMessage()]


@pytest.mark.parametrize(
    ("version", "drops"),
    [("8.4.0", True), ("8.4.139", True), ("8.4.140", False), ("8.4.190", False), ("9.0", False)],
)
def test_ultralytics_that_drops_callbacks_gets_one_warning(
    tmp_path, monkeypatch, caplog, version, drops
):
    monkeypatch.setattr("ultralytics.__version__", version)
    gradwatch = GradWatch()
    gradwatch._attachment.on_begin(launcher(tmp_path))
    gradwatch._attachment.on_begin(launcher(tmp_path))
    said = dropped(caplog)
    assert len(said) == int(drops)
    assert all("pip install -U ultralytics" in line and "on one GPU" in line for line in said)
    reason = "drops callbacks .*update it" if drops else "have not started their first epoch"
    with pytest.raises(RuntimeError, match=reason):
        gradwatch.report()


@pytest.mark.parametrize(
    ("version", "gpus", "times"),
    [("8.4.139", 2, 1), ("8.4.139", 1, 0), ("8.4.139", 0, 0), ("8.4.140", 2, 0)],
)
def test_attaching_to_a_model_warns_with_several_gpus(  # noqa: PLR0913, PLR0917
    tmp_path, monkeypatch, caplog, version, gpus, times
):
    monkeypatch.setattr("ultralytics.__version__", version)
    monkeypatch.setattr(ddp, "gpus", lambda: gpus)
    gradwatch = GradWatch().attach(FakeModel())
    gradwatch.attach(FakeModel())
    assert len(dropped(caplog)) == times
    gradwatch._attachment.on_begin(launcher(tmp_path))
    assert len(dropped(caplog)) == (version == "8.4.139")


@pytest.mark.parametrize(("launches", "times"), [(True, 1), (False, 0)])
def test_attaching_to_a_trainer_warns_with_several_gpus(
    tmp_path, monkeypatch, caplog, launches, times
):
    monkeypatch.setattr("ultralytics.__version__", "8.4.139")
    monkeypatch.setattr(ddp, "gpus", lambda: 8)
    gradwatch = GradWatch().attach(launcher(tmp_path, ddp=launches))
    assert len(dropped(caplog)) == times
    # attaching does not start a launch
    assert gradwatch.run_dir == (None if launches else tmp_path)


@pytest.mark.parametrize(("rank", "watched"), [(-1, 1), (0, 1), (1, 0), (7, 0)])
def test_only_the_first_rank_watches(tmp_path, as_rank, rank, watched):
    as_rank(rank)
    gradwatch, trainer = GradWatch(), launcher(tmp_path, ddp=False)
    gradwatch._attachment.on_begin(trainer)
    assert len(gradwatch._attachment.sessions) == watched
    assert ("_do_train" in vars(trainer)) == bool(watched)


def test_ultralytics_with_another_way_to_launch_is_left_alone(monkeypatch):
    from ultralytics.engine import trainer as engine

    monkeypatch.delattr(engine, "generate_ddp_command")
    undo = ddp.before_launch(print)
    assert not hasattr(engine, "generate_ddp_command")
    undo()


def test_ultralytics_prepares_a_launch_with_the_wrapped_function():
    import inspect

    from ultralytics.engine.trainer import BaseTrainer

    assert "generate_ddp_command(self)" in inspect.getsource(BaseTrainer.train)


def test_error_of_ours_before_a_launch_is_only_a_warning(monkeypatch, caplog):
    from ultralytics.engine import trainer as engine

    def fail(_trainer):
        raise OSError("injected")

    monkeypatch.setattr(engine, "generate_ddp_command", lambda trainer: ("command", trainer))
    undo = ddp.before_launch(fail)
    try:
        assert engine.generate_ddp_command("a trainer") == ("command", "a trainer")
    finally:
        undo()
    assert "cannot find this training again: injected" in caplog.text


def test_gpus_are_those_visible_to_torch(monkeypatch):
    import torch

    assert ddp.gpus() == torch.cuda.device_count()
    monkeypatch.setattr(ddp, "gpus", lambda: 2)
    assert ddp.may_launch(object())
    monkeypatch.setattr(ddp, "gpus", lambda: 1)
    assert not ddp.may_launch(object())


def test_rank_launched_by_someone_else_launches_nothing(monkeypatch):
    monkeypatch.setattr(ddp, "gpus", lambda: 2)
    monkeypatch.setattr("ultralytics.utils.LOCAL_RANK", 0)
    assert not ddp.may_launch(object())
