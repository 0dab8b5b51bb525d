"""The benchmark of measured causes, run on one of its faults."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import training  # must configure Ultralytics before the benchmarks do

from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.measured import KINDS

pytestmark = pytest.mark.train


@pytest.fixture
def causes():
    """Import the script late: it loads torch and ultralytics."""
    import causes

    return causes


def test_at_least_24_faults_run_in_two_models_and_a_third_is_held_out(causes):
    cases = causes.CASES
    assert len(cases) >= 24
    assert sum(one.is_held_out for one in cases.values()) >= len(cases) / 3
    assert set().union(*(one.kinds for one in cases.values())) <= {*KINDS, *causes.JUDGED}
    assert all(len(set(one.models)) == 2 for one in cases.values())
    assert all(
        re.compile(one.calls) and bool(one.calls) == bool(one.kinds) for one in cases.values()
    )


@pytest.mark.parametrize(
    ("kind", "name", "is_call", "is_mechanism"),
    [
        ("zeroed", "model.8", True, True),
        ("cut", "model.8", True, False),
        ("zeroed", "model.80", False, True),
    ],
)
def test_call_and_mechanism_of_a_cause_are_scored_separately(
    causes, kind, name, is_call, is_mechanism
):
    case = causes.CASES["times-zero"]
    one = causes.Outcome("times-zero", "yolov8n", case, "dead", Reason(kind, (name, "Around")))
    assert (one.is_call_right, one.is_mechanism_right) == (is_call, is_mechanism)
    none = replace(one, reason=None)
    assert (none.is_call_right, none.is_mechanism_right) == (False, False)
    assert replace(none, case=causes.CASES["loss-spike"]).is_call_right
    assert causes.totals([one, none], "All").count("/2") == 2
    assert [len(row) for row in causes.rows([one, none])] == [7, 7]


def test_injected_fault_is_named(causes, monkeypatch, tmp_path):
    monkeypatch.setattr(causes, "STEPS", 16)
    training.data_folder()
    one = causes.outcome("times-zero", "yolov8n", tmp_path)
    assert (one.rule, one.reason.kind, one.reason.names[0]) == ("dead", "zeroed", "model.8")
    assert one.is_call_right
    assert one.is_mechanism_right
