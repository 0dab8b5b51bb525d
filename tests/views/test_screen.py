# ruff: noqa: T201  # the tests are about printing
import io
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Thread
from types import SimpleNamespace

import pytest
from rich.text import Text
from shown import board_of
from terminals import RULE, Terminal, seen, set_terminal

from yolo_gradwatch.views.terminal import screen as screens
from yolo_gradwatch.views.terminal.panel import Panel
from yolo_gradwatch.views.terminal.screen import FRAME_SECONDS, REDRAW_SECONDS, Screen
from yolo_gradwatch.views.terminal.streams import is_live_terminal

HIDE, SHOW = "\033[?25l", "\033[?25h"
ERASE = "\r\033[K"  # how a frame of Ultralytics' progress bar begins


class Broken:
    """A panel that cannot be drawn."""

    frame = Text()

    def __rich_console__(self, console, options):
        raise RuntimeError("no panel today")


class Safely:
    """Calls a function and keeps what it raises, like a session."""

    def __init__(self):
        self.raised = []

    def __call__(self, call, *args):
        try:
            call(*args)
        except Exception as error:  # noqa: BLE001  # as in the safety net of a session
            self.raised.append(error)


def above(terminal):
    """The lines above the panel."""
    lines = seen(terminal)
    (title,) = [i for i, line in enumerate(lines) if line.startswith(RULE)]
    return lines[:title]


def drawn(terminal):
    """The number of times that the panel was drawn."""
    return terminal.getvalue().count("GradWatch")


@pytest.fixture
def take_terminal(monkeypatch):
    """Replace the streams with terminals when called: pytest swaps them before the test."""

    def take():
        set_terminal(monkeypatch, columns=80)
        monkeypatch.setattr(sys, "stdout", Terminal())
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stdout

    return take


@pytest.fixture
def panel():
    return Panel(board_of(levels=[1.0, 2.0]))


@pytest.fixture
def begin(take_terminal, panel):
    """Open a screen on a terminal; by default its safety net keeps what is raised."""

    def begin(*handlers, panel=panel, safely=None):
        terminal = take_terminal()
        screen = Screen(panel, [logging.StreamHandler(one) for one in handlers], safely or Safely())
        assert screen.open()
        return screen, terminal

    return begin


@pytest.fixture
def start(begin):
    """Open a screen and draw its panel; its safety net lets every error through."""

    def start():
        screen, terminal = begin(safely=lambda call, *args: call(*args))
        screen.draw()
        return screen, terminal

    return start


@pytest.fixture
def clock(monkeypatch):
    """The clock of the screen; starts far from 0, as on a real computer."""
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(screens, "time", clock)
    return clock


def test_panel_is_drawn_below_earlier_output(take_terminal, panel):
    terminal = take_terminal()
    print("before")
    screen = Screen(panel, [], Safely())
    screen.open()
    screen.draw()
    assert above(terminal) == ["before"]
    assert "0 Conv" in seen(terminal)[4]
    screen.close()


LONG = "x" * 200


@pytest.mark.parametrize(
    ("writes", "lines"),
    [
        (["first\n", "second\nthird\n"], ["first", "second", "third"]),
        (["one ", "two\n", "three\n"], ["one two", "three"]),
        (["one "], []),  # not before it ends
        (["\n", "a\n\nb\n\n", "\n\n"], ["", "a", "", "b", "", "", ""]),
        ([f"{LONG}\n"], [LONG]),  # the terminal wraps it
        (["old\rnew\n"], ["new"]),
        (["10 %\r", "50 %\r", "ready\n"], ["ready"]),
        (["one\r\ntwo\n"], ["one", "two"]),  # as on Windows
        (["three\r\n"], ["three"]),
        (["50%\r100%\r\n"], ["100%"]),
    ],
)
def test_complete_lines_go_above_the_panel(start, writes, lines):
    screen, terminal = start()
    sys.stdout.writelines(writes)
    assert above(terminal) == lines
    screen.print(Text(LONG))
    assert above(terminal)[-1].endswith(LONG)


class Through(io.TextIOBase):
    """Another stream to the same terminal; it keeps what went through it."""

    def __init__(self, terminal):
        self.terminal, self.text = terminal, ""

    def write(self, text):
        self.text += text
        return self.terminal.write(text)

    def isatty(self):
        return True


def test_stderr_and_log_records_go_above_the_panel(take_terminal, panel, monkeypatch):
    terminal = take_terminal()
    monkeypatch.setattr(sys, "stderr", error := Through(terminal))
    handlers = [logging.StreamHandler(stream) for stream in (Through(terminal), io.StringIO())]
    there, elsewhere = (handler.stream for handler in handlers)
    screen = Screen(panel, handlers, Safely())
    screen.open()
    print("trouble", file=sys.stderr)
    for handler in handlers:
        handler.handle(logging.LogRecord("x", logging.INFO, "x.py", 1, "a record", (), None))
    assert above(terminal) == ["trouble", "a record"]
    screen.close()
    assert (error.text, there.text, elsewhere.getvalue()) == (
        *("trouble\n", "a record\n", "a record\n"),
    )
    assert [handler.stream for handler in handlers] == [there, elsewhere]
    assert sys.stderr is error


# --- loggers that record the console --------------------------------------------------------------


def test_logger_that_patches_later_gets_lines_and_stays(start):
    screen, terminal = start()
    assert not screen.is_recorded
    recorded, stand_in = [], sys.stdout
    write = sys.stdout.write
    sys.stdout.write = lambda text: recorded.append(text) or write(text)
    assert screen.is_recorded
    screen.print(Text("first"))
    print("second")
    sys.stdout.progress(7, f"{ERASE}3/3")
    sys.stdout.progress(7, "")
    sys.stdout.write("\n")
    screen.draw()
    assert above(terminal) == ["first", "second", "3/3"]
    screen.close()
    print("after")
    assert sys.stdout is stand_in
    assert "".join(recorded).split() == ["first", "second", "3/3", "after"]
    assert seen(terminal)[-2:] == ["after", ""]


def test_closed_panel_counts_as_recorded(start):
    screen, _ = start()
    screen.close()
    assert screen.is_recorded  # so that a table is printed in its place


def test_threads_that_print_do_not_tear_the_panel(start):
    screen, terminal = start()

    def print_lines(name):
        for number in range(20):
            print(f"{name} {number}")
            screen.draw()

    threads = [Thread(target=print_lines, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(above(terminal)) == sorted(f"{name} {n}" for name in "abc" for n in range(20))
    screen.close()


def test_thread_that_prints_while_the_lock_is_held_does_not_block(start, monkeypatch):
    screen, terminal = start()
    monkeypatch.setattr(screens, "MOST_WAITED", 0.01)
    with ThreadPoolExecutor(1) as pool, screen._alone():
        pool.submit(print, "from a thread", file=sys.stdout).result(timeout=10)
    assert above(terminal) == ["from a thread"]


@pytest.mark.parametrize(
    ("write", "left"),
    [
        (Screen.draw, ""),
        (lambda _: print("a line"), "a line\n"),
        (lambda _: print("a line\nanother, ", end=""), "a line\nanother, "),
    ],
)
def test_panel_closes_if_the_terminal_is_redirected(start, monkeypatch, write, left):
    screen, terminal = start()
    screen._descriptor = 1
    monkeypatch.setattr(screens, "is_direct", lambda descriptor: descriptor != 1)
    before = terminal.getvalue()
    write(screen)
    assert not screen.is_open
    assert sys.stdout is terminal
    screen.redraw()
    screen.print(Text("later"))
    assert terminal.getvalue() == f"{before}{left}later\n"


@pytest.mark.parametrize("text", ["[bold]x[/bold] :boom:", "[/]", "\\[red]", "{curly} %s"])
def test_markup_is_shown_verbatim(start, text):
    screen, terminal = start()
    print(text)
    sys.stdout.progress(1, ERASE + text)
    screen.draw()
    assert above(terminal) == [text]
    assert seen(terminal).count(text) == 2


def test_colours_are_kept_across_lines_of_one_write(start, panel):
    screen, terminal = start()
    sys.stdout.write("\033[31mred\n\nstill red\033[0m\n")
    sys.stdout.progress(7, f"{ERASE}\033[34m━━━\033[0m 50%")
    screen.draw()
    assert above(terminal) == ["red", "", "still red"]
    assert plain(panel) == "━━━ 50%"
    for text in ("\033[31mred\033[0m", "\033[31mstill red\033[0m", "\033[34m━━━\033[0m"):
        assert text in terminal.getvalue()


def test_write_returns_the_length_and_refuses_bytes(begin):
    safely = Safely()
    screen, _ = begin(safely=safely)
    assert [sys.stdout.write(text) for text in ("four", ERASE)] == [4, len(ERASE)]
    with pytest.raises(TypeError, match="bytes"):
        sys.stdout.write(b"x\n")
    screen.close()
    assert safely.raised == []


# --- the frames of a progress bar -----------------------------------------------------------------


def plain(panel):
    """The frame in the panel without escape codes."""
    return Text.from_ansi(panel.frame).plain


@pytest.fixture(params=["progress", "write"])
def frame(request):
    """Draw a frame like Ultralytics: through ``progress``, or before 8.4.130 as text."""
    is_new = request.param == "progress"

    def draw(text):
        call = partial(sys.stdout.progress, 7) if is_new else sys.stdout.write
        call(f"{ERASE}{text}")

    def close():
        if is_new:
            sys.stdout.progress(7, "")
        sys.stdout.write("\n")

    draw.close = close
    return draw


def test_frame_is_drawn_inside_the_panel_until_its_bar_closes(start, panel, frame):
    screen, terminal = start()
    frame("1/3 epochs")
    screen.draw()
    assert (plain(panel), above(terminal)) == ("1/3 epochs", [])
    assert seen(terminal).count("1/3 epochs") == 1
    frame("2/3")
    print("a line")
    screen.draw()
    assert (plain(panel), above(terminal)) == ("2/3", ["a line"])
    assert not [line for line in seen(terminal) if "epochs" in line]
    frame("3/3")
    frame.close()
    screen.draw()
    assert (plain(panel), above(terminal)) == ("", ["a line", "3/3"])
    assert seen(terminal).count("3/3") == 1
    print("between")
    frame("val 1/1")
    frame.close()
    assert above(terminal) == ["a line", "3/3", "between", "val 1/1"]


def test_bar_that_erases_itself(start, panel, frame):
    screen, terminal = start()
    frame("1/3")
    sys.stdout.progress(7, "")
    sys.stdout.write(ERASE)
    screen.draw()
    assert plain(panel) == ""
    assert above(terminal) == []
    print()
    assert above(terminal) == [""]


def test_frame_without_a_carriage_return_is_recognised(start, panel):
    _, terminal = start()
    sys.stdout.progress(7, "3/3")  # as when Ultralytics does not recognise the terminal
    assert plain(panel) == "3/3"
    sys.stdout.progress(7, "")
    sys.stdout.write("\n")
    assert above(terminal) == ["3/3"]


def test_bar_that_closes_after_a_partial_line_keeps_both(start, frame):
    screen, terminal = start()
    print("loading ...", end="")
    frame("3/3")
    frame.close()
    screen.draw()
    print(" done")
    text = "\n".join(above(terminal))
    assert "loading ..." in text
    assert "3/3" in text


def test_frame_wider_than_the_terminal_takes_one_line(start, frame):
    screen, terminal = start()
    before = len(seen(terminal))
    frame(LONG)
    screen.draw()
    assert len(seen(terminal)) == before + 2  # a rule and the frame


# --- how often the panel is drawn -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "seconds"),
    [
        (Screen.redraw, REDRAW_SECONDS),
        (lambda _: sys.stdout.progress(7, f"{ERASE}1"), FRAME_SECONDS),
    ],
)
def test_panel_is_drawn_at_most_a_few_times_a_second(begin, clock, write, seconds):
    screen, terminal = begin()
    for number, pause in enumerate((0.0, 1.0, 1.01), 1):
        clock.now += seconds * pause
        write(screen)
        assert drawn(terminal) == number
        clock.now += seconds * 0.99
        write(screen)
        assert drawn(terminal) == number
        clock.now -= seconds * 0.99
    screen.close()


@pytest.mark.parametrize(
    ("costs", "pause"),
    [
        ((0.004, 0.004), 4.0),  # a tenth of a percent of the time
        ((0.5, 0.001), 1.0),  # a single slow draw does not count
        ((0.001, 0.5), 1.0),
        ((3.0, 2.0), 5.0),  # a terminal that hangs
        ((0.0, 0.0), REDRAW_SECONDS),
    ],
)
def test_slow_terminal_is_drawn_less_often(begin, clock, costs, pause):
    screen, terminal = begin()
    plain, taken = screen._live.refresh, [*reversed(costs)]

    def slow():
        plain()
        clock.now += taken.pop() if taken else 0.0

    screen._live.refresh = slow
    screen.draw()
    screen.draw()
    before = drawn(terminal)
    for seconds, times in ((pause - 0.01, 0), (0.02, 1)):
        clock.now += seconds
        screen.redraw()
        assert drawn(terminal) == before + times
    screen.close()


def test_printing_a_line_draws_the_panel_too(begin, clock):
    screen, terminal = begin()
    print("a line")
    clock.now += REDRAW_SECONDS * 0.99
    screen.redraw()
    assert drawn(terminal) == 1
    screen.close()


# --- restoring the terminal -----------------------------------------------------------------------


def test_cursor_stays_visible_while_the_panel_is_drawn(begin):
    screen, terminal = begin()
    assert terminal.getvalue().endswith(SHOW)
    screen.draw()
    print("a line")
    screen.close()
    assert HIDE not in terminal.getvalue().partition(SHOW)[2]


def opened(take_terminal, panel, safely=None):
    """A screen with a handler on the terminal and one elsewhere, and the original streams."""
    take_terminal()
    out, err = sys.stdout, sys.stderr
    handlers = [logging.StreamHandler(out), logging.StreamHandler(io.StringIO())]
    before = (out, err, *(handler.stream for handler in handlers))
    screen = Screen(panel, handlers, safely or Safely())
    screen.open()

    def streams():
        return (sys.stdout, sys.stderr, *(handler.stream for handler in handlers))

    return screen, before, streams


def test_close_restores_streams_and_handlers(take_terminal, panel):
    screen, before, streams = opened(take_terminal, panel)
    out, err, on_terminal, elsewhere = streams()
    assert (out is before[0], err is before[1], elsewhere is before[3]) == (False, False, True)
    assert on_terminal is out
    screen.close()
    assert streams() == before


def test_everything_is_restored_if_the_terminal_is_gone(take_terminal, panel, monkeypatch):
    screen, before, streams = opened(take_terminal, panel)

    def gone(*_args):
        raise OSError(5, "Input/output error")

    for name in ("write", "flush"):
        monkeypatch.setattr(before[0], name, gone)
    with pytest.raises(OSError, match="Input/output error"):
        screen.close()
    assert streams() == before


def test_everything_is_restored_if_the_last_panel_cannot_be_drawn(take_terminal):
    screen, before, streams = opened(take_terminal, Broken())
    kept = sys.stdout
    print("no end", end="")
    Safely()(screen.close)
    print(" and more")
    assert streams() == before
    assert before[0].getvalue().endswith("no end and more\n")
    kept.write("late\n")
    assert before[0].getvalue().endswith("late\n")
    Safely()(screen.close)


def test_only_one_screen_at_a_time_uses_a_terminal(take_terminal, panel):
    terminal = take_terminal()
    first, second, third = (Screen(panel, [], Safely()) for _ in range(3))
    assert first.open()
    stand_in = sys.stdout
    assert not second.open()
    second.close()
    assert sys.stdout is stand_in
    late = Screen(panel, [], Safely())  # would restore the stand-in in place of the terminal
    first.close()
    assert not late.open()
    late.close()
    assert sys.stdout is terminal
    assert third.open()
    third.close()
    assert sys.stdout is terminal


def test_last_panel_stays_and_later_lines_go_below(start):
    screen, terminal = start()
    sys.stdout.progress(7, f"{ERASE}1/3")
    print("above")
    print("no end", end="")
    screen.close()
    print(" and more")
    lines = seen(terminal)
    assert "1/3" not in lines
    assert lines[0] == "above"
    assert lines[1].startswith(RULE)
    assert lines[-2:] == ["no end and more", ""]


def test_kept_stand_in_writes_to_the_real_stream_after_close(start):
    screen, terminal = start()
    kept, frames = sys.stdout, []
    screen.close()
    kept.write("late\n")
    kept.progress(7, f"{ERASE}3/3")
    kept.write("\n")
    assert seen(terminal)[-3:] == ["late", "3/3", ""]
    terminal.progress = lambda bar, frame: frames.append((bar, frame))
    kept.progress(7, "3/3")
    assert frames == [(7, "3/3")]


def test_closing_twice_or_before_opening_is_harmless(start, panel):
    screen, terminal = start()
    screen.close()
    written = terminal.getvalue()
    screen.close()
    Screen(panel, [], Safely()).close()
    assert terminal.getvalue() == written
    assert sys.stdout is terminal


def test_close_keeps_a_stream_replaced_by_others(start, monkeypatch):
    screen, _ = start()
    monkeypatch.setattr(sys, "stdout", other := io.StringIO())
    screen.close()
    assert sys.stdout is other


@pytest.mark.parametrize("error", [io.StringIO(), None])
def test_stderr_that_is_not_a_terminal_is_untouched(take_terminal, panel, monkeypatch, error):
    take_terminal()
    monkeypatch.setattr(sys, "stderr", error)
    screen = Screen(panel, [], Safely())
    screen.open()
    assert sys.stderr is error
    screen.close()
    assert sys.stderr is error


def test_stand_in_has_the_attributes_of_the_real_stream(start):
    _, terminal = start()
    assert sys.stdout.isatty()
    assert sys.stdout.encoding == terminal.encoding
    assert sys.stdout.getvalue == terminal.getvalue
    sys.stdout.flush()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sys.stdout.nothing


# --- internal errors ------------------------------------------------------------------------------


def test_error_while_drawing_does_not_reach_print_or_lose_a_line(begin):
    safely = Safely()
    screen, terminal = begin(panel=Broken(), safely=safely)
    print("a line")
    sys.stdout.progress(7, f"{ERASE}1/3")
    assert {str(error) for error in safely.raised} == {"no panel today"}
    Safely()(screen.close)
    assert "a line" in terminal.getvalue()


def test_printing_continues_if_the_safety_net_closes_the_screen(begin):
    def net(call, *args):
        try:
            call(*args)
        except RuntimeError:
            Safely()(screen.close)

    screen, terminal = begin(panel=Broken(), safely=net)
    print("first")
    print("second")
    assert sys.stdout is terminal
    assert terminal.getvalue().endswith("second\n")


# --- detection of a live terminal -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "live"),
    [("xterm-256color", True), ("", True), (None, True), ("dumb", False), ("unknown", False)],
)
def test_dumb_terminal_is_not_live(take_terminal, monkeypatch, term, live):
    take_terminal()
    monkeypatch.setenv("TERM", term) if term is not None else monkeypatch.delenv("TERM")
    assert is_live_terminal() is live


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_file_or_no_stream_is_not_a_terminal(take_terminal, monkeypatch, stream):
    take_terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    assert not is_live_terminal()
