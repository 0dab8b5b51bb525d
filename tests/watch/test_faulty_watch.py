"""Errors mid-training: in any of our functions, and in the user's."""

import gc
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import injected
import psutil
import pytest
from commands import SMALL, failures, trained
from short import assert_nothing_left, bare, bits_of, run, streams, warnings_of
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
    "watch.ultralytics.hooks._Unaware.__call__": "someone else's callback from here on",
    "views.terminal.stand_in.StandIn.write": "a stream of the user's from here on; it asks the net",
    "views.terminal.stand_in.StandIn.progress": "as above",
    "views.terminal.stand_in.StandIn.is_drawn": "two comparisons, for both",
    "views.terminal.stand_in.StandIn.flush": "calls the real stream",
    "views.terminal.stand_in.StandIn.isatty": "calls the real stream",
    "views.terminal.stand_in.StandIn.__getattr__": "asks the real stream",
}
"""Functions called from outside: nothing of ours could catch their errors."""

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
"""Functions that restore everything; they fail only once, as nothing else can do their work."""

CLOSERS = {
    "watch.recorder.Recorder.close",
    "watch.fanout.Fanout.close",
    "watch.fanout._close",
    "runs.files.Files.close",
    "runs.writer.RunLog.close",
    "runs.writer._Table.close",
}
"""Functions that close the files: if they fail, files stay open until garbage collection."""

ROOMS = ("plain", "measure", "diagnose", "runs", "views", "watch")
"""Packages of which a training runs a function."""


@cache
def running():
    """The functions that a watched training runs: from its start, and after its first epoch."""
    names = {function.__code__: name for name, function in injected.places().items()}
    counts = (Counter(), Counter())
    phase = []

    def note(frame, event, _argument):
        if event == "call" and frame.f_code in names:
            counts[bool(phase)][names[frame.f_code]] += 1

    def enter_second_phase(trainer):
        phase.extend([1] * (trainer.epoch > 0))

    start_profiling = ("on_pretrain_routine_start", lambda _trainer: sys.setprofile(note))
    watch = GradWatch(live=True)
    try:
        with TemporaryDirectory() as folder:
            run(
                Path(folder),
                watch=watch,
                first=[start_profiling],
                calls=[("on_train_epoch_start", enter_second_phase)],
            )
    finally:
        sys.setprofile(None)
    assert [finding.rule for finding in watch.report().findings] == ["nonfinite"]
    return tuple(sorted(set(one) - set(SHELLS)) for one in counts)


def check(folder, caplog, place, *, live, later):
    """Train with an error injected into one of our functions; only warnings may show it."""

    def inject(trainer):
        if not later or trainer.epoch == 1:
            injected.inject(place, once=place in REPAIRS)

    event = "on_train_epoch_start" if later else "on_pretrain_routine_start"
    caplog.clear()  # before the streams are recorded: this gives its handler a new one
    before = streams()
    with injected.cleared():
        trainer = run(folder, watch=GradWatch(live=live), first=[(event, inject)])
        assert injected.FIRED
    assert streams() == before
    assert_nothing_left(trainer)
    assert bits_of(trainer) == bare()
    said = warnings_of(caplog)
    assert said
    if place not in CLOSERS:
        assert not [f.path for f in psutil.Process().open_files() if str(folder) in f.path]
    assert len(set(said)) == len(said), said  # one for each part that is off from then on
    assert all("injected" in one for one in said)
    assert sum("stops watching" in one for one in said) <= 1


@pytest.mark.parametrize(
    ("place", "later"),
    [
        ("measure.model_layout.read", False),
        ("views.terminal.streams.is_terminal", False),  # leaves the terminal half taken over
        ("measure.capture.Capture.take", True),
        ("views.terminal.screen.Screen.close", True),
    ],
)
def test_error_of_ours_ends_the_watch_but_not_the_training(
    tmp_path, caplog, terminal, place, later
):
    terminal()
    check(tmp_path, caplog, place, live=True, later=later)


@pytest.mark.full
def test_all_rooms_used_by_a_training_are_tested(terminal):
    terminal()
    assert {place.split(".")[0] for one in running() for place in one} == set(ROOMS)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # from files that could not be closed
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("room", ROOMS)
def test_error_in_any_of_our_functions_affects_only_the_watch(
    tmp_path, caplog, terminal, room, later
):
    terminal()
    failed = {}
    for place in running()[later]:
        if place.startswith(f"{room}."):
            try:
                check(tmp_path / place, caplog, place, live=True, later=later)
            except Exception as error:  # noqa: BLE001  # report all places, not only the first
                failed[place] = f"{type(error).__name__}: {error}"
    gc.collect()
    assert failed == {}


def test_watch_that_failed_to_start_does_not_pass_fail_on(tmp_path, capfd):
    arguments = ["train", f"model={small()}", f"data={shapes()}", *SMALL, f"project={tmp_path}"]
    with injected.cleared():
        injected.inject("watch.ultralytics.training.save_dir")
        assert main([*arguments, "--fail-on", "dead"]) == 1
        assert injected.FIRED
    assert "--fail-on failed: no training run was watched\n" in capfd.readouterr().err
    assert not (tmp_path / "run" / "gradwatch.csv").exists()


def test_watch_that_failed_midway_does_not_pass_fail_on(tmp_path, capfd):
    with injected.cleared():
        injected.inject("measure.capture.Capture.take")
        assert trained(tmp_path, "--fail-on=dead") == 1
        assert injected.FIRED
    (failure,) = failures(capfd.readouterr().err)
    assert f"{tmp_path / 'run'}: " in failure
    assert "injected" in failure
