"""Options shared by several commands, and their interpretation."""

from __future__ import annotations

import inspect
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path  # noqa: TC003  # Typer reads it in annotations
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from yolo_gradwatch.cli.output import refuse, tell
from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.thresholds import Thresholds, described
from yolo_gradwatch.diagnose.vocabulary import ALARMS, alarms, hint
from yolo_gradwatch.loggers.catalog import AUTO, LOGGERS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    import pandas as pd

    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.runs.run import Run

_Command = TypeVar("_Command", bound="Callable[..., None]")

FailOn = Annotated[
    str | None,
    typer.Option(
        metavar="WORDS",
        help="Exit with 1 on these findings, or without a verdict. Rules, kinds of rules (dead, "
        "exploding, nonfinite, vanishing) or severities (critical, warning), separated by commas: "
        f"{', '.join(ALARMS)}.",
    ),
]
Pattern = Annotated[
    str, typer.Option(metavar="PATTERN", help="Only these modules, as in 'model.2.*' or '*.conv'.")
]
Csv = Annotated[bool, typer.Option("--csv", help="The modules as CSV on standard output.")]
Json = Annotated[bool, typer.Option("--json", help="Everything as JSON on standard output.")]


_PANEL = "Limits (decade: factor of ten; window: 1+ steps; trunk: all but the head)"


@dataclass(frozen=True)
class Watching:
    """Options of every command that trains."""

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
        str | None,
        typer.Option(
            metavar="WORDS", help="Stop the training on these findings, named as for --fail-on."
        ),
    ] = None
    fail_on: FailOn = None
    flow: Annotated[
        bool, typer.Option("--flow/--no-flow", help="Trace single batches through every module.")
    ] = True
    keep_healthy: Annotated[
        bool,
        typer.Option(
            "--keep-healthy",
            help="Keep a copy of last.pt as weights/last_healthy.pt as long as no critical finding "
            "is unresolved.",
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


class Command(typer.core.TyperCommand):
    """Command whose help has no line breaks within a paragraph, and no type beside a flag."""

    def __init__(self, name: str | None, **options: Any) -> None:
        paragraphs = inspect.cleandoc(options.pop("help", None) or "").split("\n\n")
        joined = "\n\n".join(" ".join(one.split()) for one in paragraphs)
        super().__init__(name, help=joined, **options)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, with ``--help``."""
        return without_types(super().get_params(ctx))


def without_types(params: list[Any]) -> list[Any]:
    """Have the help show no type for flags, which take no value."""
    for one in params:
        if getattr(one, "is_flag", False):
            one.metavar = ""
    return params


def fields_of(record: type) -> list[inspect.Parameter]:
    """Return the fields of a record as options, with their annotations and defaults."""
    return [*inspect.signature(record, eval_str=True).parameters.values()]


def limits() -> list[inspect.Parameter]:
    """Return an option for each limit of the rules; None if it is not given."""
    meanings = {name: _first_sentence(words) for name, words in described().items()}
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                (int if field.type == "int" else float) | None,
                typer.Option(
                    help=f"{meanings.get(field.name, '')} Default {field.default:,g}.".lstrip(),
                    show_default=False,
                    rich_help_panel=_PANEL,
                ),
            ],
        )
        for field in fields(Thresholds)
    ]


def _first_sentence(words: str) -> str:
    return words.partition(". ")[0].removesuffix(".").replace("``", "") + "."


def taking(options: Sequence[inspect.Parameter]) -> Callable[[_Command], _Command]:
    """Return a decorator that adds options to a command, passed in its ``**`` parameter."""

    def decorate(command: _Command) -> _Command:
        own = inspect.signature(command, eval_str=True)
        *named, _ = own.parameters.values()
        by_name = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
        command.__signature__ = own.replace(parameters=[*named, *by_name])  # type: ignore[attr-defined]
        return command

    return decorate


def found(path: Path) -> Path:
    """Find the folder of a run; print which one if it had to be chosen."""
    from yolo_gradwatch.runs.find import find_run

    folder = find_run(path)
    if folder not in {path, path.parent}:
        tell(f"newest watched run in {path}: {folder}")
    return folder


def judged(folder: Path, choose: Callable[[Thresholds], Thresholds]) -> tuple[Run, Report]:
    """Load a run and judge it under the limits that ``choose`` derives from its own."""
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
    """Return the limits of a file or else of the training, overridden by single options."""
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
    """Parse first and last epoch from ``3:8``, ``3:``, ``:8`` or ``5``; None for all epochs."""
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
    """Select the rows of the modules that match a pattern; refuse a pattern without a match."""
    from yolo_gradwatch.views import summary

    found = summary.matching(table, pattern)
    if found.empty:
        refuse(f"--module: no module matches {pattern!r}; names look like model.4.cv1.conv")
    return found


def alarm_words(option: str, words: str | None) -> tuple[str, ...]:
    """Parse the rules or kinds of rules of an option; notices are refused, and so is no rule."""
    if words is None:
        return ()
    named = _split(words)
    if not named:  # such as an unset variable of a script
        refuse(f"{option}: no rule given")
    try:
        return alarms(option, named)
    except (TypeError, ValueError) as error:
        refuse(error)


def rule_words(option: str, words: str) -> tuple[str, ...]:
    """Parse the rules, including notices, or kinds of rules of an option."""
    known: Collection[str] = sorted({*RULES, *ALARMS})
    for word in _split(words):
        if word not in known:
            choice = f"choose from {', '.join(known)}"
            refuse(f"{option}: {word!r} is not the name of a rule{hint(word, known, choice)}")
    return tuple(_split(words))


def limits_of(path: Path) -> Thresholds:
    """Read the limits in a TOML file."""
    try:
        return Thresholds.from_toml(path)
    except ValueError as error:
        refuse(error)


def _split(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]
