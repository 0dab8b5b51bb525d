"""A watch from the first event of a training to its last, however it ends."""

import gc
import io
import json
import sys
import weakref
from collections import Counter

import numpy as np
import pytest
import typer
from short import (
    FAKE,
    PICTURES,
    assert_nothing_left,
    at,
    bits_of,
    blank_pictures,
    leave,
    real,
    ruin,
    spoil,
    starve,
    streams,
    warnings_of,
)

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.cli.watching import leave_after
from yolo_gradwatch.diagnose.report import Report
from yolo_gradwatch.measure.capture import Capture
from yolo_gradwatch.measure.clipping import EpochClipping
from yolo_gradwatch.watch.guard import Guard
from yolo_gradwatch.watch.session import Session

EVENTS = (
    *("on_pretrain_routine_start", "on_pretrain_routine_end", "on_train_start"),
    *("on_train_epoch_start", "on_train_batch_start", "on_train_batch_end", "on_train_epoch_end"),
    *("on_model_save", "on_fit_epoch_end", "on_train_end", "teardown"),
)

PICTURE = PICTURES[0]

PLACES = [(False, False), (True, False), (False, True)]
"""Whether the user's callback comes before ours, and whether there is a panel."""


@pytest.fixture(autouse=True)
def _quick_pictures(monkeypatch):
    blank_pictures(monkeypatch)


# --- the fake trainer behaves like the real one ---------------------------------------------------


class EventLog:
    """Records each event, each part of a step, and what our code reads from the trainer."""

    def __init__(self, base):
        self.happened, self.read = [], set()
        notes = self

        class Trainer(base):
            def __getattribute__(self, name):
                value = super().__getattribute__(name)
                if sys._getframe(1).f_globals["__name__"].startswith("yolo_gradwatch"):
                    notes.read.add(name)
                return value

            def preprocess_batch(self, batch):
                notes.happened.append("preprocess_batch")
                return super().preprocess_batch(batch)

            def optimizer_step(self):
                notes.happened.append("optimizer_step")
                super().optimizer_step()

        self.kind = Trainer
        self.calls = [(event, self._record(event)) for event in EVENTS]

    def _record(self, event):
        return lambda trainer: self.happened.append((event, getattr(trainer, "epoch", None)))


def stop(trainer):
    trainer.stop = True


KINDS = {
    "to its end": ({}, None),
    "with several batches a step": ({"nbs": 16, "images": 24}, None),
    "stopped in an epoch": ({}, ("on_train_batch_end", 3, stop)),
    "failing": ({}, ("on_train_batch_end", 3, leave(ZeroDivisionError))),
    "interrupted": ({}, ("on_fit_epoch_end", 2, leave(KeyboardInterrupt))),
    "with a NaN": ({"save": True}, ("on_train_epoch_start", 2, ruin)),
    "with little memory": ({"imgsz": 64}, ("on_train_start", 1, starve)),
}


def recorded(way, folder, options, call):
    """Everything that happened in such a training, and what was read from its trainer."""
    notes, ends = EventLog(way.base), []
    calls = [*notes.calls, *([at(*call)] if call else [])]
    options = {"kind": notes.kind, "warmup_epochs": 0, **options}
    try:
        way.train(folder, watch=GradWatch(live=False), calls=calls, **options)
    except (ZeroDivisionError, KeyboardInterrupt) as error:
        ends.append(type(error))
    meta = load_run(folder / "run").meta
    events = [(event.kind, event.step) for event in meta.events]
    return (notes.happened, ends, meta.status, meta.last_step, events), notes.read


@pytest.mark.train
@pytest.mark.parametrize("kind", KINDS)
def test_fake_trainer_behaves_like_the_real_one(tmp_path, kind):
    import ultralytics
    from ultralytics.utils.checks import check_version

    if not check_version(ultralytics.__version__, ">=8.4.190"):
        pytest.skip("the fake trainer is that of later versions")
    fake, read_from_fake = recorded(FAKE, tmp_path / "fake", *KINDS[kind])
    expected, read = recorded(real(), tmp_path / "real", *KINDS[kind])
    assert fake == expected
    assert read - {"plots"} <= read_from_fake  # the picture is kept from integrations only


# --- to the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("live", [False, True])
def test_training_is_unchanged_by_the_watch_and_nothing_is_left(way, tmp_path, terminal, live):
    terminal()
    before, watch = streams(), GradWatch(live=live)
    trainer = way.spoiled(tmp_path, watch=watch)
    assert bits_of(trainer) == way.bare()
    assert streams() == before
    assert_nothing_left(trainer)
    report, run = watch.report(), load_run(tmp_path / "run")
    assert (report.status, report.steps) == ("finished", 8)
    assert run.report() == report
    (finding,) = report.findings
    assert (finding.rule, finding.module, finding.step) == ("nonfinite", "model.1.conv", 8)
    shown = sys.stdout.getvalue()
    assert shown.count("GradWatch epoch") == (0 if live else 4)
    assert shown.count(str(tmp_path / "run" / "gradwatch.csv")) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(0), "stopped"),  # by a scheduler
        (SystemExit(None), "stopped"),
        (SystemExit(3), "failed"),
        (SystemExit("no"), "failed"),
        (ZeroDivisionError("the user's own"), "failed"),
    ],
)
def test_files_show_how_a_training_ended(way, tmp_path, caplog, error, status):
    watch, before = GradWatch(live=False), streams()
    with pytest.raises(type(error)) as left:
        way.spoiled(tmp_path, watch=watch, calls=[at("on_fit_epoch_end", 2, leave(error))])
    assert left.value is error
    assert streams() == before
    assert warnings_of(caplog) == []
    run = load_run(tmp_path / "run")
    assert run.report() == watch.report()
    assert (run.meta.status, watch.report().steps) == (status, 4)
    assert (tmp_path / "run" / "gradwatch.png").exists()


@pytest.mark.parametrize(("is_first", "live"), PLACES)
@pytest.mark.parametrize("event", [event for event in EVENTS if event != "on_model_save"])
def test_error_of_the_user_ends_the_training_as_without_the_watch(  # noqa: PLR0913, PLR0917  # cases
    faked, tmp_path, caplog, terminal, event, is_first, live
):
    terminal()
    caplog.clear()  # which gives its handler a new stream
    trainers, watch, before = [], GradWatch(live=live), streams()
    calls = [(event, trainers.append), at(event, 1, leave(ZeroDivisionError(event)))]
    with pytest.raises(ZeroDivisionError, match=event):
        faked.spoiled(tmp_path, watch=watch, **{"first" if is_first else "calls": calls})
    assert streams() == before
    assert warnings_of(caplog) == []
    if event == "on_pretrain_routine_start":
        return  # there is no trainer yet
    assert_nothing_left(trainers[0])
    has_started = not event.startswith("on_pretrain") and event != "on_train_start"
    assert watch.has_started == has_started
    if has_started:
        assert watch.report().status == ("finished" if event == "teardown" else "failed")
        assert load_run(tmp_path / "run").report() == watch.report()
        assert (tmp_path / "run" / "gradwatch.png").exists()


def test_files_show_the_end_before_the_picture_is_drawn(way, tmp_path, monkeypatch, capsys):
    """A scheduler may kill the process two seconds after it stops a training."""
    seen = []

    def draw(_heatmap, _report, path):
        meta = json.loads((path.parent / "gradwatch.json").read_text())
        rows = (path.parent / "gradwatch.csv").read_text().splitlines()
        out = capsys.readouterr().out
        seen.append((meta["status"], rows[-1].split(",")[2], "GradWatch: no verdict" in out))

    monkeypatch.setattr(PICTURE, draw)
    calls = [at("on_fit_epoch_end", 2, leave(SystemExit(0)))]
    with pytest.raises(SystemExit):
        way.train(tmp_path, watch=GradWatch(), calls=calls)
    assert seen == [("stopped", "4", True)]


def test_picture_is_ready_for_uploads_at_the_end(way, tmp_path):
    seen = []
    calls = [("on_train_end", lambda trainer: seen.extend(map(str, trainer.plots)))]
    way.train(tmp_path, watch=GradWatch(live=False), calls=calls)
    assert seen == [str(tmp_path / "run" / "gradwatch.png")]


def test_training_without_an_optimizer_step_says_so(way, tmp_path):
    class Idle(way.base):
        def optimizer_step(self):
            """As in an epoch that ends before nbs images were seen."""

    watch = GradWatch(live=False)
    way.train(tmp_path, watch=watch, kind=Idle)
    assert "no optimizer step" in watch.report().verdict
    assert "nbs" in str(watch.report())
    assert load_run(watch.run_dir).windows.empty


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), ValueError("closed file")])
def test_closed_stdout_ends_neither_training_nor_watch(faked, tmp_path, monkeypatch, error):
    class Gone(io.StringIO):
        """Refuses only our lines, because Ultralytics itself would fail on the others."""

        def write(self, text):
            if "GradWatch" in text:
                raise error
            return super().write(text)

    watch = GradWatch()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Gone())
        faked.train(tmp_path, watch=watch)
    assert load_run(watch.run_dir).report() == watch.report()
    assert (watch.report().status, watch.report().steps) == ("finished", 8)


# --- errors of ours, and trainers that cannot be watched ------------------------------------------


@pytest.mark.parametrize(
    ("place", "is_begun"),
    [
        ("yolo_gradwatch.watch.ultralytics.training.save_dir", False),
        ("yolo_gradwatch.measure.model_layout.read", False),
        ("yolo_gradwatch.measure.capture.Capture.take", True),
        ("yolo_gradwatch.measure.rollup.Rollup.add", True),
    ],
)
def test_error_of_ours_ends_the_watch_but_not_the_training(  # noqa: PLR0913, PLR0917  # cases
    faked, tmp_path, caplog, monkeypatch, place, is_begun
):
    def broken(*_args, **_options):
        raise OSError("injected")

    watch = GradWatch(live=False)
    calls = [at("on_train_epoch_start", 2, lambda _: monkeypatch.setattr(place, broken))]
    if not is_begun:
        monkeypatch.setattr(place, broken)
    trainer = faked.spoiled(tmp_path, watch=watch, calls=calls if is_begun else ())
    assert bits_of(trainer) == faked.bare()
    assert_nothing_left(trainer)
    (one,) = warnings_of(caplog)
    assert "an internal error" in one
    assert "OSError: injected" in one
    assert watch.has_started == is_begun
    if is_begun:
        assert load_run(tmp_path / "run").meta.status == watch.report().status == "failed"
        assert "injected" in watch.report().remarks[0]


@pytest.mark.parametrize(("fail_on", "code"), [((), 0), (("dead",), 1)])
def test_failed_watch_does_not_pass_fail_on(tmp_path, monkeypatch, fail_on, code):
    def train():
        calls = [("on_train_start", lambda _: monkeypatch.delattr(Capture, "take"))]
        FAKE.train(tmp_path, watch=watch, calls=calls)

    watch = GradWatch(live=False)
    with pytest.raises(typer.Exit) as left:
        leave_after(watch, fail_on, train)
    assert watch.report().status == "failed"
    assert left.value.exit_code == code


@pytest.mark.parametrize("place", [PICTURE, "on_plot"])
def test_picture_that_cannot_be_drawn_costs_one_warning(
    faked, tmp_path, caplog, monkeypatch, place
):
    def broken(*_args, **_options):
        raise ZeroDivisionError("injected")

    if place == "on_plot":
        monkeypatch.setattr(faked.base, place, broken)
    else:
        monkeypatch.setattr(place, broken)
    watch = GradWatch(live=False)
    faked.train(tmp_path, watch=watch)
    (one,) = warnings_of(caplog)
    assert "Picture.end raised ZeroDivisionError: injected" in one
    assert watch.report().status == "finished"


def stops_unscaling(base):
    class StepsAlone(base):
        """From its third step on."""

        def optimizer_step(self):
            self.steps = getattr(self, "steps", 0) + 1
            if self.steps <= 2:
                super().optimizer_step()
            else:
                self.optimizer.step()
                self.optimizer.zero_grad()

    return StepsAlone


def clips_first(base):
    import torch

    class ClipsFirst(base):
        def optimizer_step(self):
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=1.0)
            super().optimizer_step()

    return ClipsFirst


def leaves_out(event):
    def make(base):
        class Silent(base):
            def run_callbacks(self, name):
                if name != event:
                    super().run_callbacks(name)

        return Silent

    return make


@pytest.mark.parametrize(
    ("make", "why", "steps"),
    [
        (stops_unscaling, "unscale_ was not called first", 2),
        (clips_first, "ClipsFirst.optimizer_step clips", 0),
        (leaves_out("on_train_start"), "did not run the callback on_train_start", 0),
        (leaves_out("on_train_epoch_start"), "did not run the callback on_train_epoch_start", 0),
    ],
)
def test_trainer_that_cannot_be_watched_gets_one_warning_and_trains(  # noqa: PLR0913, PLR0917  # cases
    way, tmp_path, caplog, make, why, steps
):
    kind, watch = make(way.base), GradWatch(live=False)
    trainer = way.train(tmp_path / "watched", kind=kind, watch=watch, epochs=2, save=True)
    (one,) = warnings_of(caplog)
    assert why in one
    assert why in str(watch.report())
    assert (watch.report().status, watch.report().steps) == ("failed", steps)
    assert trainer.last.exists()
    assert (watch.run_dir / "gradwatch.csv").exists() == watch.has_started
    if watch.has_started:
        run = load_run(watch.run_dir)
        assert (run.meta.status, run.windows["step_first"].nunique()) == ("failed", steps)
    again = way.train(tmp_path / "bare", kind=kind, epochs=2, save=True)
    assert bits_of(trainer) == bits_of(again)
    assert_nothing_left(trainer)


def test_rank_other_than_0_is_left_alone(faked, tmp_path, as_rank):
    watch = GradWatch(live=False)
    first = [at("on_pretrain_routine_start", 1, lambda _: as_rank(1))]
    last = [at("on_pretrain_routine_start", 1, lambda _: as_rank(-1))]
    trainer = faked.train(tmp_path, watch=watch, first=first, calls=last)
    assert_nothing_left(trainer)
    assert watch._attachment.sessions == []
    assert not list(tmp_path.rglob("gradwatch*"))


def test_trainer_that_has_already_started_is_not_watched(faked, tmp_path, caplog):
    watch = GradWatch(live=False)
    faked.train(tmp_path, calls=[("on_train_start", watch.attach)])
    assert watch._attachment.sessions == []
    (one,) = warnings_of(caplog)
    assert "has already started" in one


# --- other watches and detaching ------------------------------------------------------------------


def test_second_training_of_a_watch_has_its_own_folder(way, tmp_path):
    watch = GradWatch(live=False)
    way.train(tmp_path, watch=watch)
    way.train(tmp_path, watch=watch, name="again", epochs=2)
    assert [report.run.name for report in watch.reports] == ["run", "again"]
    assert [report.steps for report in watch.reports] == [8, 4]
    assert watch.run_dir == tmp_path / "again"
    assert load_run(tmp_path / "run").report() == watch.reports[0]


def test_watch_attaches_to_a_trainer_and_the_newest_takes_over(way, tmp_path):
    trainer = way.trainer(tmp_path)
    first, second = (GradWatch(live=False).attach(trainer) for _ in range(2))
    trainer.train()
    assert first._attachment.sessions == []
    assert second.report().steps == 8
    assert_nothing_left(trainer)


def test_watch_detached_before_the_training_leaves_it_alone(way, tmp_path):
    trainer = way.trainer(tmp_path)
    before = {event: list(calls) for event, calls in trainer.callbacks.items() if calls}
    watch = GradWatch(live=False).attach(trainer)
    watch.detach()
    assert {event: calls for event, calls in trainer.callbacks.items() if calls} == before
    assert "_do_train" not in vars(trainer)
    trainer.train()
    assert watch._attachment.sessions == []
    assert not (tmp_path / "run" / "gradwatch.json").exists()


DETACHED = {
    "on_train_batch_start": (3, 2),
    "on_train_batch_end": (3, 3),
    "on_train_epoch_start": (2, 2),
    "on_fit_epoch_end": (2, 4),
    "on_train_end": (1, 8),
}
"""The event, at which occurrence of it, and the steps until then."""


@pytest.mark.parametrize("event", DETACHED)
@pytest.mark.parametrize(("is_first", "live"), PLACES)
def test_watch_detached_in_a_training_ends_and_the_training_goes_on(  # noqa: PLR0913, PLR0917  # cases
    faked, tmp_path, caplog, terminal, event, is_first, live
):
    terminal()
    watch, before, calls = GradWatch(live=live), streams(), []
    count, steps = DETACHED[event]

    def detach(_trainer):
        calls.append(1)
        watch.detach()
        watch.detach()
        assert streams() == before

    where = {"first" if is_first else "calls": [at(event, count, detach)]}
    trainer = faked.spoiled(tmp_path, watch=watch, **where)
    assert calls == [1]
    assert bits_of(trainer) == faked.bare()
    assert warnings_of(caplog) == []
    assert not [c for one in trainer.callbacks.values() for c in one if "gradwatch" in repr(c)]
    assert not {"preprocess_batch", "_do_train"} & set(vars(trainer))
    report, found = watch.report(), load_run(tmp_path / "run")
    assert report.status == found.meta.status == "interrupted"
    assert (report.findings, report.steps) == (found.report().findings, found.report().steps)
    assert abs(report.steps - steps) <= is_first
    assert len(report.remarks) == 1
    assert found.report().remarks == report.remarks
    assert watch.reports == [report]
    assert (tmp_path / "run" / "gradwatch.png").exists()


def test_watch_can_be_detached_by_its_own_callback(way, tmp_path, caplog):
    watch = GradWatch(live=False, on_finding=lambda _finding: watch.detach())
    calls = [spoil("model.1.conv.weight", at=3)]
    way.train(tmp_path, watch=watch, calls=calls, save=True)  # it recovers from the NaN
    assert (watch.report().status, watch.report().steps) == ("interrupted", 3)
    assert warnings_of(caplog) == []


def test_detached_watch_can_be_attached_again(way, tmp_path):
    watch = GradWatch(live=False)
    way.train(tmp_path, watch=watch)
    watch.detach()
    model = way.model()
    watch.attach(model).detach()
    way.train(tmp_path, attached=model, name="unwatched")
    assert not (tmp_path / "unwatched" / "gradwatch.csv").exists()
    way.train(tmp_path, watch=watch, name="again")
    assert [report.run.name for report in watch.reports] == ["run", "again"]


# --- memory ---------------------------------------------------------------------------------------


def test_finished_training_releases_everything_but_its_report(way, tmp_path):
    refs, watch = [], GradWatch(live=False)

    def keep_refs(trainer):
        (session,) = watch._attachment.sessions
        held = (trainer, trainer.model, trainer.optimizer, session._events, *session._parts)
        refs.extend(weakref.ref(one) for one in held if one is not None)

    way.train(tmp_path, watch=watch, calls=[at("on_train_epoch_start", 2, keep_refs)])
    gc.collect()
    assert {ref() for ref in refs} == {None}
    assert len(refs) == 9
    assert watch.report() == load_run(tmp_path / "run").report()
    assert watch.reports == [watch.report()]
    assert watch.has_started


@pytest.mark.slow
@pytest.mark.parametrize("event", ["on_pretrain_routine_end", "on_train_start", "on_train_end"])
def test_failed_training_releases_its_trainer_too(faked, tmp_path, event):
    refs = []
    calls = [(event, lambda trainer: refs.append(weakref.ref(trainer)))]
    calls += [at(event, 1, leave(ZeroDivisionError))]
    with pytest.raises(ZeroDivisionError):
        faked.train(tmp_path, watch=GradWatch(live=False), calls=calls)
    gc.collect()
    assert [ref() for ref in refs] == [None]


def test_trainer_that_never_trains_is_not_kept_alive(way, tmp_path):
    trainer = way.trainer(tmp_path)
    watch = GradWatch(live=False).attach(trainer)
    gone = weakref.ref(trainer)
    del trainer
    gc.collect()
    assert gone() is None
    assert watch.reports == []
    assert not watch.has_started
    watch.detach()


def alive():
    """Number of objects of each class of the package, the trainer, torch, pandas and numpy."""
    gc.collect()
    objects = gc.get_objects()
    inside = {id(one): one for one in gc.get_referents(*objects) if type(one) is np.ndarray}
    kinds = Counter(map(type, (*objects, *inside.values())))
    rooms = ("yolo_gradwatch", "fake_trainer", "torch", "pandas", "numpy")
    names = {kind: str(kind.__module__) for kind in kinds}
    own = {kind for kind, name in names.items() if name.startswith(rooms) and "._" not in name}
    return Counter({kind: kinds[kind] for kind in own})


@pytest.mark.slow
def test_many_trainings_leave_only_their_reports(tmp_path):
    watch = GradWatch(live=False)

    def many(count):
        for _ in range(count):
            FAKE.train(tmp_path, watch=watch, epochs=1)
        return alive()

    before, after = many(2), many(6)
    assert [report.steps for report in watch.reports] == [2] * 8
    assert after - before == dict.fromkeys((EpochClipping, Guard, Report, Session), 6)


def test_trainer_class_is_not_kept_alive():
    from ultralytics.engine.trainer import BaseTrainer

    from yolo_gradwatch.watch.ultralytics import contract

    kind = type("Own", (BaseTrainer,), {"__module__": __name__})
    contract.check_event(kind, "on_train_start")
    gone = weakref.ref(kind)
    del kind
    gc.collect()
    assert gone() is None
