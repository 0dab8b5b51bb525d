from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import NET, feed, lasting, skips
from rule_cases import anything
from values import LAWS, LAYOUT, runs, window

from yolo_gradwatch.diagnose.detector import Detector
from yolo_gradwatch.diagnose.rules import growth, hop, low
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.weighing import RARELY

FEW = settings(LAWS, max_examples=15)


STARTED = ("large_weights", "initial_loss", "total_low", "converged", "stray_step")
"""Rules that compare with the start of the run, which a restart does not change."""


def alerts_after_forgetting(before, after):
    """The alerts of the windows after a detector forgot the ones before."""
    detector = Detector(NET, Thresholds(), {})
    for one in before:
        detector.update(one)
    detector.forget()
    return [detector.update(one) for one in after]


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lasting(2, zero=["model.1.a"]), lasting(2, first=3, zero=["model.1.a"])),
        (lasting(30), lasting(5, dict.fromkeys(NET.modules[1:], 1e3), first=31)),
        (lasting(30), lasting(5, dict.fromkeys(NET.modules[1:], 1e-4), first=31)),
        (skips(12), skips(1, 13)),
    ],
)
def test_forgotten_windows_no_longer_count(before, after):
    assert (
        alerts_after_forgetting(before, after)
        == feed(after)
        != feed([*before, *after])[len(before) :]
    )


@pytest.mark.slow
@FEW
@given(st.integers(0, 10**6), st.integers(0, 30))
def test_after_forgetting_the_detector_acts_as_new(seed, length):
    windows = list(anything(seed))
    both = alerts_after_forgetting(windows[:length], windows[length:]), feed(windows[length:])
    found = (
        [[a for a in each if a.rule not in {*STARTED, "small_weights"}] for each in alerts]
        for alerts in both
    )
    assert next(found) == next(found)


@pytest.mark.parametrize(
    ("limits", "kept"),
    [({}, 120), ({"dead_branch_windows": 1}, 120), ({"dead_windows": 180}, 180)],
)
def test_memory_is_bounded_and_long_enough_for_every_rule(limits, kept):
    detector = Detector(LAYOUT, Thresholds(amp_grace=9, **limits), {})
    for step in range(1, 210):
        detector.update(window(step))
    assert len(detector._readings) == kept
    assert len(detector._marks) == 200
    for step in range(30):
        detector.update(window(step, skipped=1))
    assert len(detector._skipped) == 10
    longest = (hop.HOPS[0], hop.JUMPS[0], low.LOW_WINDOWS)
    assert kept >= max(*longest, growth.GROWTH_WINDOWS + 1, RARELY)


# --- laws -----------------------------------------------------------------------------------------


@pytest.mark.slow
@FEW
@given(st.integers(0, 10**6), st.integers(0, 30), runs())
def test_alerts_of_a_prefix_are_a_prefix_of_the_alerts(seed, length, run):
    for windows, layout in ((list(anything(seed)), NET), (run[0], LAYOUT)):
        prefix = feed(windows[:length], layout=layout)
        assert prefix == feed(windows, layout=layout)[:length]
