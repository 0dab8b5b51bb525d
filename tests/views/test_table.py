from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from values import LAWS

from yolo_gradwatch.views.terminal.table import Column, columns

TABLE = [
    Column("module", ["model.0", "model.10"], is_left=True),
    Column("norm", ["1.5", "12"]),
    Column("state", ["ok", "dead"], ["green", "red"], is_left=True),
]

AS_TABLE = """\
module    norm  state
model.0    1.5  ok
model.10    12  dead"""

IN_PAIRS = """\
model.0
  norm 1.5  state ok
model.10
  norm 12
  state dead"""

ONE_BELOW_THE_OTHER = """\
model.0
  norm 1.5
  state ok
model.10
  norm 12
  state dead"""


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (None, AS_TABLE),
        (200, AS_TABLE),
        (21, AS_TABLE),
        (20, IN_PAIRS),
        (19, ONE_BELOW_THE_OTHER),
        (1, ONE_BELOW_THE_OTHER),
        (0, ONE_BELOW_THE_OTHER),
    ],
)
def test_table_that_is_too_wide_becomes_paragraphs(width, expected):
    assert columns(TABLE, width).plain == expected


@pytest.mark.parametrize(("width", "expected"), [(12, "module  norm"), (11, "")])
def test_table_without_rows(width, expected):
    table = [Column("module", [], is_left=True), Column("norm", [])]
    assert columns(table, width).plain == expected


def test_columns_with_wide_characters_are_aligned():
    table = [Column("module", ["畳み込み", "conv"], is_left=True), Column("n", ["畳", "1"])]
    assert columns(table, None).plain.splitlines() == [
        "module     n",
        "畳み込み  畳",
        "conv       1",
    ]


@pytest.mark.parametrize("name", ["[bold]", "[/]", "[red]x[/red]", ":boom:", "{0}", "%s", "\\["])
def test_markup_is_shown_verbatim(name):
    table = [Column("module", [name], is_left=True), Column(name, [f"1{name}"])]
    assert columns(table, None).plain.split() == ["module", name, name, f"1{name}"]
    assert columns(table, 1).plain == f"{name}\n  {name} 1{name}"


def styled(text, style):
    """The parts of a text with this style."""
    spans = [span for span in text.spans if span.style == style]
    return [text.plain[span.start : span.end].strip() for span in spans]


@pytest.mark.parametrize("width", [None, 20, 1])
def test_cell_keeps_its_style(width):
    text = columns(TABLE, width)
    assert (styled(text, "green"), styled(text, "red")) == (["ok"], ["dead"])


def test_headings_are_dim_and_names_of_paragraphs_bold():
    assert styled(columns(TABLE, None), "dim") == ["module    norm  state"]
    paragraphs = columns(TABLE, 20)
    assert styled(paragraphs, "dim") == ["norm", "state", "norm", "state"]
    assert styled(paragraphs, "bold") == ["model.0", "model.10"]


def words(alphabet):
    return st.text(alphabet, min_size=1, max_size=12).map(lambda text: text.strip() or "-")


@st.composite
def tables(draw, alphabet):
    """Columns of any words, aligned to either side."""
    rows = draw(st.integers(0, 4))
    cells = st.lists(words(alphabet), min_size=rows, max_size=rows)
    column = st.builds(Column, words(alphabet), cells, st.just(()), st.booleans())
    return draw(st.lists(column, min_size=2, max_size=5))


ANY = "ab1.[]/\\:{}%日本é "


def width_of_table(table):
    """The width at which every cell fits, with two blanks between columns."""
    widest = [max(map(cell_len, [column.heading, *column.cells])) for column in table]
    return sum(widest) + 2 * (len(table) - 1)


@pytest.mark.slow
@LAWS
@given(tables("ab1.[]/:{}% "))
def test_table_equals_format_strings(table):
    widths = [max(map(len, [column.heading, *column.cells])) for column in table]
    rows = zip(*([column.heading, *column.cells] for column in table), strict=True)
    expected = [
        "  ".join(
            f"{cell:<{width}}" if column.is_left else f"{cell:>{width}}"
            for cell, width, column in zip(row, widths, table, strict=True)
        ).rstrip()
        for row in rows
    ]
    assert columns(table, None).plain == "\n".join(expected)


@LAWS
@given(tables(ANY), st.integers(0, 80))
def test_table_that_fits_does_not_depend_on_the_width(table, spare):
    assert columns(table, width_of_table(table) + spare).plain == columns(table, None).plain


@LAWS
@given(tables(ANY), st.one_of(st.none(), st.integers(0, 80)))
def test_every_cell_appears_unbroken(table, width):
    lines = columns(table, width).plain.splitlines()
    for column in table:
        for cell in column.cells:
            assert sum(cell in line for line in lines) >= column.cells.count(cell)


@LAWS
@given(tables(ANY), st.integers(0, 80))
def test_lines_fit_the_width_unless_a_single_cell_does_not(table, width):
    names, *others = table
    single = [cell_len(f"  {c.heading} {cell}") for c in others for cell in c.cells]
    widest = max([width, *single, *map(cell_len, names.cells)])
    assert all(cell_len(line) <= widest for line in columns(table, width).plain.splitlines())


@LAWS
@given(tables(ANY), st.integers(0, 80))
def test_lines_of_a_paragraph_are_filled_greedily(table, width):
    width = min(width, width_of_table(table) - 1)
    names, *others = table
    expected = []
    for i, name in enumerate(names.cells):
        expected += [name, ""]
        for column in others:
            part = f"  {column.heading} {column.cells[i]}"
            if expected[-1] and cell_len(expected[-1] + part) > width:
                expected.append("")
            expected[-1] += part
    assert columns(table, width).plain == "\n".join(expected)
