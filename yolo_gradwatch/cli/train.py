"""The commands that train: ``train``, as Ultralytics' own command line does, and ``demo``."""

from __future__ import annotations

import traceback
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from yolo_gradwatch.cli.options import Watching, alarm_words, fields_of, limits_of, taking
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
from yolo_gradwatch.runs.schema import FormatError
from yolo_gradwatch.watch.ultralytics import command, ddp

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from yolo_gradwatch.demo.faults import Fault
    from yolo_gradwatch.watch.gradwatch import GradWatch
    from yolo_gradwatch.watch.launched import Launched
    from yolo_gradwatch.watch.session import Session

_OURS = ("--interval", "--live", "--no-live", "--thresholds", "--stop-on", "--fail-on")


@taking(fields_of(Watching))
def train(ctx: typer.Context, **options: Any) -> None:
    """Train as [bold]yolo[/bold] does, watched.

    ARGS are those of [bold]yolo[/bold] and are handed to it as they are, as in:

    [bold]yolo-gradwatch train model=yolo26n.pt data=coco8.yaml epochs=10 imgsz=640[/bold]

    A task may stand in front: [bold]yolo-gradwatch segment train ...[/bold]. The dashed options
    below are those of the watch; any other dashed name is handed on if Ultralytics knows it.
    """
    from yolo_gradwatch.watch.gradwatch import begin  # it loads torch

    watch, fail_words = _watch(Watching(**options))
    arguments = _training_arguments(ctx.args)
    _leave(watch, fail_words, lambda: command.run_command(arguments, partial(begin, watch)))


@taking(fields_of(Watching))
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the data and the run.")] = Path(
        "gradwatch-demo"
    ),
    fault: Annotated[
        str, typer.Option(metavar="NAME", help="Plant a fault; --list names them.")
    ] = "healthy",
    list_: Annotated[bool, typer.Option("--list", help="List the faults and leave.")] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of six batches each.")] = 8,
    **options: Any,
) -> None:
    """Train YOLO26n on shapes that are drawn here: no download, no data of yours, a minute.

    With [bold]--fault NAME[/bold] something is wrong in it, to see what the watch says of it.
    """
    from yolo_gradwatch.demo.faults import FAULTS  # it loads torch

    if list_:
        _print_faults(FAULTS)
        return
    if fault not in FAULTS:
        refuse(f"--fault: there is no {fault!r}{_hint(fault, FAULTS, 'see --list')}")
    watch, fail_words = _watch(Watching(**options))
    _leave(watch, fail_words, lambda: train_on_shapes(out, watch, FAULTS[fault], epochs))


def train_on_shapes(folder: Path, watch: GradWatch, fault: Fault, epochs: int) -> None:
    """Train YOLO26n from scratch on drawn shapes, watched.

    Args:
        folder: For the data (``data``) and the run (``run``).
        watch: What watches.
        fault: Planted before the watch looks at the model.
        epochs: Of six batches each.
    """
    from yolo_gradwatch.demo.shapes import SIZE, draw_dataset

    options: dict[str, Any] = {
        "data": str(draw_dataset(folder / "data")),
        "epochs": epochs,
        "imgsz": SIZE,
        "batch": 8,
        "nbs": 8,  # every batch is an optimizer step
        "workers": 0,
        "amp": False,  # on a GPU, Ultralytics would download a model to check AMP
        "plots": False,  # pictures would download a font
        "project": str(folder.resolve()),
        "name": "run",
        "exist_ok": True,
        **fault.options,
    }

    def prepare(model: Any) -> None:
        fault.plant(model)
        watch.attach(model)

    command.train_model("yolo26n.yaml", prepare, options)


def _print_faults(faults: dict[str, Fault]) -> None:
    """One line a fault: its name, what is wrong, and the rule that finds it."""
    table = Table("fault", "what is wrong", "found by", box=None, pad_edge=False)
    for name, fault in faults.items():
        table.add_row(name, fault.title, fault.rule or "nothing: no alarm")
    Console().print(table)


def _hint(word: str, known: Collection[str], otherwise: str) -> str:
    """What may have been meant by a word that nobody knows."""
    near = get_close_matches(word, known)
    return f"; did you mean {near[0]}?" if near else f"; {otherwise}"


def _watch(options: Watching) -> tuple[GradWatch, tuple[str, ...]]:
    """The watch that was asked for, and the rules or kinds of rules of ``--fail-on``."""
    from yolo_gradwatch.watch.gradwatch import GradWatch  # it loads torch

    fail_words = alarm_words("--fail-on", options.fail_on)
    stop_words = alarm_words("--stop-on", options.stop_on)
    limits = limits_of(options.thresholds) if options.thresholds else Thresholds()
    try:
        watch = GradWatch(
            interval=options.interval, thresholds=limits, live=options.live, stop_on=stop_words
        )
    except ValueError as error:
        refuse(f"--{error}" if str(error).startswith("interval") else error)
    return watch, fail_words


def _training_arguments(arguments: list[str]) -> list[str]:
    """What is handed to Ultralytics, once every dashed name is known to it.

    It strips the dashes itself; a dashed name that neither side knows is a mistyped option.
    """
    known = command.argument_names()
    for argument in arguments:
        option = argument.partition("=")[0]
        name = option.lstrip("-")
        if argument.startswith("-") and name[:1].isalpha() and name not in known:
            options = [*_OURS, *(f"--{one}" for one in known)]
            hint = _hint(option, options, "see yolo-gradwatch train --help")
            refuse(f"{argument} is neither an option of yolo-gradwatch nor of Ultralytics{hint}")
    other = command.other_mode(arguments)
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
        if not _has_begun(watch) and command.is_bad_input(error):
            _refuse_input(error)
        traceback.print_exc()
        raise typer.Exit(FOUND) from error
    if any(session.stopped_by for session in _sessions(watch)):
        raise typer.Exit(STOPPED)
    failed = _failed(watch, fail_words) if fail_words else []
    for why in failed:
        tell(f"failed under --fail-on: {why}")
    if fail_words and not failed:
        for session in _sessions(watch):
            tell_unjudged(session.report(), fail_words)
    raise typer.Exit(FOUND if failed else FINE)


def _sessions(watch: GradWatch) -> Sequence[Session | Launched]:
    from yolo_gradwatch.watch.gradwatch import sessions_of  # it loads torch

    return sessions_of(watch)


def _has_begun(watch: GradWatch) -> bool:
    """Whether the newest training came to its first epoch, as far as it was watched."""
    return any(session.has_started or session.is_broken for session in _sessions(watch)[-1:])


def _refuse_input(error: Exception) -> NoReturn:
    """Say in one line why Ultralytics cannot use what it was given."""
    if isinstance(error, OSError) and error.filename:
        refuse(
            f"{error.filename}: {error.strerror}; choose another folder with --out (demo) or "
            "project=, or correct the path"
        )
    refuse(error)


def _failed(watch: GradWatch, words: tuple[str, ...]) -> list[str]:
    """Why trainings do not pass: a finding that is not wanted, or that nobody watched for it."""
    if not _sessions(watch):  # under torchrun, rank 0 answers for the others
        return ["no training was watched"] if ddp.reports() else []
    whys = {session.folder: _why_failed(session, words) for session in _sessions(watch)}
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
