from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from values import (
    HEAD,
    LAWS,
    LAYOUT,
    NET,
    TRUNK,
    Part,
    inside,
    normed,
    plan,
    sample,
    window,
)

from yolo_gradwatch.clipping import CLIP_OVERFLOW
from yolo_gradwatch.detect import RULES, Detector
from yolo_gradwatch.finding import Alert
from yolo_gradwatch.layout import WHOLE
from yolo_gradwatch.thresholds import Thresholds
from yolo_gradwatch.windows import Rollup

FEW = settings(LAWS, max_examples=15)
CONV = "model.1.conv"
BLOCKS = [name for name, _ in NET.blocks]
BOXES = [f"model.6.cv2.{scale}" for scale in range(3)]
PAIRED = [f"model.6.one2one_cv2.{scale}" for scale in range(3)]

FORK, _ = plan(
    [
        Part("model.0"),
        Part("model.1"),
        Part("model.2"),
        Part("model.3.cv2.0"),
        Part("model.3.cv2.1"),
    ],
    edges=[
        ("model.0", "model.1"),
        ("model.0", "model.2"),
        ("model.1", "model.3"),
        ("model.2", "model.3"),
    ],
)
"""A block that two others read; the head reads those two."""

PLAIN, _ = plan(
    [Part("stem.a"), Part("stem.b"), Part("stem.c"), Part("body.d"), Part("body.e"), Part("last")]
)
"""A user's own model: it does not tell which block reads which."""


def net(step, norms=(), **sick):
    """A window of the net; healthy, if nothing is said."""
    return normed(window(step, layout=NET, **sick), dict(norms))


def lasting(count, norms=(), *, first=1, **sick):
    return [net(first + n, norms, **sick) for n in range(count)]


def upstream(norm):
    """The blocks up to number 2 at a norm; what reads them is at 1."""
    return {"model.0": norm, "model.1": norm, "model.2": norm}


def feed(windows, limits=None, layout=NET):
    """The alerts of each window."""
    detector = Detector(layout, limits or Thresholds())
    return [detector.update(one) for one in windows]


def told(windows, rule, limits=None, layout=NET):
    """The alerts of a rule in the last of some windows."""
    return [alert for alert in feed(windows, limits, layout)[-1] if alert.rule == rule]


def names(windows, rule, limits=None, layout=NET):
    return [alert.module for alert in told(windows, rule, limits, layout)]


def modules(alerts, rule):
    return [alert.module for alert in alerts if alert.rule == rule]


def skips(count, first=1, **sick):
    """Windows of one step each that AMP skipped."""
    return [window(first + n, skipped=1, **sick) for n in range(count)]


def zeroed(step, share, module="model.2.conv"):
    """A window in which some elements of a gradient are exactly zero."""
    fraction = np.zeros(len(NET.modules), np.float32)
    fraction[NET.modules.index(module)] = share
    return replace(net(step), zero_fraction=fraction)


def weighing(step, weight, trunk=True):  # noqa: FBT002  # as in the layout
    """A window in which the weights of the trunk, or those of the head, have a norm."""
    weights = np.full(len(NET.modules), 5.0, np.float32)
    weights[[name.startswith("model.6") is not trunk for name in NET.modules]] = weight
    return replace(net(step), weight_norm=weights)


FIVE = Thresholds(dead_branch_windows=5)
"""All limits as they are, but for the patience with the head."""


# Every rule.

SHORTEST = {
    "nonfinite": lasting(1, nonfinite=["model.4.conv"]),
    "amp_overflow": lasting(1, skipped=1),
    "dead": lasting(3, zero=["model.4.conv"]),
    "no_gradient": lasting(3, none=["model.4.conv"]),
    "dead_branch": lasting(5, zero=inside(NET, *BOXES)),
    "starved_scale": lasting(5, zero=inside(NET, BOXES[2], PAIRED[2])),
    "partly_dead": [zeroed(step, 0.9) for step in range(1, 6)],
    "frozen": lasting(3, unknown=["model.2.conv"]),
    "vanishing": lasting(5, upstream(1e-3)),
    "exploding": lasting(3, upstream(1e3)),
    "leaf_vanishing": lasting(3, {"model.1.b": 1e-3}),
    "leaf_exploding": lasting(3, {"model.1.b": 1e3}),
    "spike": [*lasting(5), net(6, dict.fromkeys(BLOCKS, 100.0))],
    "collapse": [*lasting(20), *lasting(3, dict.fromkeys(BLOCKS, 1e-4), first=21)],
    "total_high": lasting(3, {WHOLE: 1e8}),
    "total_low": lasting(10, {WHOLE: 1e-4}),
    "weight_growth": [weighing(1, 5), weighing(2, 20)],
}
"""For each rule the fewest windows that fire it, and no other rule."""

ABOUT = {
    "nonfinite": ("model.4.conv", 1),
    "amp_overflow": (WHOLE, 1),
    "dead": ("model.4.conv", 1),
    "no_gradient": ("model.4.conv", 1),
    "dead_branch": ("model.6.cv2", 1),
    "starved_scale": ("model.6.cv2.2", 1),
    "partly_dead": ("model.2.conv", 1),
    "frozen": ("model.2.conv", 1),
    "vanishing": ("model.2", 1),
    "exploding": ("model.2", 1),
    "leaf_vanishing": ("model.1.b", 1),
    "leaf_exploding": ("model.1.b", 1),
    "spike": (WHOLE, 6),
    "collapse": (WHOLE, 21),
    "total_high": (WHOLE, 1),
    "total_low": (WHOLE, 1),
    "weight_growth": (WHOLE, 1),
}
"""What it names and the step from which on."""

LIMITS = {
    "vanishing": "vanishing",
    "exploding": "exploding",
    "leaf_vanishing": "leaf",
    "leaf_exploding": "leaf",
    "spike": "spike",
    "collapse": "collapse",
    "total_high": "total_high",
    "weight_growth": "weight_growth",
}
"""The limit that a value must be above."""

JUDGED = [rule for rule in RULES if rule not in ("nonfinite", "amp_overflow")]
"""Rules that steps which AMP skipped say nothing about."""


def test_there_is_a_run_for_every_rule():
    assert list(SHORTEST) == list(ABOUT) == list(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_fires_with_as_many_windows_as_it_needs_and_no_other_does(rule):
    *before, last = feed(SHORTEST[rule], FIVE)
    assert len(SHORTEST[rule]) == RULES[rule].needs(FIVE)
    assert not any(before)
    (alert,) = last
    assert (alert.rule, alert.severity) == (rule, RULES[rule].severity)
    assert (alert.module, alert.step) == ABOUT[rule]


@pytest.mark.parametrize("rule", LIMITS)
def test_a_value_at_its_limit_is_silent(rule):
    (alert,) = told(SHORTEST[rule], rule)
    limits = [float(np.nextafter(alert.value, side)) for side in (0, np.inf)]
    found = [
        bool(told(SHORTEST[rule], rule, Thresholds(**{LIMITS[rule]: limit})))
        for limit in (limits[0], alert.value, limits[1])
    ]
    assert found == [True, False, False]


@pytest.mark.parametrize("rule", LIMITS)
def test_an_alert_tells_its_limit(rule):
    (alert,) = told(SHORTEST[rule], rule, Thresholds(**{LIMITS[rule]: 0.125}))
    assert alert.limit == 0.125
    assert alert.value > 0.125


@pytest.mark.parametrize("rule", JUDGED)
def test_windows_that_amp_skipped_end_nothing(rule):
    loud = {WHOLE: 1e9, "model.1": 1e9, "model.4": 1e-9}
    broken = {"unknown": inside(NET, "model.0")}
    mixed = [w for one in SHORTEST[rule] for w in (net(99, loud, skipped=1, **broken), one)]
    windows = [*mixed, net(99, loud, skipped=1)]
    assert told(windows, rule, FIVE) == told(SHORTEST[rule], rule, FIVE)


@pytest.mark.parametrize("rule", JUDGED)
def test_windows_that_amp_skipped_begin_nothing(rule):
    *before, last = SHORTEST[rule]
    skipped = [replace(last, step_first=90 + n, skipped=last.steps) for n in range(12)]
    assert not told([*before, *skipped], rule, FIVE)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_stands_while_its_cause_does(rule):
    more = [replace(SHORTEST[rule][-1], step_first=90 + n) for n in range(8)]
    assert all(modules(alerts, rule) for alerts in feed([*SHORTEST[rule], *more], FIVE)[-9:])


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_silent_in_the_end_when_its_cause_is_gone(rule):
    assert not told([*SHORTEST[rule], *(zeroed(step, 0.0) for step in range(90, 112))], rule, FIVE)


@pytest.mark.parametrize("rule", [r for r in JUDGED if r not in ("spike", "collapse")])
def test_a_rule_finds_its_cause_also_in_a_training_that_was_well(rule):
    before = [weighing(step - 1000, 5) for step in range(20)]
    begun = [replace(one, step_first=one.step_first + 1000) for one in SHORTEST[rule]]
    later = [replace(begun[-1], step_first=1100 + n) for n in range(5)]
    assert names([*before, *begun, *later], rule, FIVE) == [ABOUT[rule][0]]


@pytest.mark.parametrize("rule", RULES)
def test_steps_of_wide_windows_are_told_by_the_first(rule):
    wide = [
        replace(
            one,
            epoch=7,
            step_first=10 * n,
            step_last=10 * n + 9,
            **{f: getattr(one, f) * 10 for f in ("steps", "skipped", "nonfinite", "zero", "none")},
        )
        for n, one in enumerate(SHORTEST[rule], 1)
    ]
    (alert,) = told(wide, rule, FIVE)
    assert (alert.epoch, alert.step) == (7, 10 * ABOUT[rule][1])


ODD = [0.0, np.nan, np.inf, 1e-40, 1e-9, 1e-3, 0.1, 1.0, 1.0, 1.0, 10.0, 1e3, 1e9, 1e15, 3e38]


def anything(seed, values, count=30):
    """Windows in which nothing fits together."""
    random = np.random.default_rng(seed)
    size = len(NET.modules)
    for step in range(1, count + 1):
        steps = int(random.integers(1, 4))
        counts = random.integers(0, steps + 1, (3, size)) * (random.random((3, size)) < 0.3)
        norms = [random.choice(values, size).astype(np.float32) for _ in range(3)]
        yield replace(
            window(step, steps=steps, skipped=int(random.choice([0, 0, 0, 1])), layout=NET),
            **dict(zip(("nonfinite", "zero", "none"), counts, strict=True)),
            **dict(zip(("norm_min", "norm_mean", "norm_max"), norms, strict=True)),
            weight_norm=random.choice([0, np.nan, np.inf, 1e-30, 1, 2, 1e30], size).astype(
                np.float32
            ),
            zero_fraction=random.choice([0, 0.4, 0.6, 1, np.nan], size).astype(np.float32),
        )


@FEW
@given(st.integers(0, 10**6))
def test_whatever_the_windows_hold_alerts_make_sense(seed):
    limits = Thresholds(dead_windows=1, dead_branch_windows=2, amp_grace=2)
    windows = list(anything(seed, ODD))
    for one, alerts in zip(windows, feed(windows, limits), strict=True):
        for alert in alerts:
            assert alert.module in NET.modules
            assert 1 <= alert.step <= one.step_first
            assert alert.severity == RULES[alert.rule].severity
            assert np.isfinite([alert.value, alert.limit]).all()
            assert set(alert.affected) <= set(NET.modules) - {alert.module}
            if alert.rule in LIMITS:
                assert alert.value > alert.limit


@FEW
@given(st.integers(0, 10**6), st.integers(-3, 3))
def test_rules_within_a_window_do_not_depend_on_the_scale(seed, power):
    windows = list(anything(seed, [0.0, np.nan, 0.125, 1, 8, 1024, 2.0**20], 8))
    scaled = [
        replace(one, **{f: getattr(one, f) * np.float32(2.0**power) for f in ("norm_mean",)})
        for one in windows
    ]
    for plain, other in zip(feed(windows), feed(scaled), strict=True):
        found = [
            [(a.rule, a.module, a.affected) for a in alerts if not a.rule.startswith("total")]
            for alerts in (plain, other)
        ]
        assert found[0] == found[1]


# nonfinite and amp_overflow


def test_a_healthy_net_is_silent():
    assert feed(lasting(130)) == [[]] * 130


@pytest.mark.parametrize(("steps", "found"), [(0, []), (1, [CONV]), (2, [CONV])])
def test_a_nonfinite_step_that_was_applied(steps, found):
    windows = [window(1, steps=5, nonfinite={CONV: steps})]
    assert names(windows, "nonfinite", layout=LAYOUT) == found


def test_a_nonfinite_alert_says_how_many_steps():
    (alerts,) = feed([window(7, steps=5, epoch=2, nonfinite={CONV: 3})], layout=LAYOUT)
    assert alerts == [Alert("nonfinite", "critical", CONV, 2, 7, 3.0, 0.0)]


def test_nonfinite_names_leaves_in_forward_order():
    sick = ["model", "model.1", CONV, "model.2", "model.2.b", "model.0.bn"]
    found = names([window(1, nonfinite=sick)], "nonfinite", layout=LAYOUT)
    assert found == ["model.0.bn", CONV, "model.2.b"]


@pytest.mark.parametrize("count", [1, 11, 12])
def test_few_skipped_steps_are_calibration(count):
    alerts = feed(skips(count, unknown=[CONV]), layout=LAYOUT)[-1]
    assert [(alert.rule, alert.severity) for alert in alerts] == [("amp_overflow", "notice")]


@pytest.mark.parametrize("count", [13, 14, 30])
def test_too_many_skipped_steps_in_a_row_are_nonfinite(count):
    windows = [window(1), *skips(count, first=2, unknown=[CONV, "model.1"])]
    alerts = feed(windows, layout=LAYOUT)[-1]
    assert [(alert.rule, alert.module) for alert in alerts] == [("nonfinite", CONV)]
    assert alerts[0].value > alerts[0].limit == 12.0


@pytest.mark.parametrize(
    ("grace", "rule"), [(3, "amp_overflow"), (2, "nonfinite"), (1, "nonfinite")]
)
def test_the_grace_is_a_threshold(grace, rule):
    alerts = feed(skips(3), Thresholds(amp_grace=grace), LAYOUT)[-1]
    assert [alert.rule for alert in alerts] == [rule]


@pytest.mark.parametrize(("steps", "rule"), [(12, "amp_overflow"), (13, "nonfinite")])
def test_skipped_steps_of_one_wide_window_count_each(steps, rule):
    (alerts,) = feed([window(1, steps=steps, skipped=steps)], layout=LAYOUT)
    assert [(alert.rule, alert.module) for alert in alerts] == [(rule, "model")]


def test_an_applied_step_ends_a_row_of_skipped_ones():
    windows = [*skips(12), window(13), *skips(12, first=14)]
    assert not any(modules(alerts, "nonfinite") for alerts in feed(windows, layout=LAYOUT))


def test_a_window_with_an_applied_step_ends_a_row_of_skipped_ones():
    windows = [*skips(10), window(11, steps=100, skipped=99), window(111, steps=3, skipped=3)]
    assert not any(modules(alerts, "nonfinite") for alerts in feed(windows, layout=LAYOUT))


def test_a_row_of_skipped_steps_begins_with_its_first_window():
    windows = [window(1), *skips(12, first=2), window(14, steps=4, skipped=4, epoch=3)]
    (alert,) = feed(windows, layout=LAYOUT)[-1]
    assert (alert.step, alert.epoch, alert.value) == (2, 1, 16.0)


def test_the_whole_model_is_named_where_no_leaf_stands_out():
    assert names(skips(13), "nonfinite", layout=LAYOUT) == ["model"]


def test_a_module_without_a_gradient_is_not_blamed_for_an_overflow():
    layout, members = plan([Part("model.0"), Part("unused"), Part("model.1")])
    rollup = Rollup(members)
    skipped = [
        sample(step, [np.inf, 0, 1], size=3, missing=[False, True, False], skipped=True)
        for step in range(1, 14)
    ]
    applied = sample(0, [1, 0, 1], size=3, missing=[False, True, False])
    windows = [one for each in [applied, *skipped] for one in rollup.add([each])]
    assert names(windows, "nonfinite", layout=layout) == ["model.0"]


def test_a_frozen_module_is_not_blamed_for_an_overflow():
    frozen = ["model.0.conv"]
    windows = [window(1, unknown=frozen), *skips(13, first=2, unknown=[*frozen, CONV])]
    assert names(windows, "nonfinite", layout=LAYOUT) == [CONV]


@pytest.mark.parametrize(("skipped", "found"), [(0, []), (1, ["model"]), (4, ["model"])])
def test_a_skipped_step_is_a_notice(skipped, found):
    (alerts,) = feed([window(3, steps=5, skipped=skipped)], layout=LAYOUT)
    assert modules(alerts, "amp_overflow") == found
    assert all(alert.severity == "notice" for alert in alerts)


def test_a_notice_says_how_many_steps():
    (alerts,) = feed([window(3, steps=5, skipped=2)], layout=LAYOUT)
    assert alerts == [Alert("amp_overflow", "notice", "model", 1, 3, 2.0, 12.0)]


# dead and no_gradient

PERSISTENT = [("dead", "zero"), ("no_gradient", "none")]


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
@pytest.mark.parametrize(("windows", "found"), [(2, []), (3, [CONV]), (4, [CONV])])
def test_a_trunk_module_that_stands_still(rule, count, windows, found):
    sick = [window(step, **{count: [CONV]}) for step in range(1, windows + 1)]
    alerts = feed(sick, layout=LAYOUT)[-1]
    assert modules(alerts, rule) == found
    assert len(alerts) == len(found)


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
@pytest.mark.parametrize(("limit", "found"), [(4, [CONV]), (5, [CONV]), (6, [])])
def test_the_patience_is_a_threshold(rule, count, limit, found):
    sick = [window(step, **{count: [CONV]}) for step in range(1, 6)]
    assert names(sick, rule, Thresholds(dead_windows=limit), LAYOUT) == found


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
def test_a_persistent_alert_begins_with_its_first_window(rule, count):
    sick = [window(10 * n, steps=10, epoch=n, **{count: [CONV]}) for n in range(1, 5)]
    assert feed(sick, layout=LAYOUT)[-1] == [Alert(rule, "critical", CONV, 2, 20, 3.0, 3.0)]


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
@pytest.mark.parametrize(("steps", "found"), [(6, []), (7, [CONV])])
def test_one_step_with_a_gradient_is_a_sign_of_life(rule, count, steps, found):
    sick = [window(7 * n + 1, steps=7, **{count: [CONV]}) for n in range(2)]
    sick.append(window(15, steps=7, **{count: {CONV: steps}}))
    assert names(sick, rule, layout=LAYOUT) == found


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
def test_a_window_with_a_gradient_begins_the_count_anew(rule, count):
    windows = [window(step, **{count: [] if step == 3 else [CONV]}) for step in range(1, 7)]
    found = [modules(alerts, rule) for alerts in feed(windows, layout=LAYOUT)]
    assert found == [[], [], [], [], [], [CONV]]


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
def test_zero_in_the_head_and_in_containers_is_silent(rule, count):
    sick = [window(step, **{count: ["model", "model.1", *HEAD]}) for step in range(1, 60)]
    assert not any(modules(alerts, rule) for alerts in feed(sick, layout=LAYOUT))


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
def test_every_leaf_of_the_trunk_is_judged(rule, count):
    sick = [window(step, **{count: LAYOUT.modules}) for step in range(1, 4)]
    assert names(sick, rule, layout=LAYOUT) == list(TRUNK)


def test_zero_now_and_none_then_is_neither():
    windows = [window(n, **{("zero", "none")[n % 2]: [CONV]}) for n in range(1, 9)]
    assert not any(feed(windows, layout=LAYOUT))


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
def test_an_alert_stands_while_amp_skips(rule, count):
    sick = [window(step, **{count: [CONV]}) for step in (1, 2, 3)]
    alerts = feed([*sick, *skips(12, first=4)], layout=LAYOUT)
    assert [modules(found, rule) for found in alerts] == [[], [], *[[CONV]] * 13]


@pytest.mark.parametrize(("rule", "count"), PERSISTENT)
def test_a_long_patience_is_not_lost_to_a_skipped_step_now_and_then(rule, count):
    windows = [
        window(step, **({"skipped": 1} if step % 10 == 0 else {count: [CONV]}))
        for step in range(1, 60)
    ]
    assert names(windows, rule, Thresholds(dead_windows=20), LAYOUT) == [CONV]


@pytest.mark.parametrize("patience", [51, 80])
def test_a_patience_beyond_all_other_rules_is_kept(patience):
    sick = lasting(patience, zero=["model.0.conv"])
    found = [modules(alerts, "dead") for alerts in feed(sick, Thresholds(dead_windows=patience))]
    assert found == [[]] * (patience - 1) + [["model.0.conv"]]


def test_a_step_that_amp_skipped_in_a_window_does_not_excuse():
    sick = [window(5 * n + 1, steps=5, skipped=2, zero=[CONV]) for n in range(3)]
    assert names(sick, "dead", layout=LAYOUT) == [CONV]


def test_modules_outside_the_list_of_blocks_are_judged():
    layout, _ = plan([Part("unused"), Part("model.0"), Part("model.1")])
    sick = [window(step, none=["unused"], layout=layout) for step in (1, 2, 3)]
    assert names(sick, "no_gradient", layout=layout) == ["unused"]


# dead_branch and starved_scale

NUMB = ["dead_branch", "starved_scale"]


def numb(count, *units, first=1, how="zero"):
    return lasting(count, first=first, **{how: inside(NET, *units)})


@pytest.mark.parametrize("how", ["zero", "none"])
@pytest.mark.parametrize(("count", "fires"), [(49, False), (50, True), (51, True)])
def test_a_family_that_is_silent_at_every_scale_is_dead(count, fires, how):
    alerts = feed(numb(count, *BOXES, how=how))[-1]
    assert modules(alerts, "dead_branch") == ["model.6.cv2"] * fires
    assert len(alerts) == fires


def test_a_dead_family_tells_its_branches():
    (alert,) = told(numb(9, *BOXES), "dead_branch", FIVE)
    assert alert == Alert("dead_branch", "warning", "model.6.cv2", 1, 5, 5, 5, tuple(BOXES))


def test_the_paired_family_is_judged_by_itself():
    assert names(numb(5, *PAIRED), "dead_branch", FIVE) == ["model.6.one2one_cv2"]
    both = names(numb(5, *BOXES, *PAIRED), "dead_branch", FIVE)
    assert both == ["model.6.cv2", "model.6.one2one_cv2"]


@pytest.mark.parametrize("family", ["cv3", "one2one_cv3"])
def test_scores_are_not_judged(family):
    assert not any(feed(numb(9, *(f"model.6.{family}.{scale}" for scale in range(3))), FIVE))


@pytest.mark.parametrize("rule", NUMB)
@pytest.mark.parametrize(("limit", "fires"), [(3, True), (4, True), (5, False)])
def test_the_patience_with_the_head_is_a_threshold(rule, limit, fires):
    alerts = feed(SHORTEST[rule][:4], Thresholds(dead_branch_windows=limit))[-1]
    assert bool(modules(alerts, rule)) is fires
    assert all((alert.value, alert.limit) == (limit, limit) for alert in alerts)


@pytest.mark.parametrize("rule", NUMB)
def test_one_window_with_a_gradient_wakes_a_branch(rule):
    units = [*BOXES, *PAIRED] if rule == "dead_branch" else [BOXES[2], PAIRED[2]]
    windows = [*numb(4, *units), net(5), *numb(4, *units, first=6)]
    assert not any(modules(alerts, rule) for alerts in feed(windows, FIVE))


@pytest.mark.parametrize("rule", NUMB)
@pytest.mark.parametrize("position", [0, 2, 4])
def test_one_step_with_a_gradient_wakes_a_branch(rule, position):
    silent = list(SHORTEST[rule])
    silent[position] = replace(silent[position], steps=2)
    assert not told(silent, rule, FIVE)
    silent[position] = replace(silent[position], skipped=1)
    assert told(silent, rule, FIVE) == told(SHORTEST[rule], rule, FIVE)


def test_zero_now_and_no_gradient_then_is_silence_all_the_same():
    windows = [one for how in ("zero", "none") for one in numb(3, *BOXES, how=how)]
    assert names(windows, "dead_branch", FIVE) == ["model.6.cv2"]


def test_a_scale_at_which_every_box_is_silent_is_starved():
    (alert,) = feed(numb(9, BOXES[2], PAIRED[2]), FIVE)[-1]
    assert alert == Alert("starved_scale", "notice", BOXES[2], 1, 5, 5, 5, (PAIRED[2],))


@pytest.mark.parametrize("count", [49, 50])
def test_a_scale_starves_for_fifty_windows(count):
    alerts = feed(numb(count, BOXES[2], PAIRED[2]))[-1]
    assert bool(modules(alerts, "starved_scale")) is (count == 50)


@pytest.mark.parametrize("units", [[BOXES[2]], [PAIRED[2]], [BOXES[2], PAIRED[1]]])
def test_a_scale_at_which_one_of_the_pair_learns_is_not_starved(units):
    assert not any(feed(numb(9, *units), FIVE))


def test_several_scales_can_starve():
    units = [BOXES[0], PAIRED[0], BOXES[2], PAIRED[2]]
    assert names(numb(5, *units), "starved_scale", FIVE) == [BOXES[0], BOXES[2]]


@pytest.mark.parametrize("families", [(BOXES, PAIRED[2:]), (BOXES[2:], PAIRED), (BOXES, PAIRED)])
def test_where_a_whole_family_is_dead_no_scale_is_starved(families):
    alerts = feed(numb(5, *families[0], *families[1]), FIVE)[-1]
    assert {alert.rule for alert in alerts} == {"dead_branch"}


def test_a_net_without_pairs_can_starve():
    silent = [window(step, zero=["model.3.cv2.1"], layout=FORK) for step in range(1, 6)]
    (alert,) = feed(silent, FIVE, FORK)[-1]
    assert (alert.rule, alert.module, alert.affected) == ("starved_scale", "model.3.cv2.1", ())


def test_a_family_that_is_neither_boxes_nor_scores_can_die_but_not_starve():
    layout, _ = plan(
        [Part("model.0"), *(Part(f"model.1.{f}.{n}") for f in ("cv4", "cv2") for n in range(2))],
        edges=[("model.0", "model.1"), ("model.0", "model.1")],
    )
    for silent, found in (
        (["cv4.0"], []),
        (["cv2.0"], ["starved_scale"]),
        (["cv4.0", "cv4.1"], ["dead_branch"]),
    ):
        dead = [f"model.1.{name}" for name in silent]
        windows = [window(step, zero=dead, layout=layout) for step in range(1, 6)]
        assert [alert.rule for alert in feed(windows, FIVE, layout)[-1]] == found


# partly_dead


@pytest.mark.parametrize(
    ("share", "fires"), [(0.499, False), (0.5, True), (0.501, True), (0.999, True), (1.0, False)]
)
def test_half_of_the_elements_of_a_weight_are_zero(share, fires):
    windows = [zeroed(step, share) for step in range(1, 6)]
    assert names(windows, "partly_dead") == ["model.2.conv"] * fires


@pytest.mark.parametrize(("limit", "fires"), [(0.29, True), (0.3, True), (0.31, False)])
def test_the_share_is_a_threshold(limit, fires):
    windows = [zeroed(step, 0.3) for step in range(1, 6)]
    assert bool(told(windows, "partly_dead", Thresholds(zero_fraction=limit))) is fires


def test_partly_dead_tells_the_lowest_share():
    windows = [zeroed(step, share) for step, share in enumerate([0.8, 0.9, 0.75, 0.9, 0.8], 3)]
    expected = Alert("partly_dead", "warning", "model.2.conv", 1, 3, 0.75, 0.5)
    assert told(windows, "partly_dead") == [expected]


@pytest.mark.parametrize("other", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("position", range(5))
def test_each_of_five_windows_must_have_many_zeros_but_not_only_zeros(other, position):
    windows = [zeroed(step, other if step == position else 0.9) for step in range(5)]
    assert not told(windows, "partly_dead")
    after = [zeroed(10 + n, 0.9) for n in range(5)]
    assert names([*windows, *after], "partly_dead") == ["model.2.conv"]


def test_windows_without_a_count_are_passed_over():
    windows = [w for step in range(5) for w in (zeroed(step, 0.9), *lasting(8, first=50))]
    assert names(windows, "partly_dead") == ["model.2.conv"]
    assert not told(windows[8:], "partly_dead")


def test_a_weight_that_was_not_counted_in_one_window_is_not_judged():
    windows = [zeroed(step, np.nan if step == 2 else 0.9) for step in range(5)]
    assert not told(windows, "partly_dead")


def spread(share, *, kernel=9, module="model.2.conv", **changes):
    """Five windows of a net whose weights have kernels of so many positions."""
    layout = replace(NET, kernels=tuple(kernel for _ in NET.modules), **changes)
    windows = [zeroed(step, share, module) for step in range(1, 6)]
    return names(windows, "partly_dead", layout=layout)


@pytest.mark.parametrize(("positions", "kernel"), [(5, 9), (6, 9), (8, 9), (13, 25), (24, 25)])
def test_kernel_positions_that_see_only_padding_are_healthy(positions, kernel):
    share = positions / kernel
    assert spread(share, kernel=kernel) == []
    for off, fires in ((0.00049, False), (0.00051, True)):
        assert bool(spread(share - off, kernel=kernel)) is fires
        assert bool(spread(share + off, kernel=kernel)) is fires
    assert spread(share, kernel=1) == ["model.2.conv"]


def test_zeros_must_be_those_of_padding_in_every_window():
    layout = replace(NET, kernels=tuple(9 for _ in NET.modules))
    windows = [zeroed(step, 0.7 if step == 3 else 6 / 9) for step in range(1, 6)]
    assert names(windows, "partly_dead", layout=layout) == ["model.2.conv"]


def test_zeros_in_an_attention_are_healthy():
    types = tuple("Attention" if name == "model.1" else "Conv2d" for name in NET.modules)
    assert spread(0.9, module="model.1.b", types=types) == []
    assert spread(0.9, module="model.2.conv", types=types) == ["model.2.conv"]


@pytest.mark.parametrize("kind", ["PatternBlock", "Lattice", "Attic"])
def test_zeros_in_what_only_sounds_like_an_attention_are_not(kind):
    types = tuple(kind if name == "model.1" else "Conv2d" for name in NET.modules)
    assert spread(0.9, module="model.1.b", types=types) == ["model.1.b"]


def test_zeros_in_what_inherits_from_an_attention_are_healthy():
    assert spread(0.9, module="model.1.b", attentions=("model.1",)) == []


def test_zeros_in_the_head_are_healthy():
    windows = [zeroed(step, 0.9, "model.6.cv2.0.conv") for step in range(9)]
    assert feed(windows)[-1] == []


# frozen


@pytest.mark.parametrize(("count", "found"), [(2, []), (3, ["model.0.bn"]), (9, ["model.0.bn"])])
def test_a_layer_that_was_frozen(count, found):
    assert names(lasting(count, unknown=["model.0.bn"]), "frozen") == found


def test_frozen_tells_the_leaves_of_trunk_and_head():
    frozen = inside(NET, "model.1", "model.6.cv3")
    alerts = told(lasting(5, unknown=frozen), "frozen")
    assert [alert.module for alert in alerts] == [
        *("model.1.a", "model.1.b", "model.1.c", "model.1.bn"),
        *(f"model.6.cv3.{scale}.conv" for scale in range(3)),
    ]
    assert {(alert.severity, alert.step) for alert in alerts} == {("notice", 3)}


@pytest.mark.parametrize("how", ["nonfinite", "zero", "none"])
def test_a_module_that_is_sick_is_not_frozen(how):
    assert not told(lasting(9, **{how: ["model.0.conv"]}), "frozen")


def test_a_layer_that_moved_in_one_of_three_windows_is_not_frozen():
    windows = [net(1), *lasting(2, first=2, unknown=["model.0.conv"])]
    assert not told(windows, "frozen")
    assert names([*windows, net(4, unknown=["model.0.conv"])], "frozen") == ["model.0.conv"]


# vanishing


@pytest.mark.parametrize(("norm", "fires"), [(0.0101, False), (0.0099, True), (1e-9, True)])
def test_a_block_that_loses_two_decades_vanishes(norm, fires):
    assert names(lasting(5, upstream(norm)), "vanishing") == ["model.2"] * fires


@pytest.mark.parametrize(("norm", "fires"), [(99, False), (100, False), (101, True)])
def test_two_decades_exactly_are_healthy(norm, fires):
    below = {"model.4": norm, "model.5": norm, "model.6": norm}
    assert bool(told(lasting(5, below), "vanishing")) is fires


def test_vanishing_tells_the_boundary_and_what_suffers():
    (alert,) = feed(lasting(5, upstream(1e-3), epoch=2))[-1]
    assert (alert.module, alert.affected) == ("model.2", ("model.0", "model.1"))
    assert (alert.epoch, alert.step, alert.limit) == (2, 1, 2.0)
    assert alert.value == pytest.approx(3.0)


@pytest.mark.parametrize(("count", "fires"), [(4, False), (5, True), (6, True)])
def test_vanishing_takes_five_windows(count, fires):
    assert bool(told(lasting(count, upstream(1e-3)), "vanishing")) is fires


@pytest.mark.parametrize("healthy", [10, 30])
@pytest.mark.parametrize(
    ("decades", "count", "fires"),
    [(-3, 5, False), (-3, 6, True), (-4.5, 4, False), (-4.5, 5, True)],
)
def test_vanishing_is_the_median_of_ten_windows(healthy, decades, count, fires):
    windows = [*lasting(healthy), *lasting(count, upstream(10**decades), first=99)]
    assert names(windows, "vanishing") == ["model.2"] * fires


def test_vanishing_begins_with_the_first_window_that_was_low():
    windows = [*lasting(10), *lasting(7, upstream(1e-3), first=99)]
    assert [alert.step for alert in told(windows, "vanishing")] == [99]


def test_windows_in_which_a_block_has_no_norm_do_not_count_but_end_nothing():
    unknown = net(9, {**upstream(1e-3), "model.2": np.nan})
    sick = lasting(4, upstream(1e-3))
    assert not told([*sick, unknown], "vanishing")
    assert names([*sick, unknown, *sick[:1]], "vanishing") == ["model.2"]


def test_a_block_is_compared_with_what_reads_it_through_blocks_without_parameters():
    low = [*(f"model.{n}" for n in range(3)), "model.6.cv2.0", "model.6.cv3.0"]
    (alert,) = feed(lasting(5, dict.fromkeys(low, 1e-3)))[-1]
    assert (alert.rule, alert.module) == ("vanishing", "model.2")


@pytest.mark.parametrize("healthy", ["model.6.cv2.0", "model.6.cv3.0"])
def test_one_healthy_consumer_is_enough(healthy):
    norms = dict.fromkeys([*BLOCKS, *BOXES], 1e-3)
    (alert,) = feed(lasting(5, {**norms, healthy: 1.0}))[-1]
    assert (alert.rule, alert.module) == ("vanishing", "model.2")
    assert alert.affected == ("model.0", "model.1")


def test_branches_whose_input_is_detached_send_nothing():
    norms = dict.fromkeys(BLOCKS, 1e-3)
    detached = {"model.6.one2one_cv2": 1.0, "model.6.one2one_cv3": 1.0}
    assert feed(lasting(5, {**norms, **detached}))[-1] == []


def test_a_block_that_no_gradient_of_a_consumer_reaches_is_not_judged():
    assert feed(lasting(5, dict.fromkeys(BLOCKS, 1e-3)))[-1] == []


def test_of_several_on_one_path_the_one_nearest_to_the_loss_is_the_cause():
    low = {"model.0": 1e-6, "model.1": 1e-6, "model.2": 1e-3}
    (alert,) = told(lasting(5, low), "vanishing")
    assert (alert.module, alert.affected) == ("model.2", ("model.0", "model.1"))


def test_a_second_loss_upstream_of_a_healthy_block_is_not_told_twice():
    low = {"model.0": 1e-3, "model.1": 1e-3, "model.4": 1e-3}
    (alert,) = told(lasting(5, low), "vanishing")
    assert (alert.module, alert.affected) == ("model.4", ("model.0", "model.1"))


def test_blocks_on_two_paths_are_both_told():
    norms = {"model.0": 1e-4, "model.1": 1e-4, "model.2": 1e-3}
    windows = [normed(window(n, layout=FORK), norms, FORK) for n in range(1, 6)]
    found = [(alert.module, alert.affected) for alert in told(windows, "vanishing", layout=FORK)]
    assert found == [("model.2", ("model.0",)), ("model.1", ("model.0",))]


@pytest.mark.parametrize(("decades", "affected"), [(-1.49, ()), (-1.51, ("model.0",))])
def test_a_block_suffers_if_it_lies_far_below_the_consumers_of_the_cause(decades, affected):
    norms = {"model.0": 10**decades, "model.1": 1.0, "model.2": 1e-3}
    (alert,) = told(lasting(5, norms), "vanishing")
    assert alert.affected == affected


@pytest.mark.parametrize(("decades", "found"), [(-0.49, []), (-0.51, ["model.1"])])
def test_the_block_in_front_of_an_explosion_is_not_called_vanishing(decades, found):
    norms = {"model.0": 10**decades, "model.1": 10**decades, "model.2": 1e6}
    assert names(lasting(5, norms), "vanishing") == found


@pytest.mark.parametrize(("norm", "found"), [(1e-4, ["model.2"]), (1.0, [])])
def test_a_norm_layer_tells_that_a_gradient_arrives(norm, found):
    norms = {"model.2.conv": 1e-3, "model.2.bn": norm}
    assert names(lasting(5, norms), "vanishing") == found


def test_a_block_of_norm_layers_alone_is_judged_by_the_largest():
    parts = [Part("model.0.a_bn", is_weight=False), Part("model.0.b_bn", is_weight=False)]
    layout, _ = plan(
        [*parts, Part("model.1.conv"), Part("model.2")], edges=[("model.0", "model.1")]
    )
    for norm, found in ((1.0, []), (1e-3, ["model.0"])):
        norms = {"model.0.a_bn": 1e-3, "model.0.b_bn": norm}
        windows = [normed(window(n, layout=layout), norms, layout) for n in range(5)]
        assert names(windows, "vanishing", layout=layout) == found


@pytest.mark.parametrize("place", ["model.0", "model.1"])
def test_a_block_of_other_parameters_alone_has_no_level(place):
    blocks = ("model.0", "model.1", "model.2", "model.3")
    parts = [Part(name, is_weight=name != place) for name in blocks]
    layout, _ = plan(parts, edges=itertools.pairwise(blocks))
    windows = [normed(window(n, layout=layout), {"model.0": 1e-9}, layout) for n in range(9)]
    assert feed(windows, layout=layout)[-1] == []


def test_a_block_in_front_of_one_without_a_norm_is_not_judged():
    windows = lasting(9, {"model.0": 0.2, "model.1": np.nan})
    assert not told(windows, "vanishing")


def test_a_block_without_any_gradient_is_dead_and_not_vanishing():
    alerts = feed(lasting(9, zero=inside(NET, "model.0", "model.1", "model.2")))[-1]
    assert {alert.rule for alert in alerts} == {"dead"}


def test_nothing_vanishes_in_front_of_a_dead_block():
    windows = lasting(9, {"model.0": 1e-9}, zero=inside(NET, "model.1"))
    assert {alert.rule for alert in feed(windows)[-1]} == {"dead"}


# exploding


@pytest.mark.parametrize(("norm", "fires"), [(316, False), (317, True), (1e9, True)])
def test_a_block_that_gains_two_and_a_half_decades_explodes(norm, fires):
    assert names(lasting(3, upstream(norm)), "exploding") == ["model.2"] * fires


@pytest.mark.parametrize(("norm", "fires"), [(99, False), (100, False), (101, True)])
def test_a_gain_at_the_limit_exactly_is_healthy(norm, fires):
    limits = Thresholds(exploding=2.0)
    assert bool(told(lasting(3, upstream(norm)), "exploding", limits)) is fires


def test_exploding_tells_the_source_and_what_suffers():
    (alert,) = feed(lasting(3, upstream(1e3), epoch=2))[-1]
    assert (alert.module, alert.affected) == ("model.2", ("model.0", "model.1"))
    assert (alert.epoch, alert.step, alert.limit) == (2, 1, 2.5)
    assert alert.value == pytest.approx(3.0)


@pytest.mark.parametrize(("count", "fires"), [(2, False), (3, True), (4, True)])
def test_exploding_takes_three_windows(count, fires):
    assert bool(told(lasting(count, upstream(1e3)), "exploding")) is fires


@pytest.mark.parametrize("healthy", [5, 30])
@pytest.mark.parametrize(("norm", "count", "fires"), [(1e9, 2, False), (1e3, 3, True)])
def test_exploding_is_the_median_of_five_windows(healthy, norm, count, fires):
    windows = [*lasting(healthy), *lasting(count, upstream(norm), first=99)]
    assert [alert.step for alert in told(windows, "exploding")] == [99] * fires


@pytest.mark.parametrize(("own", "fires"), [("conv", True), ("bn", False)])
def test_only_the_weights_of_a_block_explode(own, fires):
    assert bool(told(lasting(3, {f"model.2.{own}": 1e3}), "exploding")) is fires


@pytest.mark.parametrize(("block", "fires"), [("model.4", True), ("model.5", False)])
def test_a_block_that_feeds_the_head_alone_is_not_judged(block, fires):
    assert names(lasting(3, {block: 1e4}), "exploding") == [block] * fires


@pytest.mark.parametrize(
    "consumer", ["model.4.conv", "model.4.bn", "model.6.cv2.0", "model.6.cv3.0"]
)
def test_one_consumer_that_is_as_high_explains_a_block(consumer):
    assert not modules(feed(lasting(3, {"model.2": 1e4, consumer: 1e4}))[-1], "exploding")[1:]
    assert "model.2" not in names(lasting(3, {"model.2": 1e4, consumer: 1e4}), "exploding")


def test_a_detached_branch_explains_no_block():
    norms = {"model.2": 1e4, "model.6.one2one_cv2": 1e4, "model.6.one2one_cv3": 1e4}
    assert names(lasting(3, norms), "exploding") == ["model.2"]


def test_of_several_explosions_on_one_path_the_one_nearest_to_the_loss_is_the_cause():
    (alert,) = told(lasting(3, {"model.0": 1e6, "model.1": 1e6, "model.2": 1e3}), "exploding")
    assert (alert.module, alert.affected) == ("model.2", ("model.0", "model.1"))


@pytest.mark.parametrize(("decades", "affected"), [(1.49, ()), (1.51, ("model.0",))])
def test_a_block_suffers_if_it_stands_far_above_the_consumers_of_the_cause(decades, affected):
    norms = {"model.0": 10**decades, "model.1": 1.0, "model.2": 1e4}
    (alert,) = told(lasting(3, norms), "exploding")
    assert alert.affected == affected


def test_explosions_on_two_paths_are_both_told():
    parts = [Part(f"model.{n}") for n in range(6)]
    edges = [(0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5)]
    layout, _ = plan(parts, edges=[(f"model.{a}", f"model.{b}") for a, b in edges])
    norms = {"model.0": 1e5, "model.1": 1e4, "model.2": 1e4}
    windows = [normed(window(n, layout=layout), norms, layout) for n in (1, 2, 3)]
    found = [(alert.module, alert.affected) for alert in told(windows, "exploding", layout=layout)]
    assert found == [("model.2", ("model.0",)), ("model.1", ("model.0",))]


def test_a_block_without_weights_does_not_explode():
    layout, _ = plan(
        [Part("model.0.bn", is_weight=False), Part("model.1"), Part("model.2")],
        edges=[("model.0", "model.1"), ("model.1", "model.2")],
    )
    windows = [normed(window(n, layout=layout), {"model.0": 1e9}, layout) for n in range(9)]
    assert feed(windows, layout=layout)[-1] == []


def test_zero_at_the_consumers_makes_no_explosion():
    windows = lasting(9, zero=inside(NET, "model.2", "model.4", "model.5", "model.6"))
    assert {alert.rule for alert in feed(windows)[-1]} == {"dead"}


# leaf_vanishing and leaf_exploding


@pytest.mark.parametrize(
    ("rule", "norm", "fires"),
    [
        ("leaf_vanishing", 0.0101, False),
        ("leaf_vanishing", 0.0099, True),
        ("leaf_exploding", 99, False),
        ("leaf_exploding", 100, False),
        ("leaf_exploding", 101, True),
    ],
)
def test_a_weight_that_stands_out_from_its_siblings(rule, norm, fires):
    windows = lasting(3, {"model.1.b": norm})
    assert [(alert.rule, alert.module) for alert in feed(windows)[-1]] == [
        (rule, "model.1.b")
    ] * fires


def test_a_weight_exactly_at_the_limit_below_is_healthy():
    norms = dict.fromkeys(BLOCKS, 100.0)
    assert feed(lasting(3, {**norms, "model.1.b": 1.0}))[-1] == []
    assert names(lasting(3, {**norms, "model.1.b": 0.99}), "leaf_vanishing") == ["model.1.b"]


SIDES = [("leaf_vanishing", 1e-3), ("leaf_exploding", 1e3)]


@pytest.mark.parametrize(("rule", "norm"), SIDES)
@pytest.mark.parametrize(("count", "fires"), [(2, False), (3, True), (4, True)])
def test_a_weight_must_stand_out_in_three_windows(rule, norm, count, fires):
    assert bool(told(lasting(count, {"model.1.b": norm}), rule)) is fires


@pytest.mark.parametrize(("rule", "norm"), SIDES)
@pytest.mark.parametrize(("power", "count", "fires"), [(3, 2, False), (1, 3, True)])
def test_a_weight_is_judged_by_the_median_of_five_windows(rule, norm, power, count, fires):
    windows = [*lasting(9), *lasting(count, {"model.1.b": norm**power}, first=99)]
    assert [alert.step for alert in told(windows, rule)] == [99] * fires


@pytest.mark.parametrize(("rule", "norm"), SIDES)
def test_a_weight_that_is_level_with_what_reads_its_block_does_not_stand_out(rule, norm):
    assert not told(lasting(3, {"model.1.a": norm, "model.1.c": norm}), rule)
    other = {"leaf_vanishing": "leaf_exploding", "leaf_exploding": "leaf_vanishing"}[rule]
    assert not told(lasting(3, {"model.1.a": norm, "model.1.c": norm}), other)


@pytest.mark.parametrize(("rule", "norm"), SIDES)
def test_weights_of_a_whole_block_that_stands_out_are_not_told_one_by_one(rule, norm):
    assert not told(lasting(3, {"model.1": norm}), rule)


@pytest.mark.parametrize(("rule", "norm"), SIDES)
@pytest.mark.parametrize(("place", "fires"), [("stem.b", True), ("body.e", False), ("last", False)])
def test_without_knowing_who_reads_whom_a_weight_is_judged_against_its_block(
    rule, norm, place, fires
):
    windows = [normed(window(n, layout=PLAIN), {place: norm}, PLAIN) for n in (1, 2, 3)]
    found = [(alert.rule, alert.module) for alert in feed(windows, layout=PLAIN)[-1]]
    assert found == [(rule, place)] * fires


def test_without_knowing_who_reads_whom_no_block_vanishes_or_explodes():
    norms = {"stem": 1e-9, "body": 1e9}
    windows = [normed(window(n, layout=PLAIN), norms, PLAIN) for n in range(1, 31)]
    assert not any(feed(windows, layout=PLAIN))


@pytest.mark.parametrize(("rule", "norm"), SIDES)
def test_a_block_of_two_weights_has_none_that_stands_out(rule, norm):
    layout, _ = plan([Part("model.0.a"), Part("model.0.b"), Part("model.1")])
    windows = [normed(window(n, layout=layout), {"model.0.b": norm}, layout) for n in range(9)]
    assert not told(windows, rule, layout=layout)


@pytest.mark.parametrize(("rule", "norm"), SIDES)
def test_a_weight_is_compared_with_those_of_the_smallest_module_around_it(rule, norm):
    inner = [f"model.0.m.{n}" for n in range(3)]
    layout, _ = plan([*map(Part, (*inner, "model.0.a", "model.0.b", "model.0.c", "model.1"))])
    low = {"model.0.m.0": norm, "model.0.m.1": norm}
    windows = [normed(window(n, layout=layout), low, layout) for n in range(3)]
    other = {"leaf_vanishing": "leaf_exploding", "leaf_exploding": "leaf_vanishing"}[rule]
    assert [(a.rule, a.module) for a in feed(windows, layout=layout)[-1]] == [(other, inner[2])]


@pytest.mark.parametrize(("rule", "norm"), SIDES)
def test_a_norm_layer_and_the_head_have_none_that_stands_out(rule, norm):
    norms = {"model.1.bn": norm, "model.6.cv2.1": norm}
    assert not told(lasting(9, norms), rule)


def test_a_weight_with_a_zero_gradient_is_dead_and_does_not_stand_out():
    assert [alert.rule for alert in feed(lasting(9, zero=["model.1.b"]))[-1]] == ["dead"]


def test_a_weight_beside_dead_ones_does_not_stand_out():
    alerts = feed(lasting(9, {"model.1.b": 1e9}, zero=["model.1.a", "model.1.c"]))[-1]
    assert {alert.rule for alert in alerts} == {"dead", "leaf_exploding"}


# spike


def level(step, decades, peak=None):
    """A window with the same norm in all modules but the whole, and another highest one."""
    one = net(step, dict.fromkeys(BLOCKS, 10.0**decades))
    if peak is None:
        return one
    return normed(one, dict.fromkeys(BLOCKS, 10.0**peak), fields=["norm_max"])


def curve(*decades, first=1):
    return [level(first + n, value) for n, value in enumerate(decades)]


@pytest.mark.parametrize(("decades", "fires"), [(1.49, False), (1.51, True)])
def test_a_trunk_that_jumps_is_a_spike(decades, fires):
    assert names(curve(*[0] * 5, decades), "spike") == [WHOLE] * fires


@pytest.mark.parametrize(("decades", "fires"), [(2, False), (2.01, True)])
def test_a_spike_at_its_limit_exactly_is_healthy(decades, fires):
    assert bool(told(curve(-1, *[0] * 5, decades), "spike", Thresholds(spike=2.0))) is fires


def test_a_spike_is_judged_by_the_highest_norms_of_a_window():
    assert names([*curve(*[0] * 5), level(6, 0, peak=2)], "spike") == [WHOLE]
    assert not told([*curve(*[0] * 4), level(5, 0, peak=2), level(6, 2)], "spike")


def test_the_head_makes_no_spike():
    assert not told([*lasting(5), net(6, {"model.6": 1e9, WHOLE: 1e6})], "spike")


def test_a_spike_says_how_far_it_stands_above_the_highest_before():
    (alert,) = told(curve(0, 0, 1, 0, 0, 3), "spike")
    assert (alert.step, alert.module, alert.affected) == (6, WHOLE, ())
    assert alert.value == pytest.approx(2.0)


@pytest.mark.parametrize(("before", "fires"), [(4, False), (5, True), (6, True)])
def test_a_spike_needs_five_windows_to_compare_with(before, fires):
    assert bool(told(curve(*[0] * before, 2), "spike")) is fires


@pytest.mark.parametrize(("since", "fires"), [(99, False), (100, False), (101, True)])
def test_a_spike_is_compared_with_the_last_hundred_windows(since, fires):
    assert bool(told(curve(2, *[0] * (since - 1), 2.1), "spike")) is fires


def test_a_spike_stands_while_the_level_stays_high():
    alerts = feed(curve(*[0] * 20, *[2] * 120))
    found = [[alert.step for alert in each if alert.rule == "spike"] for each in alerts]
    assert found == [*[[]] * 20, *[[21]] * 100, *[[]] * 20]


def test_a_spike_is_over_when_the_level_is_back():
    alerts = feed(curve(*[0] * 9, 2, 2, 0.1, 0, 2))
    assert [bool(modules(each, "spike")) for each in alerts[9:]] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_spike_stands_while_its_level_is_far_enough_above():
    (alert,) = told(curve(*[0] * 9, 4, 3, 1.6, 3), "spike")
    assert alert.step == 10
    assert alert.value == pytest.approx(1.6)


def test_a_trunk_that_gets_its_first_gradient_makes_no_spike():
    still = [net(n, zero=NET.modules[1:]) for n in range(1, 10)]
    assert not any(modules(alerts, "spike") for alerts in feed([*still, *curve(0, 0)]))
    assert names([*still, *curve(0, 2)], "spike") == [WHOLE]


def test_windows_without_a_level_do_not_count_before_a_spike():
    unknown = [net(n, unknown=NET.modules) for n in range(1, 6)]
    assert names([*unknown, *curve(0, 2)], "spike") == [WHOLE]
    assert not told([*curve(*[0] * 5, 2), unknown[0]], "spike")


# collapse


@pytest.mark.parametrize(("decades", "fires"), [(-2.99, False), (-3.01, True)])
def test_a_trunk_that_falls_is_a_collapse(decades, fires):
    assert names(curve(*[0] * 20, *[decades] * 3), "collapse") == [WHOLE] * fires


@pytest.mark.parametrize(("decades", "fires"), [(0, False), (-0.01, True)])
def test_a_collapse_at_its_limit_exactly_is_healthy(decades, fires):
    assert bool(told(curve(4, *[3] * 19, *[decades] * 3), "collapse")) is fires


def test_a_collapse_is_judged_by_the_mean_norms_of_a_window():
    low = [level(n, -4, peak=0) for n in (21, 22, 23)]
    assert names([*curve(*[0] * 20), *low], "collapse") == [WHOLE]


def test_a_collapse_says_how_far_it_lies_below_the_median_before():
    (alert,) = told(curve(*[0] * 9, *[2] * 11, -4, -3, -3.5), "collapse")
    assert (alert.step, alert.module) == (21, WHOLE)
    assert alert.value == pytest.approx(5.0)


def test_a_collapse_is_compared_with_the_median_of_an_even_number():
    (alert,) = told(curve(*[0] * 10, *[1] * 10, *[-4] * 3), "collapse")
    assert alert.value == pytest.approx(4.5)


@pytest.mark.parametrize(
    ("high", "since", "fires"),
    [(1.5, 9, True), (1.5, 10, False), (2.5, 10, True), (2.5, 11, False)],
)
def test_a_collapse_is_compared_with_the_last_twenty_windows(high, since, fires):
    windows = curve(*[high] * 30, *[0] * since, *[-2] * 3)
    assert bool(told(windows, "collapse")) is fires


@pytest.mark.parametrize(("low", "fires"), [(2, False), (3, True)])
def test_a_collapse_takes_three_windows(low, fires):
    assert bool(told(curve(*[0] * 20, *[-4] * low), "collapse")) is fires


@pytest.mark.parametrize(("before", "fires"), [(19, False), (20, True)])
def test_a_collapse_needs_twenty_windows_to_compare_with(before, fires):
    assert bool(told(curve(*[0] * before, *[-4] * 3), "collapse")) is fires


def test_a_collapse_takes_windows_in_a_row():
    assert not told(curve(*[0] * 20, -4, -4, 0, -4, -4), "collapse")


def test_a_collapse_stands_while_the_level_stays_low():
    alerts = feed(curve(*[0] * 20, *[-4] * 150))
    found = [bool(modules(each, "collapse")) for each in alerts]
    assert not any(found[:22])
    assert all(found[22:120])
    assert not any(found[130:])


def test_a_collapse_is_over_when_the_level_is_back():
    alerts = feed(curve(*[0] * 20, *[-4] * 9, -2, -1))
    assert [bool(modules(each, "collapse")) for each in alerts[27:]] == [True, True, False, False]


def test_a_trunk_without_any_gradient_has_collapsed():
    windows = [*lasting(20), *lasting(3, first=21, zero=NET.modules[1:])]
    (alert,) = told(windows, "collapse")
    assert alert.value == pytest.approx(45.0)


# total_high and total_low


@pytest.mark.parametrize(
    ("rule", "norm", "fires"),
    [
        ("total_high", 0.999e7, False),
        ("total_high", 1e7, False),
        ("total_high", 1.001e7, True),
        ("total_low", 1.001e-3, False),
        ("total_low", 0.999e-3, True),
        ("total_low", 0.0, True),
    ],
)
def test_the_norm_of_the_whole_gradient(rule, norm, fires):
    assert names(lasting(12, {WHOLE: norm}), rule) == [WHOLE] * fires


def test_a_total_exactly_at_the_lower_limit_is_healthy():
    low = lasting(10, {WHOLE: 0.25})
    assert not told(low, "total_low", Thresholds(total_low=0.25))
    assert told(low, "total_low", Thresholds(total_low=0.2500001))


@pytest.mark.parametrize(
    ("rule", "norm", "count", "fires"),
    [
        ("total_high", 1e8, 2, False),
        ("total_high", 1e8, 3, True),
        ("total_low", 1e-4, 9, False),
        ("total_low", 1e-4, 10, True),
    ],
)
def test_the_total_must_last(rule, norm, count, fires):
    for before in (0, 20):
        windows = [*lasting(before), *lasting(count, {WHOLE: norm}, first=99)]
        assert [alert.step for alert in told(windows, rule)] == [99] * fires


@pytest.mark.parametrize(
    ("rule", "norm", "count"), [("total_high", 1e8, 3), ("total_low", 1e-4, 10)]
)
@pytest.mark.parametrize("other", [1.0, np.nan])
def test_one_other_window_ends_a_total(rule, norm, count, other):
    for position in (0, 1, count - 1):
        windows = lasting(count, {WHOLE: norm})
        windows[position] = net(50, {WHOLE: other})
        assert not told(windows, rule)


@pytest.mark.parametrize(
    ("rule", "norms"), [("total_high", (3e8, 4e8)), ("total_low", (3e-4, 2e-4))]
)
def test_the_total_of_the_newest_window_is_told(rule, norms):
    windows = [*lasting(12, {WHOLE: norms[0]}), net(13, {WHOLE: norms[1]})]
    (alert,) = told(windows, rule)
    assert alert.value == np.float32(norms[1])
    assert alert.limit == getattr(Thresholds(), rule)


ZEROED = float(np.nextafter(np.float32(CLIP_OVERFLOW), np.float32(np.inf)))
"""The lowest norm that clipping multiplies by 0."""


@pytest.mark.parametrize("norm", [CLIP_OVERFLOW, ZEROED, 1e30, 3.4e38, np.inf])
@pytest.mark.parametrize("before", [0, 30])
def test_a_gradient_that_clipping_multiplies_by_zero_is_found_in_its_first_window(norm, before):
    high = net(31, {WHOLE: norm})
    alerts = [a for a in feed([*lasting(before), high])[-1] if a.severity != "notice"]
    assert [(a.rule, a.module, a.step) for a in alerts] == (
        [] if norm == CLIP_OVERFLOW else [("total_high", WHOLE, 31)]
    )
    assert all(np.isfinite(alert.value) for alert in alerts)


def test_clipping_multiplies_by_zero_above_that_norm():
    """As torch's own clipping does it."""
    for factor, is_zero in ((0.999, False), (1.001, True)):
        parameters = [torch.nn.Parameter(torch.zeros(1000)) for _ in range(3)]
        for one in parameters:
            one.grad = torch.full_like(one, CLIP_OVERFLOW * factor / 3000**0.5)
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        assert all(bool((one.grad == 0).all()) is is_zero for one in parameters)


@pytest.mark.parametrize("field", ["norm_max", "norm_mean"])
def test_one_such_step_in_a_window_of_many_is_enough(field):
    one = normed(net(4, steps=30), {WHOLE: np.inf}, fields={"norm_max", field})
    assert names([*lasting(3), one], "total_high") == [WHOLE]


def test_a_window_beyond_float32_counts_as_one_with_a_high_total():
    totals = (1e8, np.inf, 1e8)
    windows = [net(step, {WHOLE: norm}) for step, norm in enumerate(totals, 1)]
    assert [bool(modules(each, "total_high")) for each in feed(windows)] == [False, True, True]
    assert not told(windows[1:], "total_low")


def test_a_step_that_is_not_finite_is_no_high_total():
    assert not told([net(1, nonfinite=NET.modules)], "total_high")


def test_steps_that_amp_skipped_are_no_high_total():
    assert not told([*lasting(5), net(6, {WHOLE: np.inf}, skipped=1)], "total_high")


def test_what_clipping_multiplies_by_zero_is_no_measure_for_a_spike_or_a_collapse():
    every = dict.fromkeys(NET.modules, np.inf)
    windows = [*lasting(30), *lasting(59, every, first=31), *lasting(30, first=90)]
    found = {a.rule for alerts in feed(windows) for a in alerts}
    assert found == {"total_high"}
    spiked = [*windows, net(120, dict.fromkeys(BLOCKS, 100.0))]
    assert names(spiked, "spike") == [WHOLE]


@pytest.mark.parametrize("block", ["model.0", "model.1", "model.2"])
def test_a_block_beyond_float32_is_named_once_that_lasts(block):
    high = {WHOLE: np.inf, block: np.inf}
    alerts = feed([*lasting(5), *lasting(3, high, first=6)])
    assert all(modules(each, "total_high") == [WHOLE] for each in alerts[5:])
    assert modules(alerts[7], "exploding") == [block]


# weight_growth


@pytest.mark.parametrize(("factor", "fires"), [(1.9, False), (1.99, False), (2.0, True), (9, True)])
def test_weights_that_double_grow_too_much(factor, fires):
    windows = [weighing(1, 5), weighing(2, 5 * factor)]
    assert names(windows, "weight_growth") == [WHOLE] * fires


def test_growth_at_its_limit_exactly_is_healthy():
    windows = [weighing(1, 5), weighing(2, 50)]
    found = [
        bool(told(windows, "weight_growth", Thresholds(weight_growth=limit)))
        for limit in (0.999, 1.0, 1.001)
    ]
    assert found == [True, False, False]


def test_weights_that_shrink_or_those_of_the_head_do_not_grow():
    assert not told([weighing(1, 5), weighing(2, 0.1)], "weight_growth")
    assert not told([weighing(1, 5, trunk=False), weighing(2, 50, trunk=False)], "weight_growth")


@pytest.mark.parametrize(("count", "fires"), [(19, False), (20, False), (21, True), (40, True)])
def test_slow_growth_is_judged_over_twenty_windows(count, fires):
    slow = [weighing(step, 1.036**step) for step in range(1, count + 1)]
    assert bool(told(slow, "weight_growth")) is fires


def test_growth_that_takes_longer_is_healthy():
    windows = [weighing(step, 1.034**step) for step in range(1, 60)]
    assert not any(feed(windows))


@pytest.mark.parametrize(("later", "fires"), [(19, True), (20, False)])
def test_growth_is_news_for_twenty_windows(later, fires):
    windows = [weighing(1, 5), *(weighing(2 + n, 20) for n in range(later + 1))]
    assert bool(told(windows, "weight_growth")) is fires


def test_windows_without_weights_are_passed_over():
    taken = [weighing(1, 5), *(weighing(2 + n, np.nan) for n in range(9)), weighing(20, 20)]
    unknown = [replace(one, weight_norm=np.full_like(one.weight_norm, np.nan)) for one in taken]
    windows = [taken[0], *unknown[1:10], taken[-1], *unknown[1:5]]
    (alert,) = told(windows, "weight_growth")
    assert (alert.step, alert.limit) == (1, 0.3)
    assert alert.value == pytest.approx(np.log10(4))
    assert not told(windows[:10], "weight_growth")


def test_growth_is_the_median_over_the_weights():
    before, after = weighing(1, 5), weighing(2, 5)
    trunk = [m for m, name in enumerate(NET.modules) if name in NET_WEIGHTS]
    for grown, fires in ((3, False), (4, True)):
        after.weight_norm[trunk[:grown]] = 50
        assert bool(told([before, after], "weight_growth")) is fires


NET_WEIGHTS = [
    name
    for name, role in zip(NET.modules, NET.roles, strict=True)
    if role == "weight" and not name.startswith("model.6")
]


@pytest.mark.parametrize("odd", [0.0, np.nan, np.inf])
def test_a_weight_without_a_norm_says_nothing_about_growth(odd):
    before, after = weighing(1, 5), weighing(2, 20)
    for one in (before, after):
        one.weight_norm[NET.modules.index("model.1.b")] = odd
    assert names([before, after], "weight_growth") == [WHOLE]


# Norms beyond what single precision holds.


def test_a_norm_of_zero_beside_one_beyond_single_precision_is_no_trouble():
    windows = lasting(5, {"model.1.a": 0.0, "model.1.b": np.inf, "model.1.c": np.nan})
    assert not {"vanishing", "exploding"} & {alert.rule for alert in feed(windows)[-1]}


def test_a_trunk_beyond_single_precision_is_no_trouble():
    huge = [net(n, dict.fromkeys(BLOCKS, np.inf)) for n in range(1, 31)]
    feed([*huge, *lasting(3), *huge[:3]])


def test_weights_that_grow_beyond_single_precision_grow_too_much():
    assert names([weighing(1, 1e-20), weighing(2, 1e20)], "weight_growth") == [WHOLE]
