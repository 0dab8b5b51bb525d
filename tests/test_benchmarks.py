"""The scripts of benchmarks/, on handmade recordings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import detection
import numpy as np
import other_rules
import pytest
import recordings
from detection import Alarm, Outcome
from shown import finding_of
from training import small

STEPS = 40
KINDS = {"weight": "Conv2d", "norm_weight": "BatchNorm2d", "norm_bias": "BatchNorm2d"}


def parameter(name, kind="weight", elements=100):
    return {
        "name": name,
        "module": name.rpartition(".")[0],
        "type": KINDS.get(kind, "Linear"),
        "kind": kind,
        "elements": elements,
    }


PARAMETERS = [
    *(
        one
        for n in range(3)
        for one in (
            parameter(f"model.{n}.conv.weight"),
            parameter(f"model.{n}.bn.weight", "norm_weight", 4),
            parameter(f"model.{n}.bn.bias", "norm_bias", 4),
        )
    ),
    parameter("model.3.fc.weight"),
    parameter("model.3.fc.bias", "bias", 4),
]
COLUMN = {one["name"]: column for column, one in enumerate(PARAMETERS)}


def made(change=None, steps=STEPS, **meta):
    """Return meta and arrays of a training with norms of 1, modified by ``change``."""
    size = (steps, len(PARAMETERS))
    arrays = {
        "grad_norm": np.ones(size, np.float32),
        "nonfinite": np.zeros(size, np.int32),
        "status": np.zeros(size, np.int8),
        "zero_fraction": np.zeros(size, np.float32),
        "weight_norm": np.full(size, 5.0, np.float32),
        "steps": np.stack([np.arange(steps), np.arange(steps) // 10], axis=1).astype(np.float64),
    }
    if change:
        change(arrays)
    plain = {
        "kind": "healthy",
        "accept": [],
        "onset": 0,
        "cause": [],
        "affected": [],
        "params": PARAMETERS,
        "blocks": 4,
        "edges": [[0, 1], [1, 2], [2, 3]],
        "freeze_names": [".dfl"],
        "scaler": False,
        "step_columns": ["step", "epoch"],
    }
    return {**plain, **meta}, arrays


@pytest.fixture
def save(tmp_path):
    """Write a handmade training to a file."""

    def write(change=None, name="made", **meta):
        described, arrays = made(change, **meta)
        path = tmp_path / f"{name}.npz"
        np.savez(path, meta=json.dumps(described), **arrays)
        return path

    return write


def setting(name, array, value, first=0):
    """Return a change of one array for one parameter, from a step on."""

    def change(arrays):
        arrays[array][first:, COLUMN[name]] = value

    return change


CONV = "model.1.conv.weight"


# --- recordings -----------------------------------------------------------------------------------


def test_recording_loads_as_layout_and_samples(save):
    def change(arrays):
        arrays["grad_norm"][3] = np.arange(len(PARAMETERS))
        arrays["zero_fraction"][3, COLUMN[CONV]] = 0.25
        arrays["status"][3, COLUMN["model.2.bn.bias"]] = recordings.NO_GRADIENT

    found = recordings.load(save(change))
    layout = found.layout
    assert layout.modules == (
        *("model", "model.0", "model.0.conv", "model.0.bn"),
        *("model.1", "model.1.conv", "model.1.bn"),
        *("model.2", "model.2.conv", "model.2.bn", "model.3", "model.3.fc"),
    )
    rows = zip(layout.types, layout.parameters, layout.block_of, layout.roles, strict=True)
    known = dict(zip(layout.modules, rows, strict=True))
    assert known["model.1.conv"] == ("Conv2d", 100, "model.1", "weight")
    assert known["model.1.bn"] == ("BatchNorm2d", 8, "model.1", "norm")
    assert known["model.1"][1:] == (108, "model.1", "")
    assert layout.head == "model.3"
    assert layout.edges == tuple((f"model.{n}", f"model.{n + 1}") for n in range(3))
    assert [trunk.tolist() for trunk in found.members.trunk] == [
        [COLUMN[f"model.{n}.conv.weight"]] for n in range(3)
    ]

    samples, bias = list(found.samples()), COLUMN["model.2.bn.bias"]
    assert [one.step for one in samples] == list(range(1, STEPS + 1))
    assert [one.epoch for one in samples] == [1 + n // 10 for n in range(STEPS)]
    one = samples[3]
    assert one.norms.tolist() == [0.0 if n == bias else n for n in range(len(PARAMETERS))]
    assert np.flatnonzero(one.missing).tolist() == [bias]
    assert one.frozen is None
    assert one.detail.zeros[COLUMN[CONV]] == 25
    assert (one.detail.weights.norms == 5).all()


def test_by_parameter_each_parameter_is_a_module(save):
    found = recordings.load(save(), by_parameter=True)
    roles = dict(zip(found.layout.modules, found.layout.roles, strict=True))
    owners = {name: role for name, role in roles.items() if role}
    assert set(owners) == set(COLUMN)
    assert (owners[CONV], owners["model.1.bn.bias"]) == ("weight", "norm")
    assert owners["model.1.bn.weight"] == owners["model.3.fc.bias"] == "other"


@pytest.mark.parametrize(
    ("first", "names", "is_watched"),
    [
        (0, ["model.1.conv"], False),  # frozen by the training
        *((0, [".dfl"], True), (9, ["model.1.conv"], True), (9, [], True)),
    ],
)
def test_parameters_frozen_later_or_by_the_user_are_watched(save, first, names, is_watched):
    freeze = setting(CONV, "status", recordings.FROZEN, first)
    found = recordings.load(save(freeze, freeze_names=names))
    assert ("model.1.conv" in found.layout.modules) == is_watched
    assert found.watched.sum() == len(PARAMETERS) - (not is_watched)
    one = list(found.samples())[-1]
    if is_watched:
        assert np.flatnonzero(one.frozen).tolist() == [COLUMN[CONV]]
        assert np.flatnonzero(one.missing).tolist() == [COLUMN[CONV]]


@pytest.mark.parametrize("scaler", [False, True])
def test_scaler_skips_nonfinite_steps(save, scaler):
    path = save(lambda arrays: arrays["nonfinite"].__setitem__((5, COLUMN[CONV]), 3), scaler=scaler)
    samples = list(recordings.load(path).samples())
    assert [one.step for one in samples if np.isnan(one.norms).any()] == [6]
    assert [one.step for one in samples if one.skipped] == ([6] if scaler else [])


# --- detection ------------------------------------------------------------------------------------


def fault(save, **meta):
    """Return a recording in which a block loses its gradient at a step."""
    described = {"kind": "dead", "accept": ["dead"], "onset": 12, "cause": [r"^model\.1\."]}
    return recordings.load(save(setting(CONV, "grad_norm", 0.0, 12), **{**described, **meta}))


def test_fault_is_the_only_alarm_at_the_end_of_its_window(save):
    (alarm,) = detection.ours(fault(save))
    assert alarm == Alarm(step=14, kind="dead", module="model.1.conv")
    (longer,) = detection.ours(fault(save), 5)
    assert longer.module == "model.1.conv"
    assert 12 + 3 * 5 - 1 <= longer.step <= 12 + 4 * 5
    notice = recordings.load(save(setting(CONV, "status", recordings.FROZEN, 9)))
    assert list(detection.ours(notice)) == []


def test_alarm_has_the_step_of_its_report(save, monkeypatch):
    """Use a roll-up that returns a window with the next step."""
    add = detection.Rollup.add

    def late(rollup, samples):
        waiting = rollup.__dict__.setdefault("waiting", [])
        windows, waiting[:] = list(waiting), add(rollup, samples)
        return windows

    monkeypatch.setattr(detection.Rollup, "add", late)
    (alarm,) = detection.ours(fault(save))
    assert alarm.step == 15


@pytest.mark.parametrize("window", [1, 2, 5, 20])
def test_windows_have_the_requested_length(save, monkeypatch, window):
    lengths, plain = [], detection.Diagnosis.update

    def spied(self, window, reported):
        lengths.append(window.steps)
        return plain(self, window, reported)

    monkeypatch.setattr(detection.Diagnosis, "update", spied)
    assert list(detection.ours(recordings.load(save()), window)) == []
    assert window <= min(lengths[:-1]) <= max(lengths) <= window + 1
    assert sum(lengths) == STEPS


def outcome_of(save, *alarms, **meta):
    described = {"kind": "dead", "accept": ["dead"], "onset": 10, "cause": [r"^model\.1\.conv"]}
    return Outcome(recordings.load(save(**{**described, **meta})), alarms)


@pytest.mark.parametrize(
    ("step", "kind", "module", "affected", "outcome"),
    [  # early, hit, right layer
        (9, "dead", "model.1", [], (True, False, False)),
        (10, "dead", "model.1", [], (False, True, True)),
        (10, "vanishing", "model.1", [], (False, False, False)),
        (10, "dead", "model.1.conv", [], (False, True, True)),
        (10, "dead", "model", [], (False, True, True)),
        (10, "dead", "model", ["^model.0"], (False, True, False)),  # not a fault of the whole net
        (10, "dead", "model.2", [], (False, True, True)),  # every module may be affected
        (10, "dead", "model.1.conv", ["^model.0"], (False, True, True)),
        (10, "dead", "model.0.bn", ["^model.0"], (False, True, True)),
        (10, "dead", "model.2", ["^model.0"], (False, True, False)),
        (10, "dead", "model.1.bn", ["^model.0"], (False, True, False)),
        (10, "dead", "model.10", ["^model.0"], (False, True, False)),
    ],
)
def test_outcome_is_early_or_a_hit_in_the_right_layer(  # noqa: PLR0913, PLR0917  # cases
    save, step, kind, module, affected, outcome
):
    one = outcome_of(save, Alarm(step, kind, module), affected=affected)
    assert (one.early, one.hit is not None, one.is_right) == outcome


def test_summary_of_a_tool(save):
    healthy = [
        Outcome(recordings.load(save(name="calm")), ()),
        Outcome(recordings.load(save(name="flagged")), (Alarm(3, "dead", "model.1"),)),
    ]
    reach = {"affected": ["^model.1.conv"]}
    faulty = [
        outcome_of(save, Alarm(12, "dead", "model.1"), name="found", **reach),
        outcome_of(save, Alarm(16, "dead", "model.2"), name="wrong", **reach),
        outcome_of(save, Alarm(2, "vanishing", "model"), name="missed", **reach),
    ]
    assert list(detection.summary([*healthy, *faulty]).items()) == [
        ("healthy flagged", "1/2 (50%)"),
        ("early", "1"),
        ("found", "2/3 (67%)"),
        ("right layer", "1/2 (50%)"),
        ("delay", "4, max 6"),
        *(("vanishing", "0/0"), ("exploding", "0/0"), ("nonfinite", "0/0"), ("dead", "2/3")),
    ]
    none = detection.summary(healthy)
    assert (none["found"], none["right layer"], none["delay"]) == ("-", "-", "-")


OURS = (
    "yolo_gradwatch",
    "rules over parameters",
    *(f"windows of {window} steps" for window in (2, 5, 20)),
)


@pytest.mark.parametrize("peers", [True, False])
def test_script_prints_a_line_per_tool_and_per_recording(save, monkeypatch, capsys, peers):
    folder = save(name="h").parent
    fault(save, name="d")
    save(name="a", kind="ambiguous")  # does not count
    arguments = [str(folder), "--runs" if peers else "--no-peers"]
    monkeypatch.setattr(sys, "argv", ["detection.py", *arguments])
    detection.main()
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("3 recordings, 1 of them ambiguous")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in out[1:] if "|" in line
    ]
    assert [row[0] for row in rows] == [
        "rules",
        "---",
        *OURS,
        *(other_rules.PEERS if peers else ()),
    ]
    assert {len(row) for row in rows} == {1 + len(detection.summary([]))}
    figures = dict(zip(rows[0], rows[2], strict=True))
    assert (figures["healthy flagged"], figures["found"]) == ("0/1 (0%)", "1/1 (100%)")
    if peers:
        assert out[-2].split() == ["d", "dead", "dead", "in", "model.1.conv", "after", "2", "steps"]
        assert out[-1].split() == ["h", "healthy", "silent"]


def test_script_fails_without_recordings(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["detection.py", str(tmp_path)])
    with pytest.raises(SystemExit):
        detection.main()
    assert "no *.npz recordings" in capsys.readouterr().err


# --- the rules of other tools ---------------------------------------------------------------------


def alarms_of(tool, change=None, **meta):
    return sorted(other_rules.PEERS[tool](*made(change, **meta)))


def scaled(norm, *names, first=0):
    """Return a change of the norms of parameters whose names contain one of these words."""

    def change(arrays):
        for name, column in COLUMN.items():
            if any(word in name for word in names):
                arrays["grad_norm"][first:, column] = norm

    return change


def ends(first, last):
    """Return a change of the norms of the first and the last weight."""

    def change(arrays):
        arrays["grad_norm"][:, COLUMN["model.0.conv.weight"]] = first
        arrays["grad_norm"][:, COLUMN["model.3.fc.weight"]] = last

    return change


@pytest.mark.parametrize("tool", other_rules.PEERS)
def test_norms_of_1_give_no_alarm_and_all_but_one_tool_find_nan(tool):
    def change(arrays):
        arrays["nonfinite"][0, COLUMN[CONV]] = 1
        arrays["grad_norm"][0, COLUMN[CONV]] = np.nan

    assert alarms_of(tool) == []
    if tool != "torchmortem":
        module = "model" if tool == "AutoTrainer" else "model.1.conv"
        assert alarms_of(tool, change) == [(0, "nonfinite", module)]


MEAN = np.sqrt(100) * np.sqrt(np.pi / 2)
"""Norm of 100 elements whose mean of absolute values is 1."""

RULES = {
    "SageMaker Debugger": [
        (scaled(1.01e-7 * MEAN, CONV), set()),
        (scaled(0.99e-7 * MEAN, CONV), {("vanishing", "model.1.conv")}),
        (scaled(0.0, CONV, first=38), {("dead", "model.1.conv")}),  # to the tool's advantage
        (setting(CONV, "status", recordings.NO_GRADIENT), set()),
        (setting(CONV, "status", recordings.FROZEN), set()),
    ],
    "AutoTrainer": [
        (ends(71.0, 1.0), {("exploding", "model")}),
        (ends(69.0, 1.0), set()),
        (ends(0.9e-4, 1.0), {("vanishing", "model")}),
        (ends(1.1e-4, 1.0), set()),
        (ends(0.9e-4, 1e-2), set()),  # not far enough below the last
        (lambda arrays: arrays["zero_fraction"].fill(0.69), set()),  # of the whole gradient
        (lambda arrays: arrays["zero_fraction"].fill(0.71), {("dead", "model")}),
    ],
    "neural-observatory": [  # the mean over the run
        (scaled(1e-5, CONV), set()),
        (scaled(0.9e-6, CONV), {("vanishing", "model.1.conv")}),  # six decades below the highest
        (scaled(0.0, CONV), {("dead", "model.1.conv")}),
        (scaled(1.5e4, CONV), set()),
        (scaled(1.6e4, CONV), {("exploding", "model.1.conv")}),
        (scaled(0.11, CONV, first=30), set()),  # of the last quarter
        (scaled(0.09, CONV, first=30), {("vanishing", "model.1.conv")}),
        (scaled(1e9, ".bn."), set()),  # norm layers are left out
    ],
    "torchmortem": [
        (scaled(0.02, "model.0.conv.weight"), set()),  # the first is not far below the last
        (scaled(999.0, CONV, first=38), set()),
        (scaled(1001.0, CONV, first=38), {("exploding", "model.1.conv")}),
        (scaled(0.9e-8, CONV, first=28), {("vanishing", "model.1.conv")}),  # a third of the steps
        (scaled(0.9e-8, CONV, first=29), set()),
        (scaled(1.1e-8, CONV), set()),
        (scaled(0.0, CONV), {("dead", "model.1.conv")}),
    ],
}


@pytest.mark.parametrize("tool", RULES)
def test_rules_of_other_tools_fire_at_their_limits(tool):
    for number, (change, expected) in enumerate(RULES[tool]):
        assert {alarm[1:] for alarm in alarms_of(tool, change)} == expected, number


def test_alarm_steps_of_other_tools():
    assert [step for step, *_ in alarms_of("SageMaker Debugger", scaled(0.0, CONV, first=38))] == [
        *(38, 39)
    ]
    sampled = alarms_of("SageMaker Debugger, sampled", scaled(0.0, CONV), steps=1001)
    assert [step for step, *_ in sampled] == [0, 500, 1000]  # the tool's default
    whole = alarms_of("neural-observatory", scaled(0.0, CONV))
    assert [step for step, *_ in whole] == [STEPS - 1]
    assert len(alarms_of("torchmortem", scaled(1001.0, CONV, first=STEPS - 2))) == 2
    weakest = alarms_of("torchmortem", scaled(0.01, "model.0.conv.weight"))
    assert {kind for _, kind, _ in weakest} == {"vanishing"}
    assert len(weakest) == 3
    assert (STEPS - 1, "vanishing", "model.0.conv") in weakest


# --- what the findings advise ---------------------------------------------------------------------


def test_trials_use_existing_faults_and_rules():
    import remedies
    from more_faults import MORE

    from yolo_gradwatch.demo.faults import FAULTS
    from yolo_gradwatch.diagnose.catalog import RULES

    faults = {**FAULTS, **MORE}
    assert {trial.fault for trial in remedies.TRIALS} <= set(faults)
    assert {trial.rule for trial in remedies.TRIALS} <= set(RULES)
    assert {name for name, fault in FAULTS.items() if fault.rule} <= {
        trial.fault for trial in remedies.TRIALS
    }


@pytest.mark.parametrize(
    ("remedy", "first"),
    [
        ("Try A in B, C, and D.", "Try A in B"),
        ("Try A; if that does not help, B.", "Try A"),
        ("Clipping limits that step. Look for A, or B.", "Look for A"),
    ],
)
def test_first_advice_of_a_message(remedy, first):
    import remedies

    assert remedies.first_advice(remedy) == first


FALLING, RISING = (4.0, 3.0, 2.0, 1.0), (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("left", "losses", "phrase", "helped"),
    [
        ([[]], FALLING, "an epsilon", "yes"),
        ([["spike"], []], FALLING, "an epsilon", "with advice 2"),
        ([["nonfinite"]] * 2, FALLING, "an epsilon", "no"),
        ([[], []], RISING, "an epsilon", "no"),
        (
            [[], []],
            tuple(2 * loss for loss in FALLING),
            "an epsilon",
            "no",
        ),  # far above the control
        ([[]], FALLING, "a clamp", "no"),  # not the first advice of the message
    ],
)
def test_criteria_for_a_remedy_that_helped(monkeypatch, left, losses, phrase, helped):
    import remedies
    import repairs

    def outcome(rules, losses, *words):
        found = tuple(finding_of(rule, "model.4") for rule in rules)
        return remedies.Outcome(found, losses, words)

    control = outcome(["dead_branch"], FALLING)
    faulty = outcome(["nonfinite"], RISING, "Try an epsilon, or a clamp.")
    coming = iter([faulty, *(outcome([*rules, "dead_branch"], losses) for rules in left)])
    monkeypatch.setattr(remedies, "trained", lambda *_: next(coming))
    trial = remedies.Trial("root", "nonfinite", dict.fromkeys((phrase, "more"), repairs.NOTHING))
    assert [*remedies.tried(trial, control, 4)][-1] == helped


@pytest.mark.full
@pytest.mark.train
def test_remedy_is_applied(monkeypatch):
    import remedies

    from yolo_gradwatch.demo.faults import FAULTS

    monkeypatch.setattr(remedies.Outcome, "is_as_good_as", lambda *_: True)  # would take more steps
    found = next(trial for trial in remedies.TRIALS if trial.fault == "root")
    by_its_judge = {"find that operation": next(iter(found.advice.values()))}  # no trace in 4 steps
    trial = replace(found, model=small(), advice=by_its_judge)
    control = remedies.trained(FAULTS["healthy"], trial.model, 4)
    row = dict(zip(remedies.COLUMNS, remedies.tried(trial, control, 4), strict=True))
    assert row["finding"] == "`nonfinite` model.4"
    assert row["first advice"] == next(iter(trial.advice))
    assert (row["alarms after"], row["helped"]) == ("none", "yes")


# --- on CUDA --------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]
PARTS = ["Tests", "One reading", "Steps of a training", "Waits for the device"]
PARTS += ["Memory over the steps", "With compile=True"]


@pytest.mark.train
def test_cuda_command_runs_without_cuda():
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "benchmarks.cuda", "--small"]
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("## On CUDA, 20")
    assert [line.removeprefix("### ") for line in lines if line[:3] == "###"] == PARTS
    assert done.stdout.lower().count("needs cuda") == 3
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:2] == "| "]
    first = [row[0] for row in rows if row[0] != "---"]
    late = "on, as at step 5,000"
    assert first == [
        *("model", "yolo26n", "watch", "off", "on", late),
        *("way", "bare run", "yolo_gradwatch", "watch", "off", "on", "compile", "False"),
    ]
    assert float(rows[2][-3].replace(",", "")) > 0  # the host's share of a reading
    assert rows[-1][1:4:2] == ["4 of 4", "finished"]


@pytest.fixture
def cuda(monkeypatch):
    """Load modules of the command by name."""
    monkeypatch.syspath_prepend(str(ROOT))

    def load(name):
        return pytest.importorskip(f"benchmarks.cuda.{name}")

    return load


def event(kind, name, span, thread=1, correlation=None):
    args = {} if correlation is None else {"correlation": correlation}
    begin, length = span
    return {"cat": kind, "name": name, "ts": begin, "dur": length, "tid": thread, "args": args}


def test_device_time_counts_launches_inside_our_calls(cuda):
    steps = cuda("steps")
    events = [
        event("user_annotation", steps.MARK, (100, 50)),
        event("user_annotation", steps.MARK, (110, 5)),  # within the first
        event("user_annotation", steps.MARK, (300, 10), thread=2),
        event("user_annotation", "another", (400, 50)),
        event("cuda_driver", "cuLaunchKernel", (120, 2), correlation=1),
        event("cuda_runtime", "cudaMemcpyAsync", (149, 2), correlation=2),
        event("cuda_runtime", "cudaLaunchKernel", (305, 2), correlation=3),  # on another thread
        event("cuda_runtime", "cudaLaunchKernel", (305, 2), thread=2, correlation=4),
        event("cuda_runtime", "cudaLaunchKernel", (420, 2), correlation=5),
        event("kernel", "read", (500, 7), thread=9, correlation=1),
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", (510, 3), thread=9, correlation=2),
        event("kernel", "void at::add<float>(int)", (520, 11), thread=9, correlation=3),
        event("kernel", "read", (530, 5), thread=9, correlation=4),
        event("kernel", "void at::add<float>(int)", (540, 13), thread=9, correlation=5),
        {"ph": "M", "name": "process_name"},
    ]
    found = steps.device_time({"traceEvents": events})
    assert found["read"] == (2, pytest.approx(12e-6))
    assert found["Memcpy DtoH (Device -> Pinned)"] == (1, pytest.approx(3e-6))
    assert len(found) == 2
    assert steps.short("void at::add<float>(int)") == "add"
    assert steps.short("Memcpy DtoH (Device -> Pinned)") == "Memcpy DtoH"


def test_waits_are_counted_inside_and_outside_our_calls(cuda):
    waits, modes = cuda("waits"), []

    def mode(name):
        modes.append(name)
        warnings.warn("Synchronization debug mode is a prototype", stacklevel=1)

    def wait(times):
        for _ in range(times):
            warnings.warn(f"{waits.MESSAGE} CUDA operation", stacklevel=1)

    one = waits.Waits(mode)
    inner = one.marked(lambda: wait(2))
    outer = one.marked(lambda: (wait(1), inner()))
    one.start()
    wait(4)
    outer()
    with pytest.warns(UserWarning, match="prototype"):
        one.stop()
    assert (one.count, one.inside, modes) == (7, 3, ["warn", "default"])


def test_summary_counts_the_tests_that_ran(cuda):
    printed = [
        "collecting ... collected 9 items",
        "tests/measure/test_a.py::test_one[as it is] PASSED                  [ 11%]",
        "tests/measure/test_a.py::test_one[in a view] FAILED                 [ 22%]",
        "tests/test_b.py::test_two SKIPPED (no CUDA device)                  [ 33%]",
        "tests/test_b.py::test_three ",
        "ERROR tests/test_c.py - ModuleNotFoundError: No module named 'plotly'",
    ]
    marked = cuda("marked")
    counts, *failed = marked.summary(printed, "; cut short")
    assert counts == "Tests marked `gpu`: 1 passed, 1 failed, 1 error, 1 skipped; cut short."
    assert failed == [
        "- failed: `tests/measure/test_a.py::test_one[in a view]`",
        "- failed: `tests/test_c.py`, ModuleNotFoundError: No module named 'plotly'",
    ]
    assert "none ran: usage" in marked.summary(["usage"])[0]


ENDS = {
    "it hangs": ("import time; time.sleep(60)", "Cut short after 2 s."),
    "it fails": ("raise ValueError('why')", "Failed: ValueError: why"),
    "it is killed": ("import os; os.kill(os.getpid(), 9)", "Failed: exit code -9"),
    "it ends": ("pass", ""),
}


@pytest.mark.parametrize("end", ENDS)
def test_output_of_a_part_is_kept_however_it_ends(cuda, tmp_path, monkeypatch, end):
    command, popen = cuda("__main__"), subprocess.Popen
    path, (script, words) = tmp_path / "section.md", ENDS[end]
    script = f"open({str(path)!r}, 'w').write('| a row |'); {script}"

    def start(_command, **options):
        return popen([sys.executable, "-c", script], **options)

    monkeypatch.setattr(command.subprocess, "Popen", start)
    assert command._run_apart("reading", path, 2.0 if end == "it hangs" else 60.0).strip() == words
    assert path.read_text() == "| a row |"
