from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from build import finding_of, news_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from values import LAWS, LAYOUT, Part, assert_same, plan, runs, window

from yolo_gradwatch import tables
from yolo_gradwatch.layout import WHOLE
from yolo_gradwatch.quantities import MEASURED, NAMES, QUANTITIES
from yolo_gradwatch.runlog import (
    ALERT_COLUMNS,
    ALERT_NEEDED,
    ALERTS_FILE,
    WINDOW_COLUMNS,
    WINDOW_NEEDED,
    WINDOWS_FILE,
    FormatError,
    RunLog,
)
from yolo_gradwatch.windows import windows_of

CONV = "model.1.conv"
ROWS = len(LAYOUT.modules)  # lines of a window
WIDTH = len(WINDOW_COLUMNS)
FEW = [window(1), window(2, steps=3), window(5, zero=[CONV])]
HEADS = ("epoch", "step_first", "step_last", "steps", "skipped")
ARRAYS = NAMES
COUNT_COLUMNS = [row.name for row in QUANTITIES if row.is_count]
FIRST_COUNTS = [row.name for row in QUANTITIES if row.is_count and row.since == 1]
FLOAT_COLUMNS = [row.name for row in MEASURED if not row.is_count]
COUNTS = (*HEADS, *FIRST_COUNTS, "parameters")
ENDS = pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])


def write(folder, windows=FEW, layout=LAYOUT, *, resume=False):
    """The ``gradwatch.csv`` that a training leaves."""
    log = RunLog(folder, layout, resume=resume)
    log.start()
    for one in windows:
        log.write_window(one)
    log.close()
    return folder / WINDOWS_FILE


def write_alerts(folder, *findings):
    """The ``gradwatch_alerts.csv`` that a training leaves."""
    log = RunLog(folder, LAYOUT, resume=False)
    log.start()
    log.write_news([news_of("start", finding) for finding in findings])
    log.close()
    return folder / ALERTS_FILE


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines()


def put(path, lines, end=b"\n"):
    path.write_bytes(b"".join(line.encode() + end for line in lines))
    return path


def mangled(path, line, column, text, columns=WINDOW_COLUMNS):
    """The file with another text in a cell; lines count from 1, the header's."""
    lines = lines_of(path)
    cells = lines[line - 1].split(",")
    cells[columns.index(column)] = text
    lines[line - 1] = ",".join(cells)
    return put(path, lines)


def refusal(path, layout=LAYOUT):
    """What a user is told about a ``gradwatch.csv``, without its path."""
    return told_about(path, lambda: tables.read_windows(path, layout))


def refusal_of_alerts(path):
    return told_about(path, lambda: tables.read_alerts(path))


def told_about(path, read):
    with pytest.raises(FormatError, match=re.escape(str(path))) as caught:
        read()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def windows_in(table, layout=LAYOUT):
    return list(windows_of(tables.grid_of(table, layout)))


def assert_windows(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


@ENDS
def test_the_windows_of_a_file_are_read_whatever_its_line_ends(tmp_path, end):
    path = put(write(tmp_path), lines_of(tmp_path / WINDOWS_FILE), end)
    table, remarks = tables.read_windows(path, LAYOUT)
    assert remarks == ()
    assert_windows(windows_in(table), FEW)


def test_line_ends_change_nothing_in_a_table(tmp_path):
    path = write(tmp_path)
    table, _ = tables.read_windows(path, LAYOUT)
    again, _ = tables.read_windows(put(path, lines_of(path), b"\r\n"), LAYOUT)
    pd.testing.assert_frame_equal(table, again)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_file_with_a_header_alone_has_no_rows_but_their_types(tmp_path, end):
    table, remarks = tables.read_windows(put(write(tmp_path, []), [HEADER], end), LAYOUT)
    assert (len(table), remarks) == (0, ())
    assert tuple(table.columns) == WINDOW_COLUMNS
    assert all(table[name].dtype == np.int64 for name in COUNTS)
    assert all(table[name].dtype == np.float32 for name in FLOAT_COLUMNS)


HEADER = ",".join(WINDOW_COLUMNS)

_SINGLES = st.floats(width=32)


@st.composite
def odd_windows(draw):
    """Windows with any float32 in any module."""
    windows, step = [], 1
    for steps in draw(st.lists(st.integers(1, 5), max_size=4)):
        floats = {
            name: np.array(draw(st.lists(_SINGLES, min_size=ROWS, max_size=ROWS)), np.float32)
            for name in FLOAT_COLUMNS
        }
        windows.append(replace(window(step, steps=steps), **floats))
        step += steps
    return windows


@LAWS
@given(odd_windows())
def test_every_number_is_read_bit_for_bit(windows):
    with TemporaryDirectory() as name:
        table, _ = tables.read_windows(write(Path(name), windows), LAYOUT)
    assert_windows(windows_in(table), windows)


def test_the_table_has_a_row_for_each_line_in_its_order(tmp_path):
    path = write(tmp_path)
    table, _ = tables.read_windows(path, LAYOUT)
    for line, row in zip(lines_of(path)[1:], table.itertuples(index=False), strict=True):
        cells = line.split(",")
        shown = [f"{v:g}" if isinstance(v, float) else str(v) for v in row]
        assert [text.replace("nan", "").replace("<NA>", "") for text in shown] == cells


# --- names ----------------------------------------------------------------------------------------


def named(*names):
    """A layout of modules with these names below the whole model, and two windows of it."""
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
    "a,b",
    'q"uote',
    '"',
    '""',
    ",",
    "NA",
    "nan",
    "None",
    "null",
    "1",
    "1.0",
    "True",
    "",
    " ",
    "#",
]
ODDER = ["é", "名前", "=1+1", "[red]x[/red]", "a\\b", "'", " lead", "trail ", "epoch", "module"]


@LAWS
@given(st.lists(st.one_of(_NAMES, st.sampled_from([*ODD, *ODDER])), max_size=5, unique=True))
def test_names_of_modules_are_read_as_they_were_written(names):
    assume(WHOLE not in names and "end" not in names)
    layout, windows = named(*names, "end")
    with TemporaryDirectory() as folder:
        table, remarks = tables.read_windows(write(Path(folder), windows, layout), layout)
    assert remarks == ()
    assert table["module"].tolist() == [*layout.modules, *layout.modules]
    assert_windows(windows_in(table, layout), windows)


@pytest.mark.parametrize("name", [*ODD, *ODDER])
def test_an_odd_name_of_the_last_module_is_read(tmp_path, name):
    layout, windows = named("a", name)
    table, remarks = tables.read_windows(write(tmp_path, windows, layout), layout)
    assert remarks == ()
    assert_windows(windows_in(table, layout), windows)


@pytest.mark.parametrize("name", ["a,b", 'q"uote'])
def test_the_only_window_is_whole_if_it_ends_with_a_quoted_name(tmp_path, name):
    layout, windows = named("a", name)
    table, remarks = tables.read_windows(write(tmp_path, windows[:1], layout), layout)
    assert remarks == ()
    assert_windows(windows_in(table, layout), windows[:1])


def test_a_window_is_torn_if_a_quoted_name_is_missing_at_its_end(tmp_path):
    layout, windows = named("x,1", "x,2")
    path = write(tmp_path, windows, layout)
    table, remarks = tables.read_windows(put(path, lines_of(path)[:-1]), layout)
    assert len(remarks) == 1
    assert_windows(windows_in(table, layout), windows[:1])


def test_damage_is_found_beside_quoted_names(tmp_path):
    layout, windows = named("a,b", 'q"uote', "end")
    path = write(tmp_path, windows, layout)
    lines = lines_of(path)
    lines[7] = lines[7].replace(",1,1,1,", ",1,one,1,")
    assert refusal(put(path, lines), layout) == (
        "line 8: 'one' is no norm_mean; restore the file from a copy"
    )
    lines[5] = lines[5].rpartition(",")[0]
    assert refusal(put(path, lines), layout).startswith(
        f"line 6 has {WIDTH - 1} cells instead of {WIDTH};"
    )


# --- files that cannot be used at all -------------------------------------------------------------


READERS = pytest.mark.parametrize(
    ("name", "refused"), [(WINDOWS_FILE, refusal), (ALERTS_FILE, refusal_of_alerts)]
)


@READERS
def test_a_missing_file_is_told_with_a_remedy(tmp_path, name, refused):
    message = refused(tmp_path / name)
    assert message == (
        "No such file or directory; copy it from the run's folder, gradwatch.json needs it "
        "beside it"
    )


@READERS
def test_a_folder_in_place_of_a_file_is_told(tmp_path, name, refused):
    (tmp_path / name).mkdir()
    assert refused(tmp_path / name).endswith("gradwatch.json needs it beside it")


@READERS
def test_an_empty_file_is_told(tmp_path, name, refused):
    (tmp_path / name).write_bytes(b"")
    assert refused(tmp_path / name) == "empty; restore the file from a copy"


@READERS
@pytest.mark.parametrize(
    "content",
    ["a,b\n1,2\n", "\n", "\n\n", "hello\n", '{\n "a": 1\n}\n', "1,2,3\n", "\x00\xff\n"],
)
def test_a_file_of_another_tool_is_told(tmp_path, name, refused, content):
    path = tmp_path / name
    path.write_bytes(content.encode("latin-1"))
    assert refused(path) == (f"line 1 is not the header of {name}; is it a file of another tool?")


def without(lines, column, columns=WINDOW_COLUMNS):
    """The lines of a file without a column."""
    place = columns.index(column)
    rows = [line.split(",") for line in lines]
    return [",".join([*row[:place], *row[place + 1 :]]) for row in rows]


@ENDS
@pytest.mark.parametrize("column", WINDOW_NEEDED)
def test_a_missing_column_is_named(tmp_path, column, end):
    cut = without(lines_of(write(tmp_path)), column)
    assert refusal(put(tmp_path / WINDOWS_FILE, cut, end)) == (
        f"line 1: column '{column}' is missing; restore the file from a copy with all its columns"
    )


@pytest.mark.parametrize("column", ALERT_NEEDED)
def test_a_missing_column_of_the_alerts_is_named(tmp_path, column):
    path = write_alerts(tmp_path)
    put(path, [",".join(name for name in ALERT_COLUMNS if name != column)])
    assert f"line 1: column '{column}' is missing; " in refusal_of_alerts(path)


@pytest.mark.parametrize(
    "order",
    [
        WINDOW_COLUMNS[::-1],
        (*WINDOW_COLUMNS[1:], WINDOW_COLUMNS[0]),
        (*WINDOW_COLUMNS, "comment"),
        ("comment", *WINDOW_COLUMNS),
        (WINDOW_COLUMNS[1], WINDOW_COLUMNS[0], *WINDOW_COLUMNS[2:]),
    ],
    ids=["backwards", "turned", "one more", "one more in front", "two swapped"],
)
def test_columns_are_found_by_their_names_and_others_are_kept(tmp_path, order):
    path = write(tmp_path)
    expected, _ = tables.read_windows(path, LAYOUT)
    table = pd.read_csv(path, dtype=str, keep_default_na=False).assign(comment="1,0")
    table.to_csv(path, columns=list(order), index=False)
    found, remarks = tables.read_windows(path, LAYOUT)
    assert remarks == ()
    if "comment" in order:
        assert list(found.pop("comment")) == ["1,0"] * len(table)
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("column", sorted({*WINDOW_COLUMNS} - {*WINDOW_NEEDED}))
def test_a_column_that_is_missing_is_empty(tmp_path, column):
    path = write(tmp_path)
    expected, _ = tables.read_windows(path, LAYOUT)
    put(path, without(lines_of(path), column))
    found, remarks = tables.read_windows(path, LAYOUT)
    assert tuple(found.columns) == WINDOW_COLUMNS
    assert found[column].isna().all() or (found[column] == "").all()
    pd.testing.assert_frame_equal(found.drop(columns=column), expected.drop(columns=column))
    is_new = column == "clipped" or column in {row.name for row in QUANTITIES if row.since > 1}
    assert [column in remark for remark in remarks] == ([] if is_new else [True])
    assert len(windows_in(found)) == len(FEW)


@pytest.mark.parametrize("column", sorted({*ALERT_COLUMNS} - {*ALERT_NEEDED}))
def test_a_column_of_the_alerts_that_is_missing_is_empty(tmp_path, column):
    path = write_alerts(tmp_path, finding_of(message="a message"), finding_of(number=2))
    put(path, without(lines_of(path), column, ALERT_COLUMNS))
    found, _ = tables.read_alerts(path)
    assert tuple(found.columns) == ALERT_COLUMNS
    assert found[column].isna().all() or (found[column] == "").all()
    assert list(found["finding"]) == [1, 2]


def test_a_column_that_is_there_twice_is_told(tmp_path):
    path = write(tmp_path)
    put(path, [f"{line},{line.partition(',')[0]}" for line in lines_of(path)])
    assert refusal(path) == (
        "line 1 is not the header of gradwatch.csv; restore the file from a copy with its own "
        "columns"
    )


@READERS
def test_one_file_in_place_of_the_other_is_told(tmp_path, name, refused):
    both = write(tmp_path), write_alerts(tmp_path, finding_of())
    wrong = next(path for path in both if path.name != name)
    wrong.replace(tmp_path / name)
    assert refused(tmp_path / name) == (
        f"line 1 is not the header of {name}; is it a file of another tool?"
    )


# --- a torn end -----------------------------------------------------------------------------------


def torn(line, count):
    are = "line is" if count == 1 else "lines are"
    return (
        f"gradwatch.csv has a torn end: from line {line} on, {count} {are} left out (is it being "
        "written, or was the training killed?)"
    )


@settings(LAWS, max_examples=100)
@given(st.data())
def test_a_killed_training_loses_its_last_window_at_most(data):
    end = data.draw(st.sampled_from([b"\n", b"\r\n"]))
    with TemporaryDirectory() as name:
        path = write(Path(name))
        content = put(path, lines_of(path), end).read_bytes()
        header = content.index(b"\n") + 1
        cut = data.draw(st.integers(header, len(content)))
        path.write_bytes(content[:cut])
        table, remarks = tables.read_windows(path, LAYOUT)
    whole = (content.count(b"\n", header, cut)) // ROWS
    assert_windows(windows_in(table), FEW[:whole])
    left = content[header:cut].split(b"\n")[whole * ROWS :]
    count = len([line for line in left if line])
    assert remarks == ((torn(2 + whole * ROWS, count),) if count else ())


@ENDS
@pytest.mark.parametrize("size", range(1, len(HEADER) + 1, 20))
def test_a_torn_header_is_told(tmp_path, size, end):
    path = write(tmp_path)
    path.write_bytes(HEADER.encode()[:size] + end[:-1])
    assert refusal(path) == "empty; restore the file from a copy"


@ENDS
def test_the_line_that_is_being_written_is_left_out_with_its_window(tmp_path, end):
    path = write(tmp_path)
    content = put(path, lines_of(path), end).read_bytes()
    path.write_bytes(content[:-10])
    table, remarks = tables.read_windows(path, LAYOUT)
    assert table["step_first"].max() == 2
    assert remarks == (torn(2 + 2 * ROWS, ROWS),)


def test_a_single_line_too_many_is_told_in_the_singular(tmp_path):
    path = write(tmp_path)
    put(path, [*lines_of(path), "1,8,8,model"])
    table, remarks = tables.read_windows(path, LAYOUT)
    assert_windows(windows_in(table), FEW)
    assert remarks == (torn(2 + 3 * ROWS, 1),)


def test_what_a_power_failure_leaves_is_a_torn_end(tmp_path):
    path = write(tmp_path)
    path.write_bytes(path.read_bytes() + bytes(4096))
    table, remarks = tables.read_windows(path, LAYOUT)
    assert_windows(windows_in(table), FEW)
    assert remarks == (torn(2 + 3 * ROWS, 1),)


def test_a_torn_end_hides_no_damage_before_it(tmp_path):
    path = mangled(write(tmp_path), 5, "zero", "many")
    path.write_bytes(path.read_bytes()[:-10])
    assert refusal(path) == "line 5: 'many' is no zero; restore the file from a copy"


@settings(LAWS, max_examples=60)
@given(st.data())
def test_whole_lines_of_the_alerts_are_read(data):
    end = data.draw(st.sampled_from([b"\n", b"\r\n"]))
    findings = [finding_of(number=n, message=f'of "{n}", é') for n in (1, 2, 3)]
    with TemporaryDirectory() as name:
        path = write_alerts(Path(name), *findings)
        content = put(path, lines_of(path), end).read_bytes()
        cut = data.draw(st.integers(content.index(b"\n") + 1, len(content)))
        path.write_bytes(content[:cut])
        table, remarks = tables.read_alerts(path)
    whole = content[:cut].count(b"\n") - 1
    assert table["finding"].tolist() == [1, 2, 3][:whole]
    assert table["message"].tolist() == [f.message for f in findings[:whole]]
    is_torn = not content[:cut].endswith(b"\n")
    expected = torn(2 + whole, 1).replace(WINDOWS_FILE, ALERTS_FILE)
    assert remarks == ((expected,) if is_torn else ())


# --- damage in the middle -------------------------------------------------------------------------


NO_COUNT = ["", "many", "1.5", "-", "--1", "0x1F", "1e", "1 2", "-1", "-7", str(2**63)]
NO_FLOAT = ["many", "1.2.3", "1e", "e5", "-", "--1", "0x1F", "1 2", "1.5\x00"]
_MANGLED = st.one_of(
    st.tuples(st.sampled_from(COUNTS), st.sampled_from(NO_COUNT)),
    st.tuples(st.sampled_from(FLOAT_COLUMNS), st.sampled_from(NO_FLOAT)),
)


@settings(LAWS, max_examples=100)
@given(_MANGLED, st.integers(2, 1 + 3 * ROWS))
def test_a_mangled_number_is_told_with_its_line(cell, line):
    column, text = cell
    with TemporaryDirectory() as name:
        message = refusal(mangled(write(Path(name)), line, column, text))
    assert message == f"line {line}: {text!r} is no {column}; restore the file from a copy"


@pytest.mark.parametrize("column", COUNTS)
def test_a_negative_count_is_told_with_its_line(tmp_path, column):
    path = mangled(write(tmp_path), 14, column, "-3")
    assert refusal(path) == f"line 14: '-3' is no {column}; restore the file from a copy"


def test_the_first_of_several_mangled_lines_is_told(tmp_path):
    path = write(tmp_path)
    for line in (20, 9, 31):
        mangled(path, line, "norm_max", "?")
    assert refusal(path) == "line 9: '?' is no norm_max; restore the file from a copy"


@pytest.mark.parametrize("text", [str(2**64), "9" * 30])
def test_a_number_of_very_many_digits_is_told_with_its_line(tmp_path, text):
    path = mangled(write(tmp_path), 5, "zero", text)
    assert refusal(path) == f"line 5: '{text}' is no zero; restore the file from a copy"


@pytest.mark.parametrize(
    ("column", "text"),
    [("zero", "1_0"), ("zero", "٣"), ("norm_mean", "1_0.5"), ("norm_mean", "nan")],
)
def test_a_number_in_a_spelling_of_python_is_told_with_its_line(tmp_path, column, text):
    path = mangled(write(tmp_path), 5, column, text)
    assert refusal(path) == f"line 5: '{text}' is no {column}; restore the file from a copy"


@ENDS
@pytest.mark.parametrize("line", [2, 5, 11, 12, 31])
@pytest.mark.parametrize("change", [-9, -2, -1, 1, 2])
def test_a_short_or_long_line_is_told(tmp_path, line, change, end):
    path = write(tmp_path)
    lines = lines_of(path)
    row = lines[line - 1].split(",")
    lines[line - 1] = ",".join(row[:change] if change < 0 else [*row, *"99"[:change]])
    assert refusal(put(path, lines, end)) == (
        f"line {line} has {WIDTH + change} cells instead of {WIDTH}; restore the file from a copy"
    )


@pytest.mark.parametrize("line", [2, 3, 11, 16])
def test_a_short_line_beside_a_long_one_is_told(tmp_path, line):
    path = write(tmp_path)
    lines = lines_of(path)
    cut, _, cell = lines[line - 1].rpartition(",")
    lines[line - 1], lines[line] = cut, f"{lines[line]},{cell}"
    assert refusal(put(path, lines)).startswith(
        f"line {line} has {WIDTH - 1} cells instead of {WIDTH};"
    )
    lines[line - 1], lines[line] = lines[line], lines[line - 1]
    assert refusal(put(path, lines)).startswith(
        f"line {line} has {WIDTH + 1} cells instead of {WIDTH};"
    )


def test_a_long_line_that_ends_in_nothing_is_told(tmp_path):
    path = write(tmp_path)
    put(path, [HEADER, *(f"{line}," for line in lines_of(path)[1:])])
    assert refusal(path).startswith(f"line 2 has {WIDTH + 1} cells instead of {WIDTH};")


@ENDS
@pytest.mark.parametrize("line", [2, 5, 12])
def test_an_empty_line_is_told(tmp_path, line, end):
    path = write(tmp_path)
    lines = lines_of(path)
    lines.insert(line - 1, "")
    assert refusal(put(path, lines, end)) == (
        f"line {line} has 0 cells instead of {WIDTH}; restore the file from a copy"
    )


def test_a_quote_that_is_never_closed_is_told_with_its_line(tmp_path):
    path = mangled(write(tmp_path), 5, "module", '"model.0')
    assert refusal(path).startswith("line 5 ")


def test_a_quote_that_is_never_closed_is_told_in_a_long_file(tmp_path):
    path = write(tmp_path, [window(step) for step in range(1, 350)])
    assert refusal(mangled(path, 5, "module", '"model.0')).startswith("line ")


# --- several runs in one file ---------------------------------------------------------------------


@ENDS
@pytest.mark.parametrize("line", [2, 3, 12, 22])
def test_a_second_header_is_told(tmp_path, line, end):
    path = write(tmp_path)
    lines = lines_of(path)
    lines.insert(line - 1, HEADER)
    assert refusal(put(path, lines, end)) == (
        f"line {line} is a second header: two runs in one file; keep the lines of one"
    )


def test_two_runs_in_one_file_are_told_by_the_header_between_them(tmp_path):
    path = write(tmp_path)
    put(path, [*lines_of(path), *lines_of(path)])
    assert refusal(path).startswith(f"line {2 + 3 * ROWS} is a second header")


def anew(line, step):
    return (
        f"line {line}: the steps begin anew at {step}; two runs in one file? keep the lines of one"
    )


@ENDS
@pytest.mark.parametrize("first", [1, 2, 3, 4])
def test_two_runs_in_one_file_without_a_header_between_them_are_told(tmp_path, first, end):
    lines = lines_of(write(tmp_path))
    path = write(tmp_path, [window(step) for step in range(first, 9)])
    _, *other = lines_of(path)
    put(path, [*lines, *other], end)
    assert refusal(path) == anew(2 + 3 * ROWS, first)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_repeated_window_is_told(tmp_path, place):
    path = write(tmp_path)
    header, *rows = lines_of(path)
    end = (place + 1) * ROWS
    again = rows[place * ROWS : end]
    put(path, [header, *rows[:end], *again, *rows[end:]])
    assert refusal(path) == anew(2 + end, FEW[place].step_first)


def test_a_repeated_line_is_told(tmp_path):
    path = write(tmp_path)
    lines = lines_of(path)
    put(path, [*lines[:15], lines[13], *lines[15:]])
    assert refusal(path) == anew(16, 2)


def test_windows_in_a_wrong_order_are_told(tmp_path):
    path = write(tmp_path)
    header, *rows = lines_of(path)
    put(path, [header, *rows[ROWS : 2 * ROWS], *rows[:ROWS], *rows[2 * ROWS :]])
    assert refusal(path) == anew(2 + ROWS, 1)


# --- alerts ---------------------------------------------------------------------------------------


def test_alerts_are_read_as_they_were_written(tmp_path):
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


def test_alerts_without_the_step_of_their_report_are_read(tmp_path):
    path = write_alerts(tmp_path, finding_of(number=1), finding_of(number=2))
    pd.read_csv(path).drop(columns="reported").to_csv(path, index=False)
    table, remarks = tables.read_alerts(path)
    assert remarks == ()
    assert tuple(table.columns) == ALERT_COLUMNS
    assert table["finding"].tolist() == [1, 2]
    assert table["reported"].isna().all()


def test_alerts_are_read_whatever_their_line_ends(tmp_path):
    path = write_alerts(tmp_path, finding_of(message='a, "b"'), finding_of(number=2))
    table, _ = tables.read_alerts(path)
    again, remarks = tables.read_alerts(put(path, lines_of(path), b"\r\n"))
    assert remarks == ()
    pd.testing.assert_frame_equal(table, again)


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("finding", "one"),
        ("step", "-1"),
        ("epoch", ""),
        ("value", "high"),
        ("limit", "1,5"),
        ("reported", "0"),
    ],
)
def test_a_mangled_alert_is_told_with_its_line(tmp_path, column, text):
    path = write_alerts(tmp_path, *(finding_of(number=n) for n in (1, 2, 3)))
    message = refusal_of_alerts(mangled(path, 3, column, text, ALERT_COLUMNS))
    width = len(ALERT_COLUMNS)
    comma = f"line 3 has {width + 1} cells instead of {width}; restore the file from a copy"
    other = f"line 3: '{text}' is no {column}; restore the file from a copy"
    assert message == (comma if "," in text else other)


def test_a_second_header_of_the_alerts_is_told(tmp_path):
    path = write_alerts(tmp_path, finding_of())
    put(path, [*lines_of(path), *lines_of(path)])
    assert refusal_of_alerts(path).startswith("line 3 is a second header")


# --- rows without their header --------------------------------------------------------------------


@LAWS
@given(runs())
def test_rows_that_follow_their_header_are_read_as_with_it(run):
    windows, _ = run
    with TemporaryDirectory() as name:
        path = write(Path(name), windows)
        table, _ = tables.read_windows(path, LAYOUT)
        content = path.read_bytes()
    rows = tables.parse(content[content.index(b"\n") + 1 :])
    pd.testing.assert_frame_equal(rows, table)


@pytest.mark.parametrize(
    "row",
    [
        HEADER,
        "1,2",
        "1,1,1,model,Block,42,1,0,0,0,many,,1,1,1,5",
        "1,1,1,model,Block,42,1,0,0,0,0,,1,1,1.2.3,5",
        "1,1,1,model,Block,42,1,0,0,0,0,,1,1,1,5,9",
        "hello",
    ],
)
def test_a_row_that_is_none_is_refused(tmp_path, row):
    good = lines_of(write(tmp_path))[1]
    for lines in ([row], [good, row], [row, good]):
        content = "".join(f"{line}\n" for line in lines).encode()
        with pytest.raises(ValueError, match=r"."):
            tables.parse(content)


@pytest.mark.parametrize(
    "row",
    [
        "1,1,1,model,Block,42,1,0,0,0,0,,1",
        "1,1,1,1,model,Block,42,1,0,0,0,0,,1,1,1,5",
        "1,1,1,model,Block,42,1,-1,0,0,0,,1,1,1,5",
    ],
    ids=["short", "long", "negative"],
)
def test_a_row_that_a_review_would_refuse_is_refused(row):
    with pytest.raises(ValueError, match=r"."):
        tables.parse(f"{row}\n".encode())


# --- grids ----------------------------------------------------------------------------------------


def plan_of(*names):
    """A layout of the named leaves, which a training watches that freezes the others."""
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
    """A window as a training writes it that watches other modules."""
    place = {name: m for m, name in enumerate(LAYOUT.modules)}
    rows = [place.get(name, 0) for name in layout.modules]
    return replace(one, **{name: getattr(one, name)[rows] for name in ARRAYS})


def grid_by_loops(table, layout):
    """For each window its head and, for each module, what the file says of it."""
    grid = {}
    for row in table.to_dict("records"):
        head = tuple(row[name] for name in HEADS)
        window_rows = grid.setdefault(row["step_first"], (head, {}))[1]
        window_rows[row["module"]] = [row[name] for name in ARRAYS]
    nothing = [row.empty for row in MEASURED]
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
    for a, name in enumerate(ARRAYS):
        values = getattr(grid, name)
        assert values.dtype == (np.int64 if name in COUNT_COLUMNS else np.float32), name
        cells = [[row[a] for row in rows] for _, rows in expected]
        np.testing.assert_array_equal(values, np.reshape(np.array(cells), shape), name)


@LAWS
@given(runs(), st.lists(st.tuples(st.integers(1, 12), st.sampled_from(LAYOUTS)), max_size=3))
def test_a_resumed_run_is_read_as_plain_loops_read_it(run, parts):
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


def test_a_module_counts_nothing_in_windows_of_other_modules(tmp_path):
    more = LAYOUTS[4]
    write(tmp_path, FEW[:2])
    path = write(tmp_path, [window(5, layout=more, none=["model.2.c"])], more, resume=True)
    table, remarks = tables.read_windows(path, more)
    grid = tables.grid_of(table, more)
    new = more.modules.index("model.2.c")
    assert remarks == ()
    assert grid.none[:, new].tolist() == [0, 0, 1]
    assert np.isnan(grid.norm_mean[:, new]).all()
    assert grid.weight_norm[:, new].tolist()[2] == 5.0
    assert np.isnan(grid.weight_norm[:2, new]).all()
    assert (grid.norm_mean[:, : len(more.modules) - 1] == 1.0).all()


def test_rows_of_modules_that_are_not_in_the_layout_are_left_out(tmp_path):
    fewer = LAYOUTS[1]
    path = write(tmp_path, FEW[:2])
    write(tmp_path, [seen_by(fewer, window(5, zero=[CONV]))], fewer, resume=True)
    table, _ = tables.read_windows(path, fewer)
    grid = tables.grid_of(table, fewer)
    assert "model.0.conv" in set(table["module"])
    assert grid.norm_mean.shape == (3, len(fewer.modules))
    assert grid.zero[:, fewer.modules.index(CONV)].tolist() == [0, 0, 1]
    assert grid.zero.sum() == 1


def test_the_order_of_the_rows_of_a_window_does_not_matter(tmp_path):
    table, _ = tables.read_windows(write(tmp_path), LAYOUT)
    shuffled = table.sample(frac=1, random_state=0)
    assert_windows(windows_in(shuffled), FEW)


@pytest.mark.parametrize("kind", ["category", "object"])
def test_some_rows_of_a_table_make_a_grid_of_their_windows(tmp_path, kind):
    table, _ = tables.read_windows(write(tmp_path), LAYOUT)
    some = table[table["step_first"] > 1].astype({"module": kind})
    assert_windows(windows_in(some), FEW[1:])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_table_without_rows_makes_a_grid_without_windows(tmp_path, layout):
    table, _ = tables.read_windows(write(tmp_path, []), LAYOUT)
    grid = tables.grid_of(table, layout)
    assert_grid(grid, [], layout)
    assert list(windows_of(grid)) == []


@LAWS
@given(runs())
def test_a_grid_gives_the_windows_that_were_written(run):
    windows, _ = run
    with TemporaryDirectory() as name:
        table, _ = tables.read_windows(write(Path(name), windows), LAYOUT)
    found = windows_in(table)
    assert_windows(found, windows)
    for one in found:
        assert all(type(getattr(one, name)) is int for name in HEADS)
