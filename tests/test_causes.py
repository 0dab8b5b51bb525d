"""The benchmark of the causes that a trace measures, on one of its faults."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import training  # its settings of Ultralytics before those of the benchmarks

from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.measured import KINDS

pytestmark = pytest.mark.train


@pytest.fixture
def causes():
    """The script, which loads torch and ultralytics."""
    import causes

    return causes


def test_the_faults_are_many_each_in_two_models_and_a_third_was_held_out(causes):
    planted = causes.PLANTED
    assert len(planted) >= 24
    assert sum(one.is_held_out for one in planted.values()) >= len(planted) / 3
    assert set().union(*(one.kinds for one in planted.values())) <= {*KINDS, *causes.JUDGED}
    assert all(len(set(one.models)) == 2 for one in planted.values())
    assert all(
        re.compile(one.calls) and bool(one.calls) == bool(one.kinds) for one in planted.values()
    )


@pytest.mark.parametrize(
    ("kind", "name", "is_call", "is_mechanism"),
    [
        ("zeroed", "model.8", True, True),
        ("cut", "model.8", True, False),
        ("zeroed", "model.80", False, True),
    ],
)
def test_a_cause_is_right_by_its_call_and_by_its_mechanism(
    causes, kind, name, is_call, is_mechanism
):
    planted = causes.PLANTED["times-zero"]
    one = causes.Outcome("times-zero", "yolov8n", planted, "dead", Reason(kind, (name, "Around")))
    assert (one.is_call_right, one.is_mechanism_right) == (is_call, is_mechanism)
    none = replace(one, reason=None)
    assert (none.is_call_right, none.is_mechanism_right) == (False, False)
    assert replace(none, planted=causes.PLANTED["loss-spike"]).is_call_right
    assert causes.totals([one, none], "All").count("/2") == 2
    assert [len(row) for row in causes.rows([one, none])] == [7, 7]


def test_a_planted_fault_is_named(causes, monkeypatch, tmp_path):
    monkeypatch.setattr(causes, "STEPS", 16)
    training.data_folder()
    one = causes.outcome("times-zero", "yolov8n", tmp_path)
    assert (one.rule, one.reason.kind, one.reason.names[0]) == ("dead", "zeroed", "model.8")
    assert one.is_call_right
    assert one.is_mechanism_right
