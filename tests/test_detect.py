from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from values import HEAD, LAWS, LAYOUT, MEMBERS, TRUNK, Part, plan, runs, sample, window

from yolo_gradwatch.detect import ALARMS, RULES, Detector, matches
from yolo_gradwatch.records import Alert, Finding
from yolo_gradwatch.rollup import Rollup
from yolo_gradwatch.thresholds import Thresholds

CONV = "model.1.conv"


def alerts_of(windows, limits=None, layout=LAYOUT):
    """The alerts of each window."""
    detector = Detector(layout, limits or Thresholds())
    return [detector.update(one) for one in windows]


def modules(alerts, rule):
    return [alert.module for alert in alerts if alert.rule == rule]


def skips(count, first=1, **sick):
    """Windows of one step each that AMP skipped."""
    return [window(first + n, skipped=1, **sick) for n in range(count)]


def finding(rule, severity="critical"):
    return Finding(1, rule, severity, CONV, (CONV,), 1, 1, None, 1.0, 0.0, "")


def test_the_vocabulary_of_rules():
    assert {name: (rule.kind, rule.severity) for name, rule in RULES.items()} == {
        "nonfinite": ("nonfinite", "critical"),
        "amp_overflow": ("", "notice"),
        "dead": ("dead", "critical"),
        "no_gradient": ("dead", "critical"),
    }


def test_alarms_are_the_rules_and_kinds_that_are_no_notice():
    assert ALARMS == ("dead", "no_gradient", "nonfinite")


def test_a_healthy_window_is_silent():
    assert alerts_of([window(step) for step in range(1, 30)]) == [[]] * 29


@pytest.mark.parametrize(("steps", "found"), [(0, []), (1, [CONV]), (2, [CONV])])
def test_a_nonfinite_step_that_was_applied(steps, found):
    (alerts,) = alerts_of([window(1, steps=5, nonfinite={CONV: steps})])
    assert modules(alerts, "nonfinite") == found


def test_a_nonfinite_alert_says_how_many_steps():
    (alerts,) = alerts_of([window(7, steps=5, epoch=2, nonfinite={CONV: 3})])
    assert alerts == [Alert("nonfinite", "critical", CONV, 2, 7, 3.0, 0.0)]


def test_nonfinite_names_leaves_in_forward_order():
    (alerts,) = alerts_of(
        [window(1, nonfinite=["model", "model.1", CONV, "model.2", "model.2.b", "model.0.bn"])]
    )
    assert modules(alerts, "nonfinite") == ["model.0.bn", CONV, "model.2.b"]


@pytest.mark.parametrize("count", [1, 11, 12])
def test_few_skipped_steps_are_calibration(count):
    alerts = alerts_of(skips(count, unknown=[CONV]))[-1]
    assert [(alert.rule, alert.severity) for alert in alerts] == [("amp_overflow", "notice")]


@pytest.mark.parametrize("count", [13, 14, 30])
def test_too_many_skipped_steps_in_a_row_are_nonfinite(count):
    alerts = alerts_of([window(1), *skips(count, first=2, unknown=[CONV, "model.1"])])[-1]
    assert [(alert.rule, alert.module) for alert in alerts] == [("nonfinite", CONV)]
    assert alerts[0].value > alerts[0].limit == 12.0


@pytest.mark.parametrize(
    ("grace", "rule"), [(3, "amp_overflow"), (2, "nonfinite"), (1, "nonfinite")]
)
def test_the_grace_is_a_threshold(grace, rule):
    alerts = alerts_of(skips(3), Thresholds(amp_grace=grace))[-1]
    assert [alert.rule for alert in alerts] == [rule]


@pytest.mark.parametrize(("steps", "rule"), [(12, "amp_overflow"), (13, "nonfinite")])
def test_skipped_steps_of_one_wide_window_count_each(steps, rule):
    (alerts,) = alerts_of([window(1, steps=steps, skipped=steps)])
    assert [(alert.rule, alert.module) for alert in alerts] == [(rule, "model")]


def test_an_applied_step_ends_a_row_of_skipped_ones():
    windows = [*skips(12), window(13), *skips(12, first=14)]
    assert not any(modules(alerts, "nonfinite") for alerts in alerts_of(windows))


def test_a_window_with_an_applied_step_ends_a_row_of_skipped_ones():
    windows = [*skips(10), window(11, steps=100, skipped=99), window(111, steps=3, skipped=3)]
    assert not any(modules(alerts, "nonfinite") for alerts in alerts_of(windows))


def test_a_row_of_skipped_steps_begins_with_its_first_window():
    windows = [window(1), *skips(12, first=2), window(14, steps=4, skipped=4, epoch=3)]
    (alert,) = alerts_of(windows)[-1]
    assert (alert.step, alert.epoch, alert.value) == (2, 1, 16.0)


def test_the_whole_model_is_named_where_no_leaf_stands_out():
    alerts = alerts_of(skips(13))[-1]
    assert modules(alerts, "nonfinite") == ["model"]


def test_a_module_without_a_gradient_is_not_blamed_for_an_overflow():
    layout, members = plan([Part("model.0"), Part("unused"), Part("model.1")])
    rollup = Rollup(members)
    skipped = [
        sample(step, [np.inf, 0, 1], size=3, missing=[False, True, False], skipped=True)
        for step in range(1, 14)
    ]
    applied = sample(0, [1, 0, 1], size=3, missing=[False, True, False])
    windows = [one for each in [applied, *skipped] for one in rollup.add(each)]
    assert modules(alerts_of(windows, layout=layout)[-1], "nonfinite") == ["model.0"]


@pytest.mark.parametrize(("skipped", "found"), [(0, []), (1, ["model"]), (4, ["model"])])
def test_a_skipped_step_is_a_notice(skipped, found):
    (alerts,) = alerts_of([window(3, steps=5, skipped=skipped)])
    assert modules(alerts, "amp_overflow") == found
    assert all(alert.severity == "notice" for alert in alerts)


def test_a_notice_says_how_many_steps():
    (alerts,) = alerts_of([window(3, steps=5, skipped=2)])
    assert alerts == [Alert("amp_overflow", "notice", "model", 1, 3, 2.0, 12.0)]


PERSISTENT = [("dead", "zero"), ("no_gradient", "none")]


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
@pytest.mark.parametrize(("windows", "found"), [(2, []), (3, [CONV]), (4, [CONV])])
def test_a_trunk_module_that_stands_still(rule, count, windows, found):
    sick = [window(step, **{count: [CONV]}) for step in range(1, windows + 1)]
    alerts = alerts_of(sick)[-1]
    assert modules(alerts, rule) == found
    assert len(alerts) == len(found)


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
@pytest.mark.parametrize(("limit", "found"), [(4, [CONV]), (5, [CONV]), (6, [])])
def test_the_patience_is_a_threshold(rule, count, limit, found):
    sick = [window(step, **{count: [CONV]}) for step in range(1, 6)]
    assert modules(alerts_of(sick, Thresholds(dead_windows=limit))[-1], rule) == found


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
def test_a_persistent_alert_begins_with_its_first_window(rule, count):
    sick = [window(10 * n, steps=10, epoch=n, **{count: [CONV]}) for n in range(1, 5)]
    assert alerts_of(sick)[-1] == [Alert(rule, "critical", CONV, 2, 20, 3.0, 3.0)]


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
@pytest.mark.parametrize(("steps", "found"), [(6, []), (7, [CONV])])
def test_one_step_with_a_gradient_is_a_sign_of_life(rule, count, steps, found):
    sick = [window(7 * n + 1, steps=7, **{count: [CONV]}) for n in range(2)]
    sick.append(window(15, steps=7, **{count: {CONV: steps}}))
    assert modules(alerts_of(sick)[-1], rule) == found


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
def test_a_window_with_a_gradient_begins_the_count_anew(rule, count):
    windows = [window(step, **{count: [] if step == 3 else [CONV]}) for step in range(1, 7)]
    found = [modules(alerts, rule) for alerts in alerts_of(windows)]
    assert found == [[], [], [], [], [], [CONV]]


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
def test_zero_in_the_head_and_in_containers_is_silent(rule, count):
    sick = [window(step, **{count: ["model", "model.1", *HEAD]}) for step in range(1, 60)]
    assert not any(alerts_of(sick))


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
def test_every_leaf_of_the_trunk_is_judged(rule, count):
    sick = [window(step, **{count: LAYOUT.modules}) for step in range(1, 4)]
    assert modules(alerts_of(sick)[-1], rule) == list(TRUNK)


def test_zero_now_and_none_then_is_neither():
    windows = [window(n, **{("zero", "none")[n % 2]: [CONV]}) for n in range(1, 9)]
    assert not any(alerts_of(windows))


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
@pytest.mark.parametrize("skipped", [1, 9, 12])
def test_windows_that_amp_skipped_are_passed_over(rule, count, skipped):
    sick = {count: [CONV]}
    windows = [window(1, **sick), *skips(skipped, first=2), window(50, **sick), window(51, **sick)]
    assert modules(alerts_of(windows)[-1], rule) == [CONV]


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
def test_an_alert_stands_while_amp_skips(rule, count):
    sick = [window(step, **{count: [CONV]}) for step in (1, 2, 3)]
    found = [modules(alerts, rule) for alerts in alerts_of([*sick, *skips(12, first=4)])]
    assert found == [[], [], *[[CONV]] * 13]


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
def test_a_long_patience_is_not_lost_to_a_skipped_step_now_and_then(rule, count):
    windows = [
        window(step, **({"skipped": 1} if step % 10 == 0 else {count: [CONV]}))
        for step in range(1, 60)
    ]
    assert modules(alerts_of(windows, Thresholds(dead_windows=20))[-1], rule) == [CONV]


def test_a_step_that_amp_skipped_in_a_window_does_not_excuse():
    sick = [window(5 * n + 1, steps=5, skipped=2, zero=[CONV]) for n in range(3)]
    assert modules(alerts_of(sick)[-1], "dead") == [CONV]


def test_modules_outside_the_list_of_blocks_are_judged():
    layout, _ = plan([Part("unused"), Part("model.0"), Part("model.1")])
    sick = [window(step, none=["unused"], layout=layout) for step in (1, 2, 3)]
    assert modules(alerts_of(sick, layout=layout)[-1], "no_gradient") == ["unused"]


@pytest.mark.parametrize(
    ("rule", "words", "found"),
    [
        ("dead", ("dead",), True),
        ("no_gradient", ("dead",), True),
        ("no_gradient", ("no_gradient",), True),
        ("dead", ("no_gradient",), False),
        ("nonfinite", ("dead", "nonfinite"), True),
        ("nonfinite", (), False),
    ],
)
def test_rules_and_kinds_match(rule, words, found):
    assert matches(finding(rule), words) is found


@pytest.mark.parametrize("words", [("amp_overflow",), ("",), ALARMS, tuple(RULES)])
def test_a_notice_never_matches(words):
    assert not matches(finding("amp_overflow", "notice"), words)


def test_what_is_forgotten_counts_no_more():
    detector = Detector(LAYOUT, Thresholds())
    for step in (1, 2):
        detector.update(window(step, zero=[CONV]))
    detector.forget()
    assert [bool(detector.update(window(step, zero=[CONV]))) for step in (3, 4, 5)] == [
        False,
        False,
        True,
    ]


def test_skipped_steps_are_forgotten():
    detector = Detector(LAYOUT, Thresholds())
    for one in skips(12):
        detector.update(one)
    detector.forget()
    assert modules(detector.update(window(13, skipped=1)), "amp_overflow") == ["model"]


@LAWS
@given(runs(), st.integers(0, 40))
def test_alerts_of_a_prefix_are_a_prefix(run, length):
    windows, _ = run
    assert alerts_of(windows[:length]) == alerts_of(windows)[:length]


@LAWS
@given(runs(), st.integers(-3, 3))
def test_scaling_all_norms_changes_no_alert(run, power):
    windows, _ = run
    factor = np.float32(2.0**power)
    scaled = [
        replace(
            one,
            norm_min=one.norm_min * factor,
            norm_mean=one.norm_mean * factor,
            norm_max=one.norm_max * factor,
        )
        for one in windows
    ]
    assert alerts_of(scaled) == alerts_of(windows)


@LAWS
@given(st.lists(st.sampled_from([0.0, 1.0, np.inf, np.nan]), min_size=20, max_size=60))
def test_scaling_all_gradients_changes_no_alert(levels):
    def told(factor):
        rollup = Rollup(MEMBERS)
        samples = [
            sample(step, [1, 1, 1, level * factor, 1, 1, 1, 1], skipped=np.isinf(level))
            for step, level in enumerate(levels, 1)
        ]
        return alerts_of([one for each in samples for one in rollup.add(each)])

    assert told(1.0) == told(2.0)


@LAWS
@given(runs())
def test_alerts_name_known_modules_and_break_their_limit(run):
    windows, _ = run
    for one, alerts in zip(windows, alerts_of(windows), strict=True):
        for alert in alerts:
            assert alert.module in LAYOUT.modules
            assert alert.step <= one.step_first
            assert alert.severity == RULES[alert.rule].severity
            assert alert.value >= alert.limit or alert.severity == "notice"
