from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from values import LAWS, LAYOUT, MEMBERS, NET, NORMS, runs, sample, window

from yolo_gradwatch import rules
from yolo_gradwatch.detect import ALARMS, RULES, Detector, alarms, matches
from yolo_gradwatch.finding import Finding
from yolo_gradwatch.thresholds import Thresholds
from yolo_gradwatch.windows import Rollup

CONV = "model.1.conv"
FEW = settings(LAWS, max_examples=15)


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
    return Finding(1, rule, severity, CONV, (CONV,), (), 0.0, "")


def wild(seed, count=30):
    """Windows with norms that jump by decades, some zero, some without a norm."""
    random = np.random.default_rng(seed)
    for step in range(1, count + 1):
        norms = 10.0 ** random.normal(random.normal(0, 1.5), 1.0, len(NET.modules))
        norms[random.random(len(norms)) < 0.1] = random.choice([0, np.nan])
        columns = dict.fromkeys(NORMS, norms.astype(np.float32))
        yield replace(window(step, skipped=int(random.random() < 0.2), layout=NET), **columns)


# The vocabulary.


def test_the_vocabulary_of_rules():
    assert {name: (rule.kind, rule.severity) for name, rule in RULES.items()} == {
        "nonfinite": ("nonfinite", "critical"),
        "amp_overflow": ("", "notice"),
        "dead": ("dead", "critical"),
        "no_gradient": ("dead", "critical"),
        "dead_branch": ("dead", "warning"),
        "starved_scale": ("", "notice"),
        "partly_dead": ("dead", "warning"),
        "frozen": ("", "notice"),
        "vanishing": ("vanishing", "critical"),
        "exploding": ("exploding", "critical"),
        "leaf_vanishing": ("vanishing", "warning"),
        "leaf_exploding": ("exploding", "warning"),
        "spike": ("exploding", "warning"),
        "collapse": ("vanishing", "critical"),
        "total_high": ("exploding", "critical"),
        "total_low": ("vanishing", "critical"),
        "weight_growth": ("exploding", "warning"),
    }


def test_rules_stand_in_the_order_in_which_one_explains_another():
    assert list(RULES) == [
        *("nonfinite", "amp_overflow", "dead", "no_gradient", "dead_branch", "starved_scale"),
        *("partly_dead", "frozen", "vanishing", "exploding", "leaf_vanishing", "leaf_exploding"),
        *("spike", "collapse", "total_high", "total_low", "weight_growth"),
    ]


def test_a_rule_is_judged_by_the_function_of_its_name():
    assert all(rule.judge is getattr(rules, name) for name, rule in RULES.items())


NEEDS = {
    "nonfinite": 1,
    "amp_overflow": 1,
    "dead": 3,
    "no_gradient": 3,
    "dead_branch": 50,
    "starved_scale": 50,
    "partly_dead": 5,
    "frozen": 3,
    "vanishing": 5,
    "exploding": 3,
    "leaf_vanishing": 3,
    "leaf_exploding": 3,
    "spike": 6,
    "collapse": 23,
    "total_high": 3,
    "total_low": 10,
    "weight_growth": 2,
}


def test_the_windows_that_a_rule_needs():
    assert {name: rule.needs(Thresholds()) for name, rule in RULES.items()} == NEEDS


def test_the_windows_that_a_rule_needs_follow_the_limits():
    limits = Thresholds(dead_windows=7, dead_branch_windows=9)
    changed = dict.fromkeys(("dead", "no_gradient"), 7)
    changed |= dict.fromkeys(("dead_branch", "starved_scale"), 9)
    assert {name: rule.needs(limits) for name, rule in RULES.items()} == {**NEEDS, **changed}


def test_the_rules_whose_value_is_in_decades():
    assert {name for name, rule in RULES.items() if rule.is_in_decades} == {
        *("vanishing", "exploding", "leaf_vanishing", "leaf_exploding"),
        *("spike", "collapse", "weight_growth"),
    }


def test_alarms_are_the_rules_and_kinds_that_are_no_notice():
    notices = {"amp_overflow", "starved_scale", "frozen"}
    assert set(ALARMS) == {*RULES, "dead", "nonfinite", "vanishing", "exploding"} - notices
    assert list(ALARMS) == sorted(ALARMS)


def test_alarms_that_an_option_names_are_taken_in_their_order():
    assert alarms("stop_on", ["vanishing", "dead"]) == ("vanishing", "dead")
    assert alarms("stop_on", iter(ALARMS)) == ALARMS
    assert alarms("stop_on", ()) == ()


@pytest.mark.parametrize("word", ["frozen", "starved_scale", "amp_overflow", "", "Dead", "slow"])
def test_an_alarm_that_is_none_is_refused(word):
    expected = rf"^stop_on: '{word}' is not one of collapse, dead, .*, weight_growth$"
    with pytest.raises(ValueError, match=expected):
        alarms("stop_on", ["dead", word])


def test_a_single_text_is_no_list_of_alarms():
    with pytest.raises(TypeError, match=r"^--fail-on must be a list or tuple .*'dead'$"):
        alarms("--fail-on", "dead")


@pytest.mark.parametrize(
    ("rule", "words", "found"),
    [
        ("dead", ("dead",), True),
        ("no_gradient", ("dead",), True),
        ("no_gradient", ("no_gradient",), True),
        ("dead", ("no_gradient",), False),
        ("dead_branch", ("dead",), True),
        ("nonfinite", ("dead", "nonfinite"), True),
        ("nonfinite", (), False),
        ("vanishing", ("vanishing",), True),
        ("vanishing", ("collapse",), False),
        ("collapse", ("vanishing",), True),
        ("leaf_exploding", ("exploding",), True),
        ("leaf_exploding", ("vanishing",), False),
        ("spike", ("exploding",), True),
        ("weight_growth", ("weight_growth",), True),
    ],
)
def test_rules_and_kinds_match(rule, words, found):
    assert matches(finding(rule), words) is found


@pytest.mark.parametrize("rule", ["amp_overflow", "starved_scale", "frozen"])
@pytest.mark.parametrize("words", [("amp_overflow", "frozen"), ("",), ALARMS, tuple(RULES)])
def test_a_notice_never_matches(rule, words):
    assert not matches(finding(rule, "notice"), words)


# What is remembered.


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


def test_the_level_of_the_whole_net_is_forgotten():
    detector = Detector(LAYOUT, Thresholds())
    for step in range(1, 31):
        detector.update(window(step))
    detector.forget()
    jumps = [1e3] * 5 + [1e-3] * 5
    assert not any(detector.update(window(n, norm=norm)) for n, norm in enumerate(jumps, 31))


@FEW
@given(st.integers(0, 10**6), st.integers(0, 30))
def test_what_is_forgotten_is_as_if_it_had_not_been(seed, length):
    windows = list(wild(seed))
    detector = Detector(NET, Thresholds())
    for one in windows[:length]:
        detector.update(one)
    detector.forget()
    after = [detector.update(one) for one in windows[length:]]
    assert after == alerts_of(windows[length:], layout=NET)


@pytest.mark.parametrize(
    ("limits", "kept"),
    [({}, 50), ({"dead_branch_windows": 1}, 21), ({"dead_windows": 80}, 80)],
)
def test_only_so_many_windows_are_kept(limits, kept):
    detector = Detector(LAYOUT, Thresholds(amp_grace=9, **limits))
    for step in range(1, 85):
        detector.update(window(step))
    assert len(detector._readings) == kept
    for one in skips(30):
        detector.update(one)
    assert len(detector._skipped) == 10


def test_only_so_many_levels_of_the_whole_net_are_kept():
    detector = Detector(LAYOUT, Thresholds())
    for step in range(1, 210):
        detector.update(window(step))
    assert len(detector._marks) == 200


def test_the_windows_that_are_kept_are_enough_for_every_rule():
    limits = Thresholds(dead_branch_windows=1)
    longest = max(rules.HOPS[0], rules.JUMPS[0], rules.LOW_WINDOWS, rules.GROWTH_WINDOWS + 1)
    assert Detector(LAYOUT, limits)._readings.maxlen >= longest
    assert Detector(LAYOUT, limits)._marks.maxlen >= rules.PEAK_WINDOWS + rules.STANDS


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])  # noqa: S301  # our own
def test_a_copy_goes_on_where_the_original_stood(clone):
    windows = list(wild(3))
    detector = Detector(NET, Thresholds())
    for one in windows[:20]:
        detector.update(one)
    copied = clone(detector)
    after = [detector.update(one) for one in windows[20:]]
    assert [copied.update(one) for one in windows[20:]] == after
    assert any(after)


def test_two_detectors_know_nothing_of_each_other():
    runs_of_two = [list(wild(seed)) for seed in (1, 2)]
    expected = [alerts_of(windows, layout=NET) for windows in runs_of_two]
    detectors = [Detector(NET, Thresholds()) for _ in range(2)]
    pairs = zip(*runs_of_two, strict=True)
    found = [[d.update(one) for d, one in zip(detectors, pair, strict=True)] for pair in pairs]
    assert [list(each) for each in zip(*found, strict=True)] == expected


def test_windows_are_left_as_they_were():
    windows = list(wild(4))
    for one in windows:
        for name in ("norm_min", "norm_mean", "norm_max", "weight_norm", "zero", "none"):
            getattr(one, name).flags.writeable = False
    assert any(alerts_of(windows, layout=NET))


# Laws.


@FEW
@given(st.integers(0, 10**6))
def test_the_same_windows_give_the_same_alerts(seed):
    first = alerts_of(wild(seed), layout=NET)
    assert alerts_of(wild(seed), layout=NET) == first


@FEW
@given(st.integers(0, 10**6), st.integers(0, 30))
def test_alerts_of_a_prefix_are_a_prefix_also_of_levels(seed, length):
    windows = list(wild(seed))
    prefix = alerts_of(windows[:length], layout=NET)
    assert prefix == alerts_of(windows, layout=NET)[:length]


@FEW
@given(runs(), st.integers(0, 40))
def test_alerts_of_a_prefix_are_a_prefix(run, length):
    windows, _ = run
    assert alerts_of(windows[:length]) == alerts_of(windows)[:length]


@FEW
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


@FEW
@given(st.lists(st.sampled_from([0.0, 1.0, np.inf, np.nan]), min_size=20, max_size=60))
def test_scaling_all_gradients_changes_no_alert(levels):
    def told(factor):
        rollup = Rollup(MEMBERS)
        samples = [
            sample(step, [1, 1, 1, level * factor, 1, 1, 1, 1], skipped=np.isinf(level))
            for step, level in enumerate(levels, 1)
        ]
        return alerts_of([one for each in samples for one in rollup.add([each])])

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
