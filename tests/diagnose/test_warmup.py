"""How long the warm-up lasts, according to learning rates and options."""

from __future__ import annotations

from dataclasses import replace

import pytest
from nets import NET, lasting, net, upstream
from rule_cases import rates

from yolo_gradwatch.diagnose.detector import Detector
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.diagnose.warmup import Warmup

RISING = [0.001 * n for n in range(1, 9)]


def warmed(course, warmup=3.0, per_epoch=8):
    """The warm-up after one-step windows with these rates; None is an unknown rate."""
    found = Warmup({"warmup_epochs": warmup})
    for n, rate in enumerate(course):
        losses = () if rate is None else rates(0.0, rate)
        found.add(replace(net(n + 1, losses=losses), epoch=1 + n // per_epoch))
    return found


def steps(found, count, per_epoch=8):
    return [n + 1 for n in range(count) if found.covers(1 + n // per_epoch, n + 1)]


@pytest.mark.parametrize(
    ("course", "warmup", "covered"),
    [
        ([0.01] * 32, 3.0, 0),
        ([*RISING, *[0.01] * 24], 3.0, 8),
        (RISING * 4, 3.0, 32),  # longer than the options say, as in some versions
        (RISING * 4, 0, 0),
        (RISING * 4, None, 0),
        ([*RISING, 0.009, 0.01, *[0.01] * 3, 0.5, *[0.5] * 18], 3.0, 9),  # a jump after it
        ([None] * 32, 3.0, 24),
    ],
)
def test_warm_up_ends_when_two_steps_of_an_epoch_have_the_same_rate(course, warmup, covered):
    assert steps(warmed(course, warmup), 32) == list(range(1, covered + 1))


def test_per_epoch_schedule_is_not_a_warm_up():
    course = [*RISING, *(0.01 - 0.001 * (n // 8) for n in range(24))]
    assert steps(warmed(course), 32) == list(range(1, 9))


@pytest.mark.parametrize(
    ("course", "covered"),
    [
        ([0.01] * 120, 3),
        ([0.01 - 0.00005 * n for n in range(120)], 3),  # a schedule
        ([0.0001 * n for n in range(1, 121)], 100),  # the minimum in some versions
    ],
)
def test_warm_up_with_one_step_an_epoch_follows_the_options_or_a_rising_rate(course, covered):
    found = warmed(course, per_epoch=1)
    assert steps(found, 120, per_epoch=1) == list(range(1, covered + 1))


def test_both_ends_of_a_wide_window_are_compared():
    found = Warmup({"warmup_epochs": 3.0})
    low, high = rates(0.001), rates(0.01)
    found.add(net(1, steps=9, losses=(replace(high[0], min=low[0].min),)))
    assert found.covers(1, 1)
    found.add(net(10, steps=9, losses=high))
    assert found.covers(1, 9)
    assert not found.covers(1, 10)


def test_alert_in_the_warm_up_is_marked():
    for course, warming in ((RISING, True), ([0.01] * 8, False)):
        detector = Detector(NET, Thresholds(), {"warmup_epochs": 1.0})
        windows = zip(lasting(8, upstream(1e-3)), course, strict=True)
        alerts = [detector.update(replace(one, losses=rates(0.0, r))) for one, r in windows][-1]
        assert {alert.warming for alert in alerts if alert.rule == "vanishing"} == {warming}
