"""Command ``train``: Ultralytics' own training command, with a watch."""

from __future__ import annotations

from functools import partial
from typing import Any

import typer  # noqa: TC002  # Typer reads it in annotations

from yolo_gradwatch.cli.options import Watching, fields_of, taking
from yolo_gradwatch.cli.watching import leave_after, training_arguments, watch_of
from yolo_gradwatch.watch.ultralytics import command

_OURS = (
    *("--interval", "--live", "--no-live", "--thresholds", "--stop-on", "--fail-on"),
    *("--flow", "--no-flow", "--keep-healthy", "--loggers"),
)


@taking(fields_of(Watching))
def train(ctx: typer.Context, **options: Any) -> None:
    """Train like [bold]yolo[/bold] and watch the gradients.

    ARGS are the arguments of [bold]yolo[/bold] and are passed to it unchanged, for example:

    [bold]yolo-gradwatch train model=yolo26n.pt data=coco8.yaml epochs=100 imgsz=640[/bold]

    A task may come first: [bold]yolo-gradwatch segment train ...[/bold]. The options below
    control GradWatch; any other dashed name is passed to Ultralytics if it is a known argument.
    """
    from yolo_gradwatch.watch.gradwatch import begin  # it loads torch

    watch, fail_words = watch_of(Watching(**options))
    arguments = training_arguments(ctx.args, "train", _OURS)
    run = partial(command.run_command, arguments, partial(begin, watch))
    leave_after(watch, fail_words, run, arguments)
