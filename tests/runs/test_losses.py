"""The table of loss items: reading returns what was written, and damage is named."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import watched
from damages import both, cell, lines, resized, without
from hypothesis import given
from hypothesis import strategies as st
from values import LAWS, LAYOUT, assert_same, put_meta, window

from yolo_gradwatch import FormatError, load_run
from yolo_gradwatch.diagnose.diagnosis import Diagnosis
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.loss_items import LossItem
from yolo_gradwatch.runs.repair import mend
from yolo_gradwatch.runs.resume import continued
from yolo_gradwatch.runs.schema import LOSS_COLUMNS, LOSSES_FILE
from yolo_gradwatch.runs.tables import read_losses

ITEMS = (
    LossItem("box_loss", 4, 1, 0, 0.5, 0.75, 1.0),
    LossItem("sum", 4, 4, 0, None, None, None),
    LossItem("lr/0", 1, 0, 1, 0.0, 0.0, 0.0),
)


def with_items(step, *, steps=1, items=ITEMS):
    return replace(window(step, steps=steps), losses=items)


RUN = [with_items(1), with_items(2, steps=3), window(5), with_items(6)]


def write(folder, windows=RUN, *, resume=False):
    watched.write(folder, windows, resume=resume)
    put_meta(folder)
    return folder / LOSSES_FILE


def assert_windows(run, expected):
    found = list(run.windows_in_order())
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


def test_window_has_one_row_per_item(tmp_path):
    rows = write(tmp_path).read_text(encoding="utf-8").splitlines()
    assert rows[0] == "epoch,step_first,step_last,item,steps,nonfinite,zero,min,mean,max"
    assert rows[4:7] == [
        "1,2,4,box_loss,4,1,0,0.5,0.75,1",
        "1,2,4,sum,4,4,0,,,",
        "1,2,4,lr/0,1,0,1,0,0,0",
    ]
    table = load_run(tmp_path).losses
    assert list(table["step_first"]) == [1, 1, 1, 2, 2, 2, 6, 6, 6]
    assert [str(table[name].dtype) for name in ("steps", "mean")] == ["int64", "float32"]
    assert_windows(load_run(tmp_path), RUN)


FLOATS = st.floats(width=32, allow_nan=False) | st.sampled_from([float(np.float32(1 / 3)), -0.0])
NAMES = st.text(st.characters(codec="utf-8"), max_size=6).filter(str.isprintable)
COUNTS = st.integers(0, 2**53)
ANY = st.builds(LossItem, NAMES, st.integers(1, 2**53), COUNTS, COUNTS, FLOATS, FLOATS, FLOATS)


@pytest.mark.slow
@LAWS
@given(st.lists(ANY, min_size=1, max_size=5, unique_by=lambda one: one.item))
def test_reading_returns_what_was_written(items):
    windows = [with_items(1, items=tuple(items)), with_items(2)]
    with TemporaryDirectory() as folder:
        write(Path(folder), windows)
        assert_windows(load_run(folder), windows)


@pytest.mark.parametrize("windows", [[], [window(1), window(2)]])
def test_run_without_loss_items_has_an_empty_table_and_no_file(tmp_path, windows):
    path = write(tmp_path, windows)
    assert not path.parent.exists()
    run = load_run(tmp_path)
    assert (len(run.losses), run.remarks) == (0, ())
    assert tuple(run.losses.columns) == LOSS_COLUMNS
    kinds = run.losses.dtypes.astype(str)
    assert_windows(run, windows)
    write(tmp_path)
    assert (kinds == load_run(tmp_path).losses.dtypes.astype(str)).all()


def test_new_run_replaces_the_table_and_resumed_run_appends(tmp_path):
    write(tmp_path)
    write(tmp_path, [with_items(1)])
    assert_windows(load_run(tmp_path), [with_items(1)])
    write(tmp_path, [with_items(2)], resume=True)
    assert_windows(load_run(tmp_path), [with_items(1), with_items(2)])
    write(tmp_path, [window(1)])
    assert not (tmp_path / LOSSES_FILE).exists()


def test_resumed_run_creates_the_table_if_the_first_part_has_none(tmp_path):
    write(tmp_path, [window(1)])
    mend(tmp_path, LAYOUT.modules[-1])
    write(tmp_path, [with_items(2)], resume=True)
    assert_windows(load_run(tmp_path), [window(1), with_items(2)])


HEADER = len(",".join(LOSS_COLUMNS)) + 1


def test_killed_training_never_leaves_a_window_with_half_of_its_items(tmp_path):
    """Rows of loss items are written first, then those of the modules."""
    path = write(tmp_path, RUN[:1])
    losses, table = path.read_bytes(), (tmp_path / "gradwatch.csv").read_bytes()
    write(tmp_path, RUN[:2])
    more = path.read_bytes()
    for end in range(len(losses), len(more) + 1):
        path.write_bytes(more[:end])
        (tmp_path / "gradwatch.csv").write_bytes(table)
        assert_windows(load_run(tmp_path), RUN[:1])
        mend(tmp_path, LAYOUT.modules[-1])
        assert path.read_bytes() == losses


def test_torn_end_gives_a_remark_and_resuming_cuts_it_off(tmp_path):
    path = write(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    (remark,) = load_run(tmp_path).remarks
    assert "losses.csv" in remark
    assert len(load_run(tmp_path).losses) == 8
    mend(tmp_path, LAYOUT.modules[-1])
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:-1])
    assert load_run(tmp_path).remarks == ()


DAMAGES = {
    "a count": (cell(3, "steps", "x"), 3, "steps"),
    "no step": (cell(3, "step_first", "0"), 3, "step_first"),
    "a negative count": (cell(4, "nonfinite", "-1"), 4, "nonfinite"),
    "a number": (cell(5, "mean", "1.2.3"), 5, "mean"),
    "a cell too few": (resized(6, -1), 6, ""),
    "a cell too many": (resized(6, 1), 6, ""),
    "the first of two": (both(cell(8, "max", "x"), cell(9, "max", "x")), 8, "max"),
    "a repeated item": (lines(lambda old: [*old[:3], old[2], *old[3:]]), 4, "step_first"),
    "steps that go back": (lines(lambda old: [old[0], *old[4:7], *old[1:4]]), 5, "step_first"),
    "two runs": (lambda old: old * 2, 11, ""),
    "no column": (without("mean"), 1, "mean"),
    "another file": (lambda _old: b"a,b\n1,2\n", 1, ""),
    "empty": (lambda _old: b"", None, ""),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_located_and_the_rest_of_the_run_is_read(tmp_path, name):
    change, line, column = DAMAGES[name]
    path = write(tmp_path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(FormatError) as caught:
        read_losses(path, math.inf)
    assert (caught.value.path, caught.value.line, caught.value.column) == (path, line, column)
    assert_left_out(tmp_path, str(caught.value))


def assert_left_out(folder, error):
    """The run has its windows without loss items, and resuming it sets the table aside."""
    run, path = load_run(folder), folder / LOSSES_FILE
    assert len(run.losses) == 0
    (remark,) = run.remarks
    assert error in remark
    assert_windows(run, [replace(one, losses=()) for one in RUN])
    _, _, past = continued(run, LAYOUT, lambda layout: Diagnosis(layout, Thresholds(), {}))
    assert past.steps == sum(one.steps for one in RUN)
    assert path.with_name("losses.csv.old").exists()
    assert not path.exists()


def test_table_that_cannot_be_opened_is_left_out(tmp_path):
    path = write(tmp_path)
    path.unlink()
    path.mkdir()
    assert_left_out(tmp_path, str(path))


@pytest.mark.parametrize("column", ["nonfinite", "zero", "min", "max"])
def test_missing_column_gives_a_remark(tmp_path, column):
    path = write(tmp_path)
    path.write_bytes(without(column)(path.read_bytes()))
    run = load_run(tmp_path)
    assert [column in remark for remark in run.remarks] == [True]
    (first, *_), *_ = (one.losses for one in run.windows_in_order())
    assert getattr(first, column) == (0 if column in {"nonfinite", "zero"} else None)
    assert replace(first, **{column: getattr(ITEMS[0], column)}) == ITEMS[0]


def test_columns_of_a_later_version_are_kept(tmp_path):
    path = write(tmp_path)
    path.write_bytes(
        lines(lambda old: [f"{old[0]},own", *(f"{x},7" for x in old[1:])])(path.read_bytes())
    )
    mend(tmp_path, LAYOUT.modules[-1])
    write(tmp_path, [with_items(7)], resume=True)
    assert list(load_run(tmp_path).losses["own"]) == [*["7"] * 9, *[""] * 3]


def test_file_in_place_of_the_folder_does_not_fail_the_start(tmp_path):
    (tmp_path / "gradwatch").touch()
    write(tmp_path, [window(1)])
    assert math.isfinite(load_run(tmp_path).grid.norm_mean[0, 0])
