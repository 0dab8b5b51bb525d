"""Stand-ins for terminals, and what one of them shows."""

import io
import signal

import pyte

from yolo_gradwatch.views.terminal.streams import HOSTED_NOTEBOOKS

RULE = "── GradWatch"
"""How the panel begins."""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def hear_ctrl_c():
    """Let a process that is about to begin end with Ctrl+C, also below ``nohup ... &``."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what is ignored is inherited


def seen(terminal):
    """The lines that a terminal shows after everything that was written to it."""
    screen = pyte.Screen(250, 250)
    pyte.Stream(screen).feed(terminal.getvalue().replace("\n", "\r\n"))
    return [line.rstrip() for line in screen.display[: screen.cursor.y + 1]]


def set_terminal(monkeypatch, columns):
    """The environment of a terminal with so many columns and 30 lines."""
    colours = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLORTERM")
    for name in (*colours, "JPY_PARENT_PID", *HOSTED_NOTEBOOKS):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": str(columns), "LINES": "30"}.items():
        monkeypatch.setenv(name, value)
