"""Stand-ins for terminals, and their screens."""

import io
import signal

import pyte

from yolo_gradwatch.views.terminal.streams import HOSTED_NOTEBOOKS

RULE = "── GradWatch"
"""Start of the panel's first line."""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def unblock_ctrl_c():
    """Make a new process end on Ctrl+C, also when started with ``nohup ... &``."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored signals are inherited


def seen(terminal):
    """Return the lines on a terminal's screen after all its output."""
    screen = pyte.Screen(250, 250)
    pyte.Stream(screen).feed(terminal.getvalue().replace("\n", "\r\n"))
    return [line.rstrip() for line in screen.display[: screen.cursor.y + 1]]


def set_terminal(monkeypatch, columns):
    """Set the environment of a terminal with the given columns and 30 lines."""
    colours = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM")
    for name in (*colours, "JPY_PARENT_PID", *HOSTED_NOTEBOOKS):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "30"}.items():
        monkeypatch.setenv(name, value)
