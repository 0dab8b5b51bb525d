"""Common parts of the commands that train: the watch, and the exit code."""

from __future__ import annotations

import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer

from yolo_gradwatch.cli.options import Watching, alarm_words, limits_of
from yolo_gradwatch.cli.output import (
    FINE,
    FOUND,
    INTERRUPTED,
    STOPPED,
    refuse,
    tell,
    tell_unjudged,
    why_failed,
)
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.diagnose.vocabulary import hint
from yolo_gradwatch.loggers.catalog import AUTO
from yolo_gradwatch.runs.schema import FormatError
from yolo_gradwatch.watch.ultralytics import command, ddp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from yolo_gradwatch.watch.gradwatch import GradWatch
    from yolo_gradwatch.watch.launched import Launched
    from yolo_gradwatch.watch.session import Session


def watch_of(options: Watching) -> tuple[GradWatch, tuple[str, ...]]:
    """Create the watch, and return it with the rules or kinds of rules of ``--fail-on``."""
    from yolo_gradwatch.watch.gradwatch import GradWatch  # it loads torch

    fail_words = alarm_words("--fail-on", options.fail_on)
    stop_words = alarm_words("--stop-on", options.stop_on)
    limits = limits_of(options.thresholds) if options.thresholds else Thresholds()
    try:
        watch = GradWatch(
            interval=options.interval,
            thresholds=limits,
            live=options.live,
            stop_on=stop_words,
            flow=options.flow,
            keep_healthy=options.keep_healthy,
            loggers=_logger_names(options.loggers),
        )
    except ValueError as error:
        refuse(f"--{error}" if str(error).startswith(("interval", "loggers")) else error)
    return watch, fail_words


def _logger_names(text: str) -> str | list[str]:
    """Convert the value of ``--loggers`` to that of `GradWatch`."""
    words = [word.strip() for word in text.split(",")]
    return AUTO if words == [AUTO] else [] if words == ["none"] else words


@contextmanager
def exit_codes(
    arguments: Sequence[str], may_be_input: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Convert errors of a training to exit codes.

    Args:
        arguments: Arguments for Ultralytics.
        may_be_input: Returns whether an error may be about the arguments, because the training has
            not begun.
    """
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if may_be_input() and command.is_bad_input(error):
            _refuse_input(error, arguments)
        traceback.print_exc()
        raise typer.Exit(FOUND) from error


def leave_after(
    watch: GradWatch,
    fail_words: tuple[str, ...],
    run: Callable[[], None],
    arguments: Sequence[str] = (),
) -> NoReturn:
    """Run one or more trainings, and exit with the code of the outcome.

    Args:
        watch: Watches them.
        fail_words: Rules or kinds of rules of ``--fail-on``.
        run: Runs them.
        arguments: Their arguments for Ultralytics, as given.
    """
    with exit_codes(arguments, lambda: not _has_begun(watch)):
        run()
    failed = _failed(watch, fail_words) if fail_words else []
    for why in failed:
        tell(f"--fail-on failed: {why}")
    if fail_words and not failed:
        for session in _sessions(watch):
            tell_unjudged(session.report(), fail_words)
    if any(session.stopped_by for session in _sessions(watch)):
        raise typer.Exit(STOPPED)
    raise typer.Exit(FOUND if failed else FINE)


def _sessions(watch: GradWatch) -> Sequence[Session | Launched]:
    from yolo_gradwatch.watch.gradwatch import sessions_of  # it loads torch

    return sessions_of(watch)


def _has_begun(watch: GradWatch) -> bool:
    """Return whether the newest watched training reached its first epoch, or its watch broke."""
    return any(session.has_started or session.is_broken for session in _sessions(watch)[-1:])


def _refuse_input(error: Exception, arguments: Sequence[str]) -> NoReturn:
    """Refuse input that Ultralytics cannot use, with its reason in one line."""
    if isinstance(error, FileNotFoundError):
        for name, value in command.named([*arguments]).items():
            if value == str(error.filename):
                refuse(f"{name}: {value} does not exist")
    if isinstance(error, OSError) and error.filename:
        refuse(
            f"{error.filename}: {error.strerror}; choose another folder with --out (demo) or "
            "project=, or correct the path"
        )
    refuse(error)


def training_arguments(arguments: list[str], command_name: str, ours: Sequence[str]) -> list[str]:
    """Return the arguments for Ultralytics, or refuse them.

    Ultralytics strips leading dashes itself; a dashed name that neither side knows is a mistyped
    option.

    Args:
        arguments: Arguments that are not options of this command.
        command_name: Name of this command.
        ours: Options of this command.
    """
    known = command.argument_names()
    for argument in arguments:
        option = argument.partition("=")[0]
        name = option.lstrip("-")
        if argument.startswith("-") and name[:1].isalpha() and name not in known:
            options = [*ours, *(f"--{one}" for one in known)]
            near = hint(option, options, f"see yolo-gradwatch {command_name} --help")
            refuse(f"{argument} is neither an option of yolo-gradwatch nor of Ultralytics{near}")
    other = command.other_mode(arguments)
    if other:
        refuse(
            f"{other}: only training runs are watched; for this, run: yolo {' '.join(arguments)}"
        )
    return ["train", *arguments]


def _failed(watch: GradWatch, words: tuple[str, ...]) -> list[str]:
    """Explain why trainings fail ``--fail-on``: unwanted findings, or no watched training."""
    if not _sessions(watch):  # under torchrun, rank 0 answers for the others
        return ["no training run was watched"] if ddp.reports() else []
    whys = {session.folder: _why_failed(session, words) for session in _sessions(watch)}
    return [f"{folder}: {why}" for folder, why in whys.items() if why]


def _why_failed(session: Session | Launched, words: tuple[str, ...]) -> str:
    try:
        report = session.report()
    except (RuntimeError, FormatError) as error:  # says why there is nothing to report
        return str(error)
    reasons = [why_failed(report, words)]
    if session.is_broken and report.steps:
        reasons += report.remarks or [f"not watched to the end: the run is {report.status}"]
    return "; ".join(filter(None, reasons))
