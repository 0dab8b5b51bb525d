from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from statistics import median_low

import numpy as np
import pandas as pd
import pytest
from build import episode_of, finding_of
from hypothesis import given
from hypothesis import strategies as st
from values import LAWS, LAYOUT, Part, plan, runs, window

from yolo_gradwatch.detect import RULES
from yolo_gradwatch.layout import WHOLE
from yolo_gradwatch.summary import (
    COUNTS,
    chosen_by,
    concerned,
    farthest,
    matching,
    of_blocks,
    standing_in,
    summary,
)
from yolo_gradwatch.windows import Grid

CONV, BN = "model.1.conv", "model.1.bn"
NORMS = ("norm_first", "norm_median", "norm_last", "norm_max")
SHARED = ("epoch", "step_first", "step_last", "steps", "skipped")
FLOATS = ("norm_mean", "norm_max", "zero_fraction", "weight_norm")


def grid_of(windows, layout=LAYOUT):
    """The windows of a run below each other."""
    columns = {}
    for field in fields(Grid):
        rows = [getattr(one, field.name) for one in windows]
        empty = np.zeros(0, np.int64)
        if field.name not in SHARED:
            kind = np.int64 if field.name in COUNTS else np.float32
            empty = np.zeros((0, len(layout.modules)), kind)
        columns[field.name] = np.array(rows, empty.dtype) if rows else empty
    return Grid(**columns)


def row_of(table, module):
    return table[table["module"] == module].iloc[0]


def same(found, expected):
    return found == expected or (math.isnan(found) and math.isnan(expected))


_SINGLES = st.one_of(st.just(math.nan), st.floats(0, 2.0**100, width=32))


@st.composite
def any_windows(draw):
    """Windows over some epochs with any norm in any module, some of them skipped in part."""
    windows, step, epoch = [], 1, 1
    size = len(LAYOUT.modules)
    columns = st.lists(_SINGLES, min_size=size, max_size=size)
    for steps, skipped, is_next in draw(
        st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6), st.booleans()), max_size=6)
    ):
        epoch += is_next
        one = window(step, steps=steps, skipped=min(skipped, steps), epoch=epoch, zero={CONV: 1})
        floats = {name: np.array(draw(columns), np.float32) for name in FLOATS}
        windows.append(replace(one, **floats))
        step += steps
    return windows


def norms_by_step(windows, m, name="norm_mean"):
    """The norm of a module at each step that was not skipped, where there is one."""
    norms = []
    for one in windows:
        norms += [float(getattr(one, name)[m])] * (one.steps - one.skipped)
    return [norm for norm in norms if not math.isnan(norm)]


def known(windows, m, name):
    """The values of a module in the windows that have one."""
    values = [float(getattr(one, name)[m]) for one in windows]
    return [value for value in values if not math.isnan(value)] or [math.nan]


def assert_summary(table, windows):
    """Held against loops over the windows, module by module."""
    assert table["module"].tolist() == list(LAYOUT.modules)
    assert table["type"].tolist() == list(LAYOUT.types)
    assert table["parameters"].tolist() == list(LAYOUT.parameters)
    for m, row in enumerate(table.itertuples()):
        assert row.steps == sum(one.steps - one.skipped for one in windows)
        for name in COUNTS:
            assert getattr(row, name) == sum(int(getattr(one, name)[m]) for one in windows)
        norms = norms_by_step(windows, m)
        assert same(row.norm_median, median_low(norms) if norms else math.nan)
        assert same(row.norm_first, known(windows, m, "norm_mean")[0])
        assert same(row.norm_last, known(windows, m, "norm_mean")[-1])
        assert same(row.norm_max, max(known(windows, m, "norm_max")))
        assert same(row.zero_fraction, known(windows, m, "zero_fraction")[-1])
        assert same(row.weight_norm, known(windows, m, "weight_norm")[-1])


@LAWS
@given(any_windows())
def test_a_summary_is_what_loops_over_the_windows_give(windows):
    assert_summary(summary(grid_of(windows), LAYOUT, ()), windows)


@LAWS
@given(runs())
def test_a_summary_of_modules_that_fall_sick_is_what_loops_give(run):
    windows, _ = run
    assert_summary(summary(grid_of(windows), LAYOUT, ()), windows)


@LAWS
@given(any_windows(), st.integers(0, 4), st.integers(0, 8))
def test_a_summary_of_some_epochs_is_that_of_their_windows(windows, first, last):
    table = summary(grid_of(windows), LAYOUT, (), (first, last))
    assert_summary(table, [one for one in windows if first <= one.epoch <= last])


@LAWS
@given(any_windows())
def test_the_median_over_the_steps_is_that_of_numpy_where_they_are_odd(windows):
    table = summary(grid_of(windows), LAYOUT, ())
    steps = [one.steps - one.skipped for one in windows]
    for m, found in enumerate(table["norm_median"]):
        means = np.array([one.norm_mean[m] for one in windows], np.float64)
        norms = np.repeat(means, steps)
        norms = norms[~np.isnan(norms)]
        if len(norms) % 2:
            assert found == np.median(norms)
        elif len(norms):
            low, high = np.sort(norms)[len(norms) // 2 - 1 : len(norms) // 2 + 1]
            assert low == found <= high


@LAWS
@given(any_windows())
def test_first_last_and_highest_norm_are_those_of_pandas(windows):
    table = summary(grid_of(windows), LAYOUT, ())
    for m, row in enumerate(table.itertuples()):
        means = pd.Series([one.norm_mean[m] for one in windows], dtype="float32").dropna()
        peaks = pd.Series([one.norm_max[m] for one in windows], dtype="float32")
        expected = [means.iloc[0], means.iloc[-1]] if len(means) else [math.nan, math.nan]
        np.testing.assert_array_equal([row.norm_first, row.norm_last], expected)
        np.testing.assert_array_equal(row.norm_max, peaks.max())


def test_a_long_window_weighs_more_in_the_median():
    windows = [window(1, norm=1.0), window(2, norm=2.0), window(3, steps=3, norm=9.0)]
    assert row_of(summary(grid_of(windows), LAYOUT, ()), CONV)["norm_median"] == 9.0


def test_steps_that_amp_skipped_weigh_nothing_in_the_median():
    windows = [
        window(1, steps=9, skipped=9, norm=7.0),
        window(10, norm=1.0),
        window(11, steps=3, skipped=2, norm=2.0),
        window(14, norm=3.0),
    ]
    row = row_of(summary(grid_of(windows), LAYOUT, ()), CONV)
    assert (row["norm_median"], row["steps"]) == (2.0, 3)


def test_a_run_without_a_window_has_a_row_for_each_module_and_no_norm():
    table = summary(grid_of([]), LAYOUT, ())
    assert table["module"].tolist() == list(LAYOUT.modules)
    assert table[["steps", *COUNTS]].to_numpy().sum() == 0
    assert table[[*NORMS, "zero_fraction", "weight_norm"]].isna().to_numpy().all()
    assert table["findings"].tolist() == [""] * len(LAYOUT.modules)


def test_epochs_in_which_there_was_no_step_give_no_norm():
    table = summary(grid_of([window(1), window(2, epoch=2)]), LAYOUT, (), (3, 9))
    assert table["steps"].tolist() == [0] * len(LAYOUT.modules)
    assert table[list(NORMS)].isna().to_numpy().all()


def test_a_module_without_a_finite_step_has_no_norm_but_its_counts():
    windows = [window(step, nonfinite=[CONV]) for step in (1, 2)]
    windows.append(window(3, none=[CONV]))
    row = row_of(summary(grid_of(windows), LAYOUT, ()), CONV)
    assert row[list(NORMS)].isna().all()
    assert row[list(COUNTS)].tolist() == [2, 0, 1]
    assert row["weight_norm"] == 5.0


def test_a_norm_of_exactly_zero_is_a_norm():
    windows = [window(step, zero=[CONV]) for step in (1, 2, 3)]
    row = row_of(summary(grid_of(windows), LAYOUT, ()), CONV)
    assert row[list(NORMS)].tolist() == [0.0] * 4
    assert row["zero"] == 3


def test_details_that_the_newest_window_did_not_take_are_older():
    size = len(LAYOUT.modules)
    none = np.full(size, np.nan, np.float32)
    old = replace(window(1), zero_fraction=np.full(size, 0.25, np.float32))
    new = replace(window(2), zero_fraction=none, weight_norm=none)
    row = row_of(summary(grid_of([old, new]), LAYOUT, ()), CONV)
    assert (row["zero_fraction"], row["weight_norm"]) == (0.25, 5.0)


def test_a_summary_has_the_columns_that_it_promises():
    table = summary(grid_of([window(1)]), LAYOUT, ())
    assert table.columns.tolist() == [
        *("module", "type", "parameters", "steps", *COUNTS, *NORMS),
        *("zero_fraction", "weight_norm", "findings"),
    ]
    assert table.index.tolist() == list(range(len(LAYOUT.modules)))


def test_the_rules_that_name_a_module_stand_beside_it_once_each():
    findings = [
        finding_of("dead", CONV, modules=(BN, CONV)),
        finding_of("vanishing", "model.0", modules=("model.0", BN)),
        finding_of("dead", BN, number=3, step=20),
        finding_of("total_high", WHOLE),
    ]
    table = summary(grid_of([window(1)]), LAYOUT, iter(findings))
    rules = dict(zip(table["module"], table["findings"], strict=True))
    assert {name: found for name, found in rules.items() if found} == {
        WHOLE: "total_high",
        "model.0": "vanishing",
        CONV: "dead",
        BN: "dead (vanishing)",
    }


def test_a_finding_on_a_module_that_is_gone_is_no_trouble():
    table = summary(grid_of([window(1)]), LAYOUT, [finding_of("dead", "model.9.conv")])
    assert not table["findings"].any()


def test_of_blocks_are_the_whole_model_and_the_top_level_blocks():
    table = summary(grid_of([window(1)]), LAYOUT, ())
    assert of_blocks(table, LAYOUT)["module"].tolist() == [
        *(WHOLE, "model.0", "model.1", "model.2")
    ]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*", LAYOUT.modules),
        ("model.2*", ("model.2", "model.2.a", "model.2.b")),
        ("model.2.?", ("model.2.a", "model.2.b")),
        ("*.conv", ("model.0.conv", "model.1.conv")),
        ("model.[01]", ("model.0", "model.1")),
        ("model.[!01]*", ("model.2", "model.2.a", "model.2.b")),
        ("model", ("model",)),
        ("conv", ()),
        ("MODEL.2", ()),
        ("", ()),
    ],
)
def test_matching_are_the_modules_of_a_pattern_as_a_whole(pattern, names):
    table = summary(grid_of([window(1)]), LAYOUT, ())
    found = matching(table, pattern)
    assert found["module"].tolist() == list(names)
    assert found.columns.tolist() == table.columns.tolist()


@LAWS
@given(st.text("model.012*?abc", max_size=8))
def test_matching_is_what_a_regular_expression_finds(pattern):
    table = summary(grid_of([]), LAYOUT, ())
    wild = {"*": ".*", "?": "."}
    expression = re.compile("".join(wild.get(sign, re.escape(sign)) for sign in pattern))
    expected = [name for name in LAYOUT.modules if expression.fullmatch(name)]
    assert matching(table, pattern)["module"].tolist() == expected


def table_of(rows):
    """A summary of modules with a class, a median norm and findings each."""
    return pd.DataFrame(
        [
            {"module": f"m{i}", "type": kind, "norm_median": norm, "findings": rules}
            for i, (kind, norm, rules) in enumerate(rows)
        ],
        columns=["module", "type", "norm_median", "findings"],
    )


def farthest_by_loops(rows, count):
    """Names of the rows to show: with a finding, without a norm above 0, far from their class."""

    def decades(norm):
        return math.log10(norm) if norm > 0 else math.nan

    def distance(kind, norm):
        if not norm > 0:
            return math.inf
        usual = [decades(other) for same_kind, other, _ in rows if same_kind == kind and other > 0]
        return abs(decades(norm) - float(np.median(usual)))

    order = sorted(
        range(len(rows)), key=lambda i: (not rows[i][2], -distance(rows[i][0], rows[i][1]), i)
    )
    return [f"m{i}" for i in sorted(order[:count])]


_ROWS = st.lists(
    st.tuples(
        st.sampled_from(["Conv2d", "BatchNorm2d", "C3k2"]),
        st.sampled_from([math.nan, 0.0, 1e-8, 1e-4, 1e-2, 1.0, 1e3, 1e9]),
        st.sampled_from(["", "", "", "dead", "dead vanishing"]),
    ),
    max_size=10,
)


@LAWS
@given(_ROWS, st.integers(1, 12))
def test_the_farthest_are_those_that_loops_find(rows, count):
    table = table_of(rows)
    assert farthest(table, count)["module"].tolist() == farthest_by_loops(rows, count)


@LAWS
@given(_ROWS, st.integers(1, 9))
def test_one_more_of_the_farthest_leaves_the_others_in_forward_order(rows, count):
    table = table_of(rows)
    fewer = farthest(table, count)["module"].tolist()
    more = farthest(table, count + 1)["module"].tolist()
    assert [name for name in more if name in fewer] == fewer
    assert more == sorted(more, key=table["module"].tolist().index)


def test_a_module_with_a_finding_is_farther_than_any_other():
    table = table_of([("A", 1.0, ""), ("A", 1e9, ""), ("A", math.nan, ""), ("A", 1.0, "dead")])
    shown = [farthest(table, n)["module"].tolist() for n in (1, 2, 3, 9)]
    assert shown == [["m3"], ["m2", "m3"], ["m1", "m2", "m3"], ["m0", "m1", "m2", "m3"]]


def test_the_module_that_a_finding_names_is_farther_than_those_that_suffer():
    rows = [("A", math.nan, "(vanishing)"), ("A", 1.0, "dead (vanishing)"), ("A", 1.0, "vanishing")]
    shown = [farthest(table_of([*rows, ("A", 0.0, "")]), n)["module"].tolist() for n in (2, 3)]
    assert shown == [["m1", "m2"], ["m0", "m1", "m2"]]


def test_a_normalization_is_far_only_among_its_own_class():
    convs = [("Conv2d", norm, "") for norm in (10.0, 12.0, 300.0)]
    norms = [("BatchNorm2d", norm, "") for norm in (0.01, 0.012, 0.011)]
    assert farthest(table_of([*convs, *norms]), 1)["module"].tolist() == ["m2"]


def test_the_farthest_of_a_summary_keep_its_columns():
    windows = [window(step, zero=[CONV]) for step in (1, 2)]
    table = summary(grid_of(windows), LAYOUT, [finding_of("dead", "model.2.b")])
    found = farthest(table, 2)
    assert found["module"].tolist() == [CONV, "model.2.b"]
    assert found.columns.tolist() == table.columns.tolist()


def test_the_farthest_of_a_run_without_a_window_are_its_first_modules():
    table = summary(grid_of([]), LAYOUT, ())
    assert farthest(table, 2)["module"].tolist() == list(LAYOUT.modules[:2])


def test_concerned_are_the_modules_that_findings_name():
    findings = [
        finding_of("dead", CONV, modules=(BN, CONV)),
        finding_of("vanishing", "model.0", modules=("model.2.a",)),
    ]
    assert concerned(iter(findings)) == {CONV, BN, "model.0", "model.2.a"}
    assert concerned([]) == set()


EVERY = [finding_of(rule, number=n) for n, rule in enumerate(RULES, 1)]
KINDS = sorted({rule.kind for rule in RULES.values()} - {""})


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_chooses_its_own_findings(rule):
    chosen = chosen_by(EVERY, [rule])
    assert rule in {finding.rule for finding in chosen}
    others = {finding.rule for finding in chosen} - {rule}
    assert all(RULES[other].kind == rule for other in others)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_chooses_the_findings_of_its_rules(kind):
    rules = [name for name, rule in RULES.items() if kind in {rule.kind, name}]
    assert rules
    assert [finding.rule for finding in chosen_by(iter(EVERY), {kind})] == rules


def test_several_words_choose_each_finding_once_in_its_order():
    findings = [finding_of("vanishing"), finding_of("dead", number=2), finding_of("spike")]
    assert chosen_by(findings, ["dead", "no_gradient", "vanishing"]) == findings[:2]
    assert chosen_by(findings, []) == chosen_by(findings, ["total_low"]) == []


def epochs_of(*steps):
    """A grid of two windows an epoch, of as many steps as told."""
    windows, step = [], 1
    for i, count in enumerate(steps):
        windows.append(window(step, steps=count, epoch=1 + i // 2))
        step += count
    return grid_of(windows)


THREE = epochs_of(1, 4, 3, 2, 5, 5)  # epochs of the steps 1 to 5, 6 to 10 and 11 to 20


@pytest.mark.parametrize(
    ("begin", "end", "epochs"),
    [
        (1, None, [1, 2, 3]),
        (5, None, [1, 2, 3]),
        (6, None, [2, 3]),
        (11, None, [3]),
        (1, 2, [1]),
        (1, 6, [1]),
        (1, 7, [1, 2]),
        (5, 6, [1]),
        (6, 11, [2]),
        (10, 12, [2, 3]),
        (20, None, [3]),
    ],
)
def test_a_finding_stood_in_the_epochs_with_one_of_its_steps(begin, end, epochs):
    finding = finding_of(step=begin, step_end=end)
    assert [e for e in range(5) if standing_in([finding], THREE, (e, e))] == epochs


def lasted(episode, step):
    return episode.step <= step < (episode.step_end or math.inf)


_SPANS = st.tuples(st.integers(1, 25), st.one_of(st.none(), st.integers(1, 10)))


@LAWS
@given(
    st.lists(_SPANS, max_size=4),
    st.lists(st.integers(1, 5), max_size=8),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_standing_in_is_what_a_look_at_every_step_finds(spans, steps, epochs):
    grid = epochs_of(*steps)
    episodes = [
        episode_of(begin, None if length is None else begin + length) for begin, length in spans
    ]
    findings = [finding_of(number=n, episodes=(one,)) for n, one in enumerate(episodes, 1)]
    findings += [finding_of(number=9, episodes=tuple(episodes))] if episodes else []
    inside = [
        step
        for epoch, first, last in zip(grid.epoch, grid.step_first, grid.step_last, strict=True)
        for step in range(first, last + 1)
        if epochs[0] <= epoch <= epochs[1]
    ]
    expected = [
        finding
        for finding in findings
        if any(lasted(episode, step) for episode in finding.episodes for step in inside)
    ]
    assert standing_in(findings, grid, epochs) == expected


def test_a_finding_did_not_last_between_two_episodes():
    finding = finding_of(episodes=(episode_of(1, 3), episode_of(11, 13)))
    assert [e for e in range(5) if standing_in([finding], THREE, (e, e))] == [1, 3]


def test_no_finding_stood_in_epochs_that_were_not_run():
    assert standing_in([finding_of(step=1)], grid_of([]), (1, 9)) == []
    assert standing_in([finding_of(step=1)], THREE, (4, 9)) == []


def test_a_finding_between_two_passes_of_an_epoch_did_not_stand_in_it():
    resumed = grid_of([window(step, epoch=epoch) for step, epoch in enumerate([1, 2, 3, 2, 3], 1)])
    assert standing_in([finding_of(step=3, step_end=4)], resumed, (2, 2)) == []


@LAWS
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_a_module_of_a_single_norm_has_it_throughout(steps):
    layout, _ = plan([Part("model.0.conv")])
    windows, step = [], 1
    for count in steps:
        windows.append(window(step, steps=count, norm=2.5, layout=layout))
        step += count
    table = summary(grid_of(windows, layout), layout, ())
    assert (table[list(NORMS)] == 2.5).to_numpy().all()
    assert table["steps"].tolist() == [sum(steps)] * len(layout.modules)
