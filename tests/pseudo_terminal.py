"""Run a command in a pseudo-terminal with a terminal emulator."""

import os
import struct
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from terminals import unblock_ctrl_c
from training import HOME

fcntl = pytest.importorskip("fcntl")
pty = pytest.importorskip("pty")
termios = pytest.importorskip("termios")
pyte = pytest.importorskip("pyte")

COMMAND = (sys.executable, "-m", "yolo_gradwatch")


def _begin():
    """Prepare the command's process: take this terminal and accept Ctrl+C."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    unblock_ctrl_c()


class Terminal:
    """A command in a pseudo-terminal, and its screen.

    Args:
        columns: Width of the terminal.
        lines: Height of the terminal.
        arguments: Arguments of the command.
        command: The command; our own by default.
        streams: Replacements for ``stdout`` or ``stderr``.
        environment: Changed variables; None removes one.
    """

    def __init__(self, columns, lines, *arguments, command=COMMAND, streams=(), **environment):
        self.screen = pyte.HistoryScreen(columns, lines, history=5000)
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        self._slave = slave
        self._resize(columns, lines)
        self.attributes = termios.tcgetattr(slave)
        own = {"TERM": "xterm-256color", "YOLO_CONFIG_DIR": str(HOME)}
        own |= {"COLUMNS": None, "LINES": None}  # use the terminal's own size
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
        """Feed the screen until a condition holds; fail after a timeout."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._feed()
            if is_there(self):
                return
            time.sleep(0.02)  # let the other process run
        pytest.fail("\n".join(self.lines()))

    def is_over(self):
        return self._process.poll() is not None

    def resize(self, columns, lines):
        """Resize the terminal window; the command gets a signal."""
        self._feed()
        self.screen.resize(lines, columns)
        self._resize(columns, lines)

    def _resize(self, columns, lines):
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys):
        os.write(self._master, keys)

    def lines(self):
        """Return all lines of the history and the screen, without blank ones."""
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
