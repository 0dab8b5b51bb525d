"""Following a training in another process through its growing files."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from terminals import RULE, seen, set_terminal, unblock_ctrl_c
from terminals import Terminal as FakeTerminal
from values import (
    LAWS,
    LAYOUT,
    YOLO26N,
    assert_same,
    grown,
    layout_of,
    meta_of,
    put_meta,
    runs,
    window,
)
from watched import CONV, DEAD, DEAD_PID, START, Training, process, watch

from yolo_gradwatch.cli.main import main
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.runs.meta import decoded
from yolo_gradwatch.runs.repair import mend
from yolo_gradwatch.runs.run import load_run
from yolo_gradwatch.runs.schema import ALERTS_FILE, META_FILE, WINDOWS_FILE, FormatError
from yolo_gradwatch.runs.tail import Look, Tail
from yolo_gradwatch.runs.writer import RunLog
from yolo_gradwatch.views.judge import Judge
from yolo_gradwatch.views.live import Board
from yolo_gradwatch.views.terminal import follow as following
from yolo_gradwatch.views.terminal import screen as screens
from yolo_gradwatch.views.terminal.panel import Panel

COMMAND = (sys.executable, "-m", "yolo_gradwatch")
NET = layout_of(YOLO26N)


def table_of(windows, layout=LAYOUT):
    """The bytes of a table, and its size after each window."""
    with TemporaryDirectory() as name:
        path = Path(name) / WINDOWS_FILE
        log = RunLog(Path(name), layout, resume=False)
        log.start()
        ends = []
        for one in windows:
            log.write_window(one)
            ends.append(path.stat().st_size)
        log.close()
        return path.read_bytes(), ends


def put(folder, content, layout=LAYOUT, **meta):
    """Replace the files of a running training."""
    (folder / WINDOWS_FILE).write_bytes(content)
    put_meta(folder, layout, status="running", **meta)


def assert_all_same(found, expected):
    assert [one.step_first for one in found] == [one.step_first for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


# --- the tail of a table --------------------------------------------------------------------------

THREE = [window(1), window(2, zero=[CONV]), window(3, steps=4, skipped=1, epoch=2)]


@pytest.fixture
def tail(tmp_path):
    return Tail(tmp_path)


@pytest.mark.slow
@LAWS
@given(runs(), st.data())
def test_table_growing_in_chunks_is_read_completely(run, data):
    windows, events = run
    content, ends = table_of(windows)
    cuts = data.draw(st.lists(st.integers(0, len(content)), max_size=6).map(sorted))
    found = []
    with TemporaryDirectory() as name:
        tail = Tail(Path(name))
        for size in [*cuts, len(content)]:
            put(Path(name), content[:size], events=events)
            look = tail.look()
            assert look.meta.events == tuple(events)
            found += look.windows
            assert len(found) == sum(end <= size for end in ends)
    assert_all_same(found, windows)


def test_run_exists_once_it_has_both_files(tmp_path, tail):
    assert Tail(tmp_path / "not there yet").look() is None
    content, _ = table_of(THREE)
    (tmp_path / WINDOWS_FILE).write_bytes(content)
    assert tail.look() is None
    put(tmp_path, b"")
    (tmp_path / WINDOWS_FILE).unlink()
    assert tail.look() is None
    put(tmp_path, table_of([])[0])  # only a header
    look = tail.look()
    assert (look.is_new, look.windows, look.is_over) == (True, (), False)
    assert look.meta.layout == LAYOUT


@pytest.mark.parametrize("torn", [1, 60, 400])
def test_resumed_run_continues_after_its_mended_end(tmp_path, tail, torn):
    content, ends = table_of([window(step) for step in range(1, 6)])
    put(tmp_path, content[: ends[2] + torn])
    (tmp_path / ALERTS_FILE).write_bytes(b"")
    found = [*tail.look().windows]
    mend(tmp_path, LAYOUT.modules[-1])
    assert tail.look().windows == ()
    resumed = Training(tmp_path, events=(START, Event(4, "resume")))
    resumed.write(window(4, norm=2.0), window(5))
    look = tail.look()
    resumed.end()
    assert not look.is_new
    assert look.meta.events == (START, Event(4, "resume"))
    assert_all_same(
        [*found, *look.windows], [*map(window, (1, 2, 3)), window(4, norm=2.0), window(5)]
    )


def rows_of(one, layout):
    return table_of([one], layout)[0].partition(b"\n")[2]


@pytest.mark.parametrize("way", [(False, 2.0), (True, 2.0), (True, 1.0)])
@pytest.mark.parametrize(("windows", "layout"), [*((n, LAYOUT) for n in (0, 1, 3, 8)), (2, NET)])
def test_new_run_in_the_folder_is_read_from_the_beginning(tmp_path, tail, windows, layout, way):
    gap, norm = way  # the new run may end with the same line as a deleted one
    put(tmp_path, table_of(DEAD)[0])
    assert len(tail.look().windows) == 3
    if gap:
        (tmp_path / WINDOWS_FILE).unlink()
        assert tail.look() is None
    new = [window(step, norm=norm, layout=layout) for step in range(1, windows + 2)]
    content, ends = table_of(new, layout)
    put(tmp_path, content[: ends[windows - 1]] if windows else table_of([])[0], layout)
    look = tail.look()
    assert (look.is_new, look.meta.layout) == (True, layout)
    assert_all_same(look.windows, new[:windows])
    put(tmp_path, content, layout)
    look = tail.look()
    assert not look.is_new
    assert_all_same(look.windows, new[windows:])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *((b",1,0,", new) for new in (b",x,0,", b",1.5,0,", b",-1,0,", b",1" + 30 * b"0" + b",0,")),
        *((b",1,1,1,5,", new) for new in (b",1,1,1,1,5,", b",1,1,5,")),  # one cell more or less
        (b"\n1,2,2,", b"\n1,1,1,"),  # steps that go back
        (b"norm_min,norm_mean", b"norm_mean,norm_mean"),  # the table of another tool
    ],
    ids=range(8),
)
def test_mangled_table_is_a_one_line_error(tmp_path, tail, old, new):
    content, ends = table_of(THREE)
    kept = 0 if old in table_of([])[0] else ends[0] - 1
    if kept:
        put(tmp_path, content[: ends[0]])
        tail.look()
    assert old in content[kept:]
    put(tmp_path, content[:kept] + new.join(content[kept:].rsplit(old, 1)))
    where = "" if kept else "line 1 is not the header"
    with pytest.raises(FormatError, match=rf"gradwatch\.csv: {where}[^\n]*$"):
        tail.look()


# --- the judge ------------------------------------------------------------------------------------


def judged(folder, pieces, events, limits=lambda own: own):
    """The changes found by a judge that gets the windows in pieces, and the judge."""
    looks = [
        Look(number == 0, decoded(meta_of(events=recorded(events, piece))), tuple(piece))
        for number, piece in enumerate(pieces)
    ]
    judge = Judge(folder, limits, looks[0])
    return [one for look in looks for one in judge.update(look)], judge


def recorded(events, piece):
    """The events that a training has recorded by the end of a piece."""
    return [event for event in events if not piece or event.step <= piece[-1].step_last + 1]


def cut(windows, cuts):
    edges = [0, *sorted(min(at, len(windows)) for at in cuts), len(windows)]
    return [windows[a:b] for a, b in pairwise(edges)]


def drawn(board, size=(100, 40)):
    """The panel as text."""
    console = Console(width=size[0], height=size[1], file=io.StringIO(), _environ={})
    console.print(Panel(board))
    return console.file.getvalue()


def board_of(windows, findings, layout=LAYOUT):
    """The board after all windows at once."""
    board = Board(layout)
    for one in windows:
        board.add_window(one)
    board.show(findings)
    return board


CUTS = st.lists(st.integers(0, 30), max_size=6)
LIMITS = st.builds(Thresholds, dead_windows=st.integers(1, 4), amp_grace=st.integers(1, 4))


@pytest.mark.slow
@LAWS
@given(runs(), CUTS)
def test_judge_finds_what_the_training_found(run, cuts):
    windows, events = run
    with TemporaryDirectory() as name:
        watch(Path(name), windows, events)
        loaded = load_run(name)
        report = loaded.report()
        changes, judge = judged(Path(name), cut(windows, cuts), events)
    alerts = loaded.alerts[["finding", "event", "step", "message"]].to_numpy().tolist()
    assert [[n.finding.number, n.change, n.step, n.finding.message] for n in changes] == alerts
    assert judge.board.active == tuple(f for f in report.findings if f.step_end is None)
    assert drawn(judge.board) == drawn(board_of(windows, report.findings))


@pytest.mark.slow
@LAWS
@given(runs(), CUTS, LIMITS)
def test_judge_with_other_thresholds_finds_what_a_review_finds(run, cuts, limits):
    windows, events = run
    with TemporaryDirectory() as name:
        watch(Path(name), windows, events)
        report = load_run(name).report(limits)
        changes, judge = judged(Path(name), cut(windows, cuts), events, lambda _: limits)
    latest = {one.finding.number: one.finding for one in changes}  # without the end of a notice
    assert {(f.number, f.rule, f.module, f.step) for f in latest.values()} == {
        (f.number, f.rule, f.module, f.step) for f in report.findings
    }
    ends = {f.number: f.step_end for f in report.alarms}
    assert ends == {number: latest[number].step_end for number in ends}
    assert judge.board.active == tuple(f for f in report.findings if f.step_end is None)


# --- the command; the training advances whenever it sleeps ----------------------------------------


@pytest.fixture
def meanwhile(monkeypatch):
    """Queue events, one per sleep of the command; it must not sleep more often."""
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    pending = []

    def sleep(seconds):
        clock.now += seconds
        assert pending, "it should have ended"
        pending.pop(0)()

    def meanwhile(*calls):
        pending.extend(calls)
        return clock

    clock.sleep = sleep
    monkeypatch.setattr(following, "time", clock)
    monkeypatch.setattr(screens, "time", clock)
    return meanwhile


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "detect" / "train"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def training(run):
    training = Training(run)
    yield training
    training.close()


def ctrl_c():
    raise KeyboardInterrupt


def follow(folder, *options):
    return main(["review", str(folder), "--follow", *options])


def changes_in(text):
    starts = tuple(f"GradWatch {word}" for word in ("critical", "warning", "notice", "resolved"))
    return [line for line in text.splitlines() if line.startswith(starts)]


@pytest.mark.parametrize("status", ["finished", "failed", "interrupted"])
def test_report_follows_the_end_of_the_run(training, meanwhile, capsys, status):
    meanwhile(lambda: training.write(*DEAD), lambda: training.end(status))
    assert follow(training.folder) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"GradWatch is following {training.folder} (Ctrl+C to leave)"
    report = str(load_run(training.folder).report()).splitlines()
    assert [line for line in lines if line.startswith("GradWatch: ")] == [
        line for line in report if line.startswith("GradWatch: ")
    ]
    assert any(line.startswith("GradWatch critical dead: ") for line in lines)


def test_report_follows_a_killed_training(training, meanwhile, capsys):
    def write_pid(pid):
        content = (training.folder / WINDOWS_FILE).read_bytes()
        put(training.folder, content, process=process(pid))

    write_pid(os.getpid())
    meanwhile(lambda: training.write(*DEAD), lambda: write_pid(DEAD_PID))
    assert follow(training.folder, "--fail-on", "dead") == 1
    out = capsys.readouterr().out
    assert "10 modules; killed)" in out
    assert "the training was killed after step 3: its process is gone" in out


def test_parent_folder_does_not_select_a_killed_run(run, meanwhile, capsys):
    other = run.parent / "train2"
    watch(run, DEAD, status="running", process=process(DEAD_PID))
    meanwhile(
        other.mkdir,
        lambda: watch(other, DEAD, status="running", process=process(os.getpid())),
        lambda: watch(other, DEAD),
    )
    assert follow(run.parent) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{run} has ended; ")
    assert any(line.startswith(f"GradWatch is following {other} ") for line in lines)


def test_log_has_the_changes_of_the_training(training, tmp_path, meanwhile, capsys):
    windows = [*DEAD, *(window(step, zero=[CONV]) for step in (4, 5)), *map(window, range(6, 16))]
    events = [Event(3, "nan_recovery"), Event(9, "oom_restart")]
    meanwhile(
        lambda: training.write(*windows[:2]),
        lambda: training.restart(events[0]),
        lambda: training.write(*windows[2:8]),
        lambda: (training.restart(events[1]), training.write(*windows[8:12])),
        lambda: (training.write(*windows[12:]), training.end()),
    )
    assert follow(training.folder) == 0
    watch(tmp_path, windows, [START, *events])
    loaded = load_run(tmp_path)
    assert changes_in(capsys.readouterr().out) == [
        f"GradWatch critical dead: {loaded.alerts['message'][0]}",
        f"GradWatch resolved: dead in {CONV} (from step 3 to step 9)",
    ]


def test_log_has_a_table_at_the_end_of_each_epoch(training, meanwhile, capsys):
    epochs = [[window(4 * n + step, epoch=n + 1) for step in range(1, 5)] for n in range(3)]
    meanwhile(
        lambda: training.write(*epochs[0][:2]),
        lambda: training.write(*epochs[0][2:]),
        lambda: training.write(*epochs[1], epochs[2][0]),
        lambda: training.write(*epochs[2][1:]),
        training.end,
    )
    follow(training.folder)
    heads = [line for line in capsys.readouterr().out.splitlines() if " epoch " in line]
    steps = [re.search(r"epoch (\d)\D.*step (\d+)", head).groups() for head in heads]
    assert steps == [("1", "4"), ("2", "8"), ("3", "12")]


def finish(folder):
    """Mark the training as finished."""
    meta = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
    (folder / META_FILE).write_text(json.dumps({**meta, "status": "finished"}), encoding="utf-8")


def test_thaw_repeats_no_finding_and_no_epoch(tmp_path, meanwhile, capsys):
    part, whole = grown(step=5)
    before = [window(step, layout=part, zero=[CONV]) for step in range(1, 5)]
    later = [window(step, layout=whole, zero=[CONV], epoch=2) for step in range(5, 9)]
    text, _ = table_of(before, part)
    rows, _ = table_of(later, whole)
    rest = rows[rows.index(b"\n") + 1 :]
    watch(tmp_path, [])  # for its table of alerts
    put(tmp_path, text, part)
    events = [START, Event(5, "thaw")]
    meanwhile(
        lambda: put(tmp_path, text, part),
        lambda: put(tmp_path, text + rest, whole, events=events),
        lambda: finish(tmp_path),
    )
    assert follow(tmp_path) == 0
    out = capsys.readouterr().out
    assert out.count("critical dead") == 2  # at its start and in the report
    assert [line.split()[2] for line in out.splitlines() if " epoch " in line] == ["1", "2"]
    first, second = out.split("GradWatch epoch ")[1:]
    assert "0 Block" not in first
    assert "0 Block" in second


@pytest.mark.parametrize("place", [".", "gradwatch.csv", "..", "../.."])
def test_missing_run_is_waited_for(tmp_path, meanwhile, capsys, place):
    folder = tmp_path / "runs" / "detect" / "train"
    meanwhile(
        lambda: folder.mkdir(parents=True),
        lambda: watch(folder, DEAD, status="running"),
        lambda: watch(folder, DEAD),
    )
    assert follow(Path(os.path.normpath(folder / place))) == 0
    out = capsys.readouterr().out
    assert "GradWatch is waiting for a watched run in" in out.splitlines()[0]
    assert "does not exist yet" in out.splitlines()[0]
    assert out.count(f"GradWatch is following {folder} ") == 1
    assert "GradWatch: unhealthy, 1 critical" in out


@pytest.mark.parametrize("lost", [[WINDOWS_FILE, META_FILE], [WINDOWS_FILE], [META_FILE]])
def test_run_with_deleted_files_may_come_back(training, meanwhile, capsys, lost):
    clock = meanwhile()
    folder = training.folder
    meanwhile(
        lambda: training.write(*DEAD),
        lambda: [(folder / name).unlink() for name in lost],
        silence(clock, following.WAIT_SECONDS),
        lambda: watch(folder, DEAD[:1]),
    )
    assert follow(folder) == 0
    lines = capsys.readouterr().out.splitlines()
    (waiting,) = [line for line in lines if line.startswith("GradWatch has been waiting")]
    assert "gone" in waiting


@pytest.mark.parametrize("at_once", [True, False])
def test_deleted_folder_ends_following(training, meanwhile, capsys, at_once):
    folder = training.folder
    files = [(folder / name).unlink for name in (META_FILE, WINDOWS_FILE, ALERTS_FILE)]
    deleted = [lambda: shutil.rmtree(folder)] if at_once else [*files, folder.rmdir]
    meanwhile(lambda: training.write(*DEAD), *deleted)
    assert follow(folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: {folder}: ")


def test_folder_deleted_before_a_run_began_ends_the_wait(tmp_path, meanwhile, capsys):
    folder = tmp_path / "runs"
    meanwhile(folder.mkdir, lambda: None, folder.rmdir)
    assert follow(folder) == 2
    assert capsys.readouterr().err.startswith(f"Error: {folder}: ")


def test_log_repeats_that_it_is_still_waiting(tmp_path, meanwhile, capsys):
    clock = meanwhile()
    meanwhile(*[silence(clock, 60)] * 25, ctrl_c)
    assert follow(tmp_path / "typo") == 130
    first, *still = capsys.readouterr().out.splitlines()
    assert f"{tmp_path}/typo, which does not exist yet" in first
    assert [re.search(r"(\d+) min", line).group(1) for line in still] == ["10", "20"]


def test_parent_folder_does_not_select_a_finished_run(tmp_path, meanwhile, capsys):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    watch(tmp_path / "old", DEAD)
    os.utime(tmp_path / "old" / "gradwatch.csv", (1, 1))
    meanwhile(
        lambda: watch(tmp_path / "new", DEAD[:1], status="running"),
        lambda: watch(tmp_path / "new", DEAD[:1]),
    )
    assert follow(tmp_path) == 0
    out = capsys.readouterr().out
    assert f"GradWatch is waiting for a watched run in {tmp_path} " in out
    assert f"GradWatch is following {tmp_path / 'new'} " in out


def test_run_that_replaces_the_followed_one_is_followed(run, meanwhile, capsys):
    old = Training(run)
    old.write(*DEAD)
    old.close()
    new = []
    meanwhile(
        lambda: new.append(Training(run)),
        lambda: (
            new[0].write(*[window(n, zero=["model.0.conv"]) for n in (1, 2, 3, 4)]),
            new[0].end(),
        ),
    )
    assert follow(run) == 0
    lines = changes_in(capsys.readouterr().out)
    assert [line.partition(" (")[0].rpartition(" ")[2] for line in lines] == [CONV, "model.0.conv"]


def test_resumed_run_is_judged_with_its_own_thresholds(run, meanwhile, capsys):
    killed = Training(run)
    killed.write(*DEAD[:1])
    killed.close()
    resumed = []
    limits = {**asdict(Thresholds()), "dead_windows": 2}
    meanwhile(
        lambda: resumed.append(
            Training(run, events=(START, Event(2, "resume")), thresholds=limits)
        ),
        lambda: (resumed[0].write(*DEAD[1:]), resumed[0].end()),
    )
    follow(run)
    out = capsys.readouterr().out
    assert "GradWatch: unhealthy, 1 critical" in out
    assert len(changes_in(out)) == 1


def test_windows_written_just_before_the_end_are_shown(training, meanwhile, monkeypatch, capsys):
    meanwhile(lambda: None)
    read = Tail._meta
    writes = [lambda: None, lambda: (training.write(*DEAD), training.end())]

    def ended(tail):
        writes.pop(0)()
        return read(tail)

    monkeypatch.setattr(Tail, "_meta", ended)
    follow(training.folder)
    assert len(changes_in(capsys.readouterr().out)) == 1


@pytest.mark.parametrize(
    ("options", "code"),
    [
        *((["--fail-on", "dead"], 1), (["--fail-on", "nonfinite"], 0)),
        *((["--fail-on", "nonsense"], 2), (["--fail-on", "dead", "--dead-windows", "4"], 1)),
    ],
)
def test_exit_code_follows_the_given_thresholds(training, meanwhile, capsys, options, code):
    """Three steps without a finding give no verdict."""
    meanwhile(lambda: training.write(*DEAD), training.end)
    assert follow(training.folder, *options) == code
    found = changes_in(capsys.readouterr().out)
    assert len(found) == (code < 2 and "--dead-windows" not in options)


@pytest.mark.parametrize(
    ("option", "read"),
    [
        ("--json", lambda text: [one["module"] for one in json.loads(text)["findings"]]),
        ("--csv", lambda text: pd.read_csv(io.StringIO(text))["module"].tolist()),
    ],
)
def test_standard_output_has_the_requested_format(training, meanwhile, capsys, option, read):
    meanwhile(lambda: training.write(*DEAD), training.end)
    assert follow(training.folder, option) == 0
    modules = {"--json": [CONV], "--csv": list(LAYOUT.modules)}[option]
    assert read(capsys.readouterr().out) == modules


def test_ctrl_c_ends_following_and_not_the_training(training, tmp_path, meanwhile, capsys):
    meanwhile(lambda: training.write(*DEAD), ctrl_c)
    assert follow(training.folder) == 130
    assert "GradWatch: " not in capsys.readouterr().out
    assert load_run(training.folder).meta.status == "running"


def test_mangled_file_ends_following_with_one_line(training, meanwhile, capsys):
    def mangle():
        path = training.folder / WINDOWS_FILE
        path.write_bytes(path.read_bytes() + b"nonsense\n" + rows_of(window(2), LAYOUT))

    meanwhile(lambda: training.write(window(1)), mangle)
    assert follow(training.folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: ")
    assert "gradwatch.csv: " in line


# --- the panel ------------------------------------------------------------------------------------


@pytest.fixture
def take_terminal(monkeypatch):
    """Replace standard output with a terminal when called: pytest swaps it before the test."""

    def take():
        set_terminal(monkeypatch, columns=100)
        monkeypatch.setattr(sys, "stdout", FakeTerminal())
        return sys.stdout

    return take


def silence(clock, seconds):
    """Let time pass without new data."""
    return lambda: setattr(clock, "now", clock.now + seconds)


@pytest.mark.parametrize(
    ("silent", "minutes"), [((1, 50), []), ((1, 60), [1]), ((1, 150), [2]), ((0, 90), [1])]
)
def test_panel_shows_how_long_no_data_came(training, meanwhile, take_terminal, silent, minutes):
    terminal, lines = take_terminal(), []
    windows, seconds = silent
    clock = meanwhile()
    meanwhile(
        *[lambda: training.write(window(1))] * windows,
        silence(clock, seconds),
        lambda: lines.extend(seen(terminal)),
        lambda: training.write(window(2)),
        training.end,
    )
    follow(training.folder)
    begin = "no new data for "
    assert [int(line.split()[4]) for line in lines if line.startswith(begin)] == minutes
    assert not any(line.startswith(begin) for line in seen(terminal))


def test_stream_is_restored_after_a_mangled_file(training, meanwhile, take_terminal):
    terminal = take_terminal()
    meanwhile(
        lambda: training.write(window(1)),
        lambda: (training.folder / META_FILE).write_text("{", encoding="utf-8"),
    )
    assert follow(training.folder) == 2
    assert sys.stdout is terminal
    assert sum(line.startswith(RULE) for line in seen(terminal)) == 1


# --- in a real terminal and in a pipe -------------------------------------------------------------


@pytest.fixture
def followed():
    """Follow a folder in a pseudo-terminal."""
    from pseudo_terminal import Terminal

    return lambda folder, size=(80, 24): Terminal(*size, "review", str(folder), "--follow")


def is_over(terminal):
    return terminal.is_over()


def shows(text):
    return lambda terminal: any(text in line for line in terminal.screen.display)


def assert_panel(lines, expected):
    """Check that the lines contain the whole panel once; return where it ends."""
    panel = [line.rstrip() for line in expected.splitlines() if line.strip()]
    (at,) = [i for i, line in enumerate(lines) if line.startswith(RULE)]
    assert lines[at : at + len(panel)] == panel
    return at + len(panel)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), (140, 40)])
def test_terminal_shows_the_panel_until_the_run_ends(tmp_path, followed, size):
    folder = tmp_path / "run"
    terminal = followed(folder, size)
    terminal.read_until(shows("GradWatch is waiting"))
    folder.mkdir()
    training = Training(folder, layout=NET)
    windows = [window(step, layout=NET, zero=["model.4.conv"]) for step in range(1, 6)]
    training.write(windows[0])
    terminal.read_until(shows("step 1 "))
    training.write(*windows[1:])
    terminal.read_until(shows("step 5 "))
    assert sum(RULE in line for line in terminal.lines()) == 1
    training.end()
    terminal.read_until(is_over)
    assert terminal.code() == 0
    findings = load_run(folder).report().findings
    lines = terminal.lines()
    end = assert_panel(lines, drawn(board_of(windows, findings, NET), size))
    assert lines[end].startswith("GradWatch: unhealthy, 1 critical; first finding: dead in model.4")
    assert sum(line.startswith("GradWatch critical dead: ") for line in lines[:end]) == 1


@pytest.mark.slow
def test_terminal_shows_how_long_a_path_is_missing(tmp_path, followed):
    terminal = followed(tmp_path / "typo")
    terminal.read_until(shows("waiting for 1 s: the path does not exist yet"))
    terminal.read_until(shows("waiting for 2 s: the path does not exist yet"))
    terminal.type(b"\x03")
    terminal.read_until(is_over)
    assert terminal.code() == 130
    assert not any(line.startswith("waiting for") for line in terminal.lines())


@pytest.mark.slow
def test_ctrl_c_restores_the_terminal(training, followed):
    terminal = followed(training.folder)
    training.write(*DEAD)
    terminal.read_until(shows("step 3 "))
    terminal.type(b"\x03")
    terminal.read_until(is_over)
    assert terminal.code() == 130
    lines = terminal.lines()
    end = assert_panel(
        lines, drawn(board_of(DEAD, load_run(training.folder).report().findings), (80, 24))
    )
    assert [line for line in lines[end:] if line != "^C"] == []


@pytest.mark.slow
def test_log_is_written_line_by_line(training):
    command = [*COMMAND, "review", training.folder, "--follow"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, preexec_fn=unblock_ctrl_c) as process:  # noqa: PLW1509
        patience = threading.Timer(60, process.kill)
        patience.start()
        assert process.stdout.readline().startswith("GradWatch is following")
        training.write(*DEAD)
        next(line for line in process.stdout if line.startswith("GradWatch critical dead: "))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        patience.cancel()
    assert process.returncode == 130
    assert errors == ""
