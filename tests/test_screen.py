# ruff: noqa: T201  # printing is what is tested
import io
import logging
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from types import SimpleNamespace

import pytest
from build import RULE, Terminal, board_of
from rich.text import Text

from yolo_gradwatch import screen as screens
from yolo_gradwatch.panel import Panel
from yolo_gradwatch.screen import FRAME_SECONDS, REDRAW_SECONDS, Screen
from yolo_gradwatch.streams import HOSTED_NOTEBOOKS, is_live_terminal

HIDE, SHOW = "\033[?25l", "\033[?25h"
ERASE = "\r\033[K"  # how a frame of Ultralytics' progress bar begins
_CONTROL = re.compile(r"\033\[([0-9;?]*)([A-Za-z])|\r|\n")


class Broken:
    """A panel that cannot be drawn."""

    frame = Text()

    def __rich_console__(self, console, options):
        raise RuntimeError("no panel today")


class Safely:
    """Calls, and keeps what was raised, as a session does."""

    def __init__(self):
        self.raised = []

    def __call__(self, call, *args):
        try:
            call(*args)
        except Exception as error:  # noqa: BLE001  # as the one safety net
            self.raised.append(error)


def seen(terminal):
    """The lines that a terminal shows after everything that was written to it."""
    lines, row, column, at = [""], 0, 0, 0
    text = terminal.getvalue()
    for control in [*_CONTROL.finditer(text), None]:
        plain = text[at : control.start() if control else len(text)]
        line = lines[row].ljust(column)
        lines[row] = line[:column] + plain + line[column + len(plain) :]
        column += len(plain)
        if control is None:
            break
        at = control.end()
        count, kind = control.group(1), control.group(2) or control.group()
        if kind == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif kind == "\r":
            column = 0
        elif kind == "A":
            row = max(row - int(count or 1), 0)
        elif kind == "K":
            lines[row] = "" if count == "2" else lines[row][:column]
    return [line.rstrip() for line in lines]


def above(terminal):
    """The lines above the panel."""
    lines = seen(terminal)
    (title,) = [i for i, line in enumerate(lines) if line.startswith(RULE)]
    return lines[:title]


def set_terminal(monkeypatch, columns):
    """The environment of a terminal with so many columns and 30 lines."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name in ("JPY_PARENT_PID", *HOSTED_NOTEBOOKS):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "30"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def take_terminal(monkeypatch):
    """Put terminals in place of the streams; pytest swaps those between a fixture and its test."""

    def take():
        set_terminal(monkeypatch, columns=80)
        monkeypatch.setattr(sys, "stdout", Terminal())
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stdout

    return take


@pytest.fixture
def start(take_terminal, panel):
    """Open a screen on a terminal and draw its panel; its safety net lets everything through."""

    def start():
        terminal = take_terminal()
        screen = Screen(panel, [], lambda call, *args: call(*args))
        screen.open()
        screen.draw()
        return screen, terminal

    return start


@pytest.fixture
def clock(monkeypatch):
    """The seconds that the screen sees; far from 0, as on any computer."""
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(screens, "time", clock)
    return clock


@pytest.fixture
def panel():
    return Panel(board_of(levels=[1.0, 2.0]))


def test_the_panel_is_drawn_below_what_was_there(take_terminal, panel):
    terminal = take_terminal()
    print("before")
    screen = Screen(panel, [], Safely())
    screen.open()
    screen.draw()
    assert above(terminal) == ["before"]
    assert "0 Conv" in seen(terminal)[4]
    screen.close()


def test_lines_go_above_the_panel(start):
    _, terminal = start()
    print("first")
    print("second\nthird")
    sys.stdout.write("fourth\n")
    assert above(terminal) == ["first", "second", "third", "fourth"]


class Onto(io.TextIOBase):
    """Another stream onto a terminal; it keeps what went through it."""

    def __init__(self, terminal):
        self.terminal, self.text = terminal, ""

    def write(self, text):
        self.text += text
        return self.terminal.write(text)

    def isatty(self):
        return True


def test_lines_of_the_standard_error_go_above_it_too(take_terminal, panel, monkeypatch):
    terminal = take_terminal()
    monkeypatch.setattr(sys, "stderr", error := Onto(terminal))
    screen = Screen(panel, [], Safely())
    screen.open()
    print("trouble", file=sys.stderr)
    print("fine")
    assert above(terminal) == ["trouble", "fine"]
    screen.close()
    assert error.text == "trouble\n"


def test_what_any_logger_writes_to_the_terminal_goes_above_it(take_terminal, panel):
    terminal = take_terminal()
    handlers = [logging.StreamHandler(stream) for stream in (Onto(terminal), io.StringIO())]
    there, elsewhere = (handler.stream for handler in handlers)
    screen = Screen(panel, handlers, Safely())
    screen.open()
    for handler in handlers:
        handler.handle(logging.LogRecord("x", logging.INFO, "x.py", 1, "a record", (), None))
    assert above(terminal) == ["a record"]
    assert (there.text, elsewhere.getvalue()) == ("a record\n", "a record\n")
    screen.close()
    assert [handler.stream for handler in handlers] == [there, elsewhere]


# --- loggers that record the console --------------------------------------------------------------


def test_a_panel_without_a_witness_is_not_recorded(start):
    screen, _ = start()
    assert not screen.is_recorded
    screen.close()
    assert screen.is_recorded  # a table in its place is to be seen


def test_a_logger_that_comes_later_gets_lines_and_stays(start, panel):
    screen, terminal = start()
    recorded, stand_in = [], sys.stdout
    write = sys.stdout.write
    sys.stdout.write = lambda text: recorded.append(text) or write(text)
    assert screen.is_recorded
    screen.print(Text("told"))
    print("printed")
    sys.stdout.progress(7, f"{ERASE}3/3")
    sys.stdout.progress(7, "")
    sys.stdout.write("\n")
    screen.draw()
    assert above(terminal) == ["told", "printed", "3/3"]
    screen.close()
    print("after")
    assert sys.stdout is stand_in
    assert "".join(recorded).split() == ["told", "printed", "3/3", "after"]
    assert seen(terminal)[-2:] == ["after", ""]


def test_threads_that_print_do_not_tear_the_panel(start):
    screen, terminal = start()

    def say(name):
        for number in range(20):
            print(f"{name} {number}")
            screen.draw()

    threads = [Thread(target=say, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(above(terminal)) == sorted(f"{name} {n}" for name in "abc" for n in range(20))
    screen.close()


def test_a_logger_that_holds_its_lock_while_it_prints_stops_nobody(start, monkeypatch):
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
def test_the_panel_is_given_up_where_the_terminal_is_redirected(start, monkeypatch, write, left):
    screen, terminal = start()
    screen._descriptor = 1
    monkeypatch.setattr(screens, "is_direct", lambda descriptor: descriptor != 1)
    before = terminal.getvalue()
    write(screen)
    assert not screen.is_open
    assert sys.stdout is terminal
    screen.redraw()
    screen.print(Text("told"))
    assert terminal.getvalue() == f"{before}{left}told\n"


def test_a_partial_line_is_kept_until_it_ends(start):
    _, terminal = start()
    print("one ", end="")
    assert above(terminal) == []
    print("two", end="\nthree")
    assert above(terminal) == ["one two"]
    print()
    assert above(terminal) == ["one two", "three"]


def test_empty_lines_stay(start):
    _, terminal = start()
    print()
    print("a\n\nb\n")
    sys.stdout.write("\n\n")
    assert above(terminal) == ["", "a", "", "b", "", "", ""]


def test_several_lines_at_once_go_above_it(start):
    _, terminal = start()
    sys.stdout.writelines(["a\n", "b\n"])
    assert above(terminal) == ["a", "b"]


def test_print_of_the_screen(start):
    screen, terminal = start()
    screen.print(Text("news"))
    assert above(terminal) == ["news"]


def test_a_long_line_is_left_to_the_terminal_to_wrap(start):
    screen, terminal = start()
    print("x" * 200)
    screen.print(Text("y" * 200))
    assert above(terminal) == ["x" * 200, "y" * 200]


@pytest.mark.parametrize("text", ["[bold]x[/bold] :boom:", "[/]", "\\[red]", "{curly} %s"])
def test_text_from_outside_is_shown_as_it_is(start, text):
    screen, terminal = start()
    print(text)
    sys.stdout.progress(1, ERASE + text)
    screen.draw()
    assert above(terminal) == [text]
    assert seen(terminal).count(text) == 2


def test_colours_of_what_is_printed_stay(start):
    _, terminal = start()
    print("\033[31mred\033[0m")
    assert "\033[31mred\033[0m" in terminal.getvalue()


def test_a_colour_reaches_over_lines_that_are_printed_at_once(start):
    _, terminal = start()
    sys.stdout.write("\033[31mred\n\nstill red\033[0m\n")
    assert above(terminal) == ["red", "", "still red"]
    assert "\033[31mstill red\033[0m" in terminal.getvalue()


def test_of_a_line_that_is_written_over_the_end_stays(start):
    _, terminal = start()
    print("old\rnew")
    assert above(terminal) == ["new"]


def test_of_a_line_that_is_written_over_in_parts_the_end_stays(start):
    _, terminal = start()
    for share in (10, 50, 90):
        print(f"{share} %", end="\r")
    print("ready")
    assert above(terminal) == ["ready"]


def test_writing_tells_how_much_was_written(start):
    start()
    assert sys.stdout.write("four") == 4
    assert sys.stdout.write(ERASE) == len(ERASE)


def test_writing_something_else_than_text_is_the_writers_mistake(take_terminal, panel):
    take_terminal()
    safely = Safely()
    screen = Screen(panel, [], safely)
    screen.open()
    with pytest.raises(TypeError, match="bytes"):
        sys.stdout.write(b"x\n")
    screen.close()
    assert safely.raised == []


# --- the frames of a progress bar -----------------------------------------------------------------


@pytest.fixture(params=["progress", "write"])
def frame(request):
    """Draw a frame as Ultralytics does: through ``progress``, or before 8.4.130 as text."""

    def draw(text):
        if request.param == "progress":
            sys.stdout.progress(7, f"{ERASE}{text}")
        else:
            sys.stdout.write(f"{ERASE}{text}")

    def close():
        if request.param == "progress":
            sys.stdout.progress(7, "")
        sys.stdout.write("\n")

    draw.close = close
    return draw


def test_a_frame_is_drawn_inside_the_panel(start, panel, frame):
    screen, terminal = start()
    frame("1/3 epochs")
    assert panel.frame.plain == "1/3 epochs"
    screen.draw()
    assert above(terminal) == []
    assert seen(terminal).count("1/3 epochs") == 1


def test_a_frame_replaces_the_one_before(start, panel, frame):
    screen, terminal = start()
    frame("1/3 epochs")
    frame("2/3")
    screen.draw()
    assert panel.frame.plain == "2/3"
    assert not [line for line in seen(terminal) if "epochs" in line]


def test_the_last_frame_of_a_bar_that_closes_stays_as_a_line(start, panel, frame):
    screen, terminal = start()
    frame("2/3")
    frame("3/3")
    frame.close()
    screen.draw()
    assert panel.frame.plain == ""
    assert above(terminal) == ["3/3"]
    assert seen(terminal).count("3/3") == 1


def test_bars_one_after_the_other(start, frame):
    screen, terminal = start()
    frame("train 3/3")
    frame.close()
    print("between")
    frame("val 1/1")
    frame.close()
    screen.draw()
    assert above(terminal) == ["train 3/3", "between", "val 1/1"]


def test_a_line_while_a_bar_runs_goes_above_and_leaves_it(start, panel, frame):
    screen, terminal = start()
    frame("1/3")
    print("a line")
    screen.draw()
    assert above(terminal) == ["a line"]
    assert panel.frame.plain == "1/3"
    frame.close()
    assert above(terminal) == ["a line", "1/3"]


def test_a_bar_that_leaves_nothing_behind(start, panel, frame):
    screen, terminal = start()
    frame("1/3")
    sys.stdout.progress(7, "")
    sys.stdout.write(ERASE)
    screen.draw()
    assert panel.frame.plain == ""
    assert above(terminal) == []
    print()
    assert above(terminal) == [""]


def test_a_frame_without_a_carriage_return_is_a_frame_too(start, panel):
    _, terminal = start()
    sys.stdout.progress(7, "3/3")  # as where Ultralytics takes the terminal for none
    assert panel.frame.plain == "3/3"
    sys.stdout.progress(7, "")
    sys.stdout.write("\n")
    assert above(terminal) == ["3/3"]


def test_a_bar_that_closes_after_a_partial_line_leaves_both(start, panel, frame):
    screen, terminal = start()
    print("loading ...", end="")
    frame("3/3")
    frame.close()
    screen.draw()
    print(" done")
    text = "\n".join(above(terminal))
    assert "loading ..." in text
    assert "3/3" in text


def test_colours_of_a_frame_stay(start, panel, frame):
    screen, terminal = start()
    frame("\033[34m━━━\033[0m 50%")
    screen.draw()
    assert panel.frame.plain == "━━━ 50%"
    assert "\033[34m━━━\033[0m" in terminal.getvalue()


def test_a_frame_wider_than_the_terminal_takes_one_line(start, frame):
    screen, terminal = start()
    screen.draw()
    before = len(seen(terminal))
    frame("x" * 200)
    screen.draw()
    assert len(seen(terminal)) == before + 2  # a rule and the frame


# --- how often the panel is drawn -----------------------------------------------------------------


def drawn(terminal):
    return terminal.getvalue().count("GradWatch")


def test_the_panel_is_drawn_at_most_a_few_times_a_second(take_terminal, panel, clock):
    terminal = take_terminal()
    screen = Screen(panel, [], Safely())
    screen.open()
    screen.redraw()
    assert drawn(terminal) == 1
    clock.now += REDRAW_SECONDS * 0.99
    screen.redraw()
    assert drawn(terminal) == 1
    clock.now = 1000.0 + REDRAW_SECONDS
    screen.redraw()
    assert drawn(terminal) == 2
    clock.now += REDRAW_SECONDS * 1.01
    screen.redraw()
    assert drawn(terminal) == 3
    screen.close()


@pytest.mark.parametrize(
    ("costs", "pause"),
    [
        ((0.01, 0.01), 2.0),  # one half percent of the time
        ((0.5, 0.002), 0.4),  # a single slow one says nothing
        ((0.002, 0.5), 0.4),
        ((3.0, 2.0), 5.0),  # a terminal that hangs
        ((0.0, 0.0), REDRAW_SECONDS),
    ],
)
def test_a_slow_terminal_is_drawn_less(take_terminal, panel, clock, costs, pause):
    terminal = take_terminal()
    screen = Screen(panel, [], Safely())
    screen.open()
    plain = screen._live.refresh
    taken = [*reversed(costs)]

    def slow():
        plain()
        clock.now += taken.pop() if taken else 0.0

    screen._live.refresh = slow
    screen.draw()
    screen.draw()
    before = drawn(terminal)
    clock.now += pause - 0.01
    screen.redraw()
    assert drawn(terminal) == before
    clock.now += 0.02
    screen.redraw()
    assert drawn(terminal) == before + 1
    screen.close()


def test_frames_are_drawn_as_often_as_ultralytics_has_new_ones(take_terminal, panel, clock):
    terminal = take_terminal()
    screen = Screen(panel, [], Safely())
    screen.open()
    sys.stdout.progress(7, f"{ERASE}1")
    assert drawn(terminal) == 1
    clock.now += FRAME_SECONDS * 0.99
    sys.stdout.progress(7, f"{ERASE}2")
    assert drawn(terminal) == 1
    clock.now = 1000.0 + FRAME_SECONDS
    sys.stdout.progress(7, f"{ERASE}3")
    assert drawn(terminal) == 2
    screen.close()


def test_a_line_draws_the_panel_too(take_terminal, panel, clock):
    terminal = take_terminal()
    screen = Screen(panel, [], Safely())
    screen.open()
    print("a line")
    assert drawn(terminal) == 1
    clock.now += REDRAW_SECONDS * 0.99
    screen.redraw()
    assert drawn(terminal) == 1
    screen.close()


# --- giving the terminal back ---------------------------------------------------------------------


def test_the_cursor_is_shown_while_the_panel_is_drawn(take_terminal, panel):
    terminal = take_terminal()
    screen = Screen(panel, [], Safely())
    screen.open()
    assert terminal.getvalue().endswith(SHOW)
    screen.draw()
    print("a line")
    screen.close()
    assert HIDE not in terminal.getvalue().partition(SHOW)[2]


def test_the_streams_and_handlers_are_the_original_ones_after_close(take_terminal, panel):
    take_terminal()
    out, err = sys.stdout, sys.stderr
    ours, others = logging.StreamHandler(out), logging.StreamHandler(elsewhere := io.StringIO())
    screen = Screen(panel, [ours, others], Safely())
    screen.open()
    assert sys.stdout is not out
    assert sys.stderr is not err
    assert ours.stream is sys.stdout
    assert others.stream is elsewhere
    screen.close()
    assert (sys.stdout, sys.stderr) == (out, err)
    assert ours.stream is out
    assert others.stream is elsewhere


def test_everything_is_given_back_where_nobody_reads_any_more(take_terminal, panel, monkeypatch):
    terminal = take_terminal()
    out, err = sys.stdout, sys.stderr
    handler = logging.StreamHandler(out)
    screen = Screen(panel, [handler], Safely())
    screen.open()

    def gone(*_args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(terminal, "write", gone)
    monkeypatch.setattr(terminal, "flush", gone)
    with pytest.raises(OSError, match="Input/output error"):
        screen.close()
    assert (sys.stdout, sys.stderr, handler.stream) == (out, err, out)


def test_a_terminal_is_shared_by_one_screen_at_a_time(take_terminal, panel):
    terminal = take_terminal()
    first, second, third = (Screen(panel, [], Safely()) for _ in range(3))
    assert first.open()
    stand_in = sys.stdout
    assert not second.open()
    second.close()
    assert sys.stdout is stand_in
    first.close()
    assert sys.stdout is terminal
    assert third.open()
    third.close()
    assert sys.stdout is terminal


def test_a_screen_that_was_made_while_another_one_was_open_stays_away(take_terminal, panel):
    """It has the other one's stand-in for the terminal, and would give that back."""
    terminal = take_terminal()
    first = Screen(panel, [], Safely())
    assert first.open()
    second = Screen(panel, [], Safely())
    first.close()
    assert not second.open()
    second.close()
    assert sys.stdout is terminal


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one\r\ntwo\n", ["one", "two"]),
        ("three\r\n", ["three"]),
        ("50%\r100%\r\n", ["100%"]),
    ],
)
def test_lines_that_end_as_on_another_system_are_shown(start, text, lines):
    _, terminal = start()
    sys.stdout.write(text)
    assert above(terminal) == lines


def test_the_last_panel_stays_and_lines_after_it_go_below(start):
    screen, terminal = start()
    sys.stdout.progress(7, f"{ERASE}1/3")
    print("above")
    screen.close()
    print("below")
    lines = seen(terminal)
    assert "1/3" not in lines
    assert lines[0] == "above"
    assert lines[1].startswith(RULE)
    assert lines[-2:] == ["below", ""]


def test_a_partial_line_is_released(start):
    screen, terminal = start()
    print("no end", end="")
    screen.close()
    print(" and more")
    assert seen(terminal)[-2] == "no end and more"


def test_a_stand_in_that_somebody_kept_writes_to_the_real_stream(start):
    screen, terminal = start()
    kept = sys.stdout
    screen.close()
    kept.write("late\n")
    kept.progress(7, f"{ERASE}3/3")
    kept.write("\n")
    assert seen(terminal)[-3:] == ["late", "3/3", ""]


def test_a_frame_goes_to_the_real_streams_own_progress_after_close(start):
    screen, terminal = start()
    frames = []
    terminal.progress = lambda bar, frame: frames.append((bar, frame))
    kept = sys.stdout
    screen.close()
    kept.progress(7, "3/3")
    assert frames == [(7, "3/3")]


def test_closing_twice_is_harmless(start):
    screen, terminal = start()
    screen.close()
    written = terminal.getvalue()
    screen.close()
    assert terminal.getvalue() == written
    assert sys.stdout is terminal


def test_closing_what_was_never_open_is_harmless(take_terminal, panel):
    terminal = take_terminal()
    Screen(panel, [], Safely()).close()
    assert terminal.getvalue() == ""
    assert sys.stdout is terminal


def test_a_stream_that_somebody_else_put_there_stays(start, monkeypatch):
    screen, _ = start()
    monkeypatch.setattr(sys, "stdout", other := io.StringIO())
    screen.close()
    assert sys.stdout is other


def test_an_error_stream_that_is_no_terminal_is_left_alone(take_terminal, panel, monkeypatch):
    take_terminal()
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    screen = Screen(panel, [], Safely())
    screen.open()
    assert sys.stderr is file
    screen.close()
    assert sys.stderr is file


def test_there_may_be_no_error_stream(take_terminal, panel, monkeypatch):
    take_terminal()
    monkeypatch.setattr(sys, "stderr", None)
    screen = Screen(panel, [], Safely())
    screen.open()
    screen.close()
    assert sys.stderr is None


def test_a_stand_in_has_what_the_real_stream_has(start):
    _, terminal = start()
    assert sys.stdout.isatty()
    assert sys.stdout.encoding == terminal.encoding
    assert sys.stdout.getvalue == terminal.getvalue
    sys.stdout.flush()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sys.stdout.nothing


# --- errors of our own ----------------------------------------------------------------------------


def test_an_error_while_drawing_does_not_reach_the_writer(take_terminal):
    take_terminal()
    safely = Safely()
    screen = Screen(Broken(), [], safely)
    screen.open()
    print("a line")
    sys.stdout.progress(7, f"{ERASE}1/3")
    assert {str(error) for error in safely.raised} == {"no panel today"}
    Safely()(screen.close)


def test_a_line_is_not_lost_because_the_panel_cannot_be_drawn(take_terminal):
    terminal = take_terminal()
    screen = Screen(Broken(), [], Safely())
    screen.open()
    print("a line")
    Safely()(screen.close)
    assert "a line" in terminal.getvalue()


def test_everything_is_given_back_if_the_last_panel_cannot_be_drawn(take_terminal):
    terminal = take_terminal()
    out, err = sys.stdout, sys.stderr
    handler = logging.StreamHandler(out)
    screen = Screen(Broken(), [handler], Safely())
    screen.open()
    kept = sys.stdout
    print("no end", end="")
    Safely()(screen.close)
    print(" and more")
    assert (sys.stdout, sys.stderr, handler.stream) == (out, err, out)
    assert terminal.getvalue().endswith("no end and more\n")
    kept.write("late\n")
    assert terminal.getvalue().endswith("late\n")
    Safely()(screen.close)


def test_a_safety_net_that_closes_the_screen_lets_the_writer_go_on(take_terminal):
    terminal = take_terminal()
    screens_open = []

    def net(call, *args):
        try:
            call(*args)
        except RuntimeError:
            Safely()(screens_open.pop().close)

    screen = Screen(Broken(), [], net)
    screens_open.append(screen)
    screen.open()
    print("first")
    print("second")
    assert sys.stdout is terminal
    assert terminal.getvalue().endswith("second\n")


# --- whether there is a live terminal -------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "live"),
    [("xterm-256color", True), ("", True), ("dumb", False), ("unknown", False)],
)
def test_a_dumb_terminal_is_not_live(take_terminal, monkeypatch, term, live):
    take_terminal()
    monkeypatch.setenv("TERM", term)
    assert is_live_terminal() is live


def test_a_terminal_that_does_not_say_its_kind_is_live(take_terminal, monkeypatch):
    take_terminal()
    monkeypatch.delenv("TERM")
    assert is_live_terminal()


def test_a_file_is_no_terminal(take_terminal, monkeypatch):
    take_terminal()
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert not is_live_terminal()


def test_there_may_be_no_output_at_all(take_terminal, monkeypatch):
    take_terminal()
    monkeypatch.setattr(sys, "stdout", None)
    assert not is_live_terminal()
