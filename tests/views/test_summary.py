from __future__ import annotations

import math
import re
from dataclasses import replace
from statistics import median_low

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shown import episode_of, finding_of
from values import LAWS, LAYOUT, grid_from, runs, window

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.measure.arrays import first, highest, last, median, total
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.quantities import QUANTITIES
from yolo_gradwatch.views.summary import (
    OVER_RUN,
    active_in,
    chosen_by,
    concerned,
    farthest,
    matching,
    of_blocks,
    summary,
)

CONV, BN = "model.1.conv", "model.1.bn"
COLUMNS = [column.name for _, column in OVER_RUN]


def summed(windows, findings=()):
    return summary(grid_from(windows), LAYOUT, findings)


_SINGLES = st.one_of(st.just(math.nan), st.floats(0, 2.0**100, width=32))


@st.composite
def any_windows(draw):
    """Windows over some epochs with any value in any module; some steps are skipped."""
    windows, step, epoch = [], 1, 1
    for steps, skipped, is_next in draw(
        st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6), st.booleans()), max_size=6)
    ):
        epoch += is_next
        values = {
            row.name: np.array(
                [draw(st.integers(0, steps) if row.is_count else _SINGLES) for _ in LAYOUT.modules],
                row.dtype,
            )
            for row in QUANTITIES
        }
        one = window(step, steps=steps, skipped=min(skipped, steps), epoch=epoch)
        windows.append(replace(one, **values))
        step += steps
    return windows


def known(values):
    return [value for value in values if not math.isnan(value)] or [math.nan]


BY_LOOPS = {
    total: lambda values, _steps: sum(values),
    first: lambda values, _steps: known(values)[0],
    last: lambda values, _steps: known(values)[-1],
    highest: lambda values, _steps: max(known(values)),
    median: lambda values, steps: median_low(
        known([value for value, count in zip(values, steps, strict=True) for _ in range(count)])
    ),
}
"""The folds as plain loops over the values and the applied steps of the windows."""


def assert_summary(table, windows):
    assert table.columns.tolist() == [
        *("module", "type", "parameters", "steps", *COLUMNS, "findings")
    ]
    for name, column in (("module", "modules"), ("type", "types"), ("parameters", "parameters")):
        assert table[name].tolist() == list(getattr(LAYOUT, column))
    assert set(table["steps"]) == {sum(one.steps - one.skipped for one in windows)}
    steps = [one.steps - one.skipped for one in windows]
    for row, column in OVER_RUN:
        by_module = zip(*(getattr(one, row.name).tolist() for one in windows), strict=True)
        values = list(by_module) or [()] * len(LAYOUT.modules)
        expected = [BY_LOOPS[column.fold](list(own), steps) for own in values]
        np.testing.assert_array_equal(table[column.name], expected, column.name)


@LAWS
@given(st.one_of(any_windows(), runs().map(lambda run: run[0])))
def test_summary_equals_plain_loops_over_the_windows(windows):
    assert_summary(summed(windows), windows)


@pytest.mark.slow
@LAWS
@given(any_windows(), st.integers(0, 4), st.integers(0, 8))
def test_summary_of_some_epochs_is_that_of_their_windows(windows, begin, end):
    table = summary(grid_from(windows), LAYOUT, (), (begin, end))
    assert_summary(table, [one for one in windows if begin <= one.epoch <= end])


def test_summary_lists_each_rule_of_a_module_once():
    findings = [
        finding_of("dead", CONV, modules=(BN, CONV)),
        finding_of("vanishing", "model.0", modules=("model.0", BN)),
        finding_of("dead", BN, number=3, step=20),
        finding_of("total_high", WHOLE),
        finding_of("dead", "model.9.conv"),  # a module that no longer exists
    ]
    table = summed([window(1)], iter(findings))
    rules = dict(zip(table["module"], table["findings"], strict=True))
    assert {name: found for name, found in rules.items() if found} == {
        WHOLE: "total_high",
        "model.0": "vanishing",
        CONV: "dead",
        BN: "dead (vanishing)",
    }


# --- selecting rows -------------------------------------------------------------------------------


def test_of_blocks_keeps_the_whole_model_and_its_blocks():
    found = of_blocks(summed([window(1)]), LAYOUT)
    assert found["module"].tolist() == [WHOLE, "model.0", "model.1", "model.2"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("model.[01]", ("model.0", "model.1")),
        ("model.[!01]*", ("model.2", "model.2.a", "model.2.b")),
        *(("model", ("model",)), ("conv", ()), ("MODEL.2", ()), ("", ())),
    ],
)
def test_matching_matches_whole_names(pattern, names):
    assert matching(summed([window(1)]), pattern)["module"].tolist() == list(names)


@LAWS
@given(st.text("model.012*?abc", max_size=8))
def test_matching_equals_a_regular_expression(pattern):
    wild = {"*": ".*", "?": "."}
    expression = re.compile("".join(wild.get(sign, re.escape(sign)) for sign in pattern))
    expected = [name for name in LAYOUT.modules if expression.fullmatch(name)]
    assert matching(summed([]), pattern)["module"].tolist() == expected


def table_of(rows):
    """A summary of modules, each with a class, a median norm and findings."""
    names = [f"m{i}" for i in range(len(rows))]
    table = pd.DataFrame(rows, columns=["type", "norm_median", "findings"])
    return table.assign(module=names)


def farthest_by_loops(rows, count):
    """Names to show: rows with findings first, then without a positive norm, then unusual ones."""

    def distance(kind, norm):
        if not norm > 0:
            return math.inf
        usual = [math.log10(n) for same_kind, n, _ in rows if same_kind == kind and n > 0]
        return abs(math.log10(norm) - float(np.median(usual)))

    def rank(rules):
        return 2 if not rules else rules.startswith("(")

    order = sorted(
        range(len(rows)), key=lambda i: (rank(rows[i][2]), -distance(rows[i][0], rows[i][1]), i)
    )
    return [f"m{i}" for i in sorted(order[:count])]


_ROWS = st.lists(
    st.tuples(
        st.sampled_from(["Conv2d", "BatchNorm2d", "C3k2"]),
        st.sampled_from([math.nan, 0.0, 1e-8, 1e-4, 1e-2, 1.0, 1e3, 1e9]),
        st.sampled_from(["", "", "", "dead", "dead (vanishing)", "(vanishing)"]),
    ),
    max_size=10,
)


@LAWS
@given(_ROWS, st.integers(1, 12))
def test_farthest_equals_plain_loops(rows, count):
    table = table_of(rows)
    assert farthest(table, count)["module"].tolist() == farthest_by_loops(rows, count)


def test_farthest_keeps_the_columns():
    table = summed(
        [window(step, zero=[CONV]) for step in (1, 2)], [finding_of("dead", "model.2.b")]
    )
    found = farthest(table, 2)
    assert found["module"].tolist() == [CONV, "model.2.b"]
    assert found.columns.tolist() == table.columns.tolist()
    assert farthest(summed([]), 2)["module"].tolist() == list(LAYOUT.modules[:2])


# --- selecting findings ---------------------------------------------------------------------------


def test_concerned_are_the_modules_named_by_findings():
    findings = [
        finding_of("dead", CONV, modules=(BN, CONV)),
        finding_of("vanishing", "model.0", modules=("model.2.a",)),
    ]
    assert concerned(iter(findings)) == {CONV, BN, "model.0", "model.2.a"}
    assert concerned([]) == set()


EVERY = [finding_of(rule, number=n) for n, rule in enumerate(RULES, 1)]


@pytest.mark.parametrize("word", sorted({*RULES, *(rule.kind for rule in RULES.values())} - {""}))
def test_word_selects_its_rule_and_those_of_its_kind(word):
    rules = [name for name, rule in RULES.items() if word in {rule.kind, name}]
    assert rules
    assert [finding.rule for finding in chosen_by(iter(EVERY), {word})] == rules


def test_several_words_select_each_finding_once_in_order():
    findings = [finding_of("vanishing"), finding_of("dead", number=2), finding_of("spike")]
    assert chosen_by(findings, ["dead", "no_gradient", "vanishing"]) == findings[:2]
    assert chosen_by(findings, []) == chosen_by(findings, ["total_low"]) == []


def epochs_of(*steps):
    """A grid with two windows per epoch, of these numbers of steps."""
    windows, step = [], 1
    for i, count in enumerate(steps):
        windows.append(window(step, steps=count, epoch=1 + i // 2))
        step += count
    return grid_from(windows)


THREE = epochs_of(1, 4, 3, 2, 5, 5)  # epochs of the steps 1 to 5, 6 to 10 and 11 to 20
RESUMED = grid_from([window(step, epoch=epoch) for step, epoch in enumerate([1, 2, 3, 2, 3], 1)])


@pytest.mark.parametrize(
    ("grid", "episodes", "epochs"),
    [
        (THREE, [(1, 3), (11, 13)], [1, 3]),  # not between two episodes
        (RESUMED, [(3, 4)], [3]),  # nor between two passes of an epoch
    ],
)
def test_finding_is_active_in_the_epochs_of_its_steps(grid, episodes, epochs):
    finding = finding_of(episodes=tuple(episode_of(*one) for one in episodes))
    assert [e for e in range(6) if active_in([finding], grid, (e, e))] == epochs


_SPANS = st.tuples(st.integers(1, 25), st.one_of(st.none(), st.integers(1, 10)))


@LAWS
@given(
    st.lists(_SPANS, max_size=4),
    st.lists(st.integers(1, 5), max_size=8),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_active_in_equals_a_search_of_every_step(spans, steps, epochs):
    grid = epochs_of(*steps)
    episodes = [episode_of(begin, length and begin + length) for begin, length in spans]
    findings = [finding_of(number=n, episodes=(one,)) for n, one in enumerate(episodes, 1)]
    findings += [finding_of(number=9, episodes=tuple(episodes))] if episodes else []
    inside = [
        step
        for epoch, low, high in zip(grid.epoch, grid.step_first, grid.step_last, strict=True)
        for step in range(low, high + 1)
        if epochs[0] <= epoch <= epochs[1]
    ]

    def is_active(finding):
        ends = [(one.step, one.step_end or math.inf) for one in finding.episodes]
        return any(begin <= step < end for begin, end in ends for step in inside)

    assert active_in(findings, grid, epochs) == list(filter(is_active, findings))
