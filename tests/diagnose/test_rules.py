"""What each rule judges apart from its limit and window count, which test_catalog covers."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import (
    BLOCKS,
    FORK,
    NET,
    curve,
    feed,
    fired,
    inside,
    lasting,
    level,
    net,
    normed,
    skips,
    upstream,
    weighing,
    zeroed,
)
from rule_cases import BOXES, FIVE, ODD, PAIRED, RUNS, anything
from values import HEAD, LAWS, LAYOUT, TRUNK, Part, plan

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.finding import Alert
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.clipping import CLIP_OVERFLOW
from yolo_gradwatch.measure.layout import WHOLE

FEW = settings(LAWS, max_examples=15)
STEM, CONV = "model.0.conv", "model.2.conv"
WEIGHTS = [
    name
    for name, role in zip(NET.modules, NET.roles, strict=True)
    if role == "weight" and not name.startswith("model.6")
]

PLAIN, _ = plan(
    [Part("stem.a"), Part("stem.b"), Part("stem.c"), Part("body.d"), Part("body.e"), Part("last")]
)
"""A custom model without edges between its blocks."""

HEAD_OF_BOTH, _ = plan(
    [
        *(Part(f"model.{n}") for n in range(3)),
        *(Part(f"model.3.cv2.{n}") for n in range(2)),
    ],
    edges=FORK.edges[:4],
)
"""A block read by two others, both of which the head reads."""


def names(windows, rule, limits=FIVE, layout=NET):
    return [alert.module for alert in fired(windows, rule, limits, layout)]


def rules_of(windows, limits=FIVE, layout=NET):
    return {alert.rule for alert in feed(windows, limits, layout)[-1]}


def holds(windows, rule, limits=FIVE, layout=NET):
    """For each window, whether a rule holds."""
    return [rule in {a.rule for a in each} for each in feed(windows, limits, layout)]


def situations(table):
    """Parametrize by runs, with the modules that a rule names in the last window."""
    return pytest.mark.parametrize(("windows", "found"), table.values(), ids=table)


# --- laws -----------------------------------------------------------------------------------------


@FEW
@given(st.integers(0, 10**6))
def test_alerts_are_valid_for_any_windows(seed):
    limits = Thresholds(dead_windows=1, dead_branch_windows=2, amp_grace=2)
    windows = list(anything(seed, ODD))
    for one, alerts in zip(windows, feed(windows, limits), strict=True):
        for alert in alerts:
            assert alert.module in NET.modules
            assert 1 <= alert.step <= one.step_first
            assert alert.severity == RULES[alert.rule].severity
            assert np.isfinite([alert.value, alert.limit]).all()
            assert set(alert.affected) <= set(NET.modules) - {alert.module}
            if RULES[alert.rule].in_decades:
                assert alert.value > alert.limit


LEVELS = [name for name, value in asdict(Thresholds()).items() if isinstance(value, float)]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*LEVELS} - {"zero_fraction", "total_low"}))
def test_limit_may_be_as_large_as_a_float(name):
    for windows in (list(anything(1)), *(run.windows for run in RUNS.values())):
        feed(windows, Thresholds(**{name: 1e308}))


@FEW
@given(st.integers(0, 10**6), st.integers(-3, 3))
def test_rules_within_a_window_do_not_depend_on_the_scale(seed, power):
    windows = list(anything(seed, [0.0, np.nan, 0.125, 1, 8, 1024, 2.0**20], 8))
    factor = np.float32(2.0**power)
    scaled = [replace(one, norm_mean=one.norm_mean * factor) for one in windows]
    found = [
        [
            [(a.rule, a.module, a.affected) for a in alerts if RULES[a.rule].unit != "norm"]
            for alerts in feed(run)
        ]
        for run in (windows, scaled)
    ]
    assert found[0] == found[1]


def test_healthy_net_is_silent():
    assert feed(lasting(130)) == [[]] * 130


def test_norms_beyond_single_precision_are_handled():
    mixed = lasting(5, {"model.1.a": 0.0, "model.1.b": np.inf, "model.1.c": np.nan})
    assert not {"vanishing", "exploding"} & rules_of(mixed)
    huge = lasting(30, dict.fromkeys(BLOCKS, np.inf))
    feed([*huge, *lasting(3), *huge[:3]])
    assert names([weighing(1, 1e-20), weighing(2, 1e20)], "weight_growth") == [WHOLE]


# --- which module a rule names, and where it is silent --------------------------------------------

MANY = ("model.4.conv", "model.4.bn", "model.6.cv2.0", "model.6.cv3.0")
"""Consumers of block 2."""

DETACHED = ("model.6.one2one_cv2", "model.6.one2one_cv3")
LOW = dict.fromkeys([*BLOCKS, *BOXES], 1e-3)
LOST = [*lasting(4, upstream(1e-3)), net(9, upstream(np.nan))]
STILL_NET = lasting(9, zero=NET.modules[1:])


def blocks(count, **norms):
    return lasting(count, {name.replace("b", "model."): norm for name, norm in norms.items()})


def shares(*values, module=CONV):
    return [zeroed(4 * n + 1, share, module) for n, share in enumerate(values)]


def high(fields):
    return normed(net(4, steps=30), {WHOLE: np.inf}, fields=fields)


def growing(factor, count):
    return [weighing(n, factor**n) for n in range(1, count + 1)]


def unweighed(one):
    return replace(one, weight_norm=np.full_like(one.weight_norm, np.nan))


def test_growth_lasts_until_the_weights_are_read_again():
    windows = [weighing(1, 5), *map(unweighed, lasting(15, first=2)), weighing(17, 20)]
    assert names([*windows, *map(unweighed, lasting(20, first=18))], "weight_growth") == [WHOLE]
    assert not names([*windows[:-1], unweighed(net(17))], "weight_growth")


def changed(odd, *places):
    """Weights that grew fourfold, except for some modules."""
    windows = [weighing(1, 5), weighing(2, 20)]
    for one in windows:
        one.weight_norm[[NET.modules.index(name) for name in places]] = odd
    return windows


NAMED = {
    ("partly_dead", CONV): {
        "nearly all": shares(*[0.999] * 6),
        "six windows again": shares(0.9, 0.4, *[0.9] * 6),
        "windows of one step for long enough": [zeroed(n, 0.9) for n in range(1, 21)],
        "windows without a count between": [
            one for each in shares(*[0.9] * 6) for one in (each, *lasting(3))
        ],
    },
    ("vanishing", "model.2"): {
        "a block that gets nearly nothing": lasting(5, upstream(1e-9)),
        "read through a block without parameters": lasting(
            5, {**upstream(1e-3), **dict.fromkeys(MANY[2:], 1e-3)}
        ),
        "boxes alone are healthy": lasting(5, {**LOW, "model.6.cv2.0": 1.0}),
        "scores alone are healthy": lasting(5, {**LOW, "model.6.cv3.0": 1.0}),
        "the nearest to the loss is the cause": blocks(5, b0=1e-6, b1=1e-6, b2=1e-3),
        "the norm layer is low too": lasting(
            5, {"model.0": 0.1, "model.1": 0.1, CONV: 1e-3, "model.2.bn": 1e-4}
        ),
        "but end nothing": [*LOST, net(10, upstream(1e-3))],
    },
    ("vanishing", "model.4"): {
        "a second loss upstream of a healthy block": blocks(5, b0=1e-3, b1=1e-3, b4=1e-3),
    },
    ("vanishing", "model.1"): {
        "in front of an explosion, and low": blocks(5, b0=10**-0.51, b1=10**-0.51, b2=1e6),
    },
    ("exploding", "model.2"): {
        "a block that gets very much": lasting(3, upstream(1e9)),
        "its weights": lasting(3, {CONV: 1e3}),
        "a detached branch explains nothing": lasting(
            3, dict.fromkeys(("model.2", *DETACHED), 1e4)
        ),
        "the nearest to the loss is the cause": blocks(3, b0=1e6, b1=1e6, b2=1e3),
    },
    ("exploding", "model.4"): {
        "that explains the one before": blocks(3, b2=1e4, b4=1e4),
        "a block that feeds the trunk": blocks(3, b4=1e4),
    },
    ("spike", WHOLE): {
        "the highest norm of a window": [*curve(*[0] * 5), level(6, 0, peak=2)],
        "enough windows before": curve(*[0] * 6, 2),
        "as high 101 windows ago": curve(2, *[0] * 100, 2.1),
        "high enough ever since": curve(*[0] * 9, 4, 3, 1.6, 3),
        "a jump soon after": [*STILL_NET, *curve(0, 2)],
        "windows without a level before": [*lasting(5, unknown=NET.modules), *curve(0, 2)],
    },
    ("collapse", WHOLE): {
        "the mean norms of a window": [*curve(*[0] * 20), *[level(21, -4, peak=0)] * 3],
        "most of the last twenty are high": curve(*[1.5] * 30, *[0] * 9, *[-2] * 3),
        "half of them are very high": curve(*[2.5] * 30, *[0] * 10, *[-2] * 3),
    },
    ("total_high", WHOLE): {
        "one step of many": [*lasting(3), high(["norm_max"])],
        "also in the mean": [*lasting(3), high(["norm_max", "norm_mean"])],
        "a window beyond float32 counts": [
            net(n, {WHOLE: norm}) for n, norm in enumerate((1e8, np.inf, 1e8))
        ],
    },
    ("weight_growth", WHOLE): {
        "doubled": [weighing(1, 5), weighing(2, 10)],
        "slowly, over 21 windows": growing(1.036, 21),
        "slowly, for long": growing(1.036, 40),
        "20 windows ago": [weighing(1, 5), *(weighing(2 + n, 20) for n in range(20))],
        "windows without weights between": [
            weighing(1, 5),
            *map(unweighed, lasting(9)),
            weighing(20, 20),
            unweighed(net(21)),
        ],
        "four of seven weights": changed(5, *WEIGHTS[4:]),
        **{f"one weight of {odd}": changed(odd, WEIGHTS[2]) for odd in (0.0, np.nan, np.inf)},
    },
}
"""For a rule and a module, runs in which the rule names the module."""

SILENT = {
    "partly_dead": {
        "all: that is dead": shares(*[1.0] * 6),
        "one was not counted": shares(0.9, 0.9, np.nan, 0.9, 0.9, 0.9),
        "many windows, but few steps": [zeroed(n, 0.9) for n in range(1, 20)],
        "the head": shares(*[0.9] * 9, module="model.6.cv2.0.conv"),
        **{
            f"{other} in window {n}": shares(*[0.9] * n, other, *[0.9] * (5 - n))
            for other in (0.0, 0.4, 1.0)
            for n in range(6)
        },
    },
    "vanishing": {
        "detached branches send nothing": lasting(5, {**LOW, **dict.fromkeys(DETACHED, 1.0)}),
        "no gradient of a consumer arrives": lasting(5, dict.fromkeys(BLOCKS, 1e-3)),
        "in front of a small explosion": blocks(5, b0=10**-0.49, b1=10**-0.49, b2=1e6),
        "the norm layer shows that a gradient arrives": lasting(5, {"model.2.conv": 1e-3}),
        "in front of one without a norm": blocks(9, b0=0.2, b1=np.nan),
        "windows without its norm do not count": LOST,
        "in front of a dead block": lasting(9, {"model.0": 1e-9}, zero=inside(NET, "model.1")),
        "without any gradient": lasting(9, zero=inside(NET, "model.0", "model.1", CONV)),
    },
    "exploding": {
        "its norm layer": lasting(3, {"model.2.bn": 1e3}),
        "a block that feeds the head alone": blocks(3, b5=1e4),
        **{f"{name} is as high": lasting(3, {"model.2": 1e4, name: 1e4}) for name in MANY[1:]},
        "zero at the consumers": lasting(
            9, zero=inside(NET, "model.2", "model.4", "model.5", "model.6")
        ),
    },
    "spike": {
        "what was as high before": [*curve(*[0] * 4), level(5, 0, peak=2), level(6, 2)],
        "the head": [*lasting(5), net(6, {"model.6": 1e9, WHOLE: 1e6})],
        "too few windows before": curve(*[0] * 4, 2),
        "as high 100 windows ago": curve(2, *[0] * 99, 2.1),
        "down again, and up": curve(*[0] * 9, 2, 2, 0.1, 0, 2),
        "a trunk that gets its first gradient": [*STILL_NET, *curve(0, 0)],
        "a window without a level": [*curve(*[0] * 5, 2), net(9, unknown=NET.modules)],
    },
    "collapse": {
        "too few windows before": curve(*[0] * 19, *[-4] * 3),
        "two low windows": curve(*[0] * 20, *[-4] * 2),
        "not in a row": curve(*[0] * 20, -4, -4, 0, -4, -4),
        "half of them are": curve(*[1.5] * 30, *[0] * 10, *[-2] * 3),
        "fewer are": curve(*[2.5] * 30, *[0] * 11, *[-2] * 3),
    },
    "total_high": {
        "what is not finite": [net(1, nonfinite=NET.modules)],
        "what AMP skipped": [*lasting(5), net(6, {WHOLE: np.inf}, skipped=1)],
    },
    "weight_growth": {
        "not quite doubled": [weighing(1, 5), weighing(2, 9.95)],
        "shrunk": [weighing(1, 5), weighing(2, 0.1)],
        "the head": [weighing(1, 5, trunk=False), weighing(2, 50, trunk=False)],
        "slowly, over 20 windows": growing(1.036, 20),
        "more slowly, for long": growing(1.034, 60),
        "21 windows ago": [weighing(1, 5), *(weighing(2 + n, 20) for n in range(21))],
        "no second window with weights": [weighing(1, 5), *map(unweighed, lasting(9))],
        "three of seven weights": changed(5, *WEIGHTS[3:]),
    },
}
"""For a rule, runs in which it is silent."""


@pytest.mark.parametrize(
    ("rule", "module", "windows"),
    [
        pytest.param(rule, module, windows, id=f"{rule}: {what}")
        for (rule, module), found in NAMED.items()
        for what, windows in found.items()
    ],
)
def test_rule_names_a_module(rule, module, windows):
    assert names(windows, rule) == [module]


@pytest.mark.parametrize(
    ("rule", "windows"),
    [
        pytest.param(rule, windows, id=f"{rule}: {what}")
        for rule, found in SILENT.items()
        for what, windows in found.items()
    ],
)
def test_rule_is_silent(rule, windows):
    assert not fired(windows, rule, FIVE)


# --- nonfinite and amp_overflow -------------------------------------------------------------------


@situations(
    {
        "no step": ([net(1, steps=5, nonfinite={CONV: 0})], []),
        "one of five": ([net(1, steps=5, nonfinite={CONV: 1})], [CONV]),
        "leaves, in forward order": (
            [net(1, nonfinite=[WHOLE, "model.4", "model.4.bn", CONV, "model.0.bn", "model.0"])],
            ["model.0.bn", CONV, "model.4.bn"],
        ),
        "a row of skipped steps": ([net(1), *skips(13, 2, unknown=["model.2", CONV])], [CONV]),
        "a longer one": (skips(30, unknown=[CONV]), [CONV]),
        "a short row": (skips(12, unknown=[CONV]), []),
        "no leaf differs": (skips(13), [WHOLE]),
        "applied steps end it": (
            [*skips(12), *(net(n) for n in range(13, 39)), *skips(12, 39)],
            [],
        ),
        "one applied step does not": ([*skips(12), net(13), *skips(12, 14)], [WHOLE]),
        "also within a window": (
            [*skips(10), net(11, steps=100, skipped=30), net(111, steps=3, skipped=3)],
            [],
        ),
        **{
            f"a module is not blamed that is {state}": (
                [net(1, **{state: [STEM]}), *skips(13, 2, unknown=[STEM, CONV])],
                [CONV],
            )
            for state in ("unknown", "none")
        },
    }
)
def test_nonfinite(windows, found):
    assert names(windows, "nonfinite") == found
    is_notice = windows[-1].skipped and not found
    assert names(windows, "amp_overflow") == [WHOLE] * bool(is_notice)


def test_alerts_count_nonfinite_and_skipped_steps():
    (alerts,) = feed([net(7, steps=5, epoch=2, nonfinite={CONV: 3})])
    assert alerts == [Alert("nonfinite", "critical", CONV, 2, 7, 3.0, 0.0)]
    (alerts,) = feed([net(3, steps=5, skipped=2)])
    assert alerts == [Alert("amp_overflow", "notice", WHOLE, 1, 3, 2.0, 12.0)]
    (alert,) = feed([net(1), *skips(12, 2), net(14, steps=4, skipped=4, epoch=3)])[-1]
    assert (alert.step, alert.epoch, alert.value) == (2, 1, 16.0)


# --- dead and no_gradient -------------------------------------------------------------------------

STILL = pytest.mark.parametrize(("rule", "count"), [("dead", "zero"), ("no_gradient", "none")])


@STILL
def test_module_without_a_gradient(rule, count):
    still = lasting(3, **{count: [CONV]})
    alive = net(15, steps=7, **{count: {CONV: 6}})
    assert holds([*still[:2], alive, *still], rule) == [False] * 5 + [True]
    wide = [replace(alive, **{count: getattr(alive, count) * 7 // 6})]
    assert names([*still[:2], *wide], rule) == [CONV]
    part = [net(5 * n, steps=5, skipped=2, **{count: [CONV]}) for n in (1, 2, 3)]
    assert names(part, rule) == [CONV]


@STILL
def test_module_still_without_a_gradient_is_dated_by_the_newest_windows(rule, count):
    windows = [net(10 * n, steps=10, epoch=n, **{count: [CONV]}) for n in range(1, 5)]
    assert feed(windows)[-1] == [Alert(rule, "critical", CONV, 2, 20, 3.0, 3.0)]


@STILL
def test_only_leaves_of_the_trunk_are_judged(rule, count):
    other = lasting(60, layout=LAYOUT, **{count: [WHOLE, "model.1", *HEAD]})
    assert not any(holds(other, rule, layout=LAYOUT))
    every = lasting(3, layout=LAYOUT, **{count: LAYOUT.modules})
    assert names(every, rule, layout=LAYOUT) == list(TRUNK)


@pytest.mark.parametrize("patience", [20, 51, 80])
def test_patience_longer_than_any_other_rule_works(patience):
    still = lasting(patience, zero=["model.0.conv"])
    limits = Thresholds(dead_windows=patience)
    assert holds(still, "dead", limits) == [False] * (patience - 1) + [True]


def test_alternating_zero_and_missing_gradients_are_neither():
    assert not any(feed([net(n, **{("zero", "none")[n % 2]: [CONV]}) for n in range(1, 9)]))


def test_modules_outside_the_block_list_are_judged():
    layout, _ = plan([Part("unused"), Part("model.0"), Part("model.1")])
    windows = lasting(3, layout=layout, none=["unused"])
    assert names(windows, "no_gradient", layout=layout) == ["unused"]


# --- dead_branch and starved_scale ----------------------------------------------------------------

SCORES = [f"model.6.{family}.{n}" for family in ("cv3", "one2one_cv3") for n in range(3)]


@pytest.mark.parametrize(
    ("units", "rules"),
    [
        (BOXES, {"dead_branch": ["model.6.cv2"]}),
        (PAIRED, {"dead_branch": ["model.6.one2one_cv2"]}),
        ((*BOXES, *PAIRED), {"dead_branch": ["model.6.cv2", "model.6.one2one_cv2"]}),
        (
            (*BOXES, PAIRED[2]),
            {"dead_branch": ["model.6.cv2"], "starved_scale": [PAIRED[2]]},
        ),
        (
            (BOXES[2], *PAIRED),
            {"dead_branch": ["model.6.one2one_cv2"], "starved_scale": [BOXES[2]]},
        ),
        (SCORES, {}),
        (BOXES[2:], {"starved_scale": BOXES[2:]}),
        (PAIRED[2:], {"starved_scale": PAIRED[2:]}),
        ((BOXES[2], PAIRED[1]), {"starved_scale": [BOXES[2], PAIRED[1]]}),
        ((BOXES[0], PAIRED[0], BOXES[2], PAIRED[2]), {"starved_scale": [BOXES[0], BOXES[2]]}),
    ],
)
@pytest.mark.parametrize("how", ["zero", "both"])
def test_head_branches_without_a_gradient(units, rules, how):
    counts = ("zero", "none") if how == "both" else (how, how)
    silent = dict.fromkeys(inside(NET, *units), 40)
    windows = [net(n, steps=40, **{counts[n % 2]: silent}) for n in range(1, 6)]
    found = {}
    for alert in feed(windows, FIVE)[-1]:
        found.setdefault(alert.rule, []).append(alert.module)
    assert found == {rule: list(modules) for rule, modules in rules.items()}


@pytest.mark.parametrize("position", [0, 2, 4])
def test_one_step_with_a_gradient_revives_a_branch(position):
    rule = "dead_branch"
    silent = list(RUNS[rule].windows)
    silent[position] = replace(silent[position], steps=2)
    assert not fired(silent, rule, FIVE)
    silent[position] = replace(silent[position], skipped=1)
    assert names(silent, rule) == [RUNS[rule].module]
    silent[position] = net(50)
    assert not any(holds([*silent, *silent[:position]], rule))


def test_net_without_pairs_can_starve():
    zero = dict.fromkeys(inside(HEAD_OF_BOTH, "model.3.cv2.1"), 40)
    silent = lasting(5, layout=HEAD_OF_BOTH, steps=40, zero=zero)
    (alert,) = feed(silent, FIVE, HEAD_OF_BOTH)[-1]
    assert (alert.rule, alert.module, alert.affected) == ("starved_scale", "model.3.cv2.1", ())


@pytest.mark.parametrize(
    ("silent", "rules"),
    [("cv4.0", set()), ("cv2.0", {"starved_scale"}), ("cv4.0 cv4.1", {"dead_branch"})],
)
def test_family_that_is_neither_boxes_nor_scores_can_die_but_not_starve(silent, rules):
    layout, _ = plan(
        [Part("model.0"), *(Part(f"model.1.{f}.{n}") for f in ("cv4", "cv2") for n in range(2))],
        edges=[("model.0", "model.1"), ("model.0", "model.1")],
    )
    zero = dict.fromkeys([f"model.1.{name}" for name in silent.split()], 40)
    assert rules_of(lasting(5, layout=layout, steps=40, zero=zero), layout=layout) == rules


# --- partly_dead ----------------------------------------------------------------------------------


def spread(share, *, kernel=9, module=CONV, **changes):
    """Alerts of six windows of a net whose kernels have this many positions."""
    layout = replace(NET, kernels=tuple(kernel for _ in NET.modules), **changes)
    return names(shares(*[share] * 6, module=module), "partly_dead", layout=layout)


@pytest.mark.parametrize(("positions", "kernel"), [(5, 9), (6, 9), (8, 9), (13, 25), (24, 25)])
def test_kernel_positions_over_padding_are_healthy(positions, kernel):
    share = positions / kernel
    assert spread(share, kernel=kernel) == []
    for off, fires in ((0.00049, False), (0.00051, True)):
        assert bool(spread(share - off, kernel=kernel)) is fires
        assert bool(spread(share + off, kernel=kernel)) is fires
    assert spread(share, kernel=1) == [CONV]
    layout = replace(NET, kernels=tuple(kernel for _ in NET.modules))
    assert names(shares(*[share] * 3, 0.7, *[share] * 2), "partly_dead", layout=layout) == [CONV]


@pytest.mark.parametrize(
    ("kind", "attentions", "is_judged"),
    [
        ("Attention", (), False),
        ("Conv2d", ("model.1",), False),
        ("PatternBlock", (), True),
        ("Lattice", (), True),
        ("Attic", (), True),
    ],
)
def test_zeros_in_an_attention_are_healthy(kind, attentions, is_judged):
    types = tuple(kind if name == "model.1" else "Conv2d" for name in NET.modules)
    changes = {"types": types, "attentions": attentions}
    assert spread(0.9, module="model.1.b", **changes) == ["model.1.b"] * is_judged
    assert spread(0.9, **changes) == [CONV]


# --- frozen ---------------------------------------------------------------------------------------


@situations(
    {
        "leaves of trunk and head": (
            lasting(5, unknown=inside(NET, "model.1", "model.6.cv3")),
            [
                *("model.1.a", "model.1.b", "model.1.c", "model.1.bn"),
                *(f"model.6.cv3.{scale}.conv" for scale in range(3)),
            ],
        ),
        "moved three windows ago": (
            [net(1), *lasting(3, first=2, unknown=["model.0.conv"])],
            ["model.0.conv"],
        ),
        "moved two windows ago": ([net(1), *lasting(2, first=2, unknown=["model.0.conv"])], []),
        **{
            count: (lasting(9, **{count: ["model.0.conv"]}), [])
            for count in ("nonfinite", "zero", "none")
        },
    }
)
def test_frozen(windows, found):
    alerts = fired(windows, "frozen")
    assert [alert.module for alert in alerts] == found
    assert {alert.step for alert in alerts} <= {len(windows) - 2}


# --- vanishing and exploding ----------------------------------------------------------------------


@pytest.mark.parametrize("healthy", [10, 30])
@pytest.mark.parametrize(
    ("rule", "norm", "count", "fires"),
    [
        ("vanishing", 1e-3, 5, False),
        ("vanishing", 1e-3, 6, True),
        ("vanishing", 10**-4.5, 4, False),
        ("vanishing", 10**-4.5, 5, True),
        ("exploding", 1e9, 2, False),
        ("exploding", 1e3, 3, True),
    ],
)
def test_block_is_judged_by_the_median_of_several_windows(healthy, rule, norm, count, fires):
    windows = [*lasting(healthy), *lasting(count, upstream(norm), first=99)]
    assert [alert.step for alert in fired(windows, rule)] == [99] * fires


@pytest.mark.parametrize(("rule", "cause", "sign"), [("vanishing", -3, -1), ("exploding", 4, 1)])
@pytest.mark.parametrize(("decades", "affected"), [(1.49, ()), (1.51, ("model.0",))])
def test_affected_blocks_are_far_from_the_consumers_of_the_cause(
    rule, cause, sign, decades, affected
):
    norms = {
        "model.0": 10 ** (sign * decades),
        "model.1": 10 ** (sign * 1.2),
        "model.2": 10.0**cause,
    }
    (alert,) = fired(lasting(5, norms), rule)
    assert alert.affected == affected


@pytest.mark.parametrize(
    ("rule", "norms"), [("vanishing", (1e-4, 1e-4, 1e-3)), ("exploding", (1e5, 1e4, 1e4))]
)
def test_blocks_on_two_paths_are_both_named(rule, norms):
    layout, _ = plan(
        [Part(f"model.{n}") for n in range(6)],
        edges=[
            (f"model.{a}", f"model.{b}")
            for a, b in ((0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5))
        ],
    )
    windows = lasting(5, zip(BLOCKS, norms, strict=False), layout=layout)
    found = [(alert.module, alert.affected) for alert in fired(windows, rule, layout=layout)]
    assert found == [("model.2", ("model.0",)), ("model.1", ("model.0",))]


@pytest.mark.parametrize(("norm", "found"), [(1.0, []), (1e-3, ["model.0"])])
def test_block_of_norm_layers_is_judged_by_the_largest(norm, found):
    parts = [Part(f"model.0.{x}_bn", is_weight=False) for x in "ab"]
    layout, _ = plan(
        [*parts, Part("model.1.conv"), Part("model.2")], edges=[("model.0", "model.1")]
    )
    windows = lasting(5, {"model.0.a_bn": 1e-3, "model.0.b_bn": norm}, layout=layout)
    assert names(windows, "vanishing", layout=layout) == found
    high = lasting(5, {"model.0": 1e9}, layout=layout)
    assert not rules_of(high, layout=layout)


@pytest.mark.parametrize("place", ["model.0", "model.1"])
def test_block_without_weights_or_norm_layers_has_no_level(place):
    blocks = BLOCKS[:4]
    parts = [Part(name, is_weight=name != place) for name in blocks]
    layout, _ = plan(parts, edges=itertools.pairwise(blocks))
    assert not rules_of(lasting(9, {"model.0": 1e-9}, layout=layout), layout=layout)


# --- leaf_vanishing and leaf_exploding ------------------------------------------------------------

SIDES = pytest.mark.parametrize(
    ("rule", "other", "norm"),
    [("leaf_vanishing", "leaf_exploding", 1e-3), ("leaf_exploding", "leaf_vanishing", 1e3)],
)


@SIDES
def test_weight_is_judged_by_the_median_of_five_windows(rule, other, norm):
    for power, count, fires in ((3, 2, False), (1, 3, True)):
        windows = [*lasting(9), *lasting(count, {"model.1.b": norm**power}, first=99)]
        assert [alert.step for alert in fired(windows, rule)] == [99] * fires
        assert not fired(windows, other)


@SIDES
@pytest.mark.parametrize(
    "places",
    [("model.1.a", "model.1.c"), ("model.1",), ("model.1.bn", "model.6.cv2.1")],
    ids=["level with what reads its block", "a whole block", "a norm layer, and the head"],
)
def test_weight_that_does_not_stand_out(rule, other, norm, places):
    assert not {rule, other} & rules_of(lasting(9, dict.fromkeys(places, norm)))


@SIDES
@pytest.mark.parametrize(("place", "fires"), [("stem.b", True), ("body.e", False), ("last", False)])
def test_weight_is_judged_against_its_block_if_edges_are_unknown(rule, other, norm, place, fires):
    assert rules_of(lasting(3, {place: norm}, layout=PLAIN), layout=PLAIN) == {rule} - (
        set() if fires else {rule}
    )
    assert not any(feed(lasting(30, {"stem": 1e-9, "body": 1e9}, layout=PLAIN), FIVE, PLAIN))


@SIDES
def test_weight_is_compared_within_the_smallest_module_around_it(rule, other, norm):
    inner = [f"model.0.m.{n}" for n in range(3)]
    layout, _ = plan([*map(Part, (*inner, "model.0.a", "model.0.b", "model.0.c", "model.1"))])
    windows = lasting(3, {inner[0]: norm, inner[1]: norm}, layout=layout)
    assert rules_of(windows, layout=layout) == {other}
    assert names(windows, other, layout=layout) == [inner[2]]


def test_weight_with_a_zero_gradient_or_next_to_dead_ones():
    assert rules_of(lasting(9, zero=["model.1.b"])) == {"dead"}
    next_to_dead = lasting(9, {"model.1.b": 1e9}, zero=["model.1.a", "model.1.c"])
    assert rules_of(next_to_dead) == {"dead", "leaf_exploding"}


# --- spike and collapse ---------------------------------------------------------------------------


def test_collapse_reports_how_far_it_fell():
    for windows, value in (
        (curve(*[0] * 10, *[1] * 10, *[-4] * 3), 4.5),
        ([*lasting(20), *lasting(3, first=21, zero=NET.modules[1:])], 45.0),
    ):
        (alert,) = fired(windows, "collapse")
        assert alert.value == pytest.approx(value)


def test_new_level_becomes_normal():
    spiked = feed(curve(*[0] * 20, *[2] * 120))
    steps = [[alert.step for alert in each if alert.rule == "spike"] for each in spiked]
    assert steps == [*[[]] * 20, *[[21]] * 100, *[[]] * 20]
    fallen = holds(curve(*[0] * 20, *[-4] * 150), "collapse")
    assert not any(fallen[:22] + fallen[130:])
    assert all(fallen[22:120])


def test_both_end_when_the_level_is_back():
    assert holds(curve(*[0] * 9, 2, 2, 0.1), "spike")[9:] == [True, True, False]
    back = holds(curve(*[0] * 20, *[-4] * 9, -2, -1), "collapse")
    assert back[27:] == [True, True, False, False]


# --- total_high and total_low ---------------------------------------------------------------------

ZEROED = float(np.nextafter(np.float32(CLIP_OVERFLOW), np.float32(np.inf)))
"""The lowest norm that clipping multiplies by 0."""


@pytest.mark.parametrize(
    ("rule", "norms", "since"),
    [("total_high", (3e8, 4e8), 1), ("total_low", (3e-4, 0.0), 2)],
)
def test_total_must_last_and_reports_the_newest_window(rule, norms, since):
    count = RULES[rule].needs(FIVE)
    windows = [*lasting(count, {WHOLE: norms[0]}), net(13, {WHOLE: norms[1]})]
    (alert,) = fired(windows, rule)
    assert (alert.step, alert.value) == (since, np.float32(norms[1]))
    for other, position in itertools.product((1.0, np.nan), (1, 2, count)):
        broken = [*windows]
        broken[position] = net(50, {WHOLE: other})
        assert not fired(broken, rule)


@pytest.mark.parametrize("norm", [CLIP_OVERFLOW, ZEROED, 1e30, 3.4e38, np.inf])
@pytest.mark.parametrize("before", [0, 30])
def test_gradient_zeroed_by_clipping_is_found_in_its_first_window(norm, before):
    alerts = feed([*lasting(before), net(31, {WHOLE: norm})])[-1]
    assert [(a.rule, a.module, a.step) for a in alerts] == (
        [] if norm == CLIP_OVERFLOW else [("total_high", WHOLE, 31)]
    )
    assert all(np.isfinite(alert.value) for alert in alerts)


@pytest.mark.parametrize(("factor", "is_zero"), [(0.999, False), (1.001, True)])
def test_clipping_multiplies_by_zero_above_that_norm(factor, is_zero):
    """Checked with torch's own clipping."""
    parameters = [torch.nn.Parameter(torch.zeros(1000)) for _ in range(3)]
    for one in parameters:
        one.grad = torch.full_like(one, CLIP_OVERFLOW * factor / 3000**0.5)
    torch.nn.utils.clip_grad_norm_(parameters, 10.0)
    assert all(bool((one.grad == 0).all()) is is_zero for one in parameters)


def test_steps_zeroed_by_clipping_do_not_count_for_spike_or_collapse():
    every = dict.fromkeys(NET.modules, np.inf)
    windows = [*lasting(30), *lasting(59, every, first=31), *lasting(30, first=90)]
    assert {a.rule for alerts in feed(windows) for a in alerts} == {"total_high"}
    assert names([*windows, net(120, dict.fromkeys(BLOCKS, 100.0))], "spike") == [WHOLE]


@pytest.mark.parametrize("block", ["model.0", "model.1", "model.2"])
def test_block_beyond_float32_is_named_once_that_lasts(block):
    windows = [*lasting(5), *lasting(3, {WHOLE: np.inf, block: np.inf}, first=6)]
    assert holds(windows, "total_high")[5:] == [True] * 3
    assert names(windows, "exploding") == [block]
