from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from build import finding_of
from hypothesis import given
from hypothesis import strategies as st
from test_compare import FEWER, written
from values import HEAD, LAYOUT, NET, TRUNK, runs, window

from yolo_gradwatch.heatmap import FINE, NONE, NONFINITE, UNKNOWN, ZERO, Mark, heatmap
from yolo_gradwatch.records import FLOAT32_MAX, WHOLE

CONV, BN = "model.1.conv", "model.1.bn"
BLOCKS = ("model.0", "model.1", "model.2")


def drawn(folder, windows, findings=(), *, modules=False, layout=LAYOUT, **meta):
    """The picture of a run of these windows, with findings of its own."""
    run = written(folder, windows, layout, **meta)
    return heatmap(run, replace(run.report(), findings=tuple(findings)), modules=modules)


@pytest.fixture
def picture(tmp_path):
    def draw(windows, findings=(), **options):
        return drawn(tmp_path, windows, findings, **options)

    return draw


def test_rows_are_the_blocks_with_their_number_and_class(picture):
    shown = picture([window(1)])
    assert shown.names == BLOCKS
    assert shown.labels == ("0 Block", "1 Block", "2 Block")
    assert shown.norms.shape == shown.levels.shape == shown.states.shape == (3, 1)


def test_rows_are_all_modules_but_the_whole_model(picture):
    shown = picture([window(1), window(2)], modules=True)
    assert shown.names == shown.labels == LAYOUT.modules[1:]
    assert shown.norms.shape == (len(LAYOUT.modules) - 1, 2)


def test_a_block_without_parameters_has_no_row(picture):
    shown = picture([window(1, layout=NET)], layout=NET)
    assert shown.names == ("model.0", "model.1", "model.2", "model.4", "model.5", "model.6")


def test_a_class_of_its_own_stands_in_the_label(picture):
    layout = replace(LAYOUT, blocks=(*LAYOUT.blocks[:2], ("model.2", "[bold]Head")))
    assert picture([window(1)], layout=layout).labels[-1] == "2 [bold]Head"


def state_by_loops(one, m):
    """The worst that happened to a module in a window."""
    if one.nonfinite[m]:
        return NONFINITE
    if one.norm_mean[m] > 0:
        return FINE
    if one.norm_mean[m] == 0:
        return ZERO
    return NONE if one.none[m] else UNKNOWN


@FEWER
@given(runs(), st.booleans())
def test_a_picture_is_what_loops_over_the_windows_give(run, modules):
    windows, _ = run
    with TemporaryDirectory() as name:
        found = drawn(Path(name), windows, modules=modules, events=[])
    assert found.names == (LAYOUT.modules[1:] if modules else BLOCKS)
    for row, name in enumerate(found.names):
        m = LAYOUT.modules.index(name)
        for w, one in enumerate(windows):
            state = state_by_loops(one, m)
            norm = float(one.norm_mean[m])
            level = math.log10(norm) if state == FINE else math.nan
            assert found.states[row, w] == state
            np.testing.assert_array_equal(found.norms[row, w], norm)
            np.testing.assert_allclose(found.levels[row, w], level)
    for w, one in enumerate(windows):
        assert (found.epoch[w], found.step_first[w]) == (one.epoch, one.step_first)
        assert found.step_last[w] == one.step_last
        assert found.skipped[w] == one.skipped / one.steps


@pytest.mark.parametrize(
    ("sick", "state"),
    [
        ({}, FINE),
        ({"zero": [CONV]}, ZERO),
        ({"zero": {CONV: 2}}, FINE),
        ({"zero": {CONV: 3}}, ZERO),
        ({"none": [CONV]}, NONE),
        ({"none": {CONV: 2}}, FINE),
        ({"none": {CONV: 3}}, NONE),
        ({"none": {CONV: 3}, "zero": {CONV: 1}}, NONE),
        ({"none": {CONV: 1}, "zero": {CONV: 2}}, FINE),
        ({"nonfinite": [CONV]}, NONFINITE),
        ({"nonfinite": {CONV: 1}}, NONFINITE),
        ({"nonfinite": {CONV: 1}, "none": {CONV: 3}}, NONFINITE),
        ({"nonfinite": {CONV: 1}, "zero": {CONV: 3}}, NONFINITE),
        ({"unknown": [CONV]}, UNKNOWN),
        ({"skipped": 4, "unknown": [CONV]}, UNKNOWN),
    ],
)
def test_the_state_of_a_cell(picture, sick, state):
    shown = picture([window(1, steps=4, norm=100.0, **sick)], modules=True)
    row = shown.names.index(CONV)
    assert shown.states[row, 0] == state
    assert shown.states.dtype == np.uint8
    np.testing.assert_array_equal(shown.levels[row, 0], 2.0 if state == FINE else math.nan)
    assert set(np.delete(shown.states, row)) == {FINE}


def test_a_module_with_zero_and_no_gradient_in_turn_is_zero(picture):
    one = window(1, steps=2, zero={CONV: 1}, none={CONV: 1})
    norms = np.where(np.array(LAYOUT.modules) == CONV, 0, one.norm_mean).astype(np.float32)
    shown = picture([replace(one, norm_mean=norms)], modules=True)
    assert shown.states[shown.names.index(CONV), 0] == ZERO


def test_the_lowest_mean_and_highest_norm_of_the_whole_model(picture):
    size = len(LAYOUT.modules)
    spread = {
        "norm_min": np.arange(size, dtype=np.float32),
        "norm_mean": np.arange(size, dtype=np.float32) + 10,
        "norm_max": np.arange(size, dtype=np.float32) + 100,
    }
    shown = picture([replace(window(1, steps=9), **spread), window(10, nonfinite=LAYOUT.modules)])
    np.testing.assert_array_equal(shown.totals, [[0, math.nan], [10, math.nan], [100, math.nan]])
    assert shown.totals.dtype == np.float64


def test_a_norm_beyond_float32_is_the_highest_of_the_scale_and_not_nan(picture):
    one = window(1, norm=np.inf)
    shown = picture([one, window(2, nonfinite=LAYOUT.modules), window(3)], modules=True)
    assert set(shown.states[:, 0]) == set(shown.states[:, 2]) == {FINE}
    assert set(shown.states[:, 1]) == {NONFINITE}
    np.testing.assert_allclose(shown.levels[:, 0], math.log10(FLOAT32_MAX))
    assert shown.norms[0, 0] == FLOAT32_MAX
    assert shown.totals[:, 0].tolist() == [FLOAT32_MAX] * 3
    assert shown.clipped.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("options", "clip"), [({}, 10.0), ({"clip": 2.5}, 2.5), ({"clip": 0.1}, 0.1)]
)
def test_steps_above_the_clip_are_clipped(picture, options, clip):
    norms = [clip / 2, clip, math.nan, 2 * clip, 1e30]
    windows = [window(step, norm=norm) for step, norm in enumerate(norms, 1)]
    shown = picture(windows, options={"training": options})
    assert shown.clip == clip
    assert shown.clipped.tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]


def test_a_window_is_clipped_or_not_as_its_mean_is(picture):
    highest = np.full(len(LAYOUT.modules), 99, np.float32)
    windows = [
        replace(window(step, steps=4, norm=mean), norm_max=highest)
        for step, mean in ((1, 9.0), (5, 11.0))
    ]
    assert picture(windows).clipped.tolist() == [0.0, 1.0]


def test_the_share_of_steps_that_were_skipped(picture):
    windows = [
        window(1, steps=4, skipped=1),
        window(5, steps=2, skipped=2, unknown=LAYOUT.modules),
        window(7, steps=9),
    ]
    assert picture(windows).skipped.tolist() == [0.25, 1.0, 0.0]


def test_a_run_without_a_window_has_rows_and_no_column(picture):
    for modules in (False, True):
        shown = picture([], modules=modules)
        assert shown.norms.shape == (len(shown.names), 0)
        assert shown.totals.shape == (3, 0)
        assert len(shown.skipped) == len(shown.clipped) == 0
        assert shown.marks == ()


FIVE = [
    window(1),
    window(2, steps=3),
    window(5, steps=5),
    window(10, epoch=2),
    window(11, steps=10, epoch=2),
]
"""Windows of the steps 1, 2 to 4, 5 to 9, 10, and 11 to 20."""


@pytest.mark.parametrize(
    ("begin", "end", "columns"),
    [
        (1, None, (0, 4)),
        (2, None, (1, 4)),
        (4, None, (1, 4)),
        (9, None, (2, 4)),
        (20, None, (4, 4)),
        (1, 2, (0, 0)),
        (1, 5, (0, 1)),
        (3, 10, (1, 2)),
        (5, 11, (2, 3)),
    ],
)
def test_a_mark_stands_over_the_windows_of_its_finding(picture, begin, end, columns):
    finding = finding_of("dead", CONV, step=begin, step_end=end)
    assert picture(FIVE, [finding]).marks == (Mark(finding, (1,), *columns),)


@FEWER
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=8),
    st.data(),
)
def test_a_mark_is_what_a_look_at_every_window_finds(steps, data):
    windows, step = [], 1
    for count in steps:
        windows.append(window(step, steps=count))
        step += count
    begin = data.draw(st.integers(1, step - 1))
    later = [one.step_first for one in windows if one.step_first > begin]
    end = data.draw(st.sampled_from([None, *later]))
    finding = finding_of("dead", CONV, step=begin, step_end=end)
    with TemporaryDirectory() as name:
        (mark,) = drawn(Path(name), windows, [finding]).marks
    inside = [
        w
        for w, one in enumerate(windows)
        if one.step_last >= begin and (end is None or one.step_first < end)
    ]
    assert (mark.first, mark.last) == (inside[0], inside[-1])


def test_a_finding_that_began_after_the_last_window_stands_over_it(picture):
    (mark,) = picture(FIVE, [finding_of("dead", CONV, step=99)]).marks
    assert (mark.first, mark.last) == (4, 4)


def test_a_finding_that_ended_after_the_last_window_stands_to_the_last(picture):
    (mark,) = picture(FIVE, [finding_of("dead", CONV, step=2, step_end=99)]).marks
    assert (mark.first, mark.last) == (1, 4)


def test_a_run_of_a_single_window_has_its_marks_there(picture):
    found = picture([window(1, steps=7)], [finding_of("dead", CONV, step=3)]).marks
    assert [(mark.first, mark.last) for mark in found] == [(0, 0)]


@pytest.mark.parametrize(
    ("module", "others", "blocks", "modules"),
    [
        (CONV, (CONV,), BLOCKS[1:2], (CONV,)),
        (CONV, (BN, CONV), BLOCKS[1:2], (CONV, BN)),
        (
            CONV,
            ("model.0.bn", CONV, "model.2.a"),
            ("model.1", "model.0", "model.2"),
            (CONV, "model.0.bn", "model.2.a"),
        ),
        ("model.2", HEAD, BLOCKS[2:], ("model.2", *HEAD)),
        ("model.1", (WHOLE, "model.1"), BLOCKS[1:2], ("model.1",)),
        (WHOLE, (WHOLE,), (), ()),
        (WHOLE, (*TRUNK, *HEAD), (), ()),
    ],
)
def test_a_mark_concerns_the_rows_of_its_modules_its_own_first(
    tmp_path, module, others, blocks, modules
):
    finding = finding_of("dead", module, modules=others, step=1)
    for is_single, names in ((False, blocks), (True, modules)):
        found = drawn(tmp_path, FIVE, [finding], modules=is_single)
        (mark,) = found.marks
        assert tuple(found.names[row] for row in mark.rows) == names
        assert mark.finding is finding


def test_notices_have_no_mark(picture):
    findings = [
        finding_of("amp_overflow", WHOLE, severity="notice", number=1, step=1),
        finding_of("dead", CONV, number=2, step=5),
        finding_of("spike", WHOLE, severity="warning", number=3, step=2),
    ]
    shown = picture(FIVE, findings)
    assert [(mark.finding.number, mark.first) for mark in shown.marks] == [(2, 2), (3, 1)]


def test_the_findings_of_a_review_have_their_marks(tmp_path):
    dead = [window(step, zero=[CONV]) for step in range(3, 7)]
    calm = [window(step) for step in range(7, 20)]
    run = written(tmp_path, [window(1), window(2), *dead, *calm])
    report = run.report()
    assert [
        (mark.finding.rule, mark.rows, mark.first, mark.last) for mark in heatmap(run, report).marks
    ] == [("dead", (1,), 2, 5)]
