"""A training as a trial of Ray Tune: what it reports, and how it is stopped."""

import json
import math
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from short import FAKE, PICTURES, blank_pictures, spoil
from sweeping import sweep
from training import trial_options

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.diagnose.report import Report
from yolo_gradwatch.measure.clipping import EpochClipping
from yolo_gradwatch.watch import trial
from yolo_gradwatch.watch.ultralytics import raytune

KEYS = ["gradwatch/verdict", "gradwatch/findings", "gradwatch/total_norm"]
LONGEST = 30
"""The most seconds that a thread may take."""


class Reporter:
    """Like Ultralytics' callback that reports to Ray, which may then stop the trial."""

    __module__ = raytune._MODULE

    def __init__(self, stops_at=0):
        self.seen = []
        self.stops_at = stops_at
        self.has_stopped = threading.Event()

    def __call__(self, trainer):
        self.seen.append(dict(trainer.metrics))
        if len(self.seen) == self.stops_at:
            self.has_stopped.set()
            raise SystemExit(0)


class RayThread(threading.Thread):
    """The thread in which Ray runs a trial."""

    __module__ = "ray.air._internal.util"


def stopped(folder, **options):
    """Train until Ray stops it, which its thread treats as the end."""
    with suppress(SystemExit):
        FAKE.train(folder, **options)


@pytest.fixture
def trial_of(tmp_path):
    """Start a training in a Ray thread that is stopped after its second epoch."""
    threads = []

    def start(*, kind=RayThread):
        reporter = Reporter(stops_at=2)
        options = {"watch": GradWatch(live=False), "calls": [("on_fit_epoch_end", reporter)]}
        thread = kind(target=stopped, args=(tmp_path,), kwargs=options, daemon=True)
        threads.append(thread)
        thread.start()
        assert reporter.has_stopped.wait(LONGEST)
        return thread

    yield start
    for thread in threads:
        threading.Thread.join(thread, LONGEST)
        assert not thread.is_alive()
        assert "join" not in vars(thread)


def blocked_pictures(monkeypatch):
    """Hold pictures back until an event is set; another is set once a picture is requested."""
    may_draw, is_asked = threading.Event(), threading.Event()

    def draw(_numbers, _report, path):
        is_asked.set()
        may_draw.wait(LONGEST)
        path.touch()

    for picture in PICTURES:
        monkeypatch.setattr(picture, draw)
    return may_draw, is_asked


def test_ray_waits_for_the_picture_of_a_stopped_trial(tmp_path, monkeypatch, trial_of):
    may_draw, is_asked = blocked_pictures(monkeypatch)
    thread = trial_of()
    assert is_asked.wait(LONGEST)
    threading.Timer(0.2, may_draw.set).start()
    thread.join(timeout=0)
    assert (tmp_path / "run" / "gradwatch.png").exists()
    run = load_run(tmp_path / "run")
    assert (run.meta.status, run.report().steps) == ("stopped", 4)


@pytest.mark.parametrize(("kind", "most"), [(RayThread, 0.01), (threading.Thread, LONGEST)])
def test_wait_is_limited_and_only_in_ray_threads(tmp_path, monkeypatch, trial_of, kind, most):
    may_draw, is_asked = blocked_pictures(monkeypatch)
    monkeypatch.setattr(trial, "MOST_SECONDS", most)
    thread = trial_of(kind=kind)
    assert is_asked.wait(LONGEST)
    thread.join(timeout=0)
    assert thread.is_alive()
    may_draw.set()


def test_reports_to_ray_have_our_numbers_and_nothing_else_sees_them(tmp_path, monkeypatch):
    blank_pictures(monkeypatch)
    reporter, seen = Reporter(), []
    watch = GradWatch(live=False)
    calls = [
        spoil("model.1.conv.weight", at=8),
        ("on_fit_epoch_end", lambda trainer: seen.append(dict(trainer.metrics))),
        ("on_fit_epoch_end", reporter),
        ("on_fit_epoch_end", lambda trainer: seen.append(dict(trainer.metrics))),
    ]
    trainer = FAKE.train(tmp_path, watch=watch, calls=calls)
    assert [list(one) for one in reporter.seen] == [KEYS] * 4
    assert seen == [{}] * 8
    assert [one["gradwatch/findings"] for one in reporter.seen] == [0, 0, 0, 1]
    norms = [epoch.norm_median for epoch in watch.report().epochs]
    assert [one["gradwatch/total_norm"] for one in reporter.seen] == norms
    assert "running" not in reporter.seen[-1]["gradwatch/verdict"]
    assert reporter in trainer.callbacks["on_fit_epoch_end"]


def test_stopped_trial_gets_its_metrics_and_callback_back(tmp_path, monkeypatch):
    blank_pictures(monkeypatch)
    trainers, reporter = [], Reporter(stops_at=1)
    calls = [("on_train_start", trainers.append), ("on_fit_epoch_end", reporter)]
    with pytest.raises(SystemExit):
        FAKE.train(tmp_path, watch=GradWatch(live=False), calls=calls)
    assert trainers[0].metrics == {}
    assert trainers[0].callbacks["on_fit_epoch_end"] == [reporter]


def test_error_of_ours_costs_the_numbers_but_no_report(tmp_path, monkeypatch, caplog):
    blank_pictures(monkeypatch)
    monkeypatch.setattr(trial, "numbers", lambda _report: 1 / 0)
    reporter = Reporter()
    FAKE.train(tmp_path, watch=GradWatch(live=False), calls=[("on_fit_epoch_end", reporter)])
    assert reporter.seen == [{}] * 4
    assert "ZeroDivisionError" in caplog.text


def test_metrics_of_other_types_are_passed_on():
    seen = []

    def report(trainer):
        seen.append(trainer.metrics)

    report.__module__ = raytune._MODULE
    trainer = SimpleNamespace(metrics=None, callbacks={"on_fit_epoch_end": [report]})
    undo = raytune.report_beside(trainer, lambda: {"gradwatch/findings": 1})
    trainer.callbacks["on_fit_epoch_end"][0](trainer)
    undo()
    assert seen == [None]
    assert trainer.callbacks["on_fit_epoch_end"] == [report]


@pytest.mark.parametrize(
    ("epochs", "norm"),
    [
        ((), math.nan),
        ((EpochClipping(1, 3, norm_median=None),), math.inf),
        ((EpochClipping(1, 3, norm_median=8.0), EpochClipping(2, 3, norm_median=2.5)), 2.5),
    ],
)
def test_total_norm_is_that_of_the_newest_epoch(epochs, norm):
    found = trial.numbers(Report(Path(), "running", 6, 3, (), epochs))
    assert list(found) == KEYS
    assert found["gradwatch/total_norm"] == pytest.approx(norm, nan_ok=True)
    assert found["gradwatch/findings"] == 0


def sweeps(folder, trials, *ways):
    """Sweep with Ray in a separate process; what each trial reported, by way."""
    return json.loads(sweep(trial_options(folder), trials, *ways, folder=folder).splitlines()[-1])


def assert_reported(trials):
    """Each epoch and the last report have our numbers."""
    for one in trials:
        assert one["error"] is None
        assert all(list(row) == ["epoch", *KEYS] for row in one["rows"])
        assert one["last"] == {key: one["rows"][-1][key] for key in KEYS}
        is_faulty = one["cls"] > 1
        assert {row["gradwatch/findings"] for row in one["rows"]} == {int(is_faulty)}
        assert {row["gradwatch/total_norm"] == math.inf for row in one["rows"]} == {is_faulty}


def watched(folder, name):
    """Status and steps of each trial; each has a picture in its own folder."""
    runs = [load_run(found.parent) for found in folder.glob(f"{name}*/gradwatch.json")]
    assert all((run.folder / "gradwatch.png").exists() for run in runs)
    return sorted((run.report().steps, run.meta.status) for run in runs)


needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs yolo-gradwatch[ray]")


@needs_ray
@pytest.mark.train
def test_each_trial_of_a_sweep_is_watched_and_a_failing_one_is_pruned(tmp_path):
    assert_reported(sweeps(tmp_path, 2)["tuned"])
    pruned, whole = watched(tmp_path, "tuned")
    assert pruned[0] <= 4  # 8.4.0 checks only at the end of an epoch whether to stop
    assert whole == (8, "stopped")  # Ray stops a trial that has completed its epochs


@needs_ray
@pytest.mark.train
@pytest.mark.full
def test_more_trials_and_a_custom_trainable_are_watched(tmp_path):
    """A scheduler sorts these by their findings."""
    found = sweeps(tmp_path, 4, "own")
    assert_reported([*found["tuned"], *found["own"]])
    for name, each in {"tuned": 2, "own": 1}.items():
        runs = watched(tmp_path, name)
        assert all(steps <= 4 for steps, _ in runs[:each])
        assert runs[each:] == [(8, "stopped")] * each
