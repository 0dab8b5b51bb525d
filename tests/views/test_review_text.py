from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import normed
from rich.cells import cell_len
from rich.console import Console
from shown import YOLO, epoch_of, finding_of, fitted_lines, level
from values import FEWER, LAYOUT, Part, plan, runs, window, write_run
from watched import CONV, DEAD, OTHER, curve, written

from yolo_gradwatch.diagnose.report import finding_line
from yolo_gradwatch.measure.event import Event, EventKind
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.runs.run import load_run
from yolo_gradwatch.views.compare import compare, modules_of
from yolo_gradwatch.views.summary import matching, summary
from yolo_gradwatch.views.terminal.compare import side_by_side
from yolo_gradwatch.views.terminal.glyphs import number
from yolo_gradwatch.views.terminal.review import (
    epochs_text,
    headline,
    modules_text,
    overview,
    single_modules,
    source_of,
)

pytestmark = pytest.mark.slow  # reviews in many widths

WIDTHS = (80, 140, None)
EVERY_WIDTH = st.one_of(st.none(), st.integers(40, 200))


def table_of(run):
    return summary(run.grid, run.layout, run.report().findings)


def overview_of(run, width):
    return overview(run, run.report(), table_of(run), width)


def comparison_of(loaded, width, *, blocks=False):
    reports = [run.report() for run in loaded]
    return side_by_side(loaded, reports, compare(loaded), modules_of(loaded, blocks=blocks), width)


def on_a_terminal(parts, width):
    """The paragraphs as shown on a terminal."""
    paragraphs = ["\n".join(map(str.rstrip, fitted_lines(part, width))) for part in parts if part]
    return "\n\n".join(paragraphs) + "\n"


def plain(parts):
    return "\n".join(part.plain for part in parts)


YOLO_OPTIONS = {"model": "yolo26n.yaml", "data": "coco8.yaml", "amp": False, "lr0": 0.01}
TENTH = [name for name in YOLO.modules if name == WHOLE or name.startswith("model.10")]


def yolo_windows(count, *, steps=1, low=1.0, nan=()):
    """A training whose first five blocks are `low` times as high after 40 windows."""
    windows = []
    for i in range(count):
        step = 1 + i * steps
        norms = {name: level(name, step) for name, _ in YOLO.blocks}
        if i >= 40:
            norms |= {f"model.{block}": low * norms[f"model.{block}"] for block in range(5)}
        norms[WHOLE] = math.hypot(*norms.values())
        bad = TENTH if step in nan else ()
        one = window(step, steps=steps, epoch=1 + i // 30, nonfinite=bad, layout=YOLO)
        windows.append(normed(one, {n: v for n, v in norms.items() if n not in bad}, YOLO))
    return windows


EPOCHS = [
    asdict(epoch_of(1, steps=30, clipped=30, norm_median=210.5, clip_ratio=21.05)),
    asdict(epoch_of(2, steps=30, clipped=27, skipped=3, norm_median=99.0, clip_ratio=9.9)),
    asdict(epoch_of(3, steps=10, norm_median=None, owners={"model.22": 0.6, "model.23": 0.25})),
]


def unhealthy(folder):
    windows = yolo_windows(70, low=1e-4, nan=(66,))
    return written(folder, windows, YOLO, epochs=EPOCHS, options={"training": YOLO_OPTIONS})


def calm(folder):
    options = {"training": {**YOLO_OPTIONS, "lr0": 0.001, "imgsz": 320}}
    return written(folder, yolo_windows(70, steps=3), YOLO, epochs=EPOCHS[:1], options=options)


@pytest.fixture
def _in_its_own_folder(tmp_path, monkeypatch):
    """Work in an empty folder, so that runs have short paths."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_in_its_own_folder")
def test_review_and_comparison_on_a_terminal(golden):
    loaded = [calm(Path("train")), unhealthy(Path("train2"))]
    for width in (80, 140):
        golden(f"review-unhealthy-{width}", on_a_terminal(overview_of(loaded[1], width), width))
        parts = comparison_of(loaded, width, blocks=True)
        golden(f"compare-{width}", on_a_terminal(parts, width))


@pytest.mark.usefixtures("_in_its_own_folder")
def test_headline_names_the_source_of_the_verdict():
    options = {"training": {"model": "yolo26n.pt", "data": "my.yaml"}}
    versions = {"yolo-gradwatch": "0.1.0", "torch": "2.9"}
    run = written(Path("train"), DEAD, options=options, versions=versions, status="failed")
    report = run.report()
    lines = headline(run, report, report.findings).plain.splitlines()
    assert lines[0] == f"GradWatch: {report.verdict}"
    assert lines[1] == ("  train: failed, yolo26n.pt on my.yaml (yolo-gradwatch 0.1.0, torch 2.9)")
    (finding,) = report.findings
    assert lines[2:] == [finding_line(finding)]


@pytest.mark.parametrize("width", WIDTHS)
def test_overview_has_verdict_facts_blocks_and_epochs(tmp_path, width):
    run = unhealthy(tmp_path)
    report = run.report()
    head, facts, blocks, epochs = overview_of(run, width)
    assert head.plain == headline(run, report, report.findings).plain
    assert facts.plain.splitlines() == report.facts()
    assert epochs.plain == epochs_text(report.epochs, width)[0].plain
    for part in (blocks, epochs):
        assert max(map(cell_len, part.plain.splitlines())) <= (width or math.inf)
    assert len(overview_of(written(tmp_path / "short", DEAD), width)) == 3  # no epoch
    assert len(headline(run, report, ()).plain.splitlines()) == 2


@pytest.mark.parametrize(("width", "cells"), [(99, 12), (100, 32), (140, 32), (None, 32)])
def test_history_is_longer_on_a_wide_terminal(tmp_path, width, cells):
    blocks = overview_of(written(tmp_path, curve([1.0] * 40)), width)[2]
    assert [len(line.split()[-1]) for line in blocks.plain.splitlines()[2:-1]] == [cells] * 3


def test_blocks_show_norms_state_and_history(tmp_path):
    windows = [window(1, norm=8.0), window(2, norm=2.0), *(window(s, zero=[CONV]) for s in (3, 4))]
    windows.append(window(5, norm=0.5, zero=[CONV]))
    _, _, blocks = overview_of(written(tmp_path, windows), None)
    assert blocks.plain.splitlines()[1:] == [
        "block        first  median  last  state  history",
        "0 Block          8       1   0.5  ok     ▇▅▃▃▂",
        "1 Block          8       1   0.5  dead   ▇▅▃▃▂",
        "2 Block          8       1   0.5  ok     ▇▅▃▃▂",
        "whole model      8       1   0.5",
    ]


def test_unhealthy_block_is_highlighted(tmp_path):
    blocks = overview_of(written(tmp_path, DEAD), None)[2]
    console = Console(color_system=None)
    styles = {
        line.plain.split()[0]: str(line.get_style_at_offset(console, line.plain.index(state)))
        for line in blocks.split()
        for state in ("dead", "ok")
        if f" {state} " in line.plain
    }
    assert styles == {"0": "green", "1": "bold red", "2": "green"}


def block_cells(run):
    """All texts and numbers in the table of blocks."""
    table = table_of(run).set_index("module")
    names = {f"{name.removeprefix('model.')} {kind}": name for name, kind in run.layout.blocks}
    norms = table.loc[[WHOLE, *names.values()], ["norm_first", "norm_median", "norm_last"]]
    return [*names, "whole model", *(norm_text(norm) for norm in norms.to_numpy().ravel())]


def norm_text(norm):
    return "-" if math.isnan(norm) else number(norm)


def assert_has_all(text, cells):
    """Every cell appears as often as expected, unbroken."""
    tokens = text.split()
    for cell in cells:
        assert cell in text
        if " " not in cell:
            assert tokens.count(cell) >= cells.count(cell)


@pytest.mark.slow
@FEWER
@given(runs(), EVERY_WIDTH)
def test_blocks_keep_every_name_and_number_in_any_width(run, width):
    windows, events = run
    with TemporaryDirectory() as name:
        loaded = written(Path(name), windows, events=events)
        blocks = overview_of(loaded, width)[2].plain
    assert_has_all(blocks, block_cells(loaded))
    assert all(cell_len(line) <= (width or math.inf) for line in blocks.splitlines()[1:])


@FEWER
@given(runs(), EVERY_WIDTH)
def test_modules_keep_every_name_and_number_in_any_width(run, width):
    windows, events = run
    with TemporaryDirectory() as name:
        loaded = written(Path(name), windows, events=events)
        table = table_of(loaded)
        text = modules_text(table, width).plain
    norms = table[["norm_first", "norm_median", "norm_last", "norm_max"]].to_numpy().ravel()
    counts = table[["parameters", "nonfinite", "zero", "none"]].to_numpy().ravel()
    rules = [rule for rules in table["findings"] for rule in rules.split()]
    cells = [*table["module"], *table["type"], *map(norm_text, norms), *map(str, counts), *rules]
    assert_has_all(text, cells)


def test_selected_modules_are_shown_after_their_findings(tmp_path, golden):
    run = written(tmp_path, DEAD)
    chosen, finding = matching(table_of(run), "*.conv"), finding_of("dead", CONV)
    head, modules = single_modules(run, run.report(), [finding], chosen, None)
    assert head.plain == headline(run, run.report(), [finding]).plain
    narrow = modules_text(matching(table_of(run), CONV), 60).plain
    golden("modules", f"{modules.plain}\n\n{narrow}\n")


def test_pattern_that_only_matches_the_whole_model(tmp_path):
    run = written(tmp_path, curve([1234.0]))
    _, modules = single_modules(run, run.report(), (), matching(table_of(run), WHOLE), None)
    heading, _, row = modules.plain.splitlines()
    assert "1 of 10 modules" in heading
    assert row.split()[:6] == ["model", "Block", "42", "1234", "1234", "1234"]


def test_many_parameters_have_commas(tmp_path):
    layout, _ = plan([Part("model.0.conv", 1_234_567)])
    text = modules_text(table_of(written(tmp_path, [], layout)), None)
    assert text.plain.count(" 1,234,567 ") == 3


@pytest.mark.parametrize("width", WIDTHS)
def test_run_without_a_window(tmp_path, width):
    run = written(tmp_path, [])
    _, facts, blocks = overview_of(run, width)
    assert "nbs" in facts.plain.splitlines()[0]
    assert [line.split() for line in blocks.plain.splitlines()[2:]] == [
        *([n, "Block", "-", "-", "-", "-"] for n in "012"),
        ["whole", "model", "-", "-", "-"],
    ]
    _, modules = single_modules(run, run.report(), (), table_of(run), width)
    assert_has_all(modules.plain, list(LAYOUT.modules))


def test_remarks_on_damaged_files_are_shown(tmp_path):
    written(tmp_path, DEAD)
    path = tmp_path / "gradwatch.csv"
    path.write_bytes(path.read_bytes()[:-3])
    run = load_run(tmp_path)
    (remark,) = run.remarks
    single = single_modules(run, run.report(), (), table_of(run), None)
    for parts, times in (
        (overview_of(run, None), 1),
        (single, 1),
        (comparison_of([run] * 2, 80), 2),
    ):
        assert plain(parts).splitlines().count(f"  {remark}") == times


def epoch_rows(epochs, width=None):
    (text,) = epochs_text(epochs, width)
    return text.plain.splitlines()


def test_epochs_show_clipping_and_amp():
    epochs = [
        epoch_of(1, steps=1200, clipped=900, skipped=2, norm_median=31.25, clip_ratio=3.125),
        replace(epoch_of(2, steps=3, clipped=1, norm_median=1e-5), norm_max=1e9, scale=65536.0),
        epoch_of(3, steps=0, norm_median=None),
    ]
    assert epoch_rows(epochs) == [
        "Gradient of the whole model, clipping and AMP of each epoch",
        "epoch  steps   median  highest  clipped  by a factor of  AMP skipped  loss scale",
        "    1  1,200     31.2     31.2      75%            3.12            2           -",
        "    2      3  1.0e-05  1.0e+09      33%               -            0       65536",
        "    3      0        -        -       0%               -            0           -",
    ]


def test_epochs_on_a_narrow_terminal_are_paragraphs():
    assert epoch_rows([epoch_of(7, steps=50, clipped=25)], 40)[1:] == [
        "7",
        "  steps 50  median 3  highest 3",
        "  clipped 50%  by a factor of -",
        "  AMP skipped 0  loss scale -",
    ]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("count", "hidden"), [(1, ""), (30, ""), (31, "11"), (1500, "1,480")])
def test_long_list_of_epochs_shows_the_first_and_last_ten(count, hidden, width):
    rows = epoch_rows([epoch_of(n) for n in range(1, count + 1)], width)[2:]
    expected = [*range(1, 11), *range(count - 9, count + 1)] if hidden else range(1, count + 1)
    last = [f"… {hidden} epochs between them; --json has all"] if hidden else []
    assert [row.split()[0] for row in rows[: len(expected)]] == [str(n) for n in expected]
    assert rows[len(expected) :] == last


HOSTILE, _ = plan(
    [Part("model.0.[bold]"), Part("model.0.[/]"), Part("model.[red].:boom:"), Part("model.畳み.%s")]
)
HOSTILE_CLASSES = replace(
    HOSTILE, blocks=tuple((name, "[link=x]{0}[/link]") for name, _ in HOSTILE.blocks)
)


@pytest.mark.parametrize("width", [40, *WIDTHS])
def test_names_that_look_like_markup_are_shown_verbatim(tmp_path, width):
    options = {"training": {"model": "[blink]my.yaml", "data": "[/]"}}
    dead = [window(s, layout=HOSTILE_CLASSES, zero=["model.0.[bold]"]) for s in range(1, 9)]
    run = written(tmp_path, dead, HOSTILE_CLASSES, options=options)
    text = plain(overview_of(run, width))
    assert "[blink]my.yaml on [/]" in text
    assert "first finding: dead in model.0.[bold] at step 1" in text
    assert_has_all(text, block_cells(run))
    text = plain(single_modules(run, run.report(), (), table_of(run), width))
    assert_has_all(text, list(HOSTILE.modules))
    text = plain(comparison_of([run, run], width))
    assert_has_all(text, list(HOSTILE.modules))


def test_control_characters_in_options_are_replaced(tmp_path):
    loaded = [
        written(tmp_path / name, DEAD, options={"training": {"data": f"\x1b]0;{name}\x07.yaml"}})
        for name in ("a", "b")
    ]
    assert "\x1b" not in headline(loaded[0], loaded[0].report(), ()).plain
    assert "\x1b" not in plain(comparison_of(loaded, None))


def test_run_without_versions(tmp_path):
    written(tmp_path, DEAD)
    path = tmp_path / "gradwatch.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"versions"', '"v"'), encoding="utf-8")
    loaded = load_run(tmp_path)
    assert headline(loaded, loaded.report(), ()).plain.endswith("finished, None on None")


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """A calm run, and one with another layout and a dead convolution."""
    monkeypatch.chdir(tmp_path)
    return [
        written(Path("a"), curve([2.0] * 20), options={"training": {"lr0": 0.01, "imgsz": 640}}),
        written(
            Path("b"),
            [window(step, norm=8.0, zero=[CONV], layout=OTHER) for step in range(1, 11)],
            OTHER,
            options={"training": {"lr0": 0.1, "imgsz": 320}},
        ),
    ]


def norms_in(parts):
    return [part for part in parts if part.plain.startswith("Gradient norm")]


def test_largest_differences_besides_the_norm_are_listed(tmp_path):
    largest = np.array([9, 9, 3, 1, 2, 2, 1.05, np.inf, np.nan, 1, 1], np.float32)
    assert len(largest) >= len(LAYOUT.modules)
    changed = replace(window(1), weight_max=largest[: len(LAYOUT.modules)])
    loaded = [written(tmp_path / "a", [window(1)]), written(tmp_path / "b", [changed])]
    table = comparison_of(loaded, 80)[3]
    most = np.argsort(-np.nan_to_num(largest[: len(LAYOUT.modules)]), kind="stable")[:3]
    rows = [row.split() for row in table.plain.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["largest", LAYOUT.modules[m]] for m in most]
    assert [row[3:] for row in rows] == [["1", "Inf", "Inf"], ["1", "9", "9"], ["1", "9", "9"]]


def test_small_differences_besides_the_norm_are_not_listed(tmp_path):
    near = replace(window(1), weight_max=np.full(len(LAYOUT.modules), 1.05, np.float32))
    loaded = [written(tmp_path / "a", [window(1)]), written(tmp_path / "b", [near])]
    assert not comparison_of(loaded, 80)[3].plain


def test_two_runs_side_by_side(pair):
    (table,) = norms_in(comparison_of(pair, None))
    assert table.plain.splitlines() == [
        "Gradient norm, B relative to A, in the first, middle and last tenth of each run",
        "module        A last  B last  B/A first  middle  last  class",
        "model              2       8          4       4     4  Block",
        "model.0            2       8          4       4     4  Block",
        "model.0.conv       2       8          4       4     4  Conv2d",
        "model.0.bn         2       -          -       -     -  Conv2d, only in A",
        "model.1            2       8          4       4     4  Block",
        "model.1.conv       2       0          0       0     0  Conv2d",
        "model.1.new        -       8          -       -     -  Conv2d, only in B",
        "model.1.bn         2       -          -       -     -  Conv2d, only in A",
        "model.2            2       8          4       4     4  Block",
        "model.2.a          2       8          4       4     4  Conv2d",
        "model.2.b          2       -          -       -     -  Conv2d, only in A",
    ]


def test_finding_of_both_runs_is_counted_and_not_repeated(pair):
    *_, findings = comparison_of([pair[1], pair[1]], None)
    assert findings.plain == "Findings: the same in both runs"


def test_third_run_is_compared_with_the_first(pair):
    parts = comparison_of([*pair, pair[0]], None)
    heads, (second, third), findings = parts[0], norms_in(parts), parts[-1]
    assert [line[:1] for line in heads.plain.splitlines()] == ["A", " ", "B", " ", "C", " "]
    (options,) = [part for part in parts if part.plain.startswith("Options")]
    assert ["lr0", "0.01", "0.1", "0.01"] in [line.split() for line in options.plain.splitlines()]
    assert "model.1.new" in second.plain
    assert "C relative to A" in third.plain
    assert "model.1.new" not in third.plain
    assert third.plain.splitlines()[2].split() == ["model", "2", "2", "1", "1", "1", "Block"]
    assert "only in B:" in findings.plain


def test_module_of_different_classes_shows_both(tmp_path):
    changed = replace(LAYOUT, types=tuple(kind.replace("2d", "3d") for kind in LAYOUT.types))
    loaded = [written(tmp_path / "a", DEAD), written(tmp_path / "b", DEAD, changed)]
    (table,) = norms_in(comparison_of(loaded, None))
    assert table.plain.count("Conv2d in A, Conv3d in B") == 6


def test_runs_without_a_window_side_by_side(tmp_path, pair):
    empty = written(tmp_path / "empty", [])
    for loaded in ([empty, pair[0]], [pair[0], empty], [empty, empty]):
        *parts, findings = comparison_of(loaded, None)
        (table,) = norms_in(parts)
        assert all(row.split()[3:6] == ["-", "-", "-"] for row in table.plain.splitlines()[2:])
        assert findings.plain == "Findings: none"


@pytest.mark.slow
@FEWER
@given(runs(), runs(), EVERY_WIDTH)
def test_comparison_keeps_every_name_and_number_in_any_width(one, other, width):
    with TemporaryDirectory() as name:
        loaded = [
            written(Path(name) / letter, windows, events=events)
            for letter, (windows, events) in (("a", one), ("b", other))
        ]
        (table,) = norms_in(comparison_of(loaded, width))
        norms = compare(loaded)
    ratios = norms.loc[norms["run"] == 2, "ratio"]
    lasts = norms.loc[norms["part"] == "last", "norm"]
    cells = [*LAYOUT.modules, *LAYOUT.types, *map(norm_text, ratios), *map(norm_text, lasts)]
    assert_has_all(table.plain, cells)
    assert all(cell_len(line) <= (width or math.inf) for line in table.plain.splitlines()[1:])


def test_source_of_a_run_names_its_restarts(tmp_path):
    events = (Event(1, "start"), Event(3, "nan_recovery"), Event(1234, "resume"))
    write_run(tmp_path, [window(1), window(2)], events=events)
    source = source_of(load_run(tmp_path))
    assert source.startswith(
        "finished, recovered from NaN before step 3, resumed before step 1,234, None on None ("
    )


@pytest.mark.parametrize("kind", get_args(EventKind))
def test_every_restart_has_a_description(tmp_path, kind):
    write_run(tmp_path, [window(1)], events=(Event(1, "start"), Event(2, kind)))
    assert " before step 2, " in source_of(load_run(tmp_path))
