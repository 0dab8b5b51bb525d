"""Command ``check``: a short trial before a long training."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from contextlib import closing, contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path  # noqa: TC003  # Typer reads it in annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yolo_gradwatch.cli.options import FailOn, Json, alarm_words, limits_of
from yolo_gradwatch.cli.output import (
    FOUND,
    leave,
    records,
    refuse,
    show,
    width,
    write_json,
)
from yolo_gradwatch.cli.watching import exit_codes, training_arguments
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.watch.ultralytics import command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from yolo_gradwatch.watch.check import Begin, Checked

_OURS = ("--steps", "--thresholds", "--fail-on", "--json")


def check(
    ctx: typer.Context,
    steps: Annotated[
        int,
        typer.Option(
            min=1, help="Optimizer steps to take, each over as many batches as in training."
        ),
    ] = 30,
    thresholds: Annotated[
        Path | None,
        typer.Option(help="TOML file with rule limits, one NAME = VALUE per line."),
    ] = None,
    fail_on: FailOn = None,
    json: Json = False,
) -> None:
    """Try a training run before you start it: run a few optimizer steps and leave no files behind.

    ARGS are the same as for [bold]train[/bold]: same model, data, image size, batch, AMP, optimizer
    and schedule, but in a temporary folder, without validation, plots, checkpoints or loggers:

    [bold]yolo-gradwatch check model=yolo26n.pt data=coco8.yaml epochs=100 imgsz=640[/bold]
    """
    words = alarm_words("--fail-on", fail_on)
    limits = limits_of(thresholds) if thresholds else Thresholds()
    with _beside_json() if json else nullcontext():  # Ultralytics may print when it is imported
        checked = _looked(training_arguments(ctx.args, "check", _OURS), steps, limits)
    if checked is None:  # Ultralytics has shown its help
        raise typer.Exit
    if json:
        write_json(_as_json(checked))
    else:
        _show(checked)
    if checked.error:
        traceback.print_exception(checked.error)
        raise typer.Exit(FOUND)
    leave(checked.report, words)


def _looked(arguments: list[str], steps: int, limits: Thresholds) -> Checked | None:
    """Run the short training and return its result; None if there was no training."""
    from yolo_gradwatch.views.terminal.progress import Progress
    from yolo_gradwatch.watch import check as checking

    def train(begin: Begin, settled: Mapping[str, object]) -> None:
        own = [f"{name}={value}" for name, value in settled.items()]
        given = [one for one in arguments if not one.lstrip("-").startswith("save_dir=")]
        command.run_command([*given, *own], begin)

    with exit_codes(arguments), closing(Progress()) as progress:
        try:
            checking.check_arguments(command.named(arguments))
            with _tidy():
                return checking.check(train, steps, limits, progress)
        except checking.Unfit as error:
            refuse(error)


def _show(checked: Checked) -> None:
    from yolo_gradwatch.views.terminal.check import screen

    show(screen(checked.report, checked.run, checked.cost, width()))


def _as_json(checked: Checked) -> dict[str, Any]:
    from yolo_gradwatch.views.checked import as_record
    from yolo_gradwatch.views.summary import summary

    run, report = checked.run, checked.report
    record = {**report.to_dict(), **as_record(run, checked.cost)}
    if run:
        meta = asdict(run.meta)
        record["modules"] = records(summary(run.grid, run.layout, report.findings))
        record["meta"] = {name: meta[name] for name in ("versions", "options", "events")}
    return record


@contextmanager
def _tidy() -> Iterator[None]:
    """Turn signals that would kill the process into `SystemExit`, so that clean-up code runs."""

    def leave_at(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    known = [getattr(signal, "SIGHUP", None), signal.SIGTERM]  # Windows has no SIGHUP
    is_ours = threading.current_thread() is threading.main_thread()
    # nohup ignores SIGHUP, which must stay so.
    heard = [one for one in known if one and signal.getsignal(one) is not signal.SIG_IGN]
    before = {one: signal.signal(one, leave_at) for one in heard if is_ours}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextmanager
def _beside_json() -> Iterator[None]:
    """Redirect Ultralytics' standard output to standard error."""
    from yolo_gradwatch.watch.ultralytics.training import log_handlers

    streams = [(h, h.stream) for h in log_handlers() if h.stream is sys.stdout]
    for handler, _ in streams:
        handler.setStream(sys.stderr)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        for handler, stream in streams:
            handler.setStream(stream)
