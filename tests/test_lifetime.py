"""How long a watch and what it holds live: ended by a scheduler or its user, many in a process."""

import gc
import json
import tracemalloc
import weakref
from types import SimpleNamespace

import pytest
from short import assert_nothing_left, bare, bits_of, run, streams, told
from test_launched import Launcher
from training import brisk_trainer, shapes, small, train, trainer_of
from values import LAYOUT, MEMBERS, sample

from yolo_gradwatch import GradWatch, load_run, png
from yolo_gradwatch import session as sessions
from yolo_gradwatch.assembly import Training
from yolo_gradwatch.recorder import Recorder
from yolo_gradwatch.session import Session

train_mark = pytest.mark.train
full = pytest.mark.full


def at(event, count, call):
    """A callback that calls at the so-many-th time of an event."""
    times = []

    def counted(trainer):
        times.append(1)
        if len(times) == count:
            call()

    return (event, counted)


def leave(code):
    def call():
        raise SystemExit(code)

    return call


# --- a scheduler's stop ---------------------------------------------------------------------------


@train_mark
@pytest.mark.parametrize(
    ("code", "status"), [(0, "finished"), (None, "finished"), (3, "failed"), ("no", "failed")]
)
def test_a_training_that_a_scheduler_stops_has_not_failed(tmp_path, caplog, code, status):
    watch = GradWatch(live=False)
    before = streams()
    with pytest.raises(SystemExit) as left:
        run(tmp_path, watch=watch, calls=[at("on_fit_epoch_end", 2, leave(code))])
    assert left.value.code == code
    assert streams() == before
    assert told(caplog) == []
    found = load_run(tmp_path / "run")
    assert found.report() == watch.report()
    assert (found.meta.status, found.report().steps) == (status, 4)
    assert (tmp_path / "run" / "gradwatch.png").exists()


@train_mark
def test_the_files_say_how_it_ended_before_the_picture_is_drawn(tmp_path, monkeypatch, capsys):
    """A scheduler may kill the process two seconds after it has stopped a training."""
    seen = []

    def draw(_heatmap, _report, path):
        meta = json.loads((path.parent / "gradwatch.json").read_text())
        rows = (path.parent / "gradwatch.csv").read_text().splitlines()
        seen.append((meta["status"], rows[-1].split(",")[2], capsys.readouterr().out))

    monkeypatch.setattr(png, "write", draw)
    with pytest.raises(SystemExit):
        run(tmp_path, watch=GradWatch(), calls=[at("on_fit_epoch_end", 2, leave(0))])
    ((status, step, out),) = seen
    assert (status, step) == ("finished", "4")
    assert "GradWatch: healthy, nothing found in 4 steps" in out


# --- what a finished training leaves in memory ----------------------------------------------------


class Idle(Launcher):
    """A trainer whose training does nothing but call the watch."""

    args = SimpleNamespace()

    ddp = False

    def __init__(self, folder):
        super().__init__(folder)
        self.callbacks |= {name: [] for name in EVENTS}

    def _do_train(self):
        for call in self.callbacks["on_train_start"]:
            call(self)


EVENTS = (
    *("on_train_start", "on_train_epoch_start", "on_train_batch_end", "on_train_epoch_end"),
    *("on_fit_epoch_end", "on_train_end"),
)


@pytest.fixture
def idle(tmp_path, monkeypatch):
    """Train with nothing but a recorder, so that a loop of hundreds takes seconds."""

    def start(self):
        training = Training(
            tmp_path, {"amp": False}, epochs=1, resumes=False, versions={}, handlers=[]
        )
        self._recorder = Recorder(LAYOUT, MEMBERS, training, self._options)
        self._cleanup.callback(self._recorder.close)
        self._recorder.open(self._safely)
        self._recorder.start_epoch(1, 1)
        self._recorder.take([sample(1)])
        train_once.refs.append(weakref.ref(self._recorder))

    monkeypatch.setattr(Session, "_start", start)
    monkeypatch.setattr(Session, "_take_rest", lambda _self, recorder: recorder.settle())
    monkeypatch.setattr(sessions.contract, "check_step", lambda _kind: None)
    monkeypatch.setattr(sessions.contract, "check_event", lambda _kind, _event: None)
    monkeypatch.setattr(Recorder, "draw", lambda *_args: None)

    def train_once(watch):
        trainer = Idle(tmp_path)
        watch.attach(trainer)
        trainer._do_train()
        train_once.refs.append(weakref.ref(trainer))

    train_once.refs = []
    return train_once


def test_hundreds_of_trainings_leave_their_reports_only(idle, capsys):
    watch = GradWatch(live=False)

    def many(count):
        for _ in range(count):
            idle(watch)
        capsys.readouterr()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before, after = many(20), many(200)
    finally:
        tracemalloc.stop()
    assert (after - before) / 200 < 8_000  # bytes a training
    assert [report.steps for report in watch.reports] == [1] * 220
    assert {ref() for ref in idle.refs} == {None}
    assert len(idle.refs) == 2 * 220


@train_mark
def test_a_finished_training_lets_go_of_model_trainer_and_recorder(tmp_path):
    refs, watch = [], GradWatch(live=False)

    def note(trainer):
        (session,) = watch._sessions
        held = (trainer, trainer.model, trainer.optimizer, session._recorder, session._capture)
        refs.extend(weakref.ref(one) for one in held)

    run(tmp_path, watch=watch, calls=[("on_train_epoch_start", note)])
    gc.collect()
    assert {ref() for ref in refs} == {None}
    assert len(refs) == 5 * 4
    assert watch.report() == load_run(tmp_path / "run").report()
    assert watch.reports == [watch.report()]
    assert watch.run_dir == tmp_path / "run"
    assert watch.has_started


@train_mark
@pytest.mark.parametrize("event", ["on_pretrain_routine_end", "on_train_start", "on_train_end"])
def test_a_training_that_failed_lets_go_of_its_trainer_too(tmp_path, event):
    refs, watch = [], GradWatch(live=False)

    def fail(trainer):
        refs.append(weakref.ref(trainer))
        raise ZeroDivisionError("planted")

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, watch=watch, calls=[(event, fail)])
    gc.collect()
    assert [ref() for ref in refs] == [None]


@train_mark
def test_a_trainer_that_never_trains_is_not_kept_alive(tmp_path):
    trainer = trainer_of(tmp_path, model=small())
    watch = GradWatch(live=False).attach(trainer)
    gone = weakref.ref(trainer)
    del trainer
    gc.collect()
    assert gone() is None
    assert watch.reports == []
    assert not watch.has_started
    watch.detach()


@train_mark
def test_the_finding_that_stopped_it_is_known_afterwards(tmp_path):
    watch = GradWatch(live=False, stop_on=["nonfinite"])
    run(tmp_path, watch=watch)
    assert watch.stopped_by == watch.report().findings[0]
    assert watch.stopped_by.rule == "nonfinite"


def test_a_class_of_a_trainer_is_not_remembered():
    from ultralytics.engine.trainer import BaseTrainer

    from yolo_gradwatch import contract

    kind = type("Own", (BaseTrainer,), {"__module__": __name__})
    contract.check_event(kind, "on_train_start")
    gone = weakref.ref(kind)
    del kind
    gc.collect()
    assert gone() is None


# --- another watch, and none ----------------------------------------------------------------------


@train_mark
def test_a_cell_that_is_run_twice_watches_with_the_newest_watch(tmp_path):
    from ultralytics import YOLO

    model = YOLO(small())
    first, second = (GradWatch(live=False).attach(model) for _ in range(2))
    train(tmp_path, model=model, data=shapes())
    assert (len(first.reports), len(second.reports)) == (0, 1)
    assert second.report().steps == 2


@train_mark
def test_a_second_watch_of_a_trainer_takes_its_training_over(tmp_path):
    trainer = trainer_of(tmp_path, kind=brisk_trainer(), model=small())
    first, second = (GradWatch(live=False).attach(trainer) for _ in range(2))
    trainer.train()
    assert first._sessions == []
    assert (len(second._sessions), second.report().steps) == (1, 2)
    assert_nothing_left(trainer)


@train_mark
def test_a_watch_that_is_detached_before_the_training_leaves_it_alone(tmp_path):
    trainer = trainer_of(tmp_path, kind=brisk_trainer(), model=small())
    before = {event: list(calls) for event, calls in trainer.callbacks.items()}
    watch = GradWatch(live=False).attach(trainer)
    watch.detach()
    assert trainer.callbacks == before
    assert "_do_train" not in vars(trainer)
    trainer.train()
    assert watch._sessions == []
    assert not (tmp_path / "run" / "gradwatch.json").exists()


@train_mark
@pytest.mark.parametrize(
    ("event", "count", "steps"),
    [
        ("on_train_batch_start", 3, 2),
        ("on_train_batch_end", 3, 3),
        ("on_train_epoch_start", 2, 2),
        ("on_fit_epoch_end", 2, 4),
        ("on_train_end", 1, 8),
    ],
)
@pytest.mark.parametrize(
    ("is_first", "live"),
    [(False, False), *(pytest.param(*c, marks=full) for c in ((True, False), (False, True)))],
)
def test_a_watch_that_is_detached_in_a_training_ends_there_and_the_training_goes_on(  # noqa: PLR0913, PLR0917  # cases
    tmp_path, caplog, terminal, event, count, steps, is_first, live
):
    terminal()
    caplog.clear()
    watch, before, calls = GradWatch(live=live), streams(), []

    def leave_alone():
        calls.append(1)
        watch.detach()
        watch.detach()
        assert streams() == before

    where = "first" if is_first else "calls"
    trainer = run(tmp_path, watch=watch, **{where: [at(event, count, leave_alone)]})
    assert calls == [1]
    assert bits_of(trainer) == bare()
    assert told(caplog) == []
    ours = [c for one in trainer.callbacks.values() for c in one if "yolo_gradwatch" in repr(c)]
    assert ours == []
    assert not {"preprocess_batch", "_do_train"} & set(vars(trainer))
    report, found = watch.report(), load_run(tmp_path / "run")
    assert report.status == found.meta.status == "interrupted"
    assert report.findings == found.report().findings
    assert report.steps == found.report().steps
    assert abs(report.steps - steps) <= is_first
    assert len(report.remarks) == 1
    assert watch.reports == [report]
    assert (tmp_path / "run" / "gradwatch.png").exists()


@train_mark
def test_a_watch_may_be_detached_by_what_it_calls(tmp_path, caplog):
    class Output:
        closed = 0

        def window(self, window):
            if window.step_last == 3:
                watch.detach()

        def close(self):
            self.closed += 1

    output, found = Output(), []
    watch = GradWatch(live=False, outputs=[output], on_finding=found.append)
    trainer = run(tmp_path, watch=watch)
    assert watch.report().status == "interrupted"
    assert watch.report().steps == 3
    assert (output.closed, found) == (1, [])
    assert told(caplog) == []
    assert bits_of(trainer) == bare()


@train_mark
def test_a_watch_that_was_detached_can_be_attached_again(tmp_path):
    from ultralytics import YOLO

    watch = GradWatch(live=False)
    train(tmp_path, watch=watch, model=small())
    watch.detach()
    model = YOLO(small())  # 8.4.0 cannot train one twice
    watch.attach(model).detach()
    train(tmp_path, model=model, name="unwatched")
    assert not (tmp_path / "unwatched" / "gradwatch.csv").exists()
    train(tmp_path, watch=watch, model=small(), name="again")
    assert [report.run.name for report in watch.reports] == ["run", "again"]


def test_a_trainer_whose_training_has_begun_is_not_watched_and_a_warning_says_so(tmp_path, caplog):
    trainer = Idle(tmp_path)
    trainer.scaler = object()
    watch = GradWatch().attach(trainer)
    assert watch._sessions == []
    (record,) = [r for r in caplog.records if r.name == "yolo_gradwatch.watch"]
    assert "has begun" in record.getMessage()
