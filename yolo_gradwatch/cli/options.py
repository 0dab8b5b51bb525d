"""The options that commands share, and what is meant by them."""

from __future__ import annotations

import inspect
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path  # noqa: TC003  # Typer reads it in annotations
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from yolo_gradwatch.cli.output import refuse, tell
from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.diagnose.vocabulary import ALARMS, alarms
from yolo_gradwatch.loggers.catalog import AUTO, LOGGERS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    import pandas as pd

    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.runs.run import Run

_Command = TypeVar("_Command", bound="Callable[..., None]")

WORDS = f"Rules or kinds of rules, separated by commas: {', '.join(ALARMS)}."

FailOn = Annotated[
    str, typer.Option(metavar="WORDS", help=f"Exit with 1 on these findings. {WORDS}")
]
Pattern = Annotated[
    str, typer.Option(metavar="PATTERN", help="Only these modules, as in 'model.2.*' or '*.conv'.")
]
Csv = Annotated[bool, typer.Option("--csv", help="The modules as CSV on standard output.")]
Json = Annotated[bool, typer.Option("--json", help="Everything as JSON on standard output.")]


@dataclass(frozen=True)
class Watching:
    """The options of every command that trains."""

    interval: Annotated[int, typer.Option(help="Capture every Nth optimizer step.")] = 1
    live: Annotated[
        bool | None,
        typer.Option(
            "--live/--no-live", help="Draw the live panel. Default: on if the output is a terminal."
        ),
    ] = None
    thresholds: Annotated[
        Path | None,
        typer.Option(help="TOML file with rule limits, one NAME = VALUE per line."),
    ] = None
    stop_on: Annotated[
        str, typer.Option(metavar="WORDS", help=f"Stop the training on these findings. {WORDS}")
    ] = ""
    fail_on: FailOn = ""
    flow: Annotated[
        bool, typer.Option("--flow/--no-flow", help="Trace single batches through every module.")
    ] = True
    keep_healthy: Annotated[
        bool,
        typer.Option(
            "--keep-healthy",
            help="Keep a copy of last.pt as weights/last_healthy.pt while no critical finding is "
            "open.",
        ),
    ] = False
    loggers: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Experiment loggers to write to, in the run that Ultralytics opened: auto, none, "
            f"or some of {', '.join(LOGGERS)}, separated by commas.",
        ),
    ] = AUTO


def fields_of(record: type) -> list[inspect.Parameter]:
    """The fields of a record as options, with their annotations and defaults."""
    return [*inspect.signature(record, eval_str=True).parameters.values()]


def limits() -> list[inspect.Parameter]:
    """An option for each limit of the rules; None where it is not given."""
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                (int if field.type == "int" else float) | None,
                typer.Option(
                    help=f"Default {field.default:g}; see the docs.",
                    show_default=False,
                    rich_help_panel="Limits, overriding those of the training",
                ),
            ],
        )
        for field in fields(Thresholds)
    ]


def taking(options: Sequence[inspect.Parameter]) -> Callable[[_Command], _Command]:
    """Decorate a command that gets these options by name in its last parameter, ``**NAME``."""

    def decorate(command: _Command) -> _Command:
        own = inspect.signature(command, eval_str=True)
        *named, _ = own.parameters.values()
        by_name = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
        command.__signature__ = own.replace(parameters=[*named, *by_name])  # type: ignore[attr-defined]
        return command

    return decorate


def found(path: Path) -> Path:
    """The folder of a run; prints which one, where it had to be chosen."""
    from yolo_gradwatch.runs.find import find_run

    folder = find_run(path)
    if folder not in {path, path.parent}:
        tell(f"newest watched run in {path}: {folder}")
    return folder


def judged(folder: Path, choose: Callable[[Thresholds], Thresholds]) -> tuple[Run, Report]:
    """A run and its findings, under its own limits or those that ``choose`` makes of them."""
    from yolo_gradwatch.runs.run import load_run

    run = load_run(folder)
    limits = choose(run.thresholds)
    changed = [
        f"{name} {value:g} (in the training {getattr(run.thresholds, name):g})"
        for name, value in asdict(limits).items()
        if value != getattr(run.thresholds, name)
    ]
    if changed:
        tell(f"re-evaluated with {', '.join(changed)}")
    return run, run.report(limits)


def chosen_limits(
    file: Path | None, options: dict[str, float | None], own: Thresholds
) -> Thresholds:
    """The limits of the training, or those of a file, but for single ones that are given."""
    base = limits_of(file) if file else own
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    try:
        return replace(base, **given)
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        named = name in given
        option = (name if named else next(iter(given))).replace("_", "-")
        refuse(f"--{option} {rest}" if named else f"--{option}: {error}")


def epoch_span(epochs: str) -> tuple[int, int] | None:
    """First and last epoch, from ``3:8``, ``3:``, ``:8`` or ``5``."""
    if not epochs:
        return None
    first, colon, last = epochs.partition(":")
    try:
        span = int(first or 1), int(last or sys.maxsize) if colon else int(first)
    except ValueError:
        span = (0, 0)
    if not 1 <= span[0] <= span[1]:
        refuse(f"--epochs: {epochs!r} is not a range of epochs such as 3:8, 3:, :8 or 5")
    return span


def matching(table: pd.DataFrame, pattern: str) -> pd.DataFrame:
    """The rows of the modules that match, if there are any."""
    from yolo_gradwatch.views import summary

    found = summary.matching(table, pattern)
    if found.empty:
        refuse(f"--module: no module matches {pattern!r}; names look like model.4.cv1.conv")
    return found


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
