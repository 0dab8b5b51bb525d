"""The notebook display, with a stand-in for the kernel."""

import math
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from kernel import Kernel, Read
from matplotlib.text import Text
from PIL import Image
from recording import Recording
from short import FAKE, warnings_of
from shown import ODD, board_of, episode_of, finding_of
from values import LAYOUT, Part, plan, sample, window, write_run
from watched import CONV, DEAD, Training, watch

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.runs.schema import PICTURE_FILE, FormatError
from yolo_gradwatch.views import notebook
from yolo_gradwatch.views.html import live

pytestmark = pytest.mark.slow  # whole trainings of a fake trainer, or many runs

BLOCKS = ["0 Block", "1 Block", "2 Block"]


@pytest.fixture
def kernel(monkeypatch):
    return Kernel(monkeypatch)


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when a test sets it, and in `sleep`."""

    def sleep(seconds):
        clock.now += seconds
        clock.sleeping()

    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now, sleep=sleep)
    monkeypatch.setattr(notebook, "time", clock)
    return clock


def text_of(page):
    return Read(page["text/html"]).text


def blocks_in(page):
    """Label and state of each row of the table of blocks."""
    head, *rows = Read(page["text/html"]).rows
    assert head[:3] == ["block", "norm", "state"]
    return [(row[0], row[2]) for row in rows]


# --- a training in this process -------------------------------------------------------------------


def test_display_ends_with_the_verdict_and_the_picture(tmp_path, kernel, clock, capsys):
    recording = Recording(tmp_path, live=None)
    for step in range(1, 8):
        clock.now += 1.0
        recording.step(sample(step))
    recording.finish()
    first, *running, ended, last = kernel.states
    assert blocks_in(first) == [(label, "-") for label in BLOCKS]
    assert [text_of(page).split("step ")[1].split()[0] for page in running] == list("1234567")
    assert blocks_in(running[-1]) == [(label, "ok") for label in BLOCKS]
    verdict = load_run(tmp_path).report().verdict
    for page in (ended, last):
        assert f"GradWatch: {verdict}" in text_of(page)
        assert verdict in page["text/plain"]
        assert blocks_in(page) == blocks_in(running[-1])
    assert Read(ended["text/html"]).images == []
    (image,) = Read(last["text/html"]).images
    assert image.startswith("data:image/png;base64,")
    out = capsys.readouterr().out
    assert verdict in out
    assert "GradWatch epoch" not in out


def test_display_is_updated_at_most_once_a_second(tmp_path, kernel, clock):
    recording = Recording(tmp_path, live=None)
    for step in range(1, 101):
        clock.now += 0.1
        recording.step(sample(step))
    assert 1 + 9 <= len(kernel.states) <= 1 + 11
    recording.finish()


def test_slow_display_is_drawn_less_often(tmp_path, kernel, clock, monkeypatch):
    draw = notebook.View.draw

    def slowly(view, page):
        clock.now += 0.02
        draw(view, page)

    monkeypatch.setattr(notebook.View, "draw", slowly)
    recording = Recording(tmp_path, live=None)
    for step in range(1, 101):
        clock.now += 1.0
        recording.step(sample(step))
    assert 1 + 25 <= len(kernel.states) <= 1 + 28  # 0.5 % of the time: once in 4 s
    recording.finish()


def test_display_shows_the_finding_and_the_state_of_its_blocks(tmp_path, kernel, clock):
    recording = Recording(tmp_path, live=None)
    spoiled = np.ones(len(sample(1).norms))
    spoiled[0] = math.nan
    for step in range(1, 4):
        clock.now += 1.0
        recording.step(sample(step, spoiled if step > 1 else 1.0))
    (finding,) = recording.report().findings
    page = kernel.states[-1]
    assert finding.message in page["text/plain"]
    text = " ".join(text_of(page).split())
    assert " ".join(finding.message.split()) in text
    assert blocks_in(page)[0] == ("0 Block", "NaN")
    recording.finish("failed")
    assert "failed" in text_of(kernel.states[-1])


def test_line_of_a_finding_is_printed_at_the_end_of_the_epoch(tmp_path, kernel, capsys):
    recording = Recording(tmp_path, live=None)
    recording.step(sample(1, math.nan))
    assert recording.report().findings
    assert capsys.readouterr().out == ""
    recording.end_epoch()
    assert capsys.readouterr().out.startswith("GradWatch critical nonfinite: ")
    recording.finish()
    assert "GradWatch critical" not in capsys.readouterr().out


def test_live_false_draws_nothing(tmp_path, kernel, capsys):
    recording = Recording(tmp_path, live=False)
    recording.step(sample(1))
    recording.finish()
    assert kernel.shown == {}
    assert "GradWatch: no verdict" in capsys.readouterr().out


def test_no_display_without_a_notebook_kernel(tmp_path, monkeypatch):
    Recording(tmp_path, live=None).finish()
    assert notebook.kernel_display() is None
    kernel = Kernel(monkeypatch)
    shell = SimpleNamespace(TerminalInteractiveShell=Kernel)  # ``ipython`` in a terminal
    monkeypatch.setitem(sys.modules, "IPython.terminal.interactiveshell", shell)
    Recording(tmp_path, live=None).finish()
    assert kernel.shown == {}


@pytest.mark.parametrize("when", ["start", "later"])
def test_failing_display_is_replaced_by_tables(  # noqa: PLR0913, PLR0917
    tmp_path, kernel, clock, caplog, capsys, when
):
    error = kernel.trouble = RuntimeError("injected") if when == "start" else None
    recording = Recording(tmp_path, live=None)
    kernel.trouble = RuntimeError("injected")
    for step in range(1, 4):
        clock.now += 1.0
        recording.step(sample(step))
    recording.end_epoch()
    recording.finish()
    (warning,) = warnings_of(caplog)
    assert "injected" in warning
    assert len(kernel.shown) == (0 if error else 1)
    assert load_run(tmp_path).report().status == "finished"
    out = capsys.readouterr().out
    assert "GradWatch epoch 1/1" in out
    assert "gradient of the whole model" in out


def test_display_says_that_the_watch_ended_before_the_training(tmp_path, kernel):
    recording = Recording(tmp_path, live=None)
    recording.close()
    assert "GradWatch ended before the training" in text_of(kernel.states[-1])
    assert "GradWatch ended before the training" in kernel.states[-1]["text/plain"]


# --- a view in another cell -----------------------------------------------------------------------


def test_view_shows_every_training_in_its_own_cell_only(tmp_path, kernel):
    watch = GradWatch()
    watch.view()
    assert "is waiting for a training" in kernel.states[0]["text/plain"]
    for name in ("a", "b"):
        FAKE.train(tmp_path / name, watch=watch)
        assert watch.report().verdict in kernel.states[-1]["text/plain"]
    assert str(tmp_path / "b") in kernel.states[-1]["text/plain"]


def test_view_after_the_training_shows_its_last_state_in_another_display(tmp_path, kernel):
    watch = GradWatch()
    FAKE.train(tmp_path / "a", watch=watch)
    watch.view()
    in_training, in_cell = kernel.shown.values()
    assert in_cell == in_training[-1:]
    FAKE.train(tmp_path / "b", watch=watch)
    assert len(kernel.shown) == 2
    assert len(in_cell) > 1


def test_view_after_an_undisplayed_training_shows_the_verdict(tmp_path, kernel):
    watch = GradWatch(live=False)
    FAKE.train(tmp_path, watch=watch)
    assert kernel.shown == {}
    watch.view()
    assert watch.report().verdict in kernel.states[0]["text/plain"]


def test_every_training_has_its_own_display_without_a_view(tmp_path, kernel):
    watch = GradWatch()
    for name in ("a", "b"):
        FAKE.train(tmp_path / name, watch=watch)
    assert len(kernel.shown) == 2


@pytest.mark.parametrize("what", ["watch", "run"])
def test_view_without_a_notebook_warns(tmp_path, caplog, what):
    watched = load_run(write_run(tmp_path, [window(1)])) if what == "run" else GradWatch()
    watched.view()
    assert len(warnings_of(caplog)) == 1


# --- from files -----------------------------------------------------------------------------------


def test_loaded_run_is_followed_to_its_end(tmp_path, kernel, clock):
    training = Training(tmp_path)
    later = iter([*(lambda one=one: training.write(one) for one in DEAD[1:]), training.end])
    clock.sleeping = lambda: next(later)()  # noqa: PLW0108  # a different one each time
    training.write(DEAD[0])
    load_run(tmp_path).view()
    waiting, *running, last = kernel.states
    assert "is waiting" in waiting["text/plain"]
    steps = [text_of(page).split("step ")[1].split()[0] for page in running]
    assert steps == ["1", "2", "3"]
    (finding,) = load_run(tmp_path).report().findings
    assert (finding.rule, finding.module) == ("dead", CONV)
    assert finding.message in running[-1]["text/plain"]
    assert load_run(tmp_path).report().verdict in last["text/plain"]
    assert list(later) == []


def test_finished_run_is_shown_at_once_with_its_picture(tmp_path, kernel, clock):
    watch(tmp_path, DEAD)
    Image.new("RGB", (4, 4)).save(tmp_path / PICTURE_FILE)
    run = load_run(tmp_path)
    run.view()
    _, last = kernel.states
    assert run.report().verdict in text_of(last)
    assert len(Read(last["text/html"]).images) == 1
    assert blocks_in(last) == [("0 Block", "ok"), ("1 Block", "dead"), ("2 Block", "ok")]


def test_interrupting_the_cell_keeps_the_last_state(tmp_path, kernel, clock):
    def interrupt():
        raise KeyboardInterrupt

    training = Training(tmp_path)
    training.write(window(1))
    clock.sleeping = interrupt
    load_run(tmp_path).view()
    assert len(kernel.states) == 2
    training.close()


def test_silent_run_is_reported_and_deleted_files_raise(tmp_path, kernel, clock):
    training = Training(tmp_path)
    training.write(window(1))
    run = load_run(tmp_path)
    calls = iter(range(200))

    def sleeping():
        if next(calls) == 130:
            for path in tmp_path.iterdir():
                path.unlink()

    clock.sleeping = sleeping
    with pytest.raises(FormatError, match="gone"):
        run.view()
    texts = [page["text/plain"] for page in kernel.states]
    assert ["No new data for" in text for text in texts].index(True) == pytest.approx(61, abs=1)
    assert "for 2 min" in texts[-1]
    training.close()


# --- contents of the display ----------------------------------------------------------------------


def test_names_are_escaped():
    layout, _ = plan([Part(f"model.{i}.{name}") for i, name in enumerate(ODD)])
    layout = replace(layout, blocks=tuple((name, ODD[1]) for name, _ in layout.blocks))
    board = board_of(layout, levels=[1.0])
    finding = finding_of("dead", layout.modules[-1], message=" ".join(ODD), why=ODD[1])
    board.show([finding])
    page = live.running(board, [finding], ODD[1])
    read = Read(page.html)
    labels = [row.label for row in board.rows()]
    assert [row[0] for row in read.rows[1:]] == labels
    assert read.text.count(ODD[1]) == len(labels) + len(board.owners) + 2
    assert all(name in Read(finding._repr_html_()).text for name in ODD)


def test_active_findings_come_first_by_severity():
    board = board_of(levels=[1.0])
    findings = [
        replace(
            finding_of(message=name, severity=severity, episodes=(episode_of(1, end),)), number=n
        )
        for n, (name, severity, end) in enumerate(
            [
                ("over", "critical", 3),
                ("notified", "notice", None),
                ("lasting", "warning", None),
                ("worst", "critical", None),
            ],
            1,
        )
    ]
    text = live.running(board, findings).text
    places = [text.index(name) for name in ("worst", "lasting", "notified", "over")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("levels", "lines", "marks"),
    [
        ([], 0, 0),
        ([1.0], 1, 0),
        ([1.0, 2.0, 1.0], 1, 0),
        ([1.0, math.nan, 2.0], 2, 1),
        ([-math.inf, 1.0, 1.0], 1, 1),
        ([math.nan, -math.inf], 0, 2),
        ([300.0, 308.0], 1, 0),
        ([0.0] * 500, 1, 0),
    ],
)
def test_history_is_a_curve_with_marks_for_nonfinite_points(levels, lines, marks):
    svg = live.history(np.array(levels))
    Read(svg)
    assert svg.count("<polyline") == lines
    assert svg.count("<path") + svg.count("<circle") == marks
    assert len(svg) < 1200
    assert "nan" not in svg


def test_curve_rises_with_the_norm():
    svg = live.history(np.array([-3.0, 0.0, 3.0]))
    points = svg.split('points="')[1].split('"')[0].split()
    heights = [float(point.split(",")[1]) for point in points]
    assert heights == [live._HEIGHT - live._MARGIN, live._HEIGHT / 2, live._MARGIN]
    assert "<title>1.0e-03 to 1000</title>" in svg


# --- rich display of objects ----------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    watch(tmp_path / "<i>&", DEAD)
    return load_run(tmp_path / "<i>&")


def test_report_finding_and_run_display_themselves(run):
    report = run.report()
    (finding,) = report.findings
    for html in (report._repr_html_(), run._repr_html_()):
        words = Read(html).text.split()
        for line in str(report).splitlines():
            rest = iter(words)
            assert all(word in rest for word in line.split()), line
        assert "<i>&" in Read(html).text
    assert Read(finding._repr_html_()).text.split() == [
        *f"{finding.severity} {finding.rule}:".split(),
        *finding.account.split(),
    ]


def test_figures_display_themselves_without_pyplot(run):
    for figure in (run.plot(), run.plot(modules=True), run.plot_flow()):
        ((kind, data),) = figure._repr_mimebundle_(include=None, exclude=None).items()
        assert kind == "image/png"
        with Image.open(BytesIO(data)) as image:
            assert image.size == tuple(figure.bbox.size.round().astype(int))
            assert image.mode == "P"
    words = [{text.get_text() for text in run.plot(modules=m).findobj(Text)} for m in (False, True)]
    assert ["1 Block" in one for one in words] == [True, False]
    assert [CONV in one for one in words] == [False, True]


def test_cell_shows_a_figure_once(run):
    formatters = pytest.importorskip("IPython.core.formatters")
    data, _ = formatters.DisplayFormatter().format(run.plot())
    assert sorted(data) == ["image/png", "text/plain"]


def test_comparison_displays_itself(run, tmp_path):
    other = load_run(write_run(tmp_path / "b", [window(step, norm=10.0) for step in (1, 2, 3)]))
    compared = run.compare(other)
    assert compared.reports == (run.report(), other.report())
    text, read = repr(compared), Read(compared._repr_html_())
    head, *rows = read.rows
    assert head == ["module", "A last", "B last", "B/A first", "middle", "last", "class"]
    assert [row[0] for row in rows[:4]] == ["model", "model.0", "model.1", "model.2"]
    assert [row[5] for row in rows[:4]] == ["10"] * 4
    words = iter("".join(read.text.split()))
    (finding,) = run.report().findings
    assert all(sign in words for sign in "".join(finding.message.split()))
    for line in (report.verdict for report in compared.reports):
        assert line in read.text
        assert line in text
    assert "B differs from A" in read.text
    assert compared.norms["run"].unique().tolist() == [1, 2]
    names = compared.picture().names, compared.picture(modules=True).names
    assert names == (("model", "model.0", "model.1", "model.2"), LAYOUT.modules)
    assert "B relative to A" in "".join(axes.get_title("left") for axes in compared.plot().axes)


@pytest.mark.slow
def test_display_code_does_not_import_ipython(tmp_path):
    write_run(tmp_path, [window(1)])
    script = f"""
import sys
from yolo_gradwatch import GradWatch, load_run
GradWatch().view()
run = load_run({str(tmp_path)!r})
run.view(), run._repr_html_(), run.compare(run)._repr_html_(), run.plot()
print("IPython" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
