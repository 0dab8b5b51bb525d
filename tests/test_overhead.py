"""The scripts of benchmarks/ that measure what watching costs."""

import sys
from types import SimpleNamespace

import machine
import numpy as np
import pytest
import simulation
import training  # its settings of Ultralytics before those of the benchmarks
from values import LAYOUT, MEMBERS

from yolo_gradwatch import load_run


@pytest.fixture
def overhead():
    """The script, which loads torch and ultralytics."""
    import overhead

    return overhead


@pytest.fixture
def clock(monkeypatch, overhead):
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(overhead, "time", clock)
    return clock


def spend(clock, seconds, *calls):
    """A function that takes so long, besides those that it calls."""

    def call():
        clock.now += seconds
        return [each() for each in calls]

    return call


def test_a_part_counts_without_the_parts_within_it(clock, overhead):
    steps = overhead.StepClock()
    meter = overhead.Meter(steps)
    inner = meter._timed("rules", spend(clock, 0.3))
    middle = meter._timed("roll-up", spend(clock, 0.2, inner, inner))
    outer = meter._timed("the rest", spend(clock, 0.1, middle))
    for _ in range(2):
        steps.tick(None)
        outer()
    share = meter.share(range(1, 5))  # two steps with something, two without
    told = {part: round(seconds, 6) for part, seconds in share.items() if seconds}
    assert told == {"rules": 0.3, "roll-up": 0.1, "the rest": 0.05}
    assert sum(meter.share(range(2, 3)).values()) == pytest.approx(0.9)


def test_a_part_that_fails_counts_too(clock, overhead):
    meter = overhead.Meter(overhead.StepClock())

    def fail():
        clock.now += 1.0
        raise OSError("planted")

    with pytest.raises(OSError, match="planted"):
        meter._timed("file", fail)()
    assert meter.seconds["file"] == {0: 1.0}


def test_a_collection_of_garbage_is_no_part_of_ours(overhead, clock):
    meter = overhead.Meter(overhead.StepClock())

    def collect():
        clock.now += 0.2
        meter._collect("start", {})
        clock.now += 5.0
        meter._collect("stop", {})

    meter._timed("rules", collect)()
    collect()  # outside of us
    told = {part: sum(found.values()) for part, found in meter.seconds.items() if found}
    assert told == {"rules": pytest.approx(0.2), overhead.GARBAGE: pytest.approx(5.0)}
    assert overhead._ours(meter.share(range(1))) == pytest.approx(0.2)


def test_everything_is_as_before_after_measuring(overhead):
    doors = [(owner, name) for found in overhead.PARTS.values() for owner, name in found]
    before = [vars(owner).get(name) for owner, name in doors]
    with overhead.Meter(overhead.StepClock()).measuring():
        during = [vars(owner).get(name) for owner, name in doors]
    assert not set(before) & set(during)
    assert [vars(owner).get(name) for owner, name in doors] == before


def measured(overhead, first, steady, own):
    parts = dict.fromkeys([*overhead.PARTS, overhead.GARBAGE], 0.0)
    return overhead.Measured(
        first=first,
        steady=steady,
        own_first=[own] * len(first),
        own_steady=[own] * len(steady),
        parts=[{**parts, "capture": own} for _ in steady],
        device=[dict.fromkeys(overhead.DEVICE_PARTS, 0.0) for _ in steady],
    )


def test_the_table_has_pairs_and_shares(overhead):
    chosen = SimpleNamespace(
        model="yolo26n.yaml",
        imgsz=160,
        batch=4,
        device="cpu",
        amp=False,
        rounds=2,
        steps=60,
        begin_at=1,
    )
    off = measured(overhead, [0.1, 0.2], [0.1, 0.2], 0.0)
    on = measured(overhead, [0.11, 0.2], [0.101, 0.204], 0.0015)
    text = overhead.report(chosen, {"off": off, "on": on})
    row = next(line for line in text.splitlines() if line.startswith("| on |"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[2] == "152 (101 to 204)"
    assert cells[4] == "1.015 (1.010 to 1.020)"
    assert cells[6] == "1.00 %"
    assert "| on | 1500 | 0 |" in text


def test_a_run_of_the_first_steps_only_has_no_steady_state(overhead):
    clock = overhead.StepClock()
    clock.begins = [float(n) for n in range(12)]
    one = overhead.Measured()
    one.add(clock, overhead.Meter(clock))
    assert (one.first, one.steady, one.parts) == ([1.0], [], [])


@pytest.mark.train
def test_a_training_is_measured_in_turns(overhead, monkeypatch, capsys):
    options = [
        "--model",
        training.small(),
        "--imgsz",
        "64",
        "--steps",
        "8",
        "--rounds",
        "1",
        "--watches",
        "off,everything",
    ]
    options += ["--begin-at", "5000"]
    monkeypatch.setattr(sys, "argv", ["overhead.py", *options])
    overhead.main()
    text = capsys.readouterr().out
    assert text.startswith("## Overhead on ")
    rows = [line for line in text.splitlines() if line.startswith(("| off", "| everything"))]
    assert len(rows) == 2
    assert "| 0.00 % |" in rows[0]
    assert "| 0.00 % |" not in rows[1]


def test_a_simulated_training_leaves_a_run_and_its_figures(tmp_path):
    recorder = simulation.recorder_of(tmp_path, LAYOUT, MEMBERS)
    inside = simulation.simulate(recorder, simulation.pool_of(MEMBERS), 3000)
    recorder.finish("finished")
    recorder.close()
    assert inside > 0
    run = load_run(tmp_path)
    whole = run.windows.query("module == 'model'")
    assert whole["steps"].sum() == 3000
    assert whole["skipped"].sum() == simulation.SKIPS
    assert whole["epoch"].max() == simulation.EPOCHS


def test_the_memory_of_this_process_is_told():
    assert 20 < machine.peak_memory() < 24_000


def test_median_and_range():
    assert machine.spread([3.0, 1.0, 2.0]) == "2 (1 to 3)"
    assert machine.table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    text = machine.heading("Title", ("numpy",), "a note")
    assert f"numpy {np.__version__}; a note." in text
