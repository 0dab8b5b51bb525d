import io
import math
import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text
from shown import (
    YOLO,
    board_of,
    change_of,
    ended,
    episode_of,
    epoch_of,
    finding_of,
    fitted_lines,
    level,
    norms_of,
    sample_of,
)
from values import LAWS, layout_of, leaves_of

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.report import Report
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.views.live import Board
from yolo_gradwatch.views.terminal.glyphs import sparkline, state_style
from yolo_gradwatch.views.terminal.lines import change_line, end_report, file_list, stop_line
from yolo_gradwatch.views.terminal.panel import Panel
from yolo_gradwatch.views.terminal.table import epoch_table

FILES = [PurePosixPath("runs/train") / name for name in ("gradwatch.csv", "gradwatch_alerts.csv")]
FRAMES = {  # as truncated by Ultralytics
    80: "      2/100      2.49G      4.…: 34% ━━━━──────── 40/118 3.1it/s 12.9s<25.2s",
    140: "      2/100      2.49G      4.123      5.871      4.402        213        640: "
    "34% ━━━━──────── 40/118 3.1it/s 12.9s<25.2s",
}
FRAME = FRAMES[140]
LOUD = "[bold]x[/bold] :boom: {curly}"


def printed(renderable, *, width=80, height=30, soft_wrap=False, colour=None):
    """The output on a terminal of this size, without trailing blanks."""
    file = io.StringIO()
    console = Console(
        file=file,
        width=width,
        height=height,
        color_system=colour,
        force_terminal=colour is not None,
        highlight=False,
        legacy_windows=False,
        _environ={},
    )
    console.print(renderable, soft_wrap=soft_wrap)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def lines_of(renderable, **options):
    return printed(renderable, **options).splitlines()


def worded(rule, module, *, layout=YOLO, amp=False, **changes):
    """A finding with the message that its rule writes."""
    limit = 2.0 if RULES[rule].in_decades else 0.0
    finding = finding_of(
        rule, module, **{"severity": RULES[rule].severity, "limit": limit, **changes}
    )
    words = RULES[finding.rule].message(layout, {"amp": amp}, finding)
    known = {"why": words.cause or words.why, "is_measured": bool(words.measured)}
    return replace(finding, message=str(words), **known)


def train(board, steps, changes=None):
    """Add steps to the board; `changes` replaces the norms of some blocks."""
    for step in range(board.step + 1, board.step + 1 + steps):
        norms = {name: level(name, step) for name, _ in YOLO.blocks} | (changes or {})
        total = math.sqrt(sum(norm * norm for norm in norms.values()))
        board.add([sample_of(step, epoch=1 + step // 120)], norms_of(YOLO, norms, total)[None])
    return board


def empty():
    return Board(YOLO, epochs=100)


def healthy():
    """A training in its third epoch; AMP skipped the first step."""
    board = Board(YOLO, epochs=100)
    board.add([sample_of(1, skipped=True)], norms_of(YOLO, np.inf)[None])
    return train(board, 240)


def unhealthy():
    """Like `healthy`, but block 4 died and a NaN in block 10 reached all blocks before it."""
    board = train(healthy(), 59, {"model.4": 0.0})
    train(board, 1, {name: np.nan for name, _ in YOLO.blocks[:11]})
    before = tuple(name for name in leaves_of(YOLO) if int(name.split(".")[1]) < 10)
    last = "model.10.conv"
    board.show(
        [
            worded("amp_overflow", WHOLE, number=1, step=1),
            worded("dead", "model.4", number=2, step=242),
            worded("nonfinite", last, modules=(*before, last), number=3, step=301),
        ]
    )
    return board


def vanishing():
    """Like `healthy`, but block 8 lets little through: it and the blocks before it are low."""
    low = {name: 1e-4 * level(name, 300) for name, _ in YOLO.blocks[:9]}
    board = train(healthy(), 60, low)
    upstream = tuple(name for name, _ in YOLO.blocks[:9])
    board.show(
        [
            worded("weight_growth", WHOLE, number=1, step=200, value=0.4, limit=0.3),
            worded("vanishing", "model.8", modules=upstream, number=2, step=242, value=4.0),
            worded("leaf_exploding", "model.22.conv", number=3, step=250, value=2.4),
        ]
    )
    return board


def panel_of(board, frame=""):
    panel = Panel(board)
    panel.frame = Text(frame, no_wrap=True)
    return panel


@pytest.mark.parametrize(
    ("state", "severity", "style"),
    [
        ("ok", None, "green"),
        ("vanishing", "critical", "bold red"),
        ("upstream", "critical", "dim red"),
        ("affected", "warning", "dim yellow"),
    ],
)
def test_block_at_fault_stands_out_from_affected_ones(state, severity, style):
    assert state_style(state, severity) == style


OWNERS = {"model.22": 0.412, "model.23": 0.35, "model.0": 0.0814}


def report_of(*findings, steps=1234, epochs=None, status="finished", unjudged=()):
    epoch = epoch_of(
        steps=steps, clipped=890, skipped=3, norm_median=23.4, clip_ratio=3.72, owners=OWNERS
    )
    epochs = (epoch,) if epochs is None else epochs
    modules = len(YOLO.modules)
    return Report(Path("runs/train"), status, steps, modules, findings, epochs, unjudged=unjudged)


def interval():
    board = Board(YOLO, epochs=100, interval=10)
    for step in range(1, 1000, 10):
        board.add([sample_of(step)], norms_of(YOLO, 3.0, 12.0)[None])
    return board


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize(
    ("board", "height"),
    [*((build, 30) for build in (empty, healthy, unhealthy)), (vanishing, 40), (interval, 8)],
)
def test_panel(golden, board, height, width):
    frame = FRAMES[width] if board is unhealthy else ""
    text = printed(panel_of(board(), frame), width=width, height=height)
    golden(f"panel-{board.__name__}-{width}", text)


def test_panel_without_room_for_all_blocks(golden):
    golden("panel-low", printed(panel_of(unhealthy(), FRAMES[80]), height=16))


def test_epoch_tables(golden):
    golden("epoch-table", printed(epoch_table(healthy()), soft_wrap=True))
    board = unhealthy()
    more = {
        "no_gradient": 22,
        "partly_dead": 20,
        "leaf_vanishing": 19,
        "leaf_exploding": 17,
        "exploding": 16,
        "dead_branch": 23,
    }
    found = [finding_of(rule, f"model.{block}.conv") for rule, block in more.items()]
    board.show([*board.active, *found])
    golden("epoch-table-unhealthy", printed(epoch_table(board), soft_wrap=True))


def test_epoch_table_truncates_no_label_or_state():
    layout = layout_of(("MyVeryLongAttentionBlockWithAName", "C3k2", "Conv", "Detect"))
    board = board_of(layout, levels=[1.0])
    board.show([finding_of("dead_branch", "model.3"), finding_of("partly_dead", "model.1.conv")])
    text = epoch_table(board).plain
    for row in board.rows():
        assert row.label in text
        assert row.state in text
    assert "…" not in text


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 23])
@pytest.mark.parametrize("length", [4, 16, 40, 90])
def test_columns_of_the_epoch_table_fit_a_line(count, length):
    layout = layout_of(("C" * length,) * count + ("Detect",))
    board = board_of(layout, levels=[1.0])
    _, *lines = epoch_table(board).plain.splitlines()
    assert " ".join(lines).count(" ok") == count + 1
    if length < 60:
        assert max(map(len, lines)) <= 80


def test_lines_of_changes_and_of_the_stop(golden):
    nan = worded("nonfinite", "model.10.conv", amp=True)
    dead = worded("dead", "model.4", modules=("model.2.bn", "model.4.bn", "model.4.conv"))
    twice = {"episodes": (episode_of(7, 20, value=3.1), episode_of(30, value=4.0))}
    vanishing = worded("vanishing", "model.8", modules=("model.7", "model.8"), **twice)
    call = Reason("call", ("model.10.m.0", "PSABlock", "model.10.cv1"), rank=4)
    outside = Reason("outside", ("model.10.conv.weight",))
    lines = [
        change_line(change_of("start", nan)),
        change_line(change_of("cause", worded("nonfinite", "model.10.conv", reason=call))),
        change_line(change_of("cause", worded("not_updated", "model.10.conv", reason=outside))),
        change_line(change_of("worse", dead)),
        change_line(change_of("start", vanishing)),
        change_line(change_of("worse", vanishing)),
        change_line(change_of("end", ended(dead, 35), step=40)),
        change_line(change_of("end", ended(vanishing, 1035), step=1040)),
        change_line(change_of("start", worded("amp_overflow", WHOLE))),
        change_line(
            change_of(
                "end",
                ended(replace(vanishing, episodes=(*vanishing.episodes, episode_of(861))), 900),
            )
        ),
        stop_line(nan),
    ]
    golden("changes", "".join(printed(line, soft_wrap=True) for line in lines))


def test_end_reports(golden):
    notice = worded("amp_overflow", WHOLE, step=3)
    dead = worded("dead", "model.4", modules=("model.2.bn", "model.4.conv"), step=31, step_end=60)
    bad = worded("nonfinite", WHOLE, modules=leaves_of(YOLO), step=242)
    reports = {
        "healthy": report_of(notice, unjudged=("dead_branch", "starved_scale")),
        "interval": replace(report_of(unjudged=("dead_branch",)), interval=10),
        "unhealthy": report_of(notice, dead, bad, status="interrupted"),
        "no-step": report_of(steps=0, epochs=()),
    }
    for name, report in reports.items():
        golden(f"report-{name}", printed(end_report(report), soft_wrap=True))


@pytest.mark.parametrize("width", [80, 140])
def test_end_report_of_an_unhealthy_run_on_a_terminal(golden, width):
    episodes = (episode_of(7, 20, value=3.1), episode_of(90, 99, value=2.2))
    back = {"episodes": (*episodes, episode_of(300, 1300, reported=305, value=4.0))}
    findings = (
        worded("vanishing", "model.8", modules=("model.7", "model.8"), **back),
        worded("starved_scale", "model.23", step=60),
        worded("spike", WHOLE, step=242, value=2.2, evidence="gradwatch_evidence/step-00242.json"),
    )
    text = end_report(report_of(*findings, status="failed", unjudged=("collapse",)))
    lines = (f"{line.rstrip()}\n" for line in fitted_lines(text, width))
    golden(f"report-fitted-{width}", "".join(lines))


# --- properties of every panel --------------------------------------------------------------------

BOARDS = {build.__name__: build() for build in (empty, healthy, unhealthy, vanishing)}


@LAWS
@given(st.sampled_from(sorted(BOARDS)), st.integers(10, 200), st.integers(1, 60), st.booleans())
@example("vanishing", 80, 9, True)  # noqa: FBT003
@example("vanishing", 20, 13, True)  # noqa: FBT003
@example("unhealthy", 20, 12, True)  # noqa: FBT003
def test_panel_fits_the_terminal(name, width, height, has_frame):
    lines = lines_of(panel_of(BOARDS[name], FRAME if has_frame else ""), width=width, height=height)
    assert all(cell_len(line) <= width for line in lines)
    assert len(lines) < max(height, 9)


def test_wide_characters_do_not_widen_the_panel():
    board = board_of(layout_of(("畳み込みブロック畳み込みブロック", "Detect")), levels=[1.0])
    board.show([finding_of("dead", "model.0.conv", message="勾配がゼロです" * 20)])
    panel = panel_of(board, "畳" * 100)
    assert max(map(cell_len, lines_of(panel, width=60))) <= 60


def visible_blocks(board, height):
    text = printed(panel_of(board), height=height)
    return [row.label for row in board.rows() if f"\n{row.label} " in text], text


@pytest.mark.parametrize(("spare", "hidden"), [(5, 0), (4, 2)])
def test_blocks_that_do_not_fit_are_counted(spare, hidden):
    blocks = len(BOARDS["healthy"].rows())
    visible, text = visible_blocks(BOARDS["healthy"], blocks + spare)
    assert len(visible) == blocks - hidden
    assert ("more blocks" in text, f"… {hidden} more blocks" in text) == (hidden > 0,) * 2


@pytest.mark.parametrize(
    ("module", "modules", "kept"),
    [
        (
            "model.22.conv",
            ("model.7.bn", "model.22.conv"),
            ["0 Conv", "1 Conv", "7 Conv", "22 C3k2"],
        ),
        (WHOLE, leaves_of(YOLO), ["19 C3k2", "20 Conv", "22 C3k2", "23 Detect"]),
    ],
)
def test_unhealthy_blocks_stay_in_the_order_of_the_model(module, modules, kept):
    board = healthy()
    board.show([finding_of("dead", module, modules=modules)])
    visible, text = visible_blocks(board, 11)
    assert visible == kept
    assert "… 14 more blocks" in text


def test_model_without_blocks_has_a_panel():
    assert "GradWatch" in printed(panel_of(board_of(layout_of(("Upsample",)))))


def test_critical_finding_is_shown_before_older_warnings():
    board = healthy()
    old = [
        finding_of("dead", f"model.{i}.conv", number=i, severity="warning", message=f"old {i}")
        for i in range(1, 5)
    ]
    board.show([*old, finding_of(number=9, message="urgent")])
    text = printed(panel_of(board))
    assert "urgent" in text
    assert sum(f"old {i}" in text for i in range(1, 5)) == 2


def finding_lines(board, **options):
    """The panel's lines on findings, grouped by finding."""
    text = printed(panel_of(board), **options)
    return [part.rstrip("\n").split("\n") for part in text.split("● ")[1:]]


@pytest.mark.parametrize(("height", "lines"), [(12, 4), (18, 6), (30, 10), (45, 15), (90, 20)])
def test_finding_takes_at_most_a_third_of_the_terminal(height, lines):
    board = healthy()
    board.show([finding_of("dead", message=" ".join(["word"] * 316))])  # 20 lines
    (found,) = finding_lines(board, height=height)
    assert len(found) == lines
    assert found[-1].endswith("…") == (lines < 20)
    assert max(map(cell_len, found)) <= 80


WHOLE_NET = ("spike", "collapse", "total_high", "total_low", "weight_growth")


@pytest.mark.parametrize("rule", [name for name in RULES if RULES[name].kind])
def test_every_block_state_fits_its_column(rule):
    board = healthy()
    place = (WHOLE, (WHOLE,)) if rule in WHOLE_NET else ("model.22", ("model.20", "model.22"))
    board.show([finding_of(rule, place[0], modules=place[1])])
    for row in board.rows():
        assert len(row.state) <= len("no gradient")
    lines = [line for line in lines_of(panel_of(board)) if line[:2].strip().isdigit()]
    assert {line.index("█") for line in lines} == {lines[0].index("█")}


def test_states_of_the_epoch_table_differ():
    states = set()
    rules = [n for n in RULES if RULES[n].kind]
    for rule in rules:
        board = board_of(levels=[1.0])
        board.show([finding_of(rule, "model.0.conv")])
        row = printed(epoch_table(board), soft_wrap=True).splitlines()[1]
        states.add(" ".join(row.split()[3:]))
    assert len(states) == len(rules)


# --- the clipping line ----------------------------------------------------------------------------


def clip_line(total, clip=10.0, **norms):
    """The panel's line on clipping after a step with this total and these block norms."""
    layout = layout_of(("Conv", "C3k2", "Detect"))
    board = Board(layout, clip=clip)
    by_name = {f"model.{name[1:]}": norm for name, norm in norms.items()}
    every = {f"model.{n}": 0.0 for n in range(3)} | by_name
    board.add([sample_of()], norms_of(layout, every, total)[None])
    lines = [line for line in lines_of(panel_of(board)) if line.startswith("clip at")]
    return lines[0] if lines else None


@pytest.mark.parametrize(
    ("total", "clip", "norms", "begin", "owners"),
    [
        (20.0, 10.0, (20.0,), "gradient scaled by 0.5 ", "0 Conv 100%"),
        (40.0, 0.1, (40.0,), "gradient scaled by 0.0025 ", "0 Conv 100%"),
        (10.0, 10.0, (10.0,), "gradient scaled by 1 ", "0 Conv 100%"),
        (3.0, 10.0, (3.0,), "gradient scaled by 1 ", "0 Conv 100%"),
        (1e9, 10.0, (1e9,), "gradient scaled by 1e-08 ", "0 Conv 100%"),
        (5.0, 10.0, (3.0, 0.0, 4.0), "gradient scaled by 1 ", "2 Detect 64%, 0 Conv 36%"),
        (
            100.0,
            10.0,
            (99.5, 9.9, 1.0),
            "gradient scaled by 0.1 ",
            "0 Conv 99%",
        ),  # no share below 1%
        *((bad, clip, (bad,), "spreads", "") for bad in (np.nan, np.inf) for clip in (10.0, 0.5)),
        (0.0, 10.0, (0.0,), "gradient scaled by 1", ""),
    ],
)
def test_clipping_line_has_factor_and_owners(total, clip, norms, begin, owners):
    line = clip_line(total, clip, **{f"b{i}": norm for i, norm in enumerate(norms)})
    assert line.startswith(f"clip at {clip:g}: {begin}")
    assert line.partition("largest shares: ")[2] == owners


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        (0.0, "0"),
        (1e-12, "1.0e-12"),
        (0.00999, "1.0e-02"),
        (0.01, "0.01"),
        (1.0, "1"),
        (999.4, "999"),
        (1e5, "1.0e+05"),
        (1.5e38, "1.5e+38"),
        (np.inf, "Inf"),
        (np.nan, "NaN"),
    ],
)
def test_norms_are_short_numbers(norm, expected):
    board = board_of(layout_of(("Conv", "Detect")), levels=[norm])
    (line,) = [line for line in lines_of(panel_of(board)) if line.startswith("0 Conv")]
    assert line.split()[2] == expected


@LAWS
@given(st.floats(1e-90, 1e90))
@example(999.5)
@example(1234.5)
@example(99_999.0)
def test_norm_is_shown_within_5_percent_in_8_cells(norm):
    board = board_of(layout_of(("Conv", "Detect")), levels=[norm])
    (line,) = [line for line in lines_of(panel_of(board)) if line.startswith("0 Conv")]
    text = line.split()[2]
    assert len(text) <= 8
    assert math.isclose(float(text), norm, rel_tol=0.05)


@pytest.mark.parametrize(
    "norm", [0.0, 1e-12, 0.00999, 9.996, 999.4, 999.6, 1234.0, 54321.0, 99999.9, 1.5e38, np.nan]
)
def test_columns_of_the_epoch_table_are_aligned(norm):
    board = board_of(YOLO, levels=[norm])
    _, *lines = lines_of(epoch_table(board), soft_wrap=True)
    assert len(lines) == 6
    places = [
        [match.start() for match in re.finditer(r" (ok|NaN)\b *(   |$)", line)] for line in lines
    ]
    assert [len(place) for place in places] == [3] * 6
    assert len({tuple(place) for place in places}) == 1


def test_header_of_a_long_training_fits_into_80_columns():
    board = Board(YOLO, epochs=300)
    board.add([sample_of(123_456, epoch=300)], norms_of(YOLO, 1.0, total=1234.5)[None])
    assert "AMP skips 0" in lines_of(panel_of(board))[0]


# --- text fitted to a terminal --------------------------------------------------------------------

WORDS = st.lists(st.text("abc[]", min_size=1, max_size=9), max_size=30).map(" ".join)


@LAWS
@given(st.lists(WORDS.filter(bool), min_size=1, max_size=4), st.integers(14, 100))
def test_fitted_lines_fit_the_terminal_and_lose_no_word(lines, width):
    found = fitted_lines(Text("\n".join(lines)), width)
    assert max(map(cell_len, (line.rstrip() for line in found))) <= width
    assert " ".join(found).split() == " ".join(lines).split()


@pytest.mark.parametrize(("length", "lines"), [(79, 1), (80, 1), (81, 2)])
def test_line_wider_than_the_terminal_is_wrapped(length, lines):
    text = Text("word " * 12 + "w" * (length - 60))
    assert len(fitted_lines(text, 80)) == lines


def test_wrapped_lines_are_indented():
    first, *rest = fitted_lines(Text("word " * 40), 80)
    assert not first.startswith(" ")
    assert all(line.startswith("    word") for line in rest)


def test_text_in_a_file_is_not_wrapped():
    assert fitted_lines(Text("word " * 40), 80, is_terminal=False) == ["word " * 40]


def test_fitted_text_keeps_empty_lines():
    assert fitted_lines(Text("a\n\nb"), 80) == ["a", "", "b"]


def test_path_is_never_wrapped():
    path = Path("/home/some body/projects/" + "detection/" * 8 + "runs/train/gradwatch.csv")
    assert printed(file_list([path, path]), soft_wrap=True) == f"Files:\n  {path}\n  {path}\n"


@pytest.mark.parametrize("width", [1, 2, 4, 5, 10])
def test_fitted_text_on_a_terminal_of_a_few_columns(width):
    assert fitted_lines(Text("a few words"), width)


# --- text that looks like markup ------------------------------------------------------------------


def test_markup_in_a_finding_is_shown_verbatim():
    finding = finding_of("dead", LOUD, message=LOUD, modules=("model.0.bn",))
    for change in ("start", "worse", "cause"):
        assert LOUD in printed(change_line(change_of(change, finding)), soft_wrap=True)
    over = change_line(change_of("end", ended(finding, 9)))
    assert f"resolved: dead in {LOUD} (" in printed(over, soft_wrap=True)
    report = printed(end_report(report_of(finding)), soft_wrap=True)
    assert report.count(LOUD) == 2
    assert LOUD in printed(file_list([Path(LOUD)]), soft_wrap=True)
    board = healthy()
    board.show([replace(finding, module="model.0.bn")])
    assert LOUD in printed(panel_of(board, LOUD))
    assert printed(panel_of(board, LOUD)).count(LOUD) == 2


def test_markup_in_a_class_name_is_shown_verbatim():
    board = board_of(layout_of(("[b]x[/b]", "Detect")), levels=[1.0])
    assert "0 [b]x[/b] " in printed(panel_of(board))
    assert "0 [b]x[/b] " in printed(epoch_table(board))


# --- colours --------------------------------------------------------------------------------------

RED, GREEN, YELLOW = "\033[1;31m", "\033[32m", "\033[33m"


def test_unhealthy_block_is_red_and_healthy_block_green():
    lines = printed(panel_of(unhealthy()), colour="standard").splitlines()
    (bad,) = [line for line in lines if line.startswith("10 C2PSA")]
    (good,) = [line for line in lines if line.startswith("17 Conv")]
    assert f"{RED}NaN" in bad
    assert f"{GREEN}ok" in good


@pytest.mark.parametrize(
    ("findings", "steps", "colour"),
    [((), 9, "\033[1;32m"), ((finding_of(),), 9, RED), ((), 0, "\033[1;33m")],
)
def test_colour_of_the_verdict(findings, steps, colour):
    report = report_of(*findings, steps=steps, epochs=())
    first = printed(end_report(report), soft_wrap=True, colour="standard").splitlines()[0]
    assert first.startswith(f"{colour}GradWatch: ")


def test_stop_line_is_red():
    line = printed(stop_line(finding_of("dead", LOUD)), soft_wrap=True, colour="standard")
    assert line.startswith(f"{RED}GradWatch stops the training (stop_on): dead in {LOUD}")


# --- sparklines -----------------------------------------------------------------------------------

SPARKS = "▁▂▃▄▅▆▇█"
LEVELS = st.one_of(st.floats(-20, 20), st.sampled_from([-np.inf, np.nan]))


@LAWS
@given(st.lists(LEVELS, max_size=300), st.integers(1, 200))
@example([0.0, -np.inf, np.nan], 1)
def test_sparkline_has_one_cell_per_point_up_to_the_width(levels, width):
    line = sparkline(np.array(levels), width)
    assert len(line) == min(len(levels), width)
    assert set(line) <= set(f"{SPARKS}·!")


@LAWS
@given(st.lists(LEVELS, min_size=1, max_size=100))
def test_zero_and_nonfinite_points_have_their_own_marks(levels):
    for one, cell in zip(levels, sparkline(np.array(levels), 100), strict=True):
        if one == -np.inf:
            assert cell == "·"
        else:
            assert (cell == "!") == (not np.isfinite(one))


@LAWS
@given(st.lists(st.floats(-20, 20), min_size=1, max_size=100))
def test_higher_level_is_never_drawn_lower(levels):
    line = sparkline(np.array(levels), 100)
    heights = [SPARKS.index(cell) for _, cell in sorted(zip(levels, line, strict=True))]
    assert heights == sorted(heights)


@pytest.mark.parametrize("level", [-8.0, 0.0, 5.5])
def test_flat_history_is_a_flat_line_in_the_middle(level):
    assert sparkline(np.full(5, level), 40) in {SPARKS[3] * 5, SPARKS[4] * 5}


def test_noise_looks_flat_and_two_decades_fill_the_height():
    noise = sparkline(np.array([1.0, 1.1, 1.0, 1.1]), 40)
    assert max(map(SPARKS.index, noise)) - min(map(SPARKS.index, noise)) <= 1
    assert sparkline(np.array([0.0, 2.0]), 40) == "▁█"
    assert sparkline(np.array([-9.0, 9.0]), 40) == "▁█"


def test_merged_points_keep_a_bad_step():
    levels = np.zeros(100)
    levels[50] = np.nan
    assert "!" in sparkline(levels, 10)
    levels[50] = -np.inf
    assert "·" in sparkline(levels, 10)
    levels[51] = np.nan
    assert "!" in sparkline(levels, 10)
