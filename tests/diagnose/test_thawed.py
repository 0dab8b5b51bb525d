"""A run whose layers thaw mid-training remembers how it started."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from nets import NET, lasting
from rule_cases import items, rates
from values import grown

from yolo_gradwatch.diagnose.diagnosis import Diagnosis, replay
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.windows import narrowed, widened

THAW = 31


def diagnosed(windows, training=None):
    """The findings, which must be the same live and in a replay."""
    part, whole = grown(NET, THAW)
    live = Diagnosis(part, Thresholds(), training or {})
    for one in windows:
        if one.step_first == THAW:
            live.regroup(whole)
            live.restart()
        live.update(one if one.step_first >= THAW else narrowed(one, NET, part))
    again = Diagnosis(whole, Thresholds(), training or {})
    replay(again, windows, [Event(1, "start"), Event(THAW, "thaw")])
    assert again.findings.all == live.findings.all
    return live.findings.all.values()


def found_of(windows):
    return {(one.rule, one.step) for one in diagnosed(windows)}


def windows_of(norm, loss):
    """A net whose norm and loss fall at step 31, when block 0 thaws."""
    part, whole = grown(NET, THAW)
    absent = [name for name in whole.modules if name not in part.modules]
    begun = lasting(THAW - 1, {WHOLE: 50.0}, unknown=absent, losses=items(cls=2.0))
    return [*begun, *lasting(20, {WHOLE: norm}, first=THAW, losses=items(cls=loss))]


@pytest.mark.parametrize(
    ("loss", "rule"), [(1e-3, "converged"), (1.0, "total_low")], ids=["solved", "a high loss"]
)
def test_training_solved_after_a_thaw_is_not_a_fault(loss, rule):
    assert found_of(windows_of(1e-5, loss)) == {(rule, THAW)}


def test_weights_that_grew_since_the_start_are_destroyed_despite_a_thaw():
    windows = windows_of(1e-5, 1e-3)
    large = [replace(o, weight_norm=o.weight_norm * np.float32(10)) for o in windows[THAW - 1 :]]
    assert ("total_low", THAW) in found_of([*windows[: THAW - 1], *large])


def test_too_large_weights_are_found_in_layers_that_thaw():
    windows = windows_of(50.0, 2.0)
    large = [replace(o, weight_norm=o.weight_norm * np.float32(100)) for o in windows]
    assert ("large_weights", 1) in found_of(large)


@pytest.mark.parametrize(("rate", "is_warming"), [(0.01, False), (None, True)])
def test_warm_up_that_ended_before_a_thaw_stays_over(rate, is_warming):
    known = () if rate is None else rates(rate)
    windows = [replace(o, losses=known if o.step_first < THAW else ()) for o in windows_of(1e8, 1)]
    (finding,) = diagnosed(windows, {"warmup_epochs": 3.0})
    assert (finding.rule, finding.step, finding.warming) == ("total_high", THAW, is_warming)


def test_modules_have_no_values_in_windows_before_they_were_watched():
    part, whole = grown(NET, THAW)
    (window,) = lasting(1, {WHOLE: 3.0}, zero={"model.1.a": 1}, layout=part)
    wide = widened(window, part, whole)
    back = narrowed(wide, whole, part)
    rows = [m for m, name in enumerate(whole.modules) if name not in part.modules]
    assert np.isnan(wide.norm_mean[rows]).all()
    assert not wide.zero[rows].any()
    for name in ("norm_mean", "zero", "weight_norm"):
        np.testing.assert_array_equal(getattr(back, name), getattr(window, name))
