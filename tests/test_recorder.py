"""When the recorder looks at the steps that have landed."""

import io
import json
import sys
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
from short import told
from values import LAYOUT, MEMBERS, sample

from yolo_gradwatch import console, load_run, recorder
from yolo_gradwatch.recorder import MOST_WAITING, WAIT_SECONDS, Options, Recorder, Training
from yolo_gradwatch.records import Detail

FAR = 1_000_001  # a step so late that a window holds 20,000 steps


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(recorder, "time", clock)
    return clock


def begin(folder, *, live=False, **options):
    """A recorder in its first epoch."""
    training = Training(folder, {"amp": False}, epochs=1, resumes=False, versions={}, handlers=[])
    begun = Recorder(LAYOUT, MEMBERS, training, Options(live=live, **options))
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


class Sink:
    """Notes what it is asked, and raises in its first ``write`` or in ``close``."""

    def __init__(self, *raises):
        self.raises, self.calls = raises, []

    def write(self, _scalars, step):
        self.calls.append(step)
        if "write" in self.raises:
            raise OSError("no connection")

    def close(self):
        self.calls.append("close")
        if "close" in self.raises:
            raise OSError("no connection")


def served(folder, *, bad=(2, 4), **options):
    """A run of six steps, of which some are not finite."""
    with closing(begin(folder, **options)) as recording:
        for step in range(1, 7):
            norms = np.ones(len(MEMBERS.elements))
            if step in bad:
                norms[bad.index(step)] = np.nan  # a module each, which makes it worse
            recording.take([sample(step, norms)])
        recording.finish("finished")


def test_a_sink_that_raises_is_closed_once_and_the_others_go_on(tmp_path, clock, caplog):
    good, bad, last = Sink(), Sink("write"), Sink("close")
    served(tmp_path, sinks=(good, bad, last))
    assert bad.calls == [1, "close"]
    assert good.calls == last.calls == [*range(1, 7), "close"]
    assert ["write" in one for one in told(caplog)] == [True, False]


def test_an_on_finding_that_raises_costs_one_warning(tmp_path, clock, caplog):
    found, sink = [], Sink()

    def notify(finding):
        found.append(finding)
        raise RuntimeError("mail server is down")

    served(tmp_path, on_finding=notify, sinks=(sink,))
    assert list(load_run(tmp_path).alerts["event"]) == ["start", "worse"]
    assert len(found) == 1
    assert len(told(caplog)) == 1
    assert sink.calls == [*range(1, 7), "close"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_in_a_function_of_the_users_ends_the_training(tmp_path, clock, error):
    def notify(finding):
        raise error

    with pytest.raises(error):
        served(tmp_path, on_finding=notify)


class Stream(io.StringIO):
    """A stream that raises."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, _text):
        raise self.error


class Broken:
    """A text of ours in which there is a bug."""

    def __init__(self, error):
        self.error = error

    def __rich_console__(self, console, options):
        raise self.error


ERRORS = [AttributeError("planted"), ValueError("planted"), OSError("planted")]


@pytest.mark.parametrize("error", [*ERRORS, RuntimeError("planted"), BrokenPipeError(32, "pipe")])
def test_what_the_stream_raises_costs_the_text_only(recording, monkeypatch, tmp_path, error):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Stream(error))
        take(recording, range(1, 4))
        recording.end_epoch()
        recording.finish("finished")
    assert load_run(tmp_path).report().status == "finished"


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("live", [False, True])
def test_a_bug_in_a_text_of_ours_is_no_empty_report(tmp_path, monkeypatch, terminal, error, live):
    """It comes through to the net, with and without a panel below the text."""
    terminal()
    monkeypatch.setattr(console, "fitted", lambda *_args: Broken(error))
    monkeypatch.setattr(console, "encodable", lambda text, _console: text)
    with (
        closing(begin(tmp_path, live=live)) as recording,
        pytest.raises(type(error), match="planted"),
    ):
        recording.finish("finished")


@pytest.mark.parametrize("error", ERRORS)
def test_a_bug_in_the_panel_is_told_by_the_line_above_it(tmp_path, monkeypatch, terminal, error):
    terminal()
    with closing(begin(tmp_path, live=True)) as recording, monkeypatch.context() as patch:
        patch.setattr(console.Panel, "__rich_console__", Broken(error).__rich_console__)
        with pytest.raises(type(error), match="planted"):
            recording.take([sample(1, np.nan)])
        patch.undo()
