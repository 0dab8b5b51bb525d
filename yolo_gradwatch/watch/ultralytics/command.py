"""Starts trainings in this process: through Ultralytics' command line, or from a model.

Read in ultralytics 8.4.0 to 8.4.190.
"""

from __future__ import annotations

import dis
import sys
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.watch.ultralytics import ddp

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator
    from types import TracebackType

_LIBRARIES = {*sys.stdlib_module_names, "PIL", "requests", "torch", "urllib3", "yaml"}
"""Modules through which Ultralytics reads files and arguments."""

_KNOWN = {"ultralytics", "yolo_gradwatch", *_LIBRARIES}

_READERS = {
    "ultralytics.cfg",
    "ultralytics.utils",
    "ultralytics.utils.checks",
    "ultralytics.utils.patches",
}
"""Ultralytics modules that only read arguments and files."""

_RAISE = dis.opmap["RAISE_VARARGS"]
"""The bytecode instruction of ``raise`` and ``assert``."""


class Starter:
    """A callback that every new model of this process gets.

    Ultralytics deep-copies its default callbacks for each model. A copy of this one calls the same
    function but never compares equal, so Ultralytics trains a list of data sets in this process
    instead of with ``yolo`` commands, which we could not watch.

    Args:
        begin: Called with each trainer.
    """

    def __init__(self, begin: Callable[[Any], None]) -> None:
        self._begin = begin

    def __call__(self, trainer: Any) -> None:
        """Pass on a trainer whose training is about to begin."""
        self._begin(trainer)

    def __deepcopy__(self, memo: dict[int, Any]) -> Starter:
        return Starter(self._begin)


def run_command(arguments: list[str], begin: Callable[[Any], None]) -> None:
    """Run Ultralytics' own command line in this process.

    Args:
        arguments: Command-line arguments after ``yolo``; Ultralytics parses them.
        begin: Called with the trainer of each training, in this process or launched in others.
    """
    from ultralytics import cfg  # heavy; only a training pays for it
    from ultralytics.utils import LOGGER
    from ultralytics.utils.callbacks.base import default_callbacks

    starters = default_callbacks["on_pretrain_routine_start"]
    starters.append(starter := Starter(begin))
    forget_launches = ddp.before_launch(begin)
    argv = cfg.ARGV[:]
    cfg.ARGV[:] = ["yolo", *arguments]

    def is_no_help(record: logging.LogRecord) -> bool:
        """Hide the 40 lines of help that follow a one-line error about a wrong argument."""
        return record.msg != cfg.CLI_HELP_MSG or "help" in arguments

    LOGGER.addFilter(is_no_help)
    try:
        cfg.entrypoint()
    finally:
        LOGGER.removeFilter(is_no_help)
        forget_launches()
        cfg.ARGV[:] = argv
        starters.remove(starter)


def train_model(name: str, attach: Callable[[Any], object], options: dict[str, Any]) -> None:
    """Build a model from its file, attach to it, and train it.

    Args:
        name: A ``.yaml`` or ``.pt`` file that Ultralytics finds.
        attach: Called with the model.
        options: Arguments of ``train``.
    """
    from ultralytics import YOLO  # heavy; only a training pays for it

    model = YOLO(name)
    attach(model)
    model.train(**options)


def is_bad_input(error: Exception) -> bool:
    """Return whether an error before the first epoch is about unusable arguments or files.

    Those are errors that Ultralytics raises on purpose, that a library raises while it reads an
    argument or a file for Ultralytics, or that the system raises about a path. Any other error
    is a bug in some package, and so is one that passed through user code.
    """
    if not all(_owner(entry) in _KNOWN for one in _chain(error) for entry in _entries(one)):
        return False
    if isinstance(error, OSError):
        return True
    *_, innermost = _entries(error)
    if _owner(innermost) == "ultralytics":
        return innermost.tb_frame.f_code.co_code[innermost.tb_lasti] == _RAISE
    callers = [_module(one) for one in _entries(error) if _owner(one) not in _LIBRARIES]
    return callers[-1] in _READERS


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes, as a traceback shows them."""
    following: BaseException | None = error
    while following is not None:
        yield following
        hidden = following.__suppress_context__
        following = following.__cause__ or (None if hidden else following.__context__)


def _entries(error: BaseException) -> Iterator[TracebackType]:
    """Yield the frames that an error passed through, the innermost last."""
    entry = error.__traceback__
    while entry is not None:
        yield entry
        entry = entry.tb_next


def _module(entry: TracebackType) -> str:
    return str(entry.tb_frame.f_globals.get("__name__"))


def _owner(entry: TracebackType) -> str:
    """Return the top-level package of a frame's code."""
    return _module(entry).partition(".")[0]


def argument_names() -> frozenset[str]:
    """Return the names that Ultralytics' command line knows."""
    from ultralytics.cfg import DEFAULT_CFG_DICT, MODES, TASKS  # heavy

    return frozenset((*DEFAULT_CFG_DICT, *MODES, *TASKS))


def named(arguments: list[str]) -> dict[str, str]:
    """Return command-line arguments by name, as text; a bare name means True."""
    from ultralytics.cfg import merge_equals_args  # heavy

    parts = (one.lstrip("-").partition("=") for one in merge_equals_args(arguments))
    return {name: value if equals else "True" for name, equals, value in parts}


def other_mode(arguments: list[str]) -> str | None:
    """Return the requested mode, or None if it is ``train``."""
    from ultralytics.cfg import MODES, merge_equals_args  # heavy

    merged = merge_equals_args(arguments)
    words = [argument.lstrip("-").removeprefix("mode=") for argument in merged]
    return next((word for word in words if word in MODES and word != "train"), None)
