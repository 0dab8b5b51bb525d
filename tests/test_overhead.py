"""The benchmarks that measure the overhead of the watch."""

import re
import sys
from types import SimpleNamespace

import machine
import numpy as np
import pytest
import simulation
import training  # must configure Ultralytics before the benchmarks do
from values import LAYOUT, MEMBERS

from yolo_gradwatch import load_run


@pytest.fixture
def overhead():
    """Import the script late: it loads torch and ultralytics."""
    import overhead

    return overhead


@pytest.fixture
def clock(monkeypatch, overhead):
    import meter

    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(meter, "time", clock)
    return clock


def spend(clock, seconds, *calls):
    """Return a function that takes ``seconds``, plus the time of the calls inside."""

    def call():
        clock.now += seconds
        return [each() for each in calls]

    return call


def test_time_of_nested_parts_is_excluded(clock, overhead):
    steps = overhead.StepClock()
    meter = overhead.Meter(steps)
    inner = meter._timed("rules", spend(clock, 0.3))
    middle = meter._timed("roll-up", spend(clock, 0.2, inner, inner))
    outer = meter._timed("the rest", spend(clock, 0.1, middle))
    for _ in range(2):
        steps.tick(None)
        outer()
    share = meter.share(range(1, 5))  # two steps with calls, two without
    spent = {part: round(seconds, 6) for part, seconds in share.items() if seconds}
    assert spent == {"rules": 0.3, "roll-up": 0.1, "the rest": 0.05}
    assert sum(meter.share(range(2, 3)).values()) == pytest.approx(0.9)


def test_garbage_collection_is_not_part_of_our_share(overhead, clock):
    meter = overhead.Meter(overhead.StepClock())

    def collect():
        clock.now += 0.2
        meter._collect("start", {})
        clock.now += 5.0
        meter._collect("stop", {})

    meter._timed("rules", collect)()
    collect()  # outside our code
    spent = {part: sum(found.values()) for part, found in meter.seconds.items() if found}
    assert spent == {"rules": pytest.approx(0.2), overhead.GARBAGE: pytest.approx(5.0)}
    assert overhead._ours(meter.share(range(1))) == pytest.approx(0.2)


def test_measuring_restores_all_functions(overhead):
    functions = [(owner, name) for found in overhead.PARTS.values() for owner, name in found]
    before = [vars(owner).get(name) for owner, name in functions]
    with overhead.Meter(overhead.StepClock()).measuring():
        during = [vars(owner).get(name) for owner, name in functions]
    assert not set(before) & set(during)
    assert [vars(owner).get(name) for owner, name in functions] == before


def test_short_training_has_no_steady_state(overhead):
    clock, one = overhead.StepClock(), overhead.Measured()
    clock.begins = [float(n) for n in range(12)]
    one.add(clock, overhead.Meter(clock))
    assert (one.first, one.steady, one.parts) == ([1.0], [], [])


def test_net_time_is_less_what_the_clip_saves(overhead, clock):
    trainings = {}  # steps of a second each
    for name, own, clip in (("off", 0.0, 0.03), ("on", 0.02, 0.025)):
        steps = overhead.StepClock()
        meter = overhead.Meter(steps)
        for _ in range(overhead.FIRST):
            steps.tick(None)
            meter._timed("capture", spend(clock, own))()
            meter._clipping(spend(clock, clip))()
        steps.begins = [float(n) for n in range(overhead.FIRST + 1)]
        trainings[name] = overhead.Measured()
        trainings[name].add(steps, meter)
    on = overhead._steps_table(trainings, trainings["off"]).splitlines()[-1]
    inside, net = on.split(" | ")[-4::2]
    assert (inside, net) == ("2.00 %", "1.50 %")


@pytest.mark.full
@pytest.mark.train
def test_bare_and_watched_trainings_alternate(overhead, monkeypatch, capsys):
    """Measure pairs of a bare and a watched training: step times and seconds of our parts."""
    options = ["--model", training.small(), "--imgsz", "64", "--steps", "60", "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", ["overhead.py", *options, "--watches", "off,everything"])
    overhead.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("## Overhead on ")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:2] == "| "]
    assert [row[0] for row in rows if row[0] != "---"] == [
        *("watch", "off", "everything", "watch", "everything")
    ]
    (_, off, on), (parts, microseconds) = rows[0:1] + rows[2:4], (rows[4], rows[6])
    for ratio in (on[3], on[4]):
        median, low, high = map(float, re.findall(r"[\d.]+", ratio))
        assert 0 < low <= median <= high
    assert off[3:] == [*["1.000 (1.000 to 1.000)"] * 2, *["0.00 %"] * 4]
    assert all(float(share.removesuffix(" %")) > 0 for share in on[5:7])
    assert {*overhead.PARTS, overhead.GARBAGE} <= set(parts)
    assert float(microseconds[parts.index("capture")]) > 0


@pytest.mark.slow
def test_simulated_training_writes_a_run(tmp_path):
    recorder = simulation.recorder_of(tmp_path, LAYOUT, MEMBERS)
    inside = simulation.simulate(recorder, simulation.pool_of(MEMBERS), 3000)
    recorder.end("finished")
    recorder.close()
    assert inside > 0
    run = load_run(tmp_path)
    whole = run.windows.query("module == 'model'")
    assert whole["steps"].sum() == 3000
    assert whole["skipped"].sum() == simulation.SKIPS
    assert whole["epoch"].max() == simulation.EPOCHS


def test_peak_memory_of_this_process():
    assert 20 < machine.peak_memory() < 24_000


def test_spread_table_and_heading():
    assert machine.spread([3.0, 1.0, 2.0]) == "2 (1 to 3)"
    assert machine.table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    text = machine.heading("Title", ("numpy",), "a note")
    assert f"numpy {np.__version__}; a note." in text
