"""Recorded trainings, healthy and faulty, through the real roll-up and the real rules."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from values import Part, plan

from yolo_gradwatch.detect import Detector
from yolo_gradwatch.findings import common_name
from yolo_gradwatch.records import Sample
from yolo_gradwatch.rollup import Rollup
from yolo_gradwatch.thresholds import Thresholds

TRACES = Path(__file__).parents[2] / "shared" / "traces"

pytestmark = pytest.mark.skipif(
    not TRACES.is_dir(), reason="the recordings lie beside the repository, not in it"
)

MISSING, FROZEN = 1, 2  # values of `status`

IN_THE_TRUNK = {
    "d01_v8n_dyingrelu_b3",
    "d02_26n_dyingrelu_inner",
    "d03_26n_detach_b10",
    "d04_v8n_detach_b4_at40",
    "d05_11n_unused",
    "d08_26n_gamma0_stuck",
    "d12_26n_zerograd_at40",
    "d13_11n_nogrid_b9",
    "d14_v8n_weight0_at40",
    "d16_26ncls_detach_b3",
    "d17_v8n_dyingrelu_b7",
}
"""Dead recordings whose dead modules lie in front of the head."""


def names(pattern):
    return [path.stem for path in sorted(TRACES.glob(f"{pattern}.npz"))]


def recording(name):
    with np.load(TRACES / f"{name}.npz") as file:
        found = {key: file[key] for key in file.files}
    return json.loads(str(found.pop("meta"))), found


def on_paper(meta, trained):
    """The layout of a recorded model, and how its trained parameters make it up."""
    parameters = [
        parameter for parameter, keep in zip(meta["params"], trained, strict=True) if keep
    ]
    parts = [Part(p["module"], p["elements"], p["kind"] == "weight") for p in parameters]
    blocks = [f"model.{n}" for n in range(meta["blocks"])]
    edges = [(blocks[source], blocks[target]) for source, target in meta["edges"]]
    return plan(parts, blocks, edges)


def samples(meta, arrays, trained):
    status, nonfinite = arrays["status"][:, trained], arrays["nonfinite"][:, trained] > 0
    missing = status == MISSING
    norms = np.where(nonfinite, np.nan, np.where(missing, 0.0, arrays["grad_norm"][:, trained]))
    epoch = arrays["steps"][:, meta["step_columns"].index("epoch")].astype(int)
    for t in range(len(norms)):
        yield Sample(
            epoch=int(epoch[t]) + 1,
            step=t + 1,
            norms=norms[t].astype(np.float64),
            missing=missing[t],
            skipped=bool(meta["scaler"] and nonfinite[t].any()),
        )


def replay(name):
    """The recording's label, its layout, and (0-based step, alert) for each alarm."""
    meta, arrays = recording(name)
    trained = ~(arrays["status"] == FROZEN).all(axis=0)
    layout, members = on_paper(meta, trained)
    rollup, detector = Rollup(members), Detector(layout, Thresholds())
    windows = [one for each in samples(meta, arrays, trained) for one in rollup.add(each)]
    alarms = [
        (one.step_last - 1, alert)
        for one in windows + rollup.close()
        for alert in detector.update(one)
        if alert.severity != "notice"
    ]
    return meta, layout, alarms


def test_all_recordings_are_there():
    assert [len(names(pattern)) for pattern in ("h*", "d*", "n*")] == [45, 17, 7]


@pytest.mark.parametrize("name", names("h*"))
def test_a_healthy_recording_has_no_alarm(name):
    meta, _, alarms = replay(name)
    assert meta["kind"] == "healthy"
    assert alarms == []


def named(layout, alarms):
    """The module that a finding of the first alarms is named after."""
    first = alarms[0][0]
    return common_name(layout, tuple(alert.module for step, alert in alarms if step == first))


def is_right(meta, name):
    """Whether the fault was planted in, or reaches, a parameter below the named module."""
    below = [p["name"] for p in meta["params"] if f"{p['module']}.".startswith(f"{name}.")]
    patterns = [*meta["cause"], *meta["affected"]]
    return name == "model" or any(re.search(one, path) for one in patterns for path in below)


@pytest.mark.parametrize("name", names("n*"))
def test_a_nonfinite_recording_is_found_from_its_onset_on_and_not_before(name):
    meta, layout, alarms = replay(name)
    assert meta["kind"] == "nonfinite"
    assert {alert.rule for _, alert in alarms} == {"nonfinite"}
    assert alarms[0][0] == meta["onset"]
    assert is_right(meta, named(layout, alarms))


@pytest.mark.parametrize("name", names("d*"))
def test_a_dead_recording_is_not_found_before_its_onset(name):
    meta, _, alarms = replay(name)
    assert all(step >= meta["onset"] for step, _ in alarms)
    assert {alert.rule for _, alert in alarms} <= {"dead", "no_gradient"}


@pytest.mark.parametrize("name", sorted(IN_THE_TRUNK))
def test_a_dead_trunk_is_found(name):
    meta, layout, alarms = replay(name)
    assert meta["kind"] == "dead"
    assert alarms, "not found"
    assert is_right(meta, named(layout, alarms))
