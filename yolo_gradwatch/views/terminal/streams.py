"""What the standard streams are: a terminal that can show a panel, a notebook, or a log."""

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
"""Variables of machines that exist to run notebooks; a terminal on them may have them, too."""

_KERNEL = {"TERM": "xterm-color", "GIT_PAGER": "cat"}
"""What ipykernel (7.4) sets for the commands of its cells, also where no Jupyter started it."""


def is_live_terminal() -> bool:
    """Whether standard output is a terminal on which lines can be redrawn."""
    return (
        is_terminal(sys.stdout)
        and below(sys.stdout) is not None
        and os.environ.get("TERM", "") not in {"dumb", "unknown"}
        and not is_notebook()
        and not any(name in os.environ for name in HOSTED_NOTEBOOKS)
    )


def draws_panel(live: bool | None) -> bool:  # noqa: FBT001  # an option of the user's
    """Whether to draw the panel: as the user says, or on a terminal only; never in a notebook.

    A notebook would show each drawing below the last one.
    """
    return not is_notebook() and (is_live_terminal() if live is None else live)


def is_notebook() -> bool:
    """Whether a notebook shows the output: of this process, or of a command in one of its cells.

    ``!command`` runs on a pseudo-terminal, but what it writes ends up in the cell, which obeys no
    cursor movement. A terminal of JupyterLab is started by the server and has none of these marks.
    """
    if _is_kernel():
        return True
    return any(map(_is_of_kernel, (os.environ, *_environments_above())))


def kernel_display() -> Any | None:
    """``IPython.display``, if this process is the kernel of a notebook; else None.

    IPython is never imported: a kernel has done so.
    """
    return sys.modules.get("IPython.display") if _is_kernel() else None


def _is_kernel() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and not _is_terminal_shell(shell)


def _is_of_kernel(environment: Mapping[str, str]) -> bool:
    """Whether a process with these variables is a kernel of a notebook, or was started by one."""
    is_below_kernel = all(environment.get(name) == value for name, value in _KERNEL.items())
    return is_below_kernel or "JPY_PARENT_PID" in environment


def _environments_above() -> Iterator[Mapping[str, str]]:
    """The environments of the processes above this one, as far as the system shows them.

    ``!sudo`` and ``!env -i`` hand no variables on.
    """
    with suppress(psutil.Error, OSError, RuntimeError):
        for process in psutil.Process().parents():
            with suppress(psutil.Error, OSError, RuntimeError):
                yield process.environ()


def _is_terminal_shell(shell: Any) -> bool:
    """Whether this shell of IPython's is the one of ``ipython`` in a terminal."""
    kind = getattr(
        sys.modules.get("IPython.terminal.interactiveshell"), "TerminalInteractiveShell", None
    )
    return kind is not None and isinstance(shell, kind)


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal that can show the panel; a stand-in may lack every method."""
    try:
        "─█▁".encode(getattr(stream, "encoding", None) or "utf-8")
        return bool(stream.isatty())
    except (AttributeError, LookupError, ValueError):  # no such method, not UTF-8, or closed
        return False


def is_plain(stream: Any) -> bool:
    """Whether what is written to a stream is seen by nobody in this process.

    Loggers put an object of their own in its place (Comet, ClearML, Ultralytics' platform), or a
    function in the place of its ``write`` (W&B, ClearML).
    """
    return isinstance(stream, io.TextIOBase) and "write" not in getattr(stream, "__dict__", {})


def below(stream: Any) -> Any | None:
    """The terminal that a stream writes to, past everybody who records it; None if there is none.

    There is none where a descriptor has been redirected (W&B's ``console="redirect"``, Comet's
    native mode): what is read from there reaches the terminal later, on another thread.
    """
    descriptor = descriptor_of(stream)
    if is_plain(stream):
        return stream if descriptor is None or is_direct(descriptor) else None
    if descriptor is None:  # a stand-in that has only what Ultralytics needs
        descriptor = descriptor_of(sys.__stdout__)
    if descriptor is None or not is_direct(descriptor):
        return None
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return open(descriptor, "w", encoding=encoding, closefd=False)


def descriptor_of(stream: Any) -> int | None:
    """The number of the file that a stream writes to; None if there is none."""
    try:
        return int(stream.fileno())
    except (AttributeError, OSError, TypeError, ValueError):  # no such method, no file, or closed
        return None


def is_direct(descriptor: int) -> bool:
    """Whether this is the terminal itself: the only one among the standard descriptors."""
    terminals = {os.fstat(n).st_rdev for n in (0, 1, 2, descriptor) if os.isatty(n)}
    return os.isatty(descriptor) and len(terminals) == 1
