"""Errors in the midst of a training: whatever of ours fails, and the user's own."""

import gc
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import planted
import psutil
import pytest
from commands import SMALL, failures, trained
from short import assert_nothing_left, bare, bits_of, run, streams, told
from training import shapes, small

from yolo_gradwatch import GradWatch
from yolo_gradwatch.cli.main import main

pytestmark = pytest.mark.train

SHELLS = {
    "watch.guard.Guard.safely": "the net itself",
    "watch.guard.Guard.at_event": "calls the net",
    "watch.attachment.Attachment.on_begin": "a net around what it calls",
    "watch.events.Events._before_step": "calls a net, inside a step of the optimizer",
    "watch.events.Events._after_step": "as above",
    "watch.step_change.StepChange.begin": "a net around what it calls",
    "watch.step_change.StepChange.end": "as above",
    "watch.batches.Batches.note_step": "one assignment, after a step of the optimizer",
    "watch.ultralytics.contract.shows_bar": "costs the panel only, with a warning",
    "watch.ultralytics.contract._Probe.progress": "a bar swallows what its stream raises",
    "watch.ultralytics.contract._Probe.write": "as above",
    "watch.ultralytics.hooks._Unaware.__call__": "a callback of somebody else's from here on",
    "views.terminal.stand_in.StandIn.write": "a stream of the user's from here on; it asks the net",
    "views.terminal.stand_in.StandIn.progress": "as above",
    "views.terminal.stand_in.StandIn.is_drawn": "two comparisons, for both",
    "views.terminal.stand_in.StandIn.flush": "calls the real stream",
    "views.terminal.stand_in.StandIn.isatty": "calls the real stream",
    "views.terminal.stand_in.StandIn.__getattr__": "asks the real stream",
}
"""What others call directly: nothing of ours could catch what it raises."""

REPAIRS = {
    "watch.guard.Guard.release",
    "watch.session.Session._let_go",
    "watch.recorder.Recorder.close",
    "watch.fanout.Fanout.close",
    "watch.fanout._call",
    "views.terminal.output.Terminal.close",
    "views.terminal.output.Terminal._close_screen",
    "views.terminal.stand_in.StandIns.give_back",
    "views.terminal.screen.Screen.close",
    "views.terminal.stand_in.StandIn.release",
    "watch.ultralytics.hooks.remove_callback",
}
"""What puts everything back: it fails at its first call only, as nothing else could do it."""

CLOSERS = {
    "watch.recorder.Recorder.close",
    "watch.fanout.Fanout.close",
    "watch.fanout._close",
    "runs.files.Files.close",
    "runs.writer.RunLog.close",
    "runs.writer._Table.close",
}
"""What closes the files: where it fails, they stay open until nobody knows them any more."""

ROOMS = ("plain", "measure", "diagnose", "runs", "views", "watch")
"""Those of which a training runs a function."""


@cache
def running():
    """The functions that a watched training runs: from its start, and after its first epoch."""
    names = {function.__code__: name for name, function in planted.places().items()}
    counts = (Counter(), Counter())
    phase = []

    def note(frame, event, _argument):
        if event == "call" and frame.f_code in names:
            counts[bool(phase)][names[frame.f_code]] += 1

    def turn(trainer):
        phase.extend([1] * (trainer.epoch > 0))

    begin = ("on_pretrain_routine_start", lambda _trainer: sys.setprofile(note))
    watch = GradWatch(live=True)
    try:
        with TemporaryDirectory() as folder:
            run(Path(folder), watch=watch, first=[begin], calls=[("on_train_epoch_start", turn)])
    finally:
        sys.setprofile(None)
    assert [finding.rule for finding in watch.report().findings] == ["nonfinite"]
    return tuple(sorted(set(one) - set(SHELLS)) for one in counts)


def check(folder, caplog, place, *, live, later):
    """Train with an error in a function of ours; nothing but warnings may tell of it."""

    def plant(trainer):
        if not later or trainer.epoch == 1:
            planted.plant(place, once=place in REPAIRS)

    event = "on_train_epoch_start" if later else "on_pretrain_routine_start"
    caplog.clear()  # before the streams are noted: it gives its own handler a new one
    before = streams()
    with planted.cleared():
        trainer = run(folder, watch=GradWatch(live=live), first=[(event, plant)])
        assert planted.FIRED
    assert streams() == before
    assert_nothing_left(trainer)
    assert bits_of(trainer) == bare()
    said = told(caplog)
    assert said
    if place not in CLOSERS:
        assert not [f.path for f in psutil.Process().open_files() if str(folder) in f.path]
    assert len(set(said)) == len(said), said  # one a part that is off from then on
    assert all("planted" in one for one in said)
    assert sum("stops watching" in one for one in said) <= 1


@pytest.mark.parametrize(
    ("place", "later"),
    [
        ("measure.model_layout.read", False),
        ("views.terminal.streams.is_terminal", False),  # which leaves the terminal half taken
        ("measure.capture.Capture.take", True),
        ("views.terminal.screen.Screen.close", True),
    ],
)
def test_an_error_of_ours_costs_the_watch_and_never_the_training(
    tmp_path, caplog, terminal, place, later
):
    terminal()
    check(tmp_path, caplog, place, live=True, later=later)


@pytest.mark.full
def test_every_room_at_work_in_a_training_is_among_those_that_fail_here(terminal):
    terminal()
    assert {place.split(".")[0] for one in running() for place in one} == set(ROOMS)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of files that could not be closed
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("room", ROOMS)
def test_an_error_in_any_function_of_ours_costs_the_watch_only(
    tmp_path, caplog, terminal, room, later
):
    terminal()
    failed = {}
    for place in running()[later]:
        if place.startswith(f"{room}."):
            try:
                check(tmp_path / place, caplog, place, live=True, later=later)
            except Exception as error:  # noqa: BLE001  # all places are told, not only the first
                failed[place] = f"{type(error).__name__}: {error}"
    gc.collect()
    assert failed == {}


def test_a_watch_that_could_not_begin_does_not_pass_fail_on(tmp_path, capfd):
    arguments = ["train", f"model={small()}", f"data={shapes()}", *SMALL, f"project={tmp_path}"]
    with planted.cleared():
        planted.plant("watch.ultralytics.training.save_dir")
        assert main([*arguments, "--fail-on", "dead"]) == 1
        assert planted.FIRED
    assert "failed under --fail-on: no training was watched\n" in capfd.readouterr().err
    assert not (tmp_path / "run" / "gradwatch.csv").exists()


def test_a_watch_that_did_not_reach_the_end_does_not_pass_fail_on(tmp_path, capfd):
    with planted.cleared():
        planted.plant("measure.capture.Capture.take")
        assert trained(tmp_path, "--fail-on=dead") == 1
        assert planted.FIRED
    (told,) = failures(capfd.readouterr().err)
    assert f"{tmp_path / 'run'}: " in told
    assert "planted" in told
