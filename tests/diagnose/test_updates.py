"""The rules about parameters that have a gradient but do not change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from nets import NET, costing, fired, inside, net, resting

from yolo_gradwatch.diagnose.detector import Detector
from yolo_gradwatch.diagnose.diagnosis import Diagnosis
from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.optimizer import Group, Optimizer

CONV, BN = "model.4.conv", "model.4.bn"
OUTSIDE = Optimizer("SGD", (Group(0.01, 0.0, 9, 90),), outside=("model.1.a.w", "model.5.conv.w"))


def test_parameters_outside_the_optimizer_are_one_finding_from_the_first_step_on():
    diagnosis = Diagnosis(NET, Thresholds(), {})
    diagnosis.membership(OUTSIDE)
    (change,) = diagnosis.update(net(1))
    finding = change.finding
    assert (finding.rule, finding.severity, finding.step) == ("not_updated", "critical", 1)
    assert finding.module == "model.5.conv"
    assert finding.modules == ("model.1.a", "model.5.conv")
    assert finding.reason == Reason("outside", OUTSIDE.outside, rank=2)
    assert not diagnosis.update(net(2))


def test_message_has_the_number_of_parameters_outside():
    diagnosis = Diagnosis(NET, Thresholds(), {})
    diagnosis.membership(replace(OUTSIDE, elements_outside=20))
    (change,) = diagnosis.update(net(1))
    assert change.finding.reason == Reason("outside", OUTSIDE.outside, (20.0,), rank=2)
    assert change.finding.is_measured


def test_outside_parameter_without_a_gradient_is_left_to_another_rule():
    found = fired([net(1, none=["model.1.a"])], "not_updated", optimizer=OUTSIDE)
    assert [alert.module for alert in found] == ["model.5.conv"]


def test_parameter_of_the_model_itself_is_named_as_the_model():
    alone = replace(OUTSIDE, outside=("scale",))
    assert [a.module for a in fired([net(1)], "not_updated", optimizer=alone)] == ["model"]


def test_module_without_updates_is_named_with_others_in_its_block():
    windows = [
        with_tiny_gradients(resting(n, CONV, BN, "model.2.conv"), BN, "model.2.conv")
        for n in (1, 2, 3)
    ]
    assert [alert.module for alert in fired(windows, "not_updated")] == [CONV, BN]


def with_tiny_gradients(one, *names):
    """A window in which these modules have a gradient too small to change a float32 weight."""
    norms = one.norm_min.copy()
    norms[[NET.modules.index(name) for name in names]] = 1e-6
    return replace(one, norm_min=norms)


def resting_windows(**changes):
    return [resting(n, CONV, **changes) for n in (1, 2, 3)]


@pytest.mark.parametrize(
    "windows",
    [
        resting_windows()[:2],
        resting_windows(ratio=1e-12),
        resting_windows(lr=0.0),
        resting_windows(lr=1e-9),
        resting_windows(zero=[CONV]),
        resting_windows(none=[CONV]),
        resting_windows(unknown=[CONV]),
        [*resting_windows()[:2], resting(3)],
        [replace(one, losses=()) for one in resting_windows()],
        [with_tiny_gradients(one, CONV) for one in resting_windows()],
        [resting(n, *NET.modules) for n in (1, 2, 3)],
        [
            resting(n, *inside(NET, *(f"model.{b}" for b in (0, 1, 2, 4)), "model.6"))
            for n in (1, 2, 3)
        ],
    ],
)
def test_healthy_reasons_for_a_module_without_updates(windows):
    assert not fired(windows, "not_updated")


def test_windows_without_a_measured_update_do_not_count():
    unread = [replace(net(n), update_ratio=np.full(len(NET.modules), np.nan)) for n in range(9)]
    windows = [one for each in resting_windows() for one in (each, *unread)]
    assert [alert.module for alert in fired(windows, "not_updated")] == [CONV]


def test_group_with_a_rate_of_zero_is_a_notice_and_no_alarm():
    groups = (Group(0.1, 0.0, 9, 90), Group(0.0, 0.0, 1, 10))
    moved = Optimizer("SGD", groups, zero_rate=(f"{CONV}.weight",))
    windows = [
        replace(o, losses=(*o.losses, replace(o.losses[0], item="lr/1", min=0.0)))
        for o in resting_windows()
    ]
    assert not fired(windows, "not_updated", optimizer=moved)
    detector = Detector(NET, Thresholds(), {})
    (alert,) = detector.update(net(1), moved)
    assert (alert.rule, alert.module) == ("zero_rate", CONV)
    assert alert.reason == Reason("zero rate", (f"{CONV}.weight",), rank=1)
    other = replace(moved, zero_rate=("model.2.conv.weight",))
    assert [a.module for a in fired(windows, "not_updated", optimizer=other)] == [CONV]


def test_expected_update_includes_the_clip():
    windows = [costing(one, lr=1e-3) for one in resting_windows()]
    assert fired(windows, "not_updated")
    loud = [replace(one, norm_max=one.norm_max * 1000) for one in windows]
    assert not fired(loud, "not_updated")
