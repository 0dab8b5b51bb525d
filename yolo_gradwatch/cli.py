"""The command ``yolo-gradwatch``: arguments, one-line errors, exit codes."""

from __future__ import annotations

import io
import os
import sys
import traceback
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

import yolo_gradwatch
from yolo_gradwatch import processes, yolo_command
from yolo_gradwatch.cli_compare import compare
from yolo_gradwatch.cli_review import review
from yolo_gradwatch.runlog import FormatError
from yolo_gradwatch.thresholds import Thresholds
from yolo_gradwatch.usage import (
    EPILOG,
    FINE,
    FOUND,
    INTERRUPTED,
    STOPPED,
    UNUSABLE,
    WORDS,
    FailOn,
    Limits,
    alarm_words,
    limits_of,
    refuse,
    tell,
    tell_unjudged,
    why_failed,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from yolo_gradwatch.faults import Fault
    from yolo_gradwatch.launched import Launched
    from yolo_gradwatch.session import Session
    from yolo_gradwatch.watch import GradWatch

_OURS = ("--interval", "--live", "--no-live", "--thresholds", "--stop-on", "--fail-on")


class _Group(typer.core.TyperGroup):
    """Hands what is no command of ours to ``train``, as in ``yolo-gradwatch segment train ...``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is named, or take all arguments as those of a training."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["train", *args])


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"ignore_unknown_options": True},
    epilog=EPILOG,
)

Interval = Annotated[int, typer.Option(help="Optimizer steps from one captured step to the next.")]
Live = Annotated[
    bool | None,
    typer.Option("--live/--no-live", help="Draw the live panel. Default: on a terminal."),
]
StopOn = Annotated[str, typer.Option(metavar="WORDS", help=f"Stop the training on these. {WORDS}")]


def _version(wanted: bool | None) -> None:  # noqa: FBT001  # Typer's way
    if wanted:
        typer.echo(f"yolo-gradwatch {yolo_gradwatch.__version__}")
        raise typer.Exit


@app.callback()
def _group(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = None,
) -> None:
    """Watch the gradients of an Ultralytics YOLO training and name the unhealthy layer."""


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    options_metavar="[OPTIONS] ARGS...",
    epilog=EPILOG,
)
def train(  # noqa: PLR0913, PLR0917  # each is an option of the command
    ctx: typer.Context,
    interval: Interval = 1,
    live: Live = None,
    thresholds: Limits = None,
    stop_on: StopOn = "",
    fail_on: FailOn = "",
) -> None:
    """Train as [bold]yolo[/bold] does, watched.

    ARGS are those of [bold]yolo[/bold] and are handed to it as they are, as in:

    [bold]yolo-gradwatch train model=yolo26n.pt data=coco8.yaml epochs=10 imgsz=640[/bold]

    A task may stand in front: [bold]yolo-gradwatch segment train ...[/bold]. The dashed options
    below are those of the watch; any other dashed name is handed on if Ultralytics knows it.
    """
    fail_words = alarm_words("--fail-on", fail_on)
    watch = _watch(interval, thresholds, stop_on, live=live)
    arguments = _training_arguments(ctx.args)
    _leave(watch, fail_words, lambda: yolo_command.run_command(arguments, watch.begin))


@app.command(epilog=EPILOG)
def demo(  # noqa: PLR0913, PLR0917  # each is an option of the command
    out: Annotated[Path, typer.Option(help="Folder for the data and the run.")] = Path(
        "gradwatch-demo"
    ),
    fault: Annotated[
        str, typer.Option(metavar="NAME", help="Plant a fault; --list names them.")
    ] = "healthy",
    list_: Annotated[bool, typer.Option("--list", help="List the faults and leave.")] = False,  # noqa: FBT002
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of six batches each.")] = 8,
    interval: Interval = 1,
    live: Live = None,
    thresholds: Limits = None,
    stop_on: StopOn = "",
    fail_on: FailOn = "",
) -> None:
    """Train YOLO26n on shapes that are drawn here: no download, no data of yours, a minute.

    With [bold]--fault NAME[/bold] something is wrong in it, to see what the watch says of it.
    """
    from yolo_gradwatch import demo as demos  # noqa: PLC0415  # it loads torch and Pillow
    from yolo_gradwatch.faults import FAULTS  # noqa: PLC0415

    if list_:
        _print_faults(FAULTS)
        return
    if fault not in FAULTS:
        near = get_close_matches(fault, FAULTS)
        hint = f"; did you mean {near[0]}?" if near else "; see --list"
        refuse(f"--fault: there is no {fault!r}{hint}")
    fail_words = alarm_words("--fail-on", fail_on)
    watch = _watch(interval, thresholds, stop_on, live=live)
    _leave(watch, fail_words, lambda: demos.run(out, watch, epochs=epochs, fault=fault))


app.command(epilog=EPILOG)(review)
app.command(epilog=EPILOG)(compare)


def _print_faults(faults: dict[str, Fault]) -> None:
    """One line a fault: its name, what is wrong, and the rule that finds it."""
    table = Table("fault", "what is wrong", "found by", box=None, pad_edge=False)
    for name, fault in faults.items():
        table.add_row(name, fault.title, fault.rule or "nothing: no alarm")
    Console().print(table)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: Arguments without the program's name; those of the process by default.
    """
    try:
        app(args=argv, prog_name="yolo-gradwatch")
    except SystemExit as end:
        is_read = not isinstance(end.__context__, BrokenPipeError)  # of a help text: 1 from Typer
        return end.code if isinstance(end.code, int) and is_read else FINE
    except OSError as error:
        return _unusable(error)
    return FINE


def _unusable(error: OSError) -> int:
    """Say which file cannot be read or that the output cannot be written; the exit code of it."""
    what = f"cannot read {error.filename}" if error.filename else "cannot write the output"
    with suppress(typer.Exit):
        refuse(f"{what}: {error.strerror}")
    return UNUSABLE


def script() -> None:
    """Entry point of the console script."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by >&-, or in a process without a console
            nobody = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # till the end
            setattr(sys, name, nobody)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a log may lack our characters
    code = main()
    try:
        sys.stdout.flush()
    except OSError as error:  # Python would write once more at its end, and tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        is_told = code == UNUSABLE or isinstance(error, BrokenPipeError)  # who wanted no more
        code = code if is_told else _unusable(error)
    sys.exit(code)


def _refuse_input(error: Exception) -> NoReturn:
    """Say in one line why Ultralytics cannot use what it was given."""
    if isinstance(error, OSError) and error.filename:
        refuse(
            f"{error.filename}: {error.strerror}; choose another folder with --out (demo) or "
            "project=, or correct the path"
        )
    refuse(error)


def _watch(interval: int, thresholds: Path | None, stop_on: str, *, live: bool | None) -> GradWatch:
    from yolo_gradwatch.watch import GradWatch  # noqa: PLC0415  # it loads torch

    words = alarm_words("--stop-on", stop_on)
    limits = limits_of(thresholds) if thresholds else Thresholds()
    try:
        return GradWatch(interval=interval, thresholds=limits, live=live, stop_on=words)
    except ValueError as error:
        refuse(f"--{error}" if str(error).startswith("interval") else error)


def _training_arguments(arguments: list[str]) -> list[str]:
    """What is handed to Ultralytics, once every dashed name is known to it.

    It strips the dashes itself; a dashed name that neither side knows is a mistyped option.
    """
    known = yolo_command.argument_names()
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if argument.startswith("-") and name[:1].isalpha() and name not in known:
            near = get_close_matches(
                argument.partition("=")[0], [*_OURS, *(f"--{k}" for k in known)]
            )
            hint = f"; did you mean {near[0]}?" if near else "; see yolo-gradwatch train --help"
            refuse(f"{argument} is neither an option of yolo-gradwatch nor of Ultralytics{hint}")
    other = yolo_command.other_mode(arguments)
    if other:
        refuse(f"{other}: only trainings are watched; for this, run: yolo {' '.join(arguments)}")
    return ["train", *arguments]


def _leave(watch: GradWatch, fail_words: tuple[str, ...], run: Callable[[], None]) -> NoReturn:
    """Run a training, or several in series, and leave with the exit code of the outcome."""
    try:
        run()
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if not _has_begun(watch) and yolo_command.is_bad_input(error):
            _refuse_input(error)
        traceback.print_exc()
        raise typer.Exit(FOUND) from error
    if any(session.stopped_by for session in watch.sessions):
        raise typer.Exit(STOPPED)
    failed = _failed(watch, fail_words) if fail_words else []
    for why in failed:
        tell(f"failed under --fail-on: {why}")
    if fail_words and not failed:
        for session in watch.sessions:
            tell_unjudged(session.report(), fail_words)
    raise typer.Exit(FOUND if failed else FINE)


def _has_begun(watch: GradWatch) -> bool:
    """Whether the newest training came to its first epoch, as far as it was watched."""
    return any(session.has_started or session.is_broken for session in watch.sessions[-1:])


def _failed(watch: GradWatch, words: tuple[str, ...]) -> list[str]:
    """Why trainings do not pass: a finding that is not wanted, or that nobody watched for it."""
    if not watch.sessions:  # under torchrun, rank 0 answers for the others
        return ["no training was watched"] if processes.reports() else []
    whys = {session.folder: _why_failed(session, words) for session in watch.sessions}
    return [f"{folder}: {why}" for folder, why in whys.items() if why]


def _why_failed(session: Session | Launched, words: tuple[str, ...]) -> str:
    try:
        report = session.report()
    except (RuntimeError, FormatError) as error:  # there is nothing to report: why
        return str(error)
    reasons = [why_failed(report, words)]
    if session.is_broken and report.steps:
        reasons += report.remarks or [f"not watched to its end: the run is {report.status}"]
    return "; ".join(filter(None, reasons))
