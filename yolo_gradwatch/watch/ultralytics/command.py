"""Trainings that are started in this process: by Ultralytics' own command line, or of a model.

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
"""What Ultralytics calls to read files and arguments."""

_KNOWN = {"ultralytics", "yolo_gradwatch", *_LIBRARIES}

_READERS = {
    "ultralytics.cfg",
    "ultralytics.utils",
    "ultralytics.utils.checks",
    "ultralytics.utils.patches",
}
"""Modules of Ultralytics that do nothing but read arguments and files."""

_RAISE = dis.opmap["RAISE_VARARGS"]
"""The instruction of ``raise`` and ``assert``."""


class Starter:
    """A callback that every new model of this process gets.

    Ultralytics deep-copies its default callbacks for each model. A copy of this one still calls the
    same function, and never equals it: a list of data sets is then trained in this process, and not
    by ``yolo`` commands that know nothing of us.

    Args:
        begin: Called with each trainer.
    """

    def __init__(self, begin: Callable[[Any], None]) -> None:
        self._begin = begin

    def __call__(self, trainer: Any) -> None:
        """Take a trainer whose training is about to begin."""
        self._begin(trainer)

    def __deepcopy__(self, memo: dict[int, Any]) -> Starter:
        return Starter(self._begin)


def run_command(arguments: list[str], begin: Callable[[Any], None]) -> None:
    """Run Ultralytics' own command line in this process.

    Args:
        arguments: As after ``yolo``; Ultralytics parses them.
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
        """For a wrong argument, one line says more than 40 lines of help and that line."""
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
    """Whether an error before the first epoch is about arguments or files that cannot be used.

    That is what Ultralytics raises on purpose, what a library raises that reads an argument or a
    file for it, and what the system says of a path. All else is a bug, whoever's it is; so is
    what has gone through code of the user's.
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
    """The error and those that it was raised from, as a traceback shows them."""
    following: BaseException | None = error
    while following is not None:
        yield following
        hidden = following.__suppress_context__
        following = following.__cause__ or (None if hidden else following.__context__)


def _entries(error: BaseException) -> Iterator[TracebackType]:
    """The calls that an error has come through, the innermost last."""
    entry = error.__traceback__
    while entry is not None:
        yield entry
        entry = entry.tb_next


def _module(entry: TracebackType) -> str:
    return str(entry.tb_frame.f_globals.get("__name__"))


def _owner(entry: TracebackType) -> str:
    """The package whose code it is."""
    return _module(entry).partition(".")[0]


def argument_names() -> frozenset[str]:
    """Names that Ultralytics' command line knows."""
    from ultralytics.cfg import DEFAULT_CFG_DICT, MODES, TASKS  # heavy

    return frozenset((*DEFAULT_CFG_DICT, *MODES, *TASKS))


def named(arguments: list[str]) -> dict[str, str]:
    """The arguments of a command line by their names, as text; a name alone stands for True."""
    from ultralytics.cfg import merge_equals_args  # heavy

    parts = (one.lstrip("-").partition("=") for one in merge_equals_args(arguments))
    return {name: value if equals else "True" for name, equals, value in parts}


def other_mode(arguments: list[str]) -> str | None:
    """The mode that the arguments ask for, if it is not ``train``."""
    from ultralytics.cfg import MODES, merge_equals_args  # heavy

    merged = merge_equals_args(arguments)
    words = [argument.lstrip("-").removeprefix("mode=") for argument in merged]
    return next((word for word in words if word in MODES and word != "train"), None)
