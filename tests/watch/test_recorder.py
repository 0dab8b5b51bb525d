"""When the recorder processes the steps that have landed."""

import io
import json
import sys
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from recording import Recording
from short import warnings_of
from values import MEMBERS, sample

from yolo_gradwatch import load_run
from yolo_gradwatch.measure.rollup import WINDOW_SHARE
from yolo_gradwatch.measure.sample import Detail, Weights
from yolo_gradwatch.runs.evidence import FOLDER
from yolo_gradwatch.runs.schema import ALERT_COLUMNS
from yolo_gradwatch.runs.writer import RunLog
from yolo_gradwatch.views.terminal import console, panel
from yolo_gradwatch.views.terminal import output as terminal_output
from yolo_gradwatch.watch import pending
from yolo_gradwatch.watch.pending import MOST_WAITING, WAIT_SECONDS

FAR = 1_000_001  # a step so late that a window holds 20,000 steps


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(pending, "time", clock)
    return clock


@pytest.fixture
def recording(tmp_path, clock):
    recording = Recording(tmp_path)
    yield recording
    recording.close()


def take(recording, steps):
    """Take these steps one at a time; return those after which none is waiting."""
    processed = []
    for step in steps:
        recording.wanted(step)
        recording.take([sample(step)])
        if not recording._pending.samples:
            processed.append(step)
    return processed


def test_first_50_steps_are_processed_at_once(recording):
    assert take(recording, range(1, 51)) == list(range(1, 51))


def test_later_steps_are_processed_as_windows_end(recording):
    take(recording, range(1, 51))
    assert take(recording, range(51, 61)) == [52, 54, 56, 58, 60]
    assert recording.report().steps == 60


def test_steps_of_a_long_window_wait_for_more(recording, clock):
    clock.now += WAIT_SECONDS
    steps = range(FAR, FAR + 2 * MOST_WAITING + 5)
    expected = [FAR + n * MOST_WAITING for n in range(3)]  # the first one has nothing to wait for
    assert take(recording, steps) == expected


def test_step_waits_for_others_for_a_while(recording, clock):
    take(recording, [FAR])
    clock.now += WAIT_SECONDS - 0.01
    assert take(recording, [FAR + 1, FAR + 2]) == []
    clock.now += 0.01
    assert take(recording, [FAR + 3, FAR + 4]) == [FAR + 3]


@pytest.mark.parametrize("later", [0, 2])
def test_nonfinite_step_is_processed_at_once(recording, later):
    """Also if it arrives together with later ones, as from a GPU."""
    take(recording, [FAR, FAR + 1])
    assert len(recording._pending.samples) == 2
    steps = range(FAR + 2, FAR + 3 + later)
    recording.take([sample(step, np.nan if step == FAR + 2 else 1.0) for step in steps])
    assert recording._pending.samples == []
    assert [finding.rule for finding in recording.report().findings] == ["nonfinite"]


@pytest.mark.slow
@pytest.mark.parametrize("norm", [np.nan, np.inf, 1e38])
def test_spoiled_step_stops_a_training_at_once_without_stretches_left(tmp_path, clock, norm):
    recording = Recording(tmp_path, stop_on=("nonfinite", "total_high"))
    late = 9000
    for step in range(1, late + 1):
        recording.wanted(step)
        recording.take([sample(step, norm if step == late else 1.0)])
        if step == late - 1:
            recording._rollup._allowance._left = 0.0
            assert recording.stop.wanted is None
    assert recording.stop.wanted.step == late
    recording.close()


def test_nothing_waits_beyond_an_epoch(recording):
    take(recording, range(FAR, FAR + 5))
    assert recording.report().steps == 0
    recording.end_epoch()
    assert recording._pending.samples == []
    assert recording.report().steps == 5


def test_waiting_steps_are_in_the_files_at_the_end(recording, tmp_path):
    take(recording, range(FAR, FAR + 5))
    recording.finish("interrupted")
    run = load_run(tmp_path)
    assert run.report().steps == 5
    assert run.meta.status == "interrupted"


def test_steps_waiting_at_a_restart_belong_to_the_time_before(recording, tmp_path):
    take(recording, range(FAR, FAR + 5))
    recording.restart("nan_recovery", FAR + 5)
    take(recording, range(FAR + 5, FAR + 8))
    recording.finish()
    whole = load_run(tmp_path).windows.query("module == 'model'")
    assert list(zip(whole["step_first"], whole["step_last"], strict=True)) == [
        (FAR, FAR + 4),
        (FAR + 5, FAR + 7),
    ]


@pytest.mark.slow
def test_json_is_written_less_often_as_it_grows(recording, tmp_path, monkeypatch):
    """After each epoch at first, then whenever it has grown by 1 %."""
    lengths, write = [], RunLog.write_meta

    def write_meta(log, meta):
        lengths.append(len(meta.epochs))
        write(log, meta)

    monkeypatch.setattr(RunLog, "write_meta", write_meta)
    for epoch in range(1, 1001):
        recording.start_epoch(epoch, 1000)
        recording.take([sample(epoch, epoch=epoch)])
        recording.end_epoch()
    assert lengths[:100] == list(range(1, 101))
    assert all(after <= before * 1.01 + 1 for before, after in pairwise(lengths))
    assert len(lengths) < 400
    assert sum(lengths) < 110 * 1000
    run = load_run(tmp_path)  # as if killed at this moment
    assert 0.99 * 1000 <= len(run.meta.epochs) <= 1000
    assert run.report().steps == 1000
    assert run.remarks == ()
    recording.end("finished")
    assert lengths[-1] == 1000


def test_error_of_ours_discards_waiting_steps(recording, tmp_path):
    take(recording, range(FAR, FAR + 5))
    recording.close()
    assert json.loads((tmp_path / "gradwatch.json").read_text())["status"] == "failed"
    assert len((tmp_path / "gradwatch.csv").read_text().splitlines()) == 1


def run_of(folder, norms, **options):
    """A run of steps with these parameter norms."""
    folder.mkdir(exist_ok=True)
    with closing(Recording(folder, **options)) as recording:
        for step, norm in enumerate(norms, 1):
            recording.wanted(step)
            recording.take([sample(step, norm)])
        recording.finish()
    return recording.report(), load_run(folder)


def alone(at, norm):
    """Parameter norms of 1, except for one parameter or all."""
    norms = np.ones(len(MEMBERS.elements))
    norms[at] = norm
    return norms


MORE_STRETCHES = [(1, 59), (1, 300), (2, 1), (2, 59), (31, 1), (31, 300), (400, 59), (400, 300)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "lasts"),
    [(1, 1), (2, 300), (31, 59), (400, 1)]
    + [pytest.param(*one, marks=pytest.mark.full) for one in MORE_STRETCHES],
)
@pytest.mark.parametrize("high", [alone(slice(None), 1e38), alone(0, 1e39), alone(-1, 1e20)])
def test_gradient_zeroed_by_clipping_is_found_at_its_first_step(
    tmp_path, clock, first, lasts, high
):
    norms = [high if first <= step < first + lasts else 1.0 for step in range(1, first + 400)]
    live, run = run_of(tmp_path, norms)
    assert live.findings[0] == next(f for f in live.alarms if f.rule == "total_high")
    found = live.findings[0]
    assert (found.severity, found.step, len(found.episodes)) == ("critical", first, 1)
    assert 0 <= found.step_end - (first + lasts) <= WINDOW_SHARE * (first + lasts)
    assert found.evidence == f"{FOLDER}/step-{first:05}.json"
    started = run.alerts[run.alerts["finding"] == found.number].iloc[0]
    assert (started["event"], started["step"]) == ("start", first)
    assert run.report().findings == live.findings
    assert not {f.rule for f in live.alarms} - {"total_high", "exploding", "leaf_exploding"}
    assert not run.grid.nonfinite.any()
    (epoch,) = live.epochs
    assert (epoch.clipped, epoch.skipped) == (lasts, 0)


def test_run_zeroed_by_clipping_to_its_end_is_never_healthy(tmp_path, clock):
    for norm in (1e20, 1e39):
        live, run = run_of(tmp_path / str(norm), [norm] * 59)
        (found,) = live.findings
        assert (found.rule, found.step, found.step_end) == ("total_high", 1, None)
        assert run.report().findings == live.findings


def recorded(folder, monkeypatch, waiting):
    """A run of steps with jumps and a NaN, of which this many are processed together."""
    folder.mkdir()
    monkeypatch.setattr(pending, "MOST_WAITING", waiting)
    recording = Recording(folder)
    for step in range(1, 2500):
        factor = {1900: 1e3, 2204: np.nan, 2350: 1e-3}.get(step, 1.0 + step % 7 / 10)
        detail = Detail(np.zeros(len(MEMBERS.elements)), Weights(*np.ones((2, len(MEMBERS.names)))))
        opens = recording.wanted(step)[0]
        recording.take([sample(step, factor, detail=detail if opens else None)])
    recording.finish()
    assert load_run(folder).report().findings == recording.report().findings
    return load_run(folder)


def unreported(findings):
    """The findings without what depends on when steps were processed."""
    return [
        replace(f, episodes=tuple(replace(e, reported=0) for e in f.episodes)) for f in findings
    ]


@pytest.mark.slow
def test_run_is_the_same_however_many_steps_are_processed_together(tmp_path, clock, monkeypatch):
    """Except for details: their first step must be known to start a window when it is read."""
    runs = {n: recorded(tmp_path / str(n), monkeypatch, n) for n in (1, 5, 32)}
    details = ["zero_fraction", "weight_norm", "weight_max"]
    first = runs[1]
    assert {finding.rule for finding in first.report().findings} >= {"nonfinite", "spike"}
    for n, run in runs.items():
        rest = run.windows.drop(columns=details)
        assert rest.equals(first.windows.drop(columns=details))
        assert unreported(run.report().findings) == unreported(first.report().findings)
        whole = run.windows.query("module == 'model'")
        lacking = whole["step_first"][whole["weight_norm"].isna()]
        near = [any(bad <= s <= bad + 10 + n + 1 for bad in (1900, 2204, 2350)) for s in lacking]
        assert all(near)
        assert 3 <= len(lacking) < 40


def recording_with_a_drop(folder):
    """A recorder whose gradient drops for good while steps of many windows wait."""
    recording = Recording(folder)
    take(recording, range(1, 40))
    recording.take([sample(step, 1e-6 if step > 44 else 1.0) for step in range(40, 90)])
    recording.end_epoch()
    return recording


def test_finding_is_reported_at_the_newest_step_seen(tmp_path, clock):
    recording = recording_with_a_drop(tmp_path)
    recording.close()
    run = load_run(tmp_path)
    (finding,) = recording.report().findings
    assert finding.rule == "collapse"
    (episode,) = finding.episodes
    assert (episode.step, episode.reported) == (45, 89)
    ((event, step, reported),) = run.alerts[["event", "step", "reported"]].to_numpy().tolist()
    assert (event, step, reported) == ("start", 47, 89)
    assert run.report().findings == (finding,)


def test_report_step_defaults_to_the_end_of_the_window(tmp_path, clock):
    recording_with_a_drop(tmp_path).close()
    run = load_run(tmp_path)
    (finding,) = run.report(replace(run.thresholds, collapse=2.5)).findings
    assert finding.episodes[0].reported == 47
    path = tmp_path / "gradwatch_alerts.csv"
    pd.read_csv(path).drop(columns="reported").to_csv(path, index=False)
    run = load_run(tmp_path)
    assert tuple(run.alerts.columns) == ALERT_COLUMNS
    assert run.alerts["reported"].isna().all()
    assert run.report().findings[0].episodes[0].reported == 47


def test_resumed_run_keeps_when_its_findings_were_reported(tmp_path, clock):
    first = recording_with_a_drop(tmp_path)
    first.close()
    second = Recording(tmp_path, resumes=True)
    assert second.report().findings == first.report().findings
    take(second, range(90, 100))
    second.finish()
    assert load_run(tmp_path).report().findings == second.report().findings


def test_each_episode_is_written_and_calls_the_user_at_its_start(tmp_path, clock):
    called = []
    recording = Recording(tmp_path, on_finding=called.append)
    for step in range(1, 91):
        recording.take([sample(step, np.nan if step % 30 == 1 else 1.0)])
    recording.close()
    run = load_run(tmp_path)
    assert run.alerts["event"].tolist() == ["start", "end"] * 3
    assert run.alerts["finding"].tolist() == [1] * 6
    assert [[(e.step, e.step_end) for e in finding.episodes] for finding in called] == [
        [(1, None)],
        [(1, 2), (31, None)],
        [(1, 2), (31, 32), (61, None)],
    ]
    assert run.report().findings == recording.report().findings


def run_with_two_nans(folder, **options):
    """A run of six steps with a non-finite module in two of them."""
    bad = {2: alone(0, np.nan), 4: alone(1, np.nan)}
    run_of(folder, [bad.get(step, 1.0) for step in range(1, 7)], **options)


def test_on_finding_that_raises_costs_one_warning(tmp_path, clock, caplog):
    found = []

    def notify(finding):
        found.append(finding)
        raise RuntimeError("mail server is down")

    run_with_two_nans(tmp_path, on_finding=notify)
    assert list(load_run(tmp_path).alerts["event"]) == ["start"]
    assert len(found) == 1
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_in_the_users_function_ends_the_training(tmp_path, clock, error):
    def notify(finding):
        raise error

    with pytest.raises(error):
        run_with_two_nans(tmp_path, on_finding=notify)


@pytest.fixture
def in_terminal(terminal):
    terminal()


class Stream(io.StringIO):
    """A stream that raises."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, _text):
        raise self.error


class Broken:
    """Text of ours with a bug."""

    def __init__(self, error):
        self.error = error

    def __rich_console__(self, console, options):
        raise self.error


ERRORS = [AttributeError("injected"), ValueError("injected"), OSError("injected")]


@pytest.mark.parametrize("error", [*ERRORS, RuntimeError("injected"), BrokenPipeError(32, "pipe")])
def test_error_of_the_stream_costs_only_the_text(recording, monkeypatch, tmp_path, error):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Stream(error))
        take(recording, range(1, 4))
        recording.end_epoch()
        recording.finish()
    assert load_run(tmp_path).report().status == "finished"


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("live", [False, True])
@pytest.mark.usefixtures("in_terminal")
def test_bug_in_our_text_costs_only_the_live_report(tmp_path, monkeypatch, caplog, error, live):
    monkeypatch.setattr(console, "fitted", lambda *_args: Broken(error))
    monkeypatch.setattr(terminal_output, "encodable", lambda text, _console: text)
    recording = Recording(tmp_path, live=live)
    take(recording, range(1, 4))
    recording.finish()
    (warning,) = warnings_of(caplog)
    assert "Terminal.end" in warning
    assert load_run(tmp_path).report() == recording.report()
    assert (recording.report().status, recording.pictures) == (
        "finished",
        [tmp_path / "gradwatch.png"],
    )


@pytest.mark.parametrize("error", ERRORS)
def test_bug_in_the_panel_reaches_the_guard(tmp_path, monkeypatch, terminal, error):
    terminal()
    with closing(Recording(tmp_path, live=True)) as recording, monkeypatch.context() as patch:
        patch.setattr(panel.Panel, "__rich_console__", Broken(error).__rich_console__)
        recording.take([sample(1, np.nan)])
        patch.undo()
    assert recording.raised == [error]


def test_run_killed_before_its_json_was_written_loses_no_epoch(tmp_path, clock):
    first = Recording(tmp_path)
    for epoch in (1, 2, 3):
        first.start_epoch(epoch, 3)
        first.take([sample(step, epoch=epoch) for step in range(4 * epoch - 3, 4 * epoch + 1)])
        first.end_epoch()
    first.close()
    path = tmp_path / "gradwatch.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    del meta["epochs"][1:]
    path.write_text(json.dumps({**meta, "status": "running", "last_step": 4}), encoding="utf-8")
    second = Recording(tmp_path, resumes=True)
    assert second.first_step == 13
    assert [(e.epoch, e.steps) for e in second.report().epochs] == [(1, 4), (2, 4), (3, 4)]
    second.finish()
    assert load_run(tmp_path).report().epochs == second.report().epochs
