from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from shown import board_of, finding_of, norms_of, sample_of, window_of
from values import LAWS, SMALL, layout_of, leaves_of

from yolo_gradwatch.measure.arrays import FLOAT32_MAX
from yolo_gradwatch.measure.clipping import CLIP_NORM, CLIP_OVERFLOW
from yolo_gradwatch.measure.layout import WHOLE, Layout
from yolo_gradwatch.views.history import HISTORY
from yolo_gradwatch.views.live import Board


def states(board):
    return {row.label: (row.state, row.severity) for row in board.rows()}


def states_with(*findings):
    board = board_of()
    board.show(findings)
    return states(board)


def means(levels):
    """Means over stretches of 1, 2, 4, ... levels, the shortest that give at most HISTORY."""
    stride = 1
    while len(levels) // stride > HISTORY:
        stride *= 2
    whole = len(levels) // stride
    return np.reshape(levels[: whole * stride], (whole, stride)).mean(axis=1)


def test_rows_are_blocks_with_parameters_in_forward_order():
    rows = board_of().rows()
    assert [row.label for row in rows] == ["0 Conv", "1 C3k2", "3 C2PSA", "4 Detect"]


def test_blocks_of_a_model_that_is_not_a_list_keep_their_names():
    layout = Layout(
        modules=(WHOLE, "backbone", "head"),
        types=("Net", "Sequential", "Linear"),
        parameters=(2, 1, 1),
        block_of=("", "backbone", "head"),
        roles=("", "weight", "weight"),
        blocks=(("backbone", "Sequential"), ("head", "Linear")),
        inside=((), ()),
        head="head",
        edges=(),
        kernels=(1, 1, 1),
    )
    assert [row.label for row in Board(layout).rows()] == ["backbone Sequential", "head Linear"]


def test_no_numbers_before_the_first_step():
    board = board_of(epochs=3)
    assert (board.epoch, board.epochs, board.step, board.total) == (0, 3, 0, None)
    assert (board.clipped, board.skipped, board.active) == (0, 0, ())
    for row in board.rows():
        assert (row.norm, row.state, row.severity) == (None, "-", None)
        assert row.history.size == 0


def test_newest_step_is_shown():
    layout = layout_of()
    board = Board(layout, epochs=4)
    board.add([sample_of(5, epoch=1)], norms_of(layout, 1.0, total=2.0)[None])
    board.add([sample_of(6, epoch=2)], norms_of(layout, {"model.1": 100.0}, total=3.0)[None])
    assert (board.epoch, board.step, board.total) == (2, 6, 3.0)
    rows = board.rows()
    assert [row.norm for row in rows] == [1, 100, 1, 1]
    np.testing.assert_allclose(rows[1].history, [0, 2])


@pytest.mark.parametrize(
    ("norm", "level"), [(1.0, 0.0), (0.0, -np.inf), (np.nan, np.nan), (np.inf, np.nan)]
)
def test_history_holds_log10_levels(norm, level):
    (point,) = board_of(levels=[norm]).rows()[0].history
    np.testing.assert_equal(point, level)


@LAWS
@given(st.lists(st.floats(-6, 6), min_size=1, max_size=700))
@example([1.0] * HISTORY)
@example([float(i % 7) for i in range(HISTORY + 1)])
@example([float(i % 7) for i in range(2 * HISTORY + 1)])
@example([float(i % 7) for i in range(2 * HISTORY + 2)])
def test_points_of_the_history_are_means_of_equal_stretches(levels):
    history = board_of(levels=10 ** np.array(levels)).rows()[0].history
    wanted = means(levels)
    assert len(history) - len(wanted) in {0, 1}  # the remainder may be a point of its own
    np.testing.assert_allclose(history[: len(wanted)], wanted, atol=1e-9)


def test_history_of_a_long_training_is_bounded():
    levels = np.linspace(-3, 3, 20_000)
    board = board_of(levels=10**levels)
    for row in board.rows():
        assert len(row.history) <= HISTORY + 1
        np.testing.assert_allclose(row.history[-1], levels[-1], atol=6 / 64)


@pytest.mark.parametrize("steps", [1, HISTORY, HISTORY + 1, 2 * HISTORY + 3, 1000])
def test_bad_newest_step_is_in_the_history_at_once(steps):
    board = board_of(levels=[*np.ones(steps - 1), np.nan])
    assert np.isnan(board.rows()[0].history[-1])


def test_bad_step_stays_in_a_merged_history():
    levels = np.ones(HISTORY + 1)
    levels[10], levels[20], levels[30:32] = 0.0, np.nan, (0.0, np.inf)
    history = board_of(levels=levels).rows()[0].history
    assert history[5] == -np.inf
    assert np.isnan(history[[10, 15]]).all()
    assert np.isfinite(np.delete(history, [5, 10, 15])).all()


def test_returned_rows_do_not_change_later():
    board = board_of(levels=np.linspace(1, 2, HISTORY))
    history = board.rows()[0].history
    before = history.copy()
    board.add([sample_of(HISTORY + 1)], norms_of(layout_of(), 5.0)[None])
    np.testing.assert_array_equal(history, before)


@pytest.mark.parametrize("levels", [[2.0], []])
def test_step_skipped_by_amp_is_only_counted(levels):
    layout = layout_of()
    board = board_of(layout, levels=levels)
    board.add([sample_of(2, epoch=2, skipped=True)], norms_of(layout, np.nan)[None])
    assert (board.epoch, board.step, board.skipped, board.clipped) == (2, 2, 1, 0)
    norm = levels[0] if levels else None
    assert board.total == norm
    for row in board.rows():
        assert row.norm == norm
        np.testing.assert_allclose(row.history, np.log10(levels))


@pytest.mark.parametrize(
    ("totals", "clip", "share"),
    [
        *(((np.nextafter(CLIP_NORM, 0),), CLIP_NORM, 0), ((CLIP_NORM,), CLIP_NORM, 0)),
        *(((np.nextafter(CLIP_NORM, np.inf),), CLIP_NORM, 1), ((np.inf,), CLIP_NORM, 1)),
        *(((np.nan,), CLIP_NORM, 0), ((1.0, 11.0, 12.0, None), CLIP_NORM, 2 / 4)),
        *(((clip, 2 * clip), clip, 0.5) for clip in (0.1, 1e6)),
    ],
)
def test_clipped_is_the_share_of_steps_above_the_clip_norm(totals, clip, share):
    layout = layout_of()
    board = Board(layout, clip=clip)
    assert board.clip == clip
    for step, total in enumerate(totals, 1):
        sample = sample_of(step, skipped=total is None)
        board.add([sample], norms_of(layout, 1.0, total=total or 100.0)[None])
    assert board.clipped == share


@pytest.mark.parametrize(
    ("total", "factor"),
    [
        (0.0, 1.0),
        (5.0, 1.0),
        (40.0, 0.25),
        (CLIP_OVERFLOW, CLIP_NORM / CLIP_OVERFLOW),
        (CLIP_OVERFLOW * 1.001, 0.0),
        (1e40, 0.0),
        (np.inf, np.nan),
        (np.nan, np.nan),
    ],
)
def test_clip_factor(total, factor):
    np.testing.assert_equal(board_of(levels=[total]).factor, factor)


@pytest.mark.parametrize("norm", [1e30, np.inf])
def test_window_beyond_float32_is_clipped_to_zero_and_not_nan(norm):
    layout = layout_of()
    board = Board(layout)
    window = window_of(layout)
    high = np.full_like(window.norm_mean, norm)
    board.add_window(replace(window, norm_min=high, norm_mean=high, norm_max=high))
    assert (board.factor, board.clipped) == (0.0, 1.0)
    assert board.total == pytest.approx(min(norm, FLOAT32_MAX))
    for row in board.rows():
        assert np.isfinite([row.norm, *row.history]).all()


def owned(board, *norms):
    """The owners of the gradient after a step with these norms of the four blocks."""
    by_name = dict(zip(("model.0", "model.1", "model.3", "model.4"), norms, strict=True))
    total = float(np.sqrt(np.sum(np.square(norms))))
    board.add([sample_of(board.step + 1)], norms_of(layout_of(), by_name, total)[None])
    return list(board.owners.items())


def test_owners_are_the_three_largest_shares_of_the_newest_step():
    board = board_of()
    assert board.owners == {}
    assert owned(board, 3.0, 4.0, 0.0, 0.0) == [("1 C3k2", 0.64), ("0 Conv", 0.36)]
    last = owned(board, 1.0, 2.0, 3.0, 4.0)
    assert last == [("4 Detect", 0.5333), ("3 C2PSA", 0.3), ("1 C3k2", 0.1333)]
    board.add([sample_of(9, skipped=True)], norms_of(layout_of(), 1.0)[None])
    assert list(board.owners.items()) == last
    for norm in (np.nan, np.inf, 0.0):
        assert owned(board, 0.0, norm, 0.0, 0.0) == []


OFF_PATH = replace(
    layout_of(),
    edges=tuple((f"model.{a}", f"model.{b}") for a, b in ((0, 1), (1, 4), (0, 3), (3, 4))),
)
"""Blocks 1 and 3 are on parallel paths."""

DEAD_LAYERS = ("model.0.conv", "model.0.bn", "model.1.conv", "model.3.conv", "model.4.conv")
WORDS = {
    "nonfinite": "NaN",
    "no_gradient": "no grad",
    "dead": "dead",
    "leaf_vanishing": "leaf low",
    "leaf_exploding": "leaf high",
    "weight_growth": "weights up",
}
BLOCKS = ("model.0", "model.1")
BOTH = ("model.0.bn", "model.3.conv")


@pytest.mark.parametrize(
    ("rule", "module", "modules", "words"),
    [
        *((rule, "model.3.conv", None, ["-", "-", word, "-"]) for rule, word in WORDS.items()),
        ("dead", "model.1", None, ["-", "dead", "-", "-"]),
        *(
            (
                rule,
                "model.3",
                ("model.0", "model.1", "model.3"),
                ["upstream", "upstream", rule, "-"],
            )
            for rule in ("vanishing", "exploding")
        ),
        ("nonfinite", "model.3.conv", BOTH, ["NaN", "-", "NaN", "-"]),
        ("partly_dead", "model.3.conv", BOTH, ["partly_dead", "-", "partly_dead", "-"]),
        ("leaf_vanishing", "model.3.conv", BOTH, ["leaf low", "-", "leaf low", "-"]),
        *(  # a block is dead only as a whole
            (rule, "model.3.conv", DEAD_LAYERS, [word, "upstream", word, "downstream"])
            for rule, word in (("dead", "dead"), ("no_gradient", "no grad"))
        ),
        *(
            (rule, WHOLE, modules, [word] * 4)
            for modules in (leaves_of(layout_of()), (WHOLE,))
            for rule, word in (("nonfinite", "NaN"), ("spike", "spike"))
        ),
    ],
)
@pytest.mark.parametrize("severity", ["critical", "warning"])
def test_state_of_every_block_that_a_finding_concerns(rule, module, modules, words, severity):
    found = states_with(finding_of(rule, module, modules=modules or (module,), severity=severity))
    assert list(found) == ["0 Conv", "1 C3k2", "3 C2PSA", "4 Detect"]
    assert list(found.values()) == [(word, None if word == "-" else severity) for word in words]


@pytest.mark.parametrize("rule", ["vanishing", "exploding"])
def test_block_on_a_parallel_path_is_only_affected(rule):
    board = board_of(OFF_PATH)
    board.show([finding_of(rule, "model.1", modules=("model.1", "model.3", "model.4"))])
    assert [state for state, _ in states(board).values()] == ["-", rule, "affected", "downstream"]


@pytest.mark.parametrize("order", [1, -1])
def test_critical_finding_of_a_block_is_shown_first(order):
    findings = [
        finding_of("dead", "model.1.bn", number=1),
        finding_of("no_gradient", "model.1.conv", number=2, severity="warning"),
    ]
    assert states_with(*findings[::order])["1 C3k2"] == ("dead", "critical")


def test_critical_finding_of_a_block_hides_a_warning_on_the_model():
    growth = finding_of("weight_growth", WHOLE, number=2, severity="warning")
    found = states_with(finding_of("dead", "model.1.bn", number=1), growth)
    assert found.pop("1 C3k2") == ("dead", "critical")
    assert set(found.values()) == {("weights up", "warning")}


def test_notices_and_resolved_findings_do_not_change_block_states():
    notice = finding_of("amp_overflow", "model.1.conv", severity="notice", number=3)
    over = finding_of("dead", "model.0.bn", number=1, step_end=12)
    active = finding_of("dead", "model.1.bn", number=2)
    board = board_of()
    board.show([finding_of("dead", "model.0.bn", number=1)])
    board.show(f for f in (over, active, notice))
    assert board.active == (active, notice)
    assert [state for state, _ in states(board).values()] == ["-", "dead", "-", "-"]


@pytest.mark.parametrize(
    ("clipped", "share"), [(0, 0.0), (3, 0.3), (10, 1.0), (-1, 1.0)], ids=["0", "3", "10", "mean"]
)
def test_clipped_share_of_a_window_read_from_a_file(clipped, share):
    """Format version 1 has no count (-1): there the mean of the window, 20, decides."""
    layout = layout_of()
    board = Board(layout, clip=10.0)
    mean = np.full(len(layout.modules), 20.0, np.float32)
    board.add_window(window_of(layout, steps=10, step_last=14, norm_mean=mean, clipped=clipped))
    assert board.clipped == share


def test_thawed_blocks_join_with_an_empty_history():
    whole, part = layout_of(), layout_of(SMALL[:2])
    board = board_of(part, levels=[1.0, 2.0])
    board.regroup(whole)
    assert [row.label for row in board.rows()] == ["0 Conv", "1 C3k2", "3 C2PSA", "4 Detect"]
    board.add([sample_of(3)], norms_of(whole, 3.0)[None])
    first, *_, last = board.rows()
    assert first.history.tolist() == pytest.approx(np.log10([1.0, 2.0, 3.0]))
    assert last.history.tolist() == pytest.approx([-np.inf, -np.inf, np.log10(3.0)])
    assert (first.norm, last.norm) == (3.0, 3.0)
