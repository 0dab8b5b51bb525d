"""The scripts of benchmarks/ on recordings made by hand."""

from __future__ import annotations

import json
import sys

import detection
import numpy as np
import other_rules
import pytest
import recordings
from detection import Alarm, Outcome

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
    """Meta and arrays of a training in which every norm is 1, but for what ``change`` does."""
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
    """Write a training by hand to a file."""

    def write(change=None, name="made", **meta):
        described, arrays = made(change, **meta)
        path = tmp_path / f"{name}.npz"
        np.savez(path, meta=json.dumps(described), **arrays)
        return path

    return write


def setting(name, array, value, first=0):
    """A change of one array for one parameter, from a step on."""

    def change(arrays):
        arrays[array][first:, COLUMN[name]] = value

    return change


CONV = "model.1.conv.weight"


# --- recordings -----------------------------------------------------------------------------------


def test_a_recording_is_read_as_the_layout_that_a_watch_would_see(save):
    found = recordings.load(save())
    assert found.name == "made"
    layout = found.layout
    assert layout.modules == (
        *("model", "model.0", "model.0.conv", "model.0.bn"),
        *("model.1", "model.1.conv", "model.1.bn"),
        *("model.2", "model.2.conv", "model.2.bn", "model.3", "model.3.fc"),
    )
    assert layout.roles[:4] == ("", "", "weight", "norm")
    assert dict(zip(layout.modules, layout.roles, strict=True))["model.3.fc"] == "weight"
    assert dict(zip(layout.modules, layout.parameters, strict=True))["model.1"] == 108
    assert dict(zip(layout.modules, layout.block_of, strict=True))["model.1.bn"] == "model.1"
    assert dict(zip(layout.modules, layout.types, strict=True))["model.1.bn"] == "BatchNorm2d"
    assert layout.head == "model.3"
    assert layout.edges == (
        ("model.0", "model.1"),
        ("model.1", "model.2"),
        ("model.2", "model.3"),
    )
    assert found.members.trunk[1].tolist() == [COLUMN[CONV]]
    assert len(found.members.trunk) == 3


def test_over_parameters_each_is_a_module_of_its_own(save):
    found = recordings.load(save(), by_parameter=True)
    roles = dict(zip(found.layout.modules, found.layout.roles, strict=True))
    owners = {name: role for name, role in roles.items() if role}
    assert set(owners) == set(COLUMN)
    assert owners[CONV] == "weight"
    assert owners["model.1.bn.bias"] == "norm"
    assert owners["model.1.bn.weight"] == owners["model.3.fc.bias"] == "other"


def test_samples_have_the_numbers_of_the_file(save):
    def change(arrays):
        arrays["grad_norm"][3] = np.arange(len(PARAMETERS))
        arrays["zero_fraction"][3, COLUMN[CONV]] = 0.25
        arrays["status"][3, COLUMN["model.2.bn.bias"]] = recordings.NO_GRADIENT

    samples = list(recordings.load(save(change)).samples())
    assert [one.step for one in samples] == list(range(1, STEPS + 1))
    assert [one.epoch for one in samples] == [1 + n // 10 for n in range(STEPS)]
    one = samples[3]
    bias = COLUMN["model.2.bn.bias"]
    assert one.norms.tolist() == [0.0 if n == bias else n for n in range(len(PARAMETERS))]
    assert np.flatnonzero(one.missing).tolist() == [bias]
    assert one.frozen is None
    assert one.detail.zeros[COLUMN[CONV]] == 25
    assert (one.detail.weight_norms == 5).all()


def test_what_the_training_froze_itself_is_not_watched(save):
    freeze = setting(CONV, "status", recordings.FROZEN)
    found = recordings.load(save(freeze, freeze_names=["model.1.conv"]))
    assert "model.1.conv" not in found.layout.modules
    assert found.watched.sum() == len(PARAMETERS) - 1


@pytest.mark.parametrize(("first", "names"), [(0, [".dfl"]), (9, ["model.1.conv"]), (9, [])])
def test_what_was_frozen_later_or_by_someone_else_is_watched(save, first, names):
    freeze = setting(CONV, "status", recordings.FROZEN, first)
    found = recordings.load(save(freeze, freeze_names=names))
    assert "model.1.conv" in found.layout.modules
    one = list(found.samples())[-1]
    assert np.flatnonzero(one.frozen).tolist() == [COLUMN[CONV]]
    assert np.flatnonzero(one.missing).tolist() == [COLUMN[CONV]]


@pytest.mark.parametrize("scaler", [False, True])
def test_a_scaler_skips_what_is_not_finite(save, scaler):
    path = save(lambda arrays: arrays["nonfinite"].__setitem__((5, COLUMN[CONV]), 3), scaler=scaler)
    samples = list(recordings.load(path).samples())
    assert [one.step for one in samples if np.isnan(one.norms).any()] == [6]
    assert [one.step for one in samples if one.skipped] == ([6] if scaler else [])


# --- detection ------------------------------------------------------------------------------------


def fault(save, first=12, **meta):
    """A recording of which a block loses its gradient at a step."""
    change = setting(CONV, "grad_norm", 0.0, first)
    described = {"kind": "dead", "accept": ["dead"], "onset": first, "cause": [r"^model\.1\."]}
    return recordings.load(save(change, **{**described, **meta}))


def test_a_healthy_recording_has_no_alarm(save):
    (one,) = detection.judged([recordings.load(save())], detection.ours)
    assert one.alarms == ()
    assert one.hit is None
    assert not one.early


def test_a_fault_is_found_at_the_end_of_its_window(save):
    found = fault(save)
    (alarm,) = detection.ours(found)
    assert alarm == Alarm(step=14, kind="dead", module="model.1.conv")
    (longer,) = detection.ours(found, 5)
    assert longer.module == "model.1.conv"
    assert 12 + 3 * 5 - 1 <= longer.step <= 12 + 4 * 5


def test_a_fault_is_found_when_it_is_reported(save, monkeypatch):
    monkeypatch.setattr(detection.Rollup, "add", late(detection.Rollup.add))
    (alarm,) = detection.ours(fault(save))
    assert alarm.step == 15


def late(add):
    """A roll-up that hands a window over with the step after it."""

    def added(rollup, samples):
        waiting = rollup.__dict__.setdefault("waiting", [])
        windows, waiting[:] = list(waiting), add(rollup, samples)
        return windows

    return added


def test_windows_are_as_long_as_asked_for(save, monkeypatch):
    lengths = []
    plain = detection.Diagnosis.update

    def spied(self, window, reported):
        lengths.append(window.steps)
        return plain(self, window, reported)

    monkeypatch.setattr(detection.Diagnosis, "update", spied)
    for window in (1, 2, 5, 20):
        lengths.clear()
        assert list(detection.ours(recordings.load(save()), window)) == []
        assert window <= min(lengths[:-1]) <= max(lengths) <= window + 1
        assert sum(lengths) == STEPS


def test_a_notice_is_no_alarm(save):
    found = recordings.load(save(setting(CONV, "status", recordings.FROZEN, 9)))
    assert list(detection.ours(found)) == []


def outcome_of(save, *alarms, **meta):
    described = {"kind": "dead", "accept": ["dead"], "onset": 10, "cause": [r"^model\.1\.conv"]}
    return Outcome(recordings.load(save(**{**described, **meta})), alarms)


def test_an_alarm_before_the_fault_is_early_and_no_hit(save):
    one = outcome_of(save, Alarm(9, "dead", "model.1"), Alarm(10, "dead", "model.1"))
    assert one.early
    assert one.hit.step == 10
    assert outcome_of(save, Alarm(9, "dead", "model.1")).hit is None
    assert not outcome_of(save, Alarm(10, "dead", "model.1")).early


def test_an_alarm_of_another_kind_is_no_hit(save):
    other = Alarm(10, "vanishing", "model.1")
    assert outcome_of(save, other).hit is None
    assert outcome_of(save, other, accept=["dead", "vanishing"]).hit == other


@pytest.mark.parametrize(
    ("module", "affected", "right"),
    [
        ("model.1.conv", [], True),
        ("model.1", [], True),
        ("model", [], True),
        ("model", ["^model.0"], False),  # only a fault of the whole net is the whole net's
        ("model.2", [], True),  # nothing is known to be unaffected
        ("model.1.conv", ["^model.0"], True),
        ("model.0.bn", ["^model.0"], True),
        ("model.2", ["^model.0"], False),
        ("model.1.bn", ["^model.0"], False),
        ("model.10", ["^model.0"], False),
    ],
)
def test_the_right_layer_holds_a_parameter_that_the_fault_reaches(save, module, affected, right):
    assert outcome_of(save, Alarm(10, "dead", module), affected=affected).is_right is right


def test_without_a_hit_no_layer_is_right(save):
    assert not outcome_of(save).is_right


def test_ambiguous_recordings_count_nowhere(save):
    runs = [recordings.load(save(name=kind, kind=kind)) for kind in ("healthy", "ambiguous")]
    assert [o.recording.name for o in detection.judged(runs, detection.ours)] == ["healthy"]


def test_the_figures_of_a_tool(save):
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
    assert detection.summary([*healthy, *faulty]) == {
        "healthy flagged": "1/2 (50%)",
        "early": "1",
        "found": "2/3 (67%)",
        "right layer": "1/2 (50%)",
        "delay": "4, max 6",
        "vanishing": "0/0",
        "exploding": "0/0",
        "nonfinite": "0/0",
        "dead": "2/3",
    }


def test_the_figures_of_nothing(save):
    figures = detection.summary([Outcome(recordings.load(save()), ())])
    assert (figures["found"], figures["right layer"], figures["delay"]) == ("-", "-", "-")


OURS = (
    "yolo_gradwatch",
    "rules over parameters",
    *(f"windows of {window} steps" for window in (2, 5, 20)),
)


def run_main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["detection.py", *map(str, arguments)])
    detection.main()


def test_the_script_prints_a_line_a_tool_and_a_line_a_recording(save, monkeypatch, capsys):
    folder = save(name="h").parent
    fault(save, name="d")
    save(name="a", kind="ambiguous")
    run_main(monkeypatch, folder, "--runs")
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("3 recordings, 1 of them ambiguous")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out[1:-2]]
    assert [row[0] for row in rows] == ["rules", "---", *OURS, *other_rules.PEERS]
    assert {len(row) for row in rows} == {1 + len(detection.summary([]))}
    figures = dict(zip(rows[0], rows[2], strict=True))
    assert (figures["healthy flagged"], figures["found"]) == ("0/1 (0%)", "1/1 (100%)")
    assert out[-2].split() == ["d", "dead", "dead", "in", "model.1.conv", "after", "2", "steps"]
    assert out[-1].split() == ["h", "healthy", "silent"]


def test_the_script_can_leave_the_peers_out(save, monkeypatch, capsys):
    run_main(monkeypatch, save().parent, "--no-peers")
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 + len(OURS)


def test_the_script_needs_recordings(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run_main(monkeypatch, tmp_path)
    assert "no *.npz recordings" in capsys.readouterr().err


# --- the rules of other tools ---------------------------------------------------------------------


def alarms_of(tool, change=None, **meta):
    return sorted(other_rules.PEERS[tool](*made(change, **meta)))


def scaled(norm, *names, first=0):
    """Other norms for the parameters whose names contain one of these words."""

    def change(arrays):
        for name, column in COLUMN.items():
            if any(word in name for word in names):
                arrays["grad_norm"][first:, column] = norm

    return change


@pytest.mark.parametrize("tool", other_rules.PEERS)
def test_every_norm_of_1_alarms_nobody(tool):
    assert alarms_of(tool) == []


@pytest.mark.parametrize("tool", [name for name in other_rules.PEERS if name != "torchmortem"])
def test_nan_is_found_by_every_tool_that_looks_for_it(tool):
    def change(arrays):
        arrays["nonfinite"][0, COLUMN[CONV]] = 1
        arrays["grad_norm"][0, COLUMN[CONV]] = np.nan

    (alarm,) = alarms_of(tool, change)
    assert alarm[:2] == (0, "nonfinite")
    assert alarm[2] == ("model" if tool == "AutoTrainer" else "model.1.conv")


@pytest.mark.parametrize(("mean", "kinds"), [(1.01e-7, set()), (0.99e-7, {"vanishing"})])
def test_sagemaker_looks_at_the_mean_of_absolute_values(mean, kinds):
    norm = mean * np.sqrt(100) * np.sqrt(np.pi / 2)  # of 100 elements
    found = alarms_of("SageMaker Debugger", scaled(norm, CONV))
    assert {kind for _, kind, _ in found} == kinds
    assert {module for _, _, module in found} <= {"model.1.conv"}


def test_sagemaker_calls_exact_zeros_what_helps_it_and_skips_missing_gradients():
    found = alarms_of("SageMaker Debugger", scaled(0.0, CONV, first=38))
    assert found == [(38, "dead", "model.1.conv"), (39, "dead", "model.1.conv")]
    assert alarms_of("SageMaker Debugger", setting(CONV, "status", recordings.NO_GRADIENT)) == []
    assert alarms_of("SageMaker Debugger", setting(CONV, "status", recordings.FROZEN)) == []


def test_sagemaker_as_shipped_sees_every_500th_step_only():
    found = alarms_of("SageMaker Debugger, sampled", scaled(0.0, CONV), steps=1001)
    assert [step for step, *_ in found] == [0, 500, 1000]


@pytest.mark.parametrize(
    ("first", "last", "kinds"),
    [
        (1.0, 1.0, set()),
        (71.0, 1.0, {"exploding"}),
        (69.0, 1.0, set()),
        (0.9e-4, 1.0, {"vanishing"}),
        (1.1e-4, 1.0, set()),
        (0.9e-4, 1e-2, set()),  # not so far below the last
    ],
)
def test_autotrainer_compares_the_first_weight_with_the_last(first, last, kinds):
    def change(arrays):
        arrays["grad_norm"][:, COLUMN["model.0.conv.weight"]] = first
        arrays["grad_norm"][:, COLUMN["model.3.fc.weight"]] = last

    found = alarms_of("AutoTrainer", change)
    assert {kind for _, kind, _ in found} == kinds
    assert {module for _, _, module in found} <= {"model"}


@pytest.mark.parametrize(("share", "kinds"), [(0.69, set()), (0.71, {"dead"})])
def test_autotrainer_counts_zeros_of_the_whole_gradient(share, kinds):
    found = alarms_of("AutoTrainer", lambda arrays: arrays["zero_fraction"].fill(share))
    assert {kind for _, kind, _ in found} == kinds


@pytest.mark.parametrize(
    ("norm", "kinds"),
    [
        (1e-5, set()),
        (0.9e-6, {"vanishing"}),  # six decades below the highest
        (0.0, {"dead"}),
        (1.5e4, set()),
        (1.6e4, {"exploding"}),
    ],
)
def test_neural_observatory_judges_the_mean_over_the_run(norm, kinds):
    found = alarms_of("neural-observatory", scaled(norm, CONV))
    assert {kind for _, kind, _ in found} == kinds
    assert {(step, module) for step, _, module in found} <= {(STEPS - 1, "model.1.conv")}


@pytest.mark.parametrize(("norm", "kinds"), [(0.11, set()), (0.09, {"vanishing"})])
def test_neural_observatory_sees_a_last_quarter_below_a_tenth(norm, kinds):
    found = alarms_of("neural-observatory", scaled(norm, CONV, first=30))
    assert {kind for _, kind, _ in found} == kinds


def test_neural_observatory_leaves_norm_layers_out():
    assert alarms_of("neural-observatory", scaled(1e9, ".bn.")) == []


def test_torchmortem_names_the_weakest_layers_when_the_first_is_far_below_the_last():
    weak = "model.0.conv.weight"
    assert alarms_of("torchmortem", scaled(0.02, weak)) == []
    found = alarms_of("torchmortem", scaled(0.01, weak))
    assert {kind for _, kind, _ in found} == {"vanishing"}
    assert len(found) == 3
    assert (STEPS - 1, "vanishing", "model.0.conv") in found


@pytest.mark.parametrize(("norm", "count"), [(999.0, 0), (1001.0, 2)])
def test_torchmortem_has_a_highest_norm(norm, count):
    found = alarms_of("torchmortem", scaled(norm, CONV, first=STEPS - 2))
    assert [(kind, module) for _, kind, module in found] == [("exploding", "model.1.conv")] * count


@pytest.mark.parametrize(
    ("norm", "first", "kinds"),
    [(0.9e-8, 28, {"vanishing"}), (0.9e-8, 29, set()), (1.1e-8, 0, set()), (0.0, 0, {"dead"})],
)
def test_torchmortem_calls_a_layer_stalled_on_a_third_of_the_steps(norm, first, kinds):
    found = alarms_of("torchmortem", scaled(norm, CONV, first=first))
    assert {kind for _, kind, _ in found} == kinds
