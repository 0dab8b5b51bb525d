"""The live panel in a real pseudo-terminal, as a terminal emulator draws it."""

import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress

import pytest
from build import RULE, hear_ctrl_c
from training import HOME

fcntl = pytest.importorskip("fcntl")
pyte = pytest.importorskip("pyte")

pytestmark = pytest.mark.train

COMMAND = (sys.executable, "-m", "yolo_gradwatch")


def _begin():
    """In the process of the command, before it runs: its terminal is this one."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    hear_ctrl_c()


class Terminal:
    """A command in a pseudo-terminal, and what its screen shows.

    Args:
        columns: Of the terminal.
        lines: Of the terminal.
        arguments: Of the command.
        command: Another command, in place of our own.
        streams: ``stdout`` or ``stderr``, where it is not the terminal.
        environment: Variables that are other ones; None for one that is not there.
    """

    def __init__(self, columns, lines, *arguments, command=COMMAND, streams=(), **environment):
        self.screen = pyte.HistoryScreen(columns, lines, history=5000)
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        self._slave = slave
        self._resize(columns, lines)
        self.attributes = termios.tcgetattr(slave)
        own = {"TERM": "xterm-256color", "YOLO_CONFIG_DIR": str(HOME)}
        own |= {"COLUMNS": None, "LINES": None}  # those of the terminal itself hold
        changed = {**os.environ, **own, **environment}
        self._process = subprocess.Popen(
            [*command, *arguments],
            **{"stdin": slave, "stdout": slave, "stderr": slave, **dict(streams)},
            env={name: value for name, value in changed.items() if value is not None},
            start_new_session=True,
            preexec_fn=_begin,  # noqa: PLW1509  # no threads
        )
        os.set_blocking(self._master, False)

    def read_until(self, is_there, seconds=90):
        """Feed the screen until a condition holds; fail when time is up."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._feed()
            if is_there(self):
                return
            time.sleep(0.02)  # the other process is at work
        pytest.fail("\n".join(self.lines()))

    def is_over(self):
        return self._process.poll() is not None

    def resize(self, columns, lines):
        """As a user does with the corner of a window; the command is told by a signal."""
        self._feed()
        self.screen.resize(lines, columns)
        self._resize(columns, lines)

    def _resize(self, columns, lines):
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys):
        os.write(self._master, keys)

    def lines(self):
        """Everything that was ever shown and was not drawn over, without what is blank."""
        past = [
            "".join(line[column].data for column in range(self.screen.columns))
            for line in self.screen.history.top
        ]
        return [line.rstrip() for line in [*past, *self.screen.display] if line.strip()]

    def code(self):
        code = self._process.wait(timeout=60)
        self._feed()
        assert termios.tcgetattr(self._slave) == self.attributes
        assert not self.screen.cursor.hidden
        os.close(self._master)
        os.close(self._slave)
        return code

    def _feed(self):
        with suppress(BlockingIOError):
            while True:
                self._stream.feed(os.read(self._master, 65536))


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (140, 40)])
def test_the_panel_stays_whole_below_the_normal_output(tmp_path, columns, lines):
    terminal = Terminal(columns, lines, "demo", "--epochs", "2", "--out", str(tmp_path))
    terminal.read_until(lambda t: any(RULE in line for line in t.lines()))
    terminal.read_until(lambda t: any("━" in line and "/6" in line for line in t.screen.display))
    assert sum(RULE in line for line in terminal.lines()) == 1
    terminal.read_until(Terminal.is_over)
    assert terminal.code() == 0
    shown = terminal.lines()
    assert sum(RULE in line for line in shown) == 1, "a panel was left behind"
    assert sum(line.startswith("23 Detect") for line in shown) == 1
    # Before 8.4.130 the bar is longer than a narrow terminal.
    assert len(re.findall("100% ━+ 6/6", "".join(shown))) == 2, "one bar an epoch"
    assert any(line.startswith("GradWatch: healthy, nothing found in 12 steps") for line in shown)
    order = [i for i, line in enumerate(shown) if "Starting training" in line or RULE in line]
    assert len(order) == 2
    assert order[0] < order[1]


def test_ctrl_c_gives_the_terminal_back(tmp_path):
    terminal = Terminal(80, 24, "demo", "--epochs", "50", "--out", str(tmp_path))
    terminal.read_until(lambda t: any("━" in line and "/6" in line for line in t.screen.display))
    terminal.type(b"\x03")
    terminal.read_until(Terminal.is_over)
    assert terminal.code() == 130
    shown = terminal.lines()
    assert sum(RULE in line for line in shown) == 1, "a panel was left behind"
    assert any("interrupted" in line for line in shown)
    assert not any("Traceback" in line for line in shown)


def test_a_terminal_that_cannot_redraw_gets_tables(tmp_path, monkeypatch):
    terminal = Terminal(80, 24, "demo", "--no-live", "--epochs", "1", "--out", str(tmp_path))
    terminal.read_until(Terminal.is_over)
    assert terminal.code() == 0
    shown = terminal.lines()
    assert not any(RULE in line for line in shown)
    assert any(line.startswith("GradWatch epoch 1/1") for line in shown)
