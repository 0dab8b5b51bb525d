"""What the commands share: exit codes, one-line errors, words that name rules."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TextIO

import typer
from rich.text import Text

from yolo_gradwatch.catalog import RULES
from yolo_gradwatch.console import plain_console
from yolo_gradwatch.thresholds import Thresholds
from yolo_gradwatch.typed import printable
from yolo_gradwatch.vocabulary import ALARMS, alarms, is_named, matches

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from yolo_gradwatch.report import Report

FINE, FOUND, UNUSABLE, STOPPED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: no trouble; a finding or a failed training; bad input; --stop-on; Ctrl+C."""

EPILOG = (
    "Exit codes: 0 fine; 1 a finding under --fail-on, or a training that ended with an exception; "
    "2 unusable arguments or input; 3 stopped by --stop-on; 130 Ctrl+C."
)
WORDS = f"Rules or kinds of rules, separated by commas: {', '.join(ALARMS)}."

Limits = Annotated[
    Path | None,
    typer.Option(help="TOML file with limits of the rules, one NAME = VALUE a line."),
]
FailOn = Annotated[str, typer.Option(metavar="WORDS", help=f"Exit with 1 on these. {WORDS}")]


def refuse(message: object) -> NoReturn:
    """Print one line on what cannot be used, and leave."""
    line = str(message).strip().split("\n", maxsplit=1)[0] or type(message).__name__
    line = printable(Text.from_ansi(line).plain)  # Ultralytics 8.4.0 colours a part
    try:
        out = plain_console(on_stderr=True)
        out.print(Text.assemble(("Error: ", "bold red"), line), soft_wrap=True)
    except OSError:
        _let_go()
    raise typer.Exit(UNUSABLE)


def tell(line: str) -> None:
    """Print a line beside the output, on standard error."""
    with printing():
        typer.echo(printable(line), err=True)


@contextmanager
def printing() -> Iterator[None]:
    """Have what is printed inside written at once; behind ``| head -1``, nobody need read it.

    Raises:
        typer.Exit: It cannot be written, as on a full disk.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _let_go()
    except OSError as error:
        _let_go()
        refuse(f"cannot write the output: {error.strerror}")


def _let_go() -> None:
    """Point the streams that take nothing any more at nobody; else they fail again at the end."""
    for stream in (sys.stdout, sys.stderr):
        if not _takes(stream):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _takes(stream: TextIO) -> bool:
    try:
        stream.flush()
    except OSError:
        return False
    return True


def why_failed(report: Report, words: Collection[str]) -> str:
    """Why a run does not pass ``--fail-on``; "" if it does.

    A run of which no step was watched does not: nothing is known of it.

    Args:
        report: Of the run.
        words: Rules and kinds of rules; without one, every run passes.
    """
    if words and not report.steps:
        return "; ".join([report.verdict, *map(str.strip, report.facts())])
    failed = [finding for finding in report.alarms if matches(finding, words)]
    return ", ".join(f"{one.rule} in {one.module} at step {one.step}" for one in failed)


def tell_unjudged(report: Report, words: Collection[str]) -> None:
    """Say in one line which of the rules of ``--fail-on`` a run was too short for, if any."""
    rules = [rule for rule in report.unjudged if is_named(rule, words)]
    if rules and report.steps:
        tell(f"passed under --fail-on, but too short to judge {', '.join(rules)}: {report.path}")


def tell_failed(report: Report, why: str) -> None:
    """Say in one line that a run does not pass ``--fail-on``."""
    tell(f"failed under --fail-on: {report.path}: {why}")


def alarm_words(option: str, words: str) -> tuple[str, ...]:
    """Rules or kinds of rules that an option names; none of them is a notice."""
    try:
        return alarms(option, _split(words))
    except (TypeError, ValueError) as error:
        refuse(error)


def rule_words(option: str, words: str) -> tuple[str, ...]:
    """Rules, notices too, or kinds of rules that an option names."""
    known: Collection[str] = sorted({*RULES, *ALARMS})
    for word in _split(words):
        if word not in known:
            refuse(f"{option}: {word!r} is not one of {', '.join(known)}")
    return tuple(_split(words))


def limits_of(path: Path) -> Thresholds:
    """The limits in a TOML file."""
    try:
        return Thresholds.from_toml(path)
    except ValueError as error:
        refuse(error)


def _split(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]
