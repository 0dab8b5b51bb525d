from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
import watched
from damages import cell, spoil, without
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shown import change_of, finding_of
from values import LAWS, LAYOUT, Part, assert_same, plan, runs, window

from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.quantities import NAMES, QUANTITIES
from yolo_gradwatch.measure.windows import windows_of
from yolo_gradwatch.runs import tables
from yolo_gradwatch.runs.schema import (
    ALERT_COLUMNS,
    ALERT_NEEDED,
    ALERTS_FILE,
    WINDOW_COLUMNS,
    WINDOW_NEEDED,
    WINDOWS_FILE,
    FormatError,
)

CONV = "model.1.conv"
ROWS = len(LAYOUT.modules)  # lines of a window
FEW = [window(1), window(2, steps=3), window(5, zero=[CONV])]
HEADS = ("epoch", "step_first", "step_last", "steps", "skipped")


FIRST_COUNTS = [row.name for row in QUANTITIES if row.is_count and row.since == 1]
FLOAT_COLUMNS = [row.name for row in QUANTITIES if not row.is_count]
COUNTS = (*HEADS, *FIRST_COUNTS, "parameters")


def write(folder, windows=FEW, layout=LAYOUT, *, resume=False):
    """The ``gradwatch.csv`` that a training leaves."""
    watched.write(folder, windows, layout=layout, resume=resume)
    return folder / WINDOWS_FILE


def write_alerts(folder, *findings):
    """The ``gradwatch_alerts.csv`` that a training leaves."""
    watched.write(folder, changes=[change_of("start", finding) for finding in findings])
    return folder / ALERTS_FILE


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines()


def put(path, lines, end=b"\n"):
    path.write_bytes(b"".join(line.encode() + end for line in lines))
    return path


def read(path):
    """A table of a run, and the remarks on it."""
    is_windows = path.name == WINDOWS_FILE
    return tables.read_windows(path, LAYOUT) if is_windows else tables.read_alerts(path)


def windows_in(table, layout=LAYOUT):
    return list(windows_of(tables.grid_of(table, layout)))


def assert_windows(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_file_with_only_a_header_has_typed_columns_and_no_rows(tmp_path, end):
    path = write(tmp_path, [])
    table, remarks = tables.read_windows(put(path, lines_of(path), end), LAYOUT)
    assert (len(table), remarks) == (0, ())
    for layout in LAYOUTS:
        assert_grid(tables.grid_of(table, layout), [], layout)
    assert tuple(table.columns) == WINDOW_COLUMNS
    assert all(table[name].dtype == np.int64 for name in COUNTS)
    assert all(table[name].dtype == np.float32 for name in FLOAT_COLUMNS)
    assert isinstance(table["module"].dtype, pd.CategoricalDtype)


# --- names ----------------------------------------------------------------------------------------


def named(*names):
    """A layout with these modules below the whole model, and two windows of it."""
    modules = (WHOLE, *names)
    size = len(modules)
    columns = ("types", "parameters", "block_of", "roles", "kernels")
    layout = replace(
        LAYOUT,
        modules=modules,
        **{name: (getattr(LAYOUT, name) * size)[:size] for name in columns},
    )
    return layout, [window(1, layout=layout), window(2, layout=layout, zero=names[:1])]


_NAMES = st.text(st.characters(codec="utf-8"), max_size=6).filter(str.isprintable)
ODD = [
    *("a,b", 'q"uote', '"', '""', ",", "NA", "nan", "None", "null", "1", "1.0", "True", "", " "),
    *("#", "é", "名前", "=1+1", "[red]x[/red]", "a\\b", "'", " lead", "trail ", "epoch", "module"),
]


@LAWS
@given(st.lists(st.one_of(_NAMES, st.sampled_from(ODD)), max_size=5, unique=True))
def test_module_names_survive_a_round_trip(names):
    assume(WHOLE not in names and "end" not in names)
    layout, windows = named(*names, "end")
    with TemporaryDirectory() as folder:
        table, remarks = tables.read_windows(write(Path(folder), windows, layout), layout)
    assert remarks == ()
    assert table["module"].tolist() == [*layout.modules, *layout.modules]
    assert_windows(windows_in(table, layout), windows)


@pytest.mark.parametrize("name", ODD)
def test_odd_name_of_the_last_module_is_read(tmp_path, name):
    layout, windows = named("a", name)
    table, remarks = tables.read_windows(write(tmp_path, windows, layout), layout)
    assert remarks == ()
    assert_windows(windows_in(table, layout), windows)


def test_window_without_its_quoted_last_module_is_torn(tmp_path):
    layout, windows = named("x,1", "x,2")
    path = write(tmp_path, windows, layout)
    table, remarks = tables.read_windows(put(path, lines_of(path)[:-1]), layout)
    assert len(remarks) == 1
    assert_windows(windows_in(table, layout), windows[:1])


@pytest.mark.parametrize(
    "order",
    [WINDOW_COLUMNS[::-1], (*WINDOW_COLUMNS, "comment"), ("comment", *WINDOW_COLUMNS)],
    ids=["backwards", "one more", "one more in front"],
)
def test_columns_are_found_by_name_and_unknown_ones_kept(tmp_path, order):
    path = write(tmp_path)
    expected, _ = tables.read_windows(path, LAYOUT)
    table = pd.read_csv(path, dtype=str, keep_default_na=False).assign(comment="1,0")
    table.to_csv(path, columns=list(order), index=False)
    found, remarks = tables.read_windows(path, LAYOUT)
    assert remarks == ()
    if "comment" in order:
        assert list(found.pop("comment")) == ["1,0"] * len(table)
    pd.testing.assert_frame_equal(found, expected)


_OPTIONAL = [
    *((WINDOWS_FILE, name) for name in WINDOW_COLUMNS if name not in WINDOW_NEEDED),
    *((ALERTS_FILE, name) for name in ALERT_COLUMNS if name not in ALERT_NEEDED),
]


@pytest.mark.parametrize(("file", "column"), _OPTIONAL)
def test_missing_column_is_empty(tmp_path, file, column):
    write(tmp_path)
    if file == ALERTS_FILE:
        write_alerts(tmp_path, finding_of(message="a message"), finding_of(number=2))
    expected, _ = read(tmp_path / file)
    spoil(tmp_path, file, without(column))
    found, remarks = read(tmp_path / file)
    assert tuple(found.columns) == tuple(expected.columns)
    assert found[column].isna().all() or (found[column] == "").all()
    pd.testing.assert_frame_equal(found.drop(columns=column), expected.drop(columns=column))
    later = {row.name for row in QUANTITIES if row.since > 1}
    is_new = column in {"clipped", "reported", "since"} or column in later
    assert [column in remark for remark in remarks] == ([] if is_new else [True])


# --- a torn end -----------------------------------------------------------------------------------


def cut(path, data):
    """Cut a table somewhere after its header; return the remaining lines and their line end."""
    end = data.draw(st.sampled_from([b"\n", b"\r\n"]))
    content = put(path, lines_of(path), end).read_bytes()
    size = data.draw(st.integers(content.index(b"\n") + 1, len(content)))
    path.write_bytes(content[:size])
    return content[:size].splitlines(keepends=True)[1:], end


def torn(remarks):
    """For each remark the number of lines that are ignored, if several, and the first of them."""
    return [[int(number) for number in re.findall(r"\d+", remark)] for remark in remarks]


@pytest.mark.slow
@settings(LAWS, max_examples=100)
@given(st.data())
def test_killed_training_loses_at_most_its_last_window(data):
    with TemporaryDirectory() as name:
        path = write(Path(name))
        left, end = cut(path, data)
        table, remarks = tables.read_windows(path, LAYOUT)
    whole = sum(line.endswith(end) for line in left) // ROWS
    assert_windows(windows_in(table), FEW[:whole])
    count = len(left) - whole * ROWS
    assert torn(remarks) == ([[count, 2 + whole * ROWS][count == 1 :]] if count else [])


@settings(LAWS, max_examples=60)
@given(st.data())
def test_complete_lines_of_the_alerts_are_read(data):
    findings = [finding_of(number=n, message=f'of "{n}", é') for n in (1, 2, 3)]
    with TemporaryDirectory() as name:
        path = write_alerts(Path(name), *findings)
        left, end = cut(path, data)
        table, remarks = tables.read_alerts(path)
    whole = sum(line.endswith(end) for line in left)
    assert table["message"].tolist() == [f.message for f in findings[:whole]]
    assert torn(remarks) == ([[2 + whole]] if len(left) > whole else [])


def test_unclosed_quote_in_a_long_file_is_refused(tmp_path):
    path = write(tmp_path, [window(step) for step in range(1, 350)])
    spoil(tmp_path, WINDOWS_FILE, cell(5, "module", '"model.0'))
    with pytest.raises(FormatError, match=r"line 5 "):
        tables.read_windows(path, LAYOUT)


# --- alerts ---------------------------------------------------------------------------------------


def test_alerts_survive_a_round_trip(tmp_path):
    findings = [
        finding_of(message='a, "b"; 3 %… é', value=1.5, limit=0.25),
        finding_of("dead", "x,1", number=2, value=float("inf"), message=""),
        finding_of("amp_overflow", WHOLE, number=3, severity="notice", value=1e-300),
    ]
    table, remarks = tables.read_alerts(write_alerts(tmp_path, *findings))
    assert remarks == ()
    assert tuple(table.columns) == ALERT_COLUMNS
    for name in ("severity", "rule", "module", "value", "limit", "message"):
        assert table[name].tolist() == [getattr(f, name) for f in findings], name
    assert table["finding"].tolist() == [1, 2, 3]
    assert table["event"].tolist() == ["start"] * 3
    assert table["finding"].dtype == table["step"].dtype == table["epoch"].dtype == np.int64
    assert table["value"].dtype == table["limit"].dtype == np.float64


# --- rows without a header ------------------------------------------------------------------------


@pytest.mark.slow
@LAWS
@given(runs())
def test_rows_are_read_the_same_without_their_header(run):
    windows, _ = run
    with TemporaryDirectory() as name:
        path = write(Path(name), windows)
        table, _ = tables.read_windows(path, LAYOUT)
        content = path.read_bytes()
    rows = tables.parse(content[content.index(b"\n") + 1 :])
    pd.testing.assert_frame_equal(rows, table)


# --- grids ----------------------------------------------------------------------------------------


def plan_of(*names):
    """The layout of a training that freezes all other leaves."""
    return plan([Part(name) for name in names])[0]


LEAVES = ("model.0.conv", "model.0.bn", CONV, "model.1.bn", "model.2.a", "model.2.b")
LAYOUTS = [
    LAYOUT,
    plan_of(*LEAVES[2:]),
    plan_of(*LEAVES[:4]),
    plan_of(*LEAVES[:2], *LEAVES[4:]),
    plan_of(*LEAVES, "model.2.c"),
    plan_of("model.0.ema", *LEAVES),
]


def seen_by(layout, one):
    """A window as written by a training that watches the modules of this layout."""
    place = {name: m for m, name in enumerate(LAYOUT.modules)}
    rows = [place.get(name, 0) for name in layout.modules]
    return replace(one, **{name: getattr(one, name)[rows] for name in NAMES})


def grid_by_loops(table, layout):
    """For each window its head and the file's values of each module."""
    grid = {}
    for row in table.to_dict("records"):
        head = tuple(row[name] for name in HEADS)
        window_rows = grid.setdefault(row["step_first"], (head, {}))[1]
        window_rows[row["module"]] = [row[name] for name in NAMES]
    nothing = [row.empty for row in QUANTITIES]
    return [
        (head, [rows.get(name, nothing) for name in layout.modules])
        for _, (head, rows) in sorted(grid.items())
    ]


def assert_grid(grid, expected, layout):
    shape = (len(expected), len(layout.modules))
    for h, name in enumerate(HEADS):
        values = getattr(grid, name)
        assert values.dtype == np.int64, name
        assert values.tolist() == [head[h] for head, _ in expected], name
    for a, name in enumerate(NAMES):
        values = getattr(grid, name)
        assert values.dtype == (np.float32 if name in FLOAT_COLUMNS else np.int64), name
        cells = [[row[a] for row in rows] for _, rows in expected]
        np.testing.assert_array_equal(values, np.reshape(np.array(cells), shape), name)


@pytest.mark.slow
@LAWS
@given(runs(), st.lists(st.tuples(st.integers(1, 12), st.sampled_from(LAYOUTS)), max_size=3))
def test_grid_of_a_resumed_run_equals_that_of_plain_loops(run, parts):
    pending, _ = run
    with TemporaryDirectory() as name:
        path = write(Path(name), [])
        for count, layout in parts:
            taken, pending = pending[:count], pending[count:]
            write(Path(name), [seen_by(layout, one) for one in taken], layout, resume=True)
        write(Path(name), pending or [window(1000)], resume=True)
        table, remarks = tables.read_windows(path, LAYOUT)
    assert remarks == ()
    for layout in LAYOUTS:
        grid = tables.grid_of(table, layout)
        assert_grid(grid, grid_by_loops(table, layout), layout)


@pytest.mark.parametrize("kind", ["category", "object"])
def test_rows_in_any_order_make_a_grid_of_their_windows(tmp_path, kind):
    table, _ = tables.read_windows(write(tmp_path), LAYOUT)
    some = table[table["step_first"] > 1].sample(frac=1, random_state=0)
    assert_windows(windows_in(some.astype({"module": kind})), FEW[1:])
