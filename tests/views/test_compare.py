from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from statistics import median_low
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shown import finding_of
from values import FEWER, LAWS, LAYOUT, Part, meta_of, plan, window
from watched import CONV, OTHER, curve, written

from yolo_gradwatch.diagnose.report import Report
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.runs.meta import decoded
from yolo_gradwatch.runs.run import Run
from yolo_gradwatch.views.compare import (
    PARTS,
    Difference,
    _merged,
    compare,
    differences,
    modules_of,
    only_in,
)

SHARES = {
    "first": (Fraction(0), Fraction(1, 10)),
    "middle": (Fraction(9, 20), Fraction(11, 20)),
    "last": (Fraction(9, 10), Fraction(1)),
}


def untrained(layout=LAYOUT, **meta):
    """A run without windows, in memory only."""
    return Run(Path("run"), pd.DataFrame(), pd.DataFrame(), decoded(meta_of(layout, **meta)))


def with_norms(one, norms):
    """Set the norms; the other compared quantities are multiples of them."""
    norms = np.array(norms, np.float32)
    return replace(one, norm_mean=norms, weight_max=2 * norms, update_ratio=4 * norms)


_NORM = st.one_of(st.just(math.nan), st.just(0.0), st.floats(2.0**-60, 2.0**60, width=32))


@st.composite
def trainings(draw, layout=LAYOUT):
    """Consecutive windows of any length, with any norm in any module."""
    size = len(layout.modules)
    rows = st.tuples(st.integers(1, 8), st.lists(_NORM, min_size=size, max_size=size))
    windows, step = [], draw(st.integers(1, 3))
    for steps, norms in draw(st.lists(rows, max_size=14)):
        windows.append(with_norms(window(step, steps=steps, layout=layout), norms))
        step += steps
    return windows


def by_loops(windows, m, part, name="norm_mean"):
    """The median over twentieths of a step; each of them is in one window."""
    begin = windows[0].step_first - 1 if windows else 0
    span = windows[-1].step_last - begin if windows else 0
    low, high = (share * 20 * span for share in SHARES[part])
    norms = [
        float(getattr(one, name)[m])
        for one in windows
        for place in range(20 * (one.step_first - 1 - begin), 20 * (one.step_last - begin))
        if low <= place < high
    ]
    known = [norm for norm in norms if not math.isnan(norm)]
    return median_low(known) if known else math.nan


COMPARED = ("norm_mean", "weight_max", "update_ratio")


def ratio_by_loops(norm, first):
    if math.isnan(norm) or math.isnan(first) or norm == first == 0:
        return math.nan
    return norm / first if first else math.inf


@pytest.mark.slow
@FEWER
@given(trainings(), trainings(OTHER))
def test_comparison_equals_plain_loops_over_the_windows(one, other):
    trained = [(one, LAYOUT), (other, OTHER)]
    with TemporaryDirectory() as name:
        runs = [written(Path(name) / str(i), *each) for i, each in enumerate(trained)]
        table = compare(runs)
    expected, firsts = [], {}
    for place, (windows, layout) in enumerate(trained, 1):
        for part in SHARES:
            for m, (module, kind) in enumerate(zip(layout.modules, layout.types, strict=True)):
                norm, *more = (by_loops(windows, m, part, name) for name in COMPARED)
                if place == 1:
                    firsts[module, part] = norm
                ratio = ratio_by_loops(norm, firsts.get((module, part), math.nan))
                expected.append((place, module, kind, part, norm, *more, ratio))
    names = ["run", "module", "type", "part", "norm", *COMPARED[1:], "ratio"]
    pd.testing.assert_frame_equal(table, pd.DataFrame(expected, columns=names), check_exact=True)


ENDS = ((1.0, 3.0), (3.0, 1.0))
"""Norms of two windows equally close to the middle, so that both count."""


def norms_of(table, place, module=CONV, what="norm"):
    """The first, middle and last value of a module in a run."""
    rows = table[(table["run"] == place) & (table["module"] == module)].set_index("part")[what]
    return [rows[part] for part in PARTS]


@pytest.mark.parametrize(
    ("steps", "norms", "expected"),
    [
        (range(1, 21), range(1, 21), [1.0, 10.0, 19.0]),
        ((1, 40, 101), (1.0, 7.0, 9.0), [1.0, 7.0, 9.0]),  # captured only sometimes
        ((51, 52), (3.0, 5.0), [3.0, 3.0, 5.0]),  # resumed without files
        *(((1, last), ends, [ends[0], 1.0, ends[1]]) for last in (3, 11) for ends in ENDS),
    ],
)
def test_norms_of_the_first_middle_and_last_tenth(tmp_path, steps, norms, expected):
    windows = [window(step, norm=norm) for step, norm in zip(steps, norms, strict=True)]
    table = compare([written(tmp_path, windows)] * 2)
    assert norms_of(table, 1) == norms_of(table, 2) == expected


def test_every_run_is_compared_with_the_first(tmp_path):
    norms = [2.0, 8.0, 1.0]
    runs = [written(tmp_path / str(n), curve([n])) for n in norms]
    table = compare(runs)
    assert [norms_of(table, i, what="ratio")[0] for i in (1, 2, 3)] == [1.0, 4.0, 0.5]
    assert table["run"].unique().tolist() == [1, 2, 3]


def test_module_missing_in_a_run_has_no_class_there():
    names = modules_of([untrained(), untrained(OTHER)])
    assert list(names) == [
        *("model", "model.0", "model.0.conv", "model.0.bn"),
        *("model.1", "model.1.conv", "model.1.new", "model.1.bn"),
        *("model.2", "model.2.a", "model.2.b"),
    ]
    assert names["model.1.new"] == ["", "Conv2d"]
    assert names["model.2.b"] == ["Conv2d", ""]
    assert names["model.2.a"] == ["Conv2d", "Conv2d"]


def test_blocks_are_the_whole_model_and_the_blocks_of_all_runs():
    more, _ = plan([Part("model.0.conv"), Part("model.3.conv")])
    names = modules_of([untrained(), untrained(more)], blocks=True)
    assert set(names) == {WHOLE, "model.0", "model.1", "model.2", "model.3"}
    assert names["model.3"] == ["", "Block"]


PARTS_OF_A_NET = [f"model.{b}.{leaf}" for b in range(4) for leaf in ("conv", "bn", "m.0", "m.1")]
_LAYOUTS = st.lists(st.sampled_from(PARTS_OF_A_NET), min_size=1, unique=True).map(
    lambda names: plan([Part(name) for name in sorted(names, key=PARTS_OF_A_NET.index)])[0]
)


@LAWS
@given(_LAYOUTS, _LAYOUTS)
def test_merged_modules_keep_the_order_of_each_run(one, other):
    names = modules_of([untrained(one), untrained(other)])
    for place, layout in enumerate((one, other)):
        own = {name: kinds[place] for name, kinds in names.items() if kinds[place]}
        assert list(own.items()) == list(zip(layout.modules, layout.types, strict=True))


def test_block_of_one_run_does_not_split_a_block_of_another():
    one, _ = plan([Part("model.0.conv"), Part("model.0.bn")])
    other, _ = plan([Part("model.0.conv"), Part("model.1.conv")])
    names = list(modules_of([untrained(one), untrained(other)]))
    assert names.index("model.0.bn") < names.index("model.1")


def test_blocks_of_different_models_are_ordered_by_number():
    one, _ = plan([Part(f"model.{number}.conv") for number in (0, 1, 4, 7)])
    other, _ = plan([Part(f"model.{number}.conv") for number in (0, 1, 5, 8)])
    assert list(modules_of([untrained(one), untrained(other)], blocks=True)) == [
        *(WHOLE, "model.0", "model.1", "model.4", "model.5", "model.7", "model.8")
    ]


def trained_with(training=None, **versions):
    return untrained(options={"training": training or {}}, versions=versions)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([{"lr0": 0.01, "imgsz": 640}, {"lr0": 0.01, "imgsz": 640}], []),
        ([{"lr0": 0.01, "imgsz": 640}, {"lr0": 1, "imgsz": 640}], [("lr0", 0.01, 1)]),
        ([{"imgsz": 640}, {"imgsz": 640.0}], []),
        ([{"imgsz": 640}, {}], []),
        ([{"freeze": None}, {"freeze": [0, 1]}], [("freeze", None, [0, 1])]),
        ([{"a": 1, "b": 1}, {"b": 2, "c": 3, "a": 2}], [("a", 1, 2), ("b", 1, 2)]),
        (
            [{"lr0": 0.01, "fitted": {"lr0": 0.001}}, {"lr0": 0.01, "fitted": {}}],
            [("lr0 (fitted)", 0.001, 0.01)],
        ),
        ([{"lr0": 0.01, "fitted": {"lr0": 0.001}}, {"lr0": 0.01, "fitted": {"lr0": 0.001}}], []),
        ([{"name": "a", "save_dir": "runs/a"}, {"name": "b", "save_dir": "runs/b"}], []),
        ([{"a": 1}, {"a": 1}, {"a": 2}], [("a", 1, 1, 2)]),
        ([{"a": 1}, {"a": 2}, {"a": 1}], [("a", 1, 2, 1)]),
    ],
)
def test_differences_are_options_that_differ_between_runs(runs, expected):
    found = differences([trained_with(training) for training in runs])
    assert found == [Difference(name, values) for name, *rest in expected for values in [(*rest,)]]


def test_differing_versions_are_differences_too():
    runs = [trained_with({"lr0": 1}, torch="2.1"), trained_with({"lr0": 2}, torch="2.2")]
    assert differences(runs) == [
        Difference("lr0", (1, 2)),
        Difference("torch", ("2.1", "2.2")),
    ]


def report_of(findings):
    return Report(Path("run"), "finished", 9, 9, tuple(findings), ())


_FINDINGS = st.lists(
    st.builds(
        finding_of,
        st.sampled_from(["dead", "spike"]),
        st.sampled_from([CONV, WHOLE]),
        number=st.integers(1, 9),
        step=st.integers(1, 99),
        step_end=st.sampled_from([None, 400]),
    ),
    max_size=4,
)


@LAWS
@given(_FINDINGS, st.lists(_FINDINGS, max_size=3))
def test_only_in_equals_plain_loops(own, others):
    found = only_in(report_of(own), [report_of(findings) for findings in others])
    assert found == [
        one
        for one in own
        if not any(
            (one.rule, one.module) == (other.rule, other.module)
            for findings in others
            for other in findings
        )
    ]


ORDERS = st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=8), max_size=5)


@pytest.mark.slow
@settings(LAWS, max_examples=500)
@given(ORDERS)
def test_merging_many_orders_equals_inserting_one_by_one(orders):
    merged = []
    for names in orders:
        place = 0
        for name in names:
            if name not in merged:
                merged.insert(place, name)
            place = merged.index(name) + 1
    assert _merged(orders) == merged
