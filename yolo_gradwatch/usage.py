"""What the commands share: exit codes, one-line errors, words that name rules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from yolo_gradwatch.detect import ALARMS, RULES, alarms
from yolo_gradwatch.thresholds import Thresholds
from yolo_gradwatch.typed import printable

if TYPE_CHECKING:
    from collections.abc import Collection

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
    Console(stderr=True, soft_wrap=True, highlight=False).print(
        Text.assemble(("Error: ", "bold red"), line)
    )
    raise typer.Exit(UNUSABLE)


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
