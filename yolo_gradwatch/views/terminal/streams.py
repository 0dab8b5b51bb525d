"""Detection of what the standard streams are: a terminal for the panel, a notebook, or a log.

Standard output may reach the terminal in three ways, which `below` distinguishes:

    plain       stream -> descriptor -> terminal                    panel: on the stream
    recorded    stream -> logger -> descriptor -> terminal          panel: on the descriptor
    redirected  stream -> descriptor -> logger's thread -> terminal panel: none
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HOSTED_NOTEBOOKS = ("COLAB_RELEASE_TAG", "COLAB_GPU", "KAGGLE_KERNEL_RUN_TYPE")
"""Environment variables of hosted notebook machines; their terminals may have them too."""

_KERNEL = {"TERM": "xterm-color", "GIT_PAGER": "cat"}
"""Environment that ipykernel (7.4) sets for commands in its cells, even without Jupyter."""


def is_live_terminal() -> bool:
    """Return whether standard output is a terminal on which lines can be redrawn."""
    return (
        is_terminal(sys.stdout)
        and below(sys.stdout) is not None
        and os.environ.get("TERM", "") not in {"dumb", "unknown"}
        and not is_notebook()
        and not any(name in os.environ for name in HOSTED_NOTEBOOKS)
    )


def draws_panel(live: bool | None) -> bool:  # noqa: FBT001  # an option of the user's
    """Return whether to draw the panel: if set, or on a terminal if None; never in a notebook.

    A notebook would show each drawing below the previous one.
    """
    return not is_notebook() and (is_live_terminal() if live is None else live)


def is_notebook() -> bool:
    """Return whether a notebook shows the output of this process, a kernel or a cell's command.

    ``!command`` runs on a pseudo-terminal, but its output appears in the cell, which ignores cursor
    movements. A terminal in JupyterLab is started by the server and has none of these marks.
    """
    if _is_kernel():
        return True
    return any(map(_is_of_kernel, (os.environ, *_environments_above())))


def kernel_display() -> Any | None:
    """Return ``IPython.display`` if this process is the kernel of a notebook; else None.

    IPython is never imported here: a kernel has already done so.
    """
    return sys.modules.get("IPython.display") if _is_kernel() else None


def _is_kernel() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and not _is_terminal_shell(shell)


def _is_of_kernel(environment: Mapping[str, str]) -> bool:
    """Return whether a process with this environment is a notebook kernel or was started by one."""
    is_below_kernel = all(environment.get(name) == value for name, value in _KERNEL.items())
    return is_below_kernel or "JPY_PARENT_PID" in environment


def _environments_above() -> Iterator[Mapping[str, str]]:
    """Yield the environments of all parent processes, as far as the system permits.

    Needed because ``!sudo`` and ``!env -i`` do not pass variables on.
    """
    with suppress(psutil.Error, OSError, RuntimeError):
        for process in psutil.Process().parents():
            with suppress(psutil.Error, OSError, RuntimeError):
                yield process.environ()


def _is_terminal_shell(shell: Any) -> bool:
    """Return whether an IPython shell is that of ``ipython`` in a terminal."""
    kind = getattr(
        sys.modules.get("IPython.terminal.interactiveshell"), "TerminalInteractiveShell", None
    )
    return kind is not None and isinstance(shell, kind)


def is_terminal(stream: Any) -> bool:
    """Return whether a stream is a terminal that can show the panel.

    If other code has replaced the stream, it may lack any method.
    """
    try:
        "─█▁".encode(getattr(stream, "encoding", None) or "utf-8")
        return bool(stream.isatty())
    except (AttributeError, LookupError, ValueError):  # no such method, not UTF-8, or closed
        return False


def is_plain(stream: Any) -> bool:
    """Return whether no other code in this process records what is written to a stream.

    Loggers replace the stream (Comet, ClearML, Ultralytics' platform) or its ``write`` (W&B,
    ClearML).
    """
    return isinstance(stream, io.TextIOBase) and "write" not in getattr(stream, "__dict__", {})


def below(stream: Any) -> Any | None:
    """Return the terminal that a stream writes to, bypassing loggers that record the stream.

    None if the descriptor is no terminal or has been redirected (W&B's ``console="redirect"``,
    Comet's native mode): text written there reaches the terminal later, from another thread.
    """
    descriptor = descriptor_of(stream)
    if is_plain(stream):
        return stream if descriptor is None or is_direct(descriptor) else None
    if descriptor is None:  # a logger's object with only the methods that Ultralytics needs
        descriptor = descriptor_of(sys.__stdout__)
    if descriptor is None or not is_direct(descriptor):
        return None
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return open(descriptor, "w", encoding=encoding, closefd=False)


def descriptor_of(stream: Any) -> int | None:
    """Return the file descriptor of a stream; None if it has none."""
    try:
        return int(stream.fileno())
    except (AttributeError, OSError, TypeError, ValueError):  # no such method, no file, or closed
        return None


def is_direct(descriptor: int) -> bool:
    """Return whether a descriptor is the terminal itself.

    A logger that redirects a descriptor through a pseudo-terminal is detected by a second terminal
    among the standard descriptors.
    """
    terminals = {os.fstat(n).st_rdev for n in (0, 1, 2, descriptor) if os.isatty(n)}
    return os.isatty(descriptor) and len(terminals) == 1
