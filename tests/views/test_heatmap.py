from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import NET
from shown import episode_of, finding_of
from values import FEWER, HEAD, LAYOUT, TRUNK, Part, plan, runs, window
from watched import CONV, written

from yolo_gradwatch.measure.arrays import FLOAT32_MAX
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.views.heatmap import FINE, NONE, NONFINITE, UNKNOWN, ZERO, Mark, heatmap

pytestmark = pytest.mark.slow  # draws many runs

BN = "model.1.bn"
BLOCKS = ("model.0", "model.1", "model.2")


def drawn(folder, windows, findings=(), *, modules=False, layout=LAYOUT, **meta):
    """The heat map of a run of these windows, with the given findings."""
    run = written(folder, windows, layout, **meta)
    return heatmap(run, replace(run.report(), findings=tuple(findings)), modules=modules)


@pytest.fixture
def picture(tmp_path):
    def draw(windows, findings=(), **options):
        return drawn(tmp_path, windows, findings, **options)

    return draw


def test_rows_are_blocks_with_parameters_or_all_modules(picture):
    layout = replace(LAYOUT, blocks=(*LAYOUT.blocks[:2], ("model.2", "[bold]Head")))
    result = picture([window(1)], layout=layout)
    assert (result.names, result.labels) == (BLOCKS, ("0 Block", "1 Block", "2 [bold]Head"))
    assert result.norms.shape == result.levels.shape == result.states.shape == (3, 1)
    result = picture([window(1), window(2)], modules=True)
    assert result.names == result.labels == LAYOUT.modules[1:]
    assert result.norms.shape == (len(LAYOUT.modules) - 1, 2)
    result = picture([window(1, layout=NET)], layout=NET)
    assert result.names == tuple(f"model.{i}" for i in (0, 1, 2, 4, 5, 6))


def state_by_loops(one, m):
    """The worst state of a module in a window."""
    if one.nonfinite[m]:
        return NONFINITE
    if one.norm_mean[m] > 0:
        return FINE
    if one.norm_mean[m] == 0:
        return ZERO
    return NONE if one.none[m] else UNKNOWN


@FEWER
@given(runs(), st.booleans())
def test_heatmap_equals_plain_loops_over_the_windows(run, modules):
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
    ("faults", "state"),
    [
        *(({}, FINE), ({"zero": [CONV]}, ZERO), ({"zero": {CONV: 2}}, FINE)),
        *(({"zero": {CONV: 3}}, ZERO), ({"none": [CONV]}, NONE), ({"none": {CONV: 2}}, FINE)),
        *(({"none": {CONV: 3}}, NONE), ({"none": {CONV: 3}, "zero": {CONV: 1}}, NONE)),
        *(({"none": {CONV: 1}, "zero": {CONV: 2}}, FINE), ({"nonfinite": [CONV]}, NONFINITE)),
        *(({"nonfinite": {CONV: 1}, other: {CONV: 3}}, NONFINITE) for other in ("none", "zero")),
        *(({"nonfinite": {CONV: 1}}, NONFINITE), ({"unknown": [CONV]}, UNKNOWN)),
        ({"skipped": 4, "unknown": [CONV]}, UNKNOWN),
    ],
)
def test_state_of_a_cell(picture, faults, state):
    result = picture([window(1, steps=4, norm=100.0, **faults)], modules=True)
    row = result.names.index(CONV)
    assert result.states[row, 0] == state
    assert result.states.dtype == np.uint8
    np.testing.assert_array_equal(result.levels[row, 0], 2.0 if state == FINE else math.nan)
    assert set(np.delete(result.states, row)) == {FINE}


def test_module_with_zero_and_no_gradient_in_turn_is_zero(picture):
    one = window(1, steps=2, zero={CONV: 1}, none={CONV: 1})
    norms = np.where(np.array(LAYOUT.modules) == CONV, 0, one.norm_mean).astype(np.float32)
    result = picture([replace(one, norm_mean=norms)], modules=True)
    assert result.states[result.names.index(CONV), 0] == ZERO


def test_lowest_mean_and_highest_norm_of_the_whole_model(picture):
    size = len(LAYOUT.modules)
    spread = {
        "norm_min": np.arange(size, dtype=np.float32),
        "norm_mean": np.arange(size, dtype=np.float32) + 10,
        "norm_max": np.arange(size, dtype=np.float32) + 100,
    }
    result = picture([replace(window(1, steps=9), **spread), window(10, nonfinite=LAYOUT.modules)])
    np.testing.assert_array_equal(result.totals, [[0, math.nan], [10, math.nan], [100, math.nan]])
    assert result.totals.dtype == np.float64


def clipped_of(folder, windows, **meta):
    return drawn(folder, windows, **meta).clipped.T.tolist()


def test_norm_beyond_float32_is_the_highest_level_and_not_nan(picture):
    one = window(1, norm=np.inf)
    result = picture([one, window(2, nonfinite=LAYOUT.modules), window(3)], modules=True)
    assert set(result.states[:, 0]) == set(result.states[:, 2]) == {FINE}
    assert set(result.states[:, 1]) == {NONFINITE}
    np.testing.assert_allclose(result.levels[:, 0], math.log10(FLOAT32_MAX))
    assert result.norms[0, 0] == FLOAT32_MAX
    assert result.totals[:, 0].tolist() == [FLOAT32_MAX] * 3
    assert result.clipped.T.tolist() == [[1, 1], [0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("options", "clip"), [({}, 10.0), ({"clip": 2.5}, 2.5), ({"clip": 0.1}, 0.1)]
)
def test_single_step_above_the_clip_norm_is_clipped(tmp_path, options, clip):
    norms = [clip / 2, clip, 2 * clip, 1e30]
    windows = [window(step, norm=norm) for step, norm in enumerate(norms, 1)]
    found = clipped_of(tmp_path, windows, options={"training": options})
    assert found == [[0, 0], [0, 0], [1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("low", "high", "share"),
    [
        (1.0, 9.0, [0, 0]),
        (1.0, 10.0, [0, 0]),  # exactly at the clip norm
        (11.0, 99.0, [1, 1]),
        (1.0, 11.0, [0.25, 0.75]),  # at least one step, but not the lowest
        (10.0, 11.0, [0.25, 0.75]),
    ],
)
def test_clipped_share_without_counts_is_bounded_by_the_norms(tmp_path, low, high, share):
    one = window(1, steps=4, norm=(low + high) / 2)
    ends = {"norm_min": low, "norm_max": high}
    ends = {name: np.full(len(LAYOUT.modules), value, np.float32) for name, value in ends.items()}
    assert clipped_of(tmp_path, [replace(one, **ends)]) == [share]


def test_skipped_steps_are_not_clipped_and_nonfinite_ones_unknown(tmp_path):
    windows = [
        window(1, steps=4, skipped=4, unknown=LAYOUT.modules),
        window(5, steps=4, skipped=1, norm=50.0),
        window(9, steps=4, nonfinite={WHOLE: 4}),
        window(13, steps=4, norm=50.0, nonfinite={WHOLE: 1}),
    ]
    assert clipped_of(tmp_path, windows) == [[0, 0], [0.75, 0.75], [0, 1], [0.75, 1]]


def test_counts_of_clipped_steps_give_their_share(tmp_path):
    windows = [window(step, steps=4, norm=norm) for step, norm in ((1, 9.0), (5, 11.0), (9, 50.0))]
    run = written(tmp_path, windows)
    counted = np.array([1, 3, -1])  # -1: not counted
    vars(run)["grid"] = replace(run.grid, clipped=counted)
    assert heatmap(run, run.report()).clipped.T.tolist() == [[0.25, 0.25], [0.75, 0.75], [1, 1]]


def test_run_without_a_window_has_rows_but_no_columns(picture):
    for modules in (False, True):
        result = picture([], modules=modules)
        assert result.norms.shape == (len(result.names), 0)
        assert result.totals.shape == (3, 0)
        assert len(result.skipped) == result.clipped.shape[1] == 0
        assert result.marks == ()


FIVE = [
    window(1),
    window(2, steps=3),
    window(5, steps=5),
    window(10, epoch=2),
    window(11, steps=10, epoch=2),
]
"""Windows of steps 1, 2 to 4, 5 to 9, 10, and 11 to 20."""


@pytest.mark.parametrize(
    ("begin", "end", "columns"),
    [
        *((4, None, (1, 4)), (3, 10, (1, 2))),
        *((99, None, (4, 4)), (2, 99, (1, 4))),  # after the last window
    ],
)
def test_mark_covers_the_windows_of_its_finding(picture, begin, end, columns):
    finding = finding_of("dead", CONV, step=begin, step_end=end)
    assert picture(FIVE, [finding]).marks == (Mark(finding, (1,), *columns),)


@FEWER
@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.data())
def test_mark_equals_a_search_of_every_window(steps, data):
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


def test_each_episode_has_its_own_mark(picture):
    episodes = (episode_of(1, 2), episode_of(5, 9), episode_of(11))
    finding = finding_of("dead", CONV, episodes=episodes)
    marks = picture(FIVE, [finding]).marks
    assert marks == tuple(Mark(finding, (1,), column, column) for column in (0, 2, 4))


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
def test_mark_has_the_rows_of_its_modules(tmp_path, module, others, blocks, modules):
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
    result = picture(FIVE, findings)
    assert [(mark.finding.number, mark.first) for mark in result.marks] == [(2, 2), (3, 1)]


def headed(families, inputs):
    """A layout whose head has these branch families and reads this number of blocks before it."""
    parts = [Part(f"model.{i}.conv") for i in range(inputs + 1)]
    head = f"model.{inputs + 1}"
    parts += [Part(f"{head}.{name}.{j}.conv") for name in families for j in range(inputs)]
    edges = [(f"model.{i}", f"model.{i + 1}") for i in range(inputs)]
    return plan(parts, edges=edges + [(f"model.{i}", head) for i in range(1, inputs + 1)])[0]


def test_inputs_and_branches_of_the_head_are_labelled_by_scale(picture):
    layout = headed(["cv2", "cv3"], 3)
    windows = [window(1, layout=layout)]
    blocks = picture(windows, layout=layout).labels
    assert blocks == ("0 Block", "1 Block  P3", "2 Block  P4", "3 Block  P5", "4 Block")
    modules = picture(windows, layout=layout, modules=True)
    marked = {label for label in modules.labels if "  P" in label}
    names = {"model.1  P3", "model.2  P4", "model.3  P5"}
    assert marked == names | {
        f"model.4.{f}.{j}  P{j + 3}" for f in ("cv2", "cv3") for j in range(3)
    }
    assert "model.4.cv2.0" in modules.names


@pytest.mark.parametrize("inputs", [1, 2, 4])
def test_other_numbers_of_scales_are_numbered(picture, inputs):
    layout = headed(["cv2"], inputs)
    labels = picture([window(1, layout=layout)], layout=layout).labels
    found = [label.partition("  ")[2] for label in labels]
    counted = [f"scale {i + 1} of {inputs}" for i in range(inputs)]
    assert found == ["", *(counted if inputs > 1 else [""]), ""]


ROWS = [f"model.{i}" for i in range(6)]
CHAIN, _ = plan([Part(f"{name}.conv") for name in ROWS])


def levelled(levels, steps=20):
    """Windows in which each block has the level given for its number."""
    found = []
    for step in range(1, steps + 1):
        now = [level(step) if callable(level) else level for level in levels]
        level_of = dict(zip(ROWS, now, strict=True)) | {"": 1.0}
        norms = [10.0 ** level_of[block] for block in CHAIN.block_of]
        one = window(step, layout=CHAIN)
        found.append(replace(one, norm_mean=np.array(norms, np.float32)))
    return found


LATE = lambda step: 0 if step < 15 else -3  # noqa: E731  # falls late
HIGH = lambda step: 30 if step == 9 else 0  # noqa: E731
LOW = lambda step: -30 if step == 5 else 0  # noqa: E731


@pytest.mark.parametrize(
    ("levels", "limits", "weak"),
    [
        ([1, 0.5, 0, -0.5, -9, -18], (-0.75, 1.25), 2),  # at least two decades
        ([1.7, 1, 0, 0, -1, -1.7], (-1.7, 1.7), 0),
        ([1, 1, 1, 1, 0, LATE], (-3, 1), 0),
        ([1, 1, 0, 0, HIGH, LOW], (-0.5, 1.5), 0),  # a single cell
    ],
)
def test_colours_span_the_rows_not_far_below_the_others(picture, levels, limits, weak):
    result = picture(levelled(levels, steps=150 if HIGH in levels else 20), layout=CHAIN)
    assert result.weak.tolist() == [False] * (6 - weak) + [True] * weak
    assert result.limits == pytest.approx(limits, abs=0.05)


def test_rows_of_a_finding_always_extend_the_colours(picture):
    finding = finding_of("vanishing", "model.5", modules=("model.4", "model.5"), step=1)
    for modules in (False, True):
        result = picture(levelled([1, 1, 1, 1, -4, -4]), [finding], layout=CHAIN, modules=modules)
        assert not result.weak.any()
        assert result.limits == pytest.approx((-4, 1), abs=0.01)


@pytest.mark.parametrize("faults", [{"zero": CHAIN.modules}, {"nonfinite": CHAIN.modules}])
def test_run_without_any_level_has_limits(picture, faults):
    result = picture([window(step, layout=CHAIN, **faults) for step in (1, 2)], layout=CHAIN)
    assert result.limits == (-1.0, 1.0)
    assert not result.weak.any()


def moments_of(result):
    return [(moment.step, moment.word) for moment in result.moments]


def test_restarts_are_moments_but_the_start_is_not(picture):
    kinds = ("start", "resume", "nan_recovery", "oom_restart")
    events = [Event(step, kind) for step, kind in zip((1, 2, 5, 10), kinds, strict=True)]
    steps = [step for step, _ in moments_of(picture(FIVE, events=events))]
    assert steps == [2, 5, 10]


TEN_EPOCHS = [window(step, epoch=(step + 1) // 2) for step in range(1, 21)]


@pytest.mark.parametrize(
    ("training", "step"),
    [
        ({"epochs": 10, "close_mosaic": 3}, 15),
        ({"epochs": 10, "close_mosaic": 9}, 3),
        ({"epochs": 10, "close_mosaic": 10}, None),  # from the first step, or never
        ({"epochs": 10, "close_mosaic": 0}, None),
        ({"epochs": 100, "close_mosaic": 10}, None),  # the training ended before
        ({"epochs": 10, "close_mosaic": 3, "mosaic": 0.0}, None),
        ({"epochs": 10, "close_mosaic": 3, "mosaic": 0.5}, 15),
        ({"epochs": 10, "close_mosaic": 3, "task": "classify"}, None),
        ({"epochs": 10}, None),
        ({"epochs": 10, "close_mosaic": "3"}, None),
        ({"epochs": 10, "close_mosaic": None}, None),
        ({"close_mosaic": 3}, None),
    ],
)
def test_end_of_the_mosaic_is_a_moment(picture, training, step):
    result = picture(TEN_EPOCHS, options={"training": training}, events=[])
    assert moments_of(result) == ([] if step is None else [(step, "mosaic closed")])


def test_results_of_ultralytics_are_in_the_picture(tmp_path):
    text = "epoch,train/box_loss,lr/pg0\n1,2.5,0.01\n2,1.5,0.02\n"
    (tmp_path / "results.csv").write_text(text, encoding="utf-8")
    curves = drawn(tmp_path, FIVE).curves
    assert curves.losses["box_loss"].tolist() == [2.5, 1.5]
    assert curves.rates["pg0"].tolist() == [0.01, 0.02]


@pytest.mark.parametrize(
    "name", ["yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo26n", "yolov8n-p2"]
)
def test_scales_of_real_models_match_their_strides(picture, name):
    from ultralytics.nn.tasks import DetectionModel

    from yolo_gradwatch.measure import model_layout as layouts

    model = DetectionModel(f"{name}.yaml", verbose=False)
    layout, _ = layouts.read(model)
    strides = model.model[-1].stride.tolist()
    expected = [f"P{round(math.log2(stride))}" for stride in strides]
    if len(strides) != 3:
        expected = [f"scale {i + 1} of {len(strides)}" for i in range(len(strides))]
    result = picture([window(1, layout=layout)], layout=layout, modules=True)
    scale_of = dict(
        zip(result.names, (label.partition("  ")[2] for label in result.labels), strict=True)
    )
    inputs = [f"model.{block}" for block in model.model[-1].f]
    assert [scale_of[block] for block in inputs] == expected
    for family in ("cv2", "cv3"):
        branches = [f"{layout.head}.{family}.{i}" for i in range(len(strides))]
        assert [scale_of[branch] for branch in branches] == expected
    assert sum(map(bool, scale_of.values())) % len(strides) == 0
