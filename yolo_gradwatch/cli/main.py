"""Entry point ``yolo-gradwatch``: its commands, its version, and the exit codes."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer

import yolo_gradwatch
from yolo_gradwatch.cli.check import check
from yolo_gradwatch.cli.compare import Drawing, compare
from yolo_gradwatch.cli.demo import demo
from yolo_gradwatch.cli.options import Command, without_types
from yolo_gradwatch.cli.output import EPILOG, EPILOG_WITHOUT_STOP, FINE, UNUSABLE, refuse
from yolo_gradwatch.cli.review import review
from yolo_gradwatch.cli.runs import runs
from yolo_gradwatch.cli.train import train
from yolo_gradwatch.runs.schema import FormatError
from yolo_gradwatch.watch.ultralytics.command import argument_names

if TYPE_CHECKING:
    from collections.abc import Collection


class _Group(typer.core.TyperGroup):
    """Passes unknown commands to ``train``, as in ``yolo-gradwatch segment train ...``.

    ``check`` too may come after a task.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the named command, or treat all arguments as those of a training."""
        if args[0] not in self.commands:
            _refuse_mistyped(args[0], self.commands)
            name = "check" if "check" in args else "train"  # a task may come first
            args = [name, *(word for word in args if word != name or name == "train")]
        return super().resolve_command(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, with ``--help``."""
        return without_types(super().get_params(ctx))


def _refuse_mistyped(word: str, commands: Collection[str]) -> None:
    """Refuse a word that looks like a misspelt command and is not known to Ultralytics."""
    near = get_close_matches(word, commands, n=1)
    if near and word.isalpha() and word not in argument_names():
        refuse(f"there is no command {word}; did you mean {near[0]}?")


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"ignore_unknown_options": True},
    epilog=EPILOG,
)


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
    """Watch the gradients of an Ultralytics YOLO training run and name the unhealthy layer."""


for command, epilog in ((train, EPILOG), (check, EPILOG_WITHOUT_STOP)):
    app.command(
        cls=Command,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        options_metavar="[OPTIONS] ARGS...",
        epilog=epilog,
    )(command)
app.command(epilog=EPILOG, cls=Command)(demo)
app.command(epilog=EPILOG_WITHOUT_STOP, cls=Command)(review)
app.command(epilog=EPILOG_WITHOUT_STOP, cls=Command)(runs)
app.command(epilog=EPILOG_WITHOUT_STOP, cls=Drawing)(compare)


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
    except FormatError as error:
        return _unusable(error)
    except OSError as error:
        return _unusable(_sentence(error))
    return FINE


def _sentence(error: OSError) -> str:
    """Say which file cannot be read, or that the output cannot be written."""
    what = f"cannot read {error.filename}" if error.filename else "cannot write the output"
    return f"{what}: {error.strerror}"


def _unusable(reason: object) -> int:
    """Print the reason in one line, and return the exit code for unusable input."""
    with suppress(typer.Exit):
        refuse(reason)
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
    except OSError as error:  # Python would flush again at exit, and print a traceback
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # Say nothing if an error was already printed, or if the reader closed the pipe.
        is_known = code == UNUSABLE or isinstance(error, BrokenPipeError)
        code = code if is_known else _unusable(_sentence(error))
    sys.exit(code)
