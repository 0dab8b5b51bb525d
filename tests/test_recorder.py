"""When the recorder looks at the steps that have landed."""

import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from values import LAYOUT, MEMBERS, sample

from yolo_gradwatch import load_run, recorder
from yolo_gradwatch.recorder import MOST_WAITING, WAIT_SECONDS, Options, Recorder, Training
from yolo_gradwatch.records import Detail
from yolo_gradwatch.runlog import RunLog

FAR = 1_000_001  # a step so late that a window holds 20,000 steps


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(recorder, "time", clock)
    return clock


def begin(folder):
    """A recorder in its first epoch."""
    training = Training(folder, {"amp": False}, epochs=1, resumes=False, versions={}, handlers=[])
    begun = Recorder(LAYOUT, MEMBERS, training, Options(live=False))
    begun.open(lambda call, *args: call(*args))
    begun.start_epoch(1, 1)
    return begun


@pytest.fixture
def recording(tmp_path, clock):
    recording = begin(tmp_path)
    yield recording
    recording.close()


def take(recording, steps):
    """Take these steps one by one; those after which none waits any more."""
    looked_at = []
    for step in steps:
        recording.opens_window(step)
        recording.take([sample(step)])
        if not recording._landed:
            looked_at.append(step)
    return looked_at


def test_the_first_50_steps_are_looked_at_at_once(recording):
    assert take(recording, range(1, 51)) == list(range(1, 51))


def test_later_steps_are_looked_at_as_windows_end(recording):
    take(recording, range(1, 51))
    assert take(recording, range(51, 61)) == [52, 54, 56, 58, 60]
    assert recording.report().steps == 60


def test_steps_of_a_long_window_wait_for_others(recording, clock):
    clock.now += WAIT_SECONDS
    steps = range(FAR, FAR + 2 * MOST_WAITING + 5)
    expected = [FAR + n * MOST_WAITING for n in range(3)]  # the first one has nobody to wait for
    assert take(recording, steps) == expected


def test_a_step_waits_for_a_quarter_of_a_second_at_the_most(recording, clock):
    take(recording, [FAR])
    clock.now += WAIT_SECONDS - 0.01
    assert take(recording, [FAR + 1, FAR + 2]) == []
    clock.now += 0.01
    assert take(recording, [FAR + 3, FAR + 4]) == [FAR + 3]


def test_a_step_that_is_not_finite_is_looked_at_at_once(recording):
    take(recording, [FAR, FAR + 1])
    assert len(recording._landed) == 2
    recording.take([sample(FAR + 2, np.nan)])
    assert recording._landed == []
    assert [finding.rule for finding in recording.report().findings] == ["nonfinite"]


def test_nothing_waits_beyond_an_epoch(recording):
    take(recording, range(FAR, FAR + 5))
    assert recording.report().steps == 0
    recording.end_epoch()
    assert recording._landed == []
    assert recording.report().steps == 5


def test_what_waits_at_the_end_is_in_the_files(recording, tmp_path):
    take(recording, range(FAR, FAR + 5))
    recording.finish("interrupted")
    run = load_run(tmp_path)
    assert run.report().steps == 5
    assert run.meta["status"] == "interrupted"


def test_what_waits_when_the_run_begins_anew_belongs_to_the_time_before(recording, tmp_path):
    take(recording, range(FAR, FAR + 5))
    recording.begin_anew("nan_recovery", FAR + 5)
    take(recording, range(FAR + 5, FAR + 8))
    recording.finish("finished")
    whole = load_run(tmp_path).windows.query("module == 'model'")
    assert list(zip(whole["step_first"], whole["step_last"], strict=True)) == [
        (FAR, FAR + 4),
        (FAR + 5, FAR + 7),
    ]


def test_the_json_is_written_less_often_the_longer_it_is(recording, tmp_path, monkeypatch):
    """Each epoch at first, then as it grows by 1 %."""
    lengths, write = [], RunLog.write_meta

    def noted(log, meta):
        lengths.append(len(meta["epochs"]))
        write(log, meta)

    monkeypatch.setattr(RunLog, "write_meta", noted)
    for epoch in range(1, 1001):
        recording.start_epoch(epoch, 1000)
        recording.take([sample(epoch, epoch=epoch)])
        recording.end_epoch()
    assert lengths[:100] == list(range(1, 101))
    assert all(after <= before * 1.01 + 1 for before, after in pairwise(lengths))
    assert len(lengths) < 400
    assert sum(lengths) < 110 * 1000
    run = load_run(tmp_path)  # as a kill at this moment leaves it
    assert 0.99 * 1000 <= len(run.meta["epochs"]) <= 1000
    assert run.report().steps == 1000
    assert run.remarks == ()
    recording.mark("finished")
    assert lengths[-1] == 1000


def test_an_error_of_ours_looks_at_nothing_more(recording, tmp_path):
    take(recording, range(FAR, FAR + 5))
    recording.close()
    assert json.loads((tmp_path / "gradwatch.json").read_text())["status"] == "failed"
    assert len((tmp_path / "gradwatch.csv").read_text().splitlines()) == 1


def recorded(folder, monkeypatch, waiting):
    """The run of some steps with jumps and a NaN, of which so many are looked at together."""
    folder.mkdir()
    monkeypatch.setattr(recorder, "MOST_WAITING", waiting)
    recording = begin(folder)
    for step in range(1, 2500):
        factor = {1900: 1e3, 2204: np.nan, 2350: 1e-3}.get(step, 1.0 + step % 7 / 10)
        detail = Detail(np.ones(len(MEMBERS.elements)), np.zeros(len(MEMBERS.elements)))
        opens = recording.opens_window(step)
        recording.take([sample(step, factor, detail=detail if opens else None)])
    recording.finish("finished")
    recording.close()
    return load_run(folder)


def test_a_run_is_the_same_however_many_steps_are_looked_at_together(tmp_path, clock, monkeypatch):
    """But for details: whether a window begins must be known as its first step is read."""
    runs = {n: recorded(tmp_path / str(n), monkeypatch, n) for n in (1, 5, 32)}
    details = ["zero_fraction", "weight_norm"]
    first = runs[1]
    assert {finding.rule for finding in first.report().findings} >= {"nonfinite", "spike"}
    for n, run in runs.items():
        rest = run.windows.drop(columns=details)
        assert rest.equals(first.windows.drop(columns=details))
        assert run.report().findings == first.report().findings
        whole = run.windows.query("module == 'model'")
        lacking = whole["step_first"][whole["weight_norm"].isna()]
        near = [any(bad <= s <= bad + 10 + n + 1 for bad in (1900, 2204, 2350)) for s in lacking]
        assert all(near)
        assert 3 <= len(lacking) < 40
