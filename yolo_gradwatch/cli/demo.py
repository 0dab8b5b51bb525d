"""Command ``demo``: a training on generated shapes, optionally with an injected fault."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from yolo_gradwatch.cli.options import Watching, fields_of, taking
from yolo_gradwatch.cli.output import refuse
from yolo_gradwatch.cli.watching import leave_after, watch_of
from yolo_gradwatch.diagnose.vocabulary import hint
from yolo_gradwatch.watch.ultralytics import command

if TYPE_CHECKING:
    from yolo_gradwatch.demo.faults import Fault
    from yolo_gradwatch.watch.gradwatch import GradWatch


@taking(fields_of(Watching))
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the data and the run.")] = Path(
        "gradwatch-demo"
    ),
    fault: Annotated[
        str, typer.Option(metavar="NAME", help="Inject a fault; --list shows them.")
    ] = "healthy",
    list_: Annotated[bool, typer.Option("--list", help="List the faults and exit.")] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of six batches each.")] = 8,
    **options: Any,
) -> None:
    """Train YOLO26n on generated shapes for about a minute. Needs no download and no data.

    Use [bold]--fault NAME[/bold] to inject a fault and see how it is reported.
    """
    from yolo_gradwatch.demo.faults import FAULTS  # it loads torch

    if list_:
        _print_faults(FAULTS)
        return
    if fault not in FAULTS:
        refuse(f"--fault: there is no {fault!r}{hint(fault, FAULTS, 'see --list')}")
    watch, fail_words = watch_of(Watching(**options))
    leave_after(watch, fail_words, lambda: train_on_shapes(out, watch, FAULTS[fault], epochs))


def train_on_shapes(folder: Path, watch: GradWatch, fault: Fault, epochs: int) -> None:
    """Train YOLO26n from scratch on generated shapes, with a watch.

    Args:
        folder: Parent folder of the data (``data``) and the runs (``run``, then ``run-2``, ...).
        watch: The watch.
        fault: Fault to inject before the watch is attached to the model.
        epochs: Number of epochs, of six batches each.
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
        **fault.options,
    }

    def prepare(model: Any) -> None:
        fault.inject(model)
        watch.attach(model)

    command.train_model("yolo26n.yaml", prepare, options)


def _print_faults(faults: dict[str, Fault]) -> None:
    """Print a line per fault: its name, what is wrong, and the rule that detects it."""
    table = Table("fault", "what is wrong", "found by", box=None, pad_edge=False)
    for name, fault in faults.items():
        table.add_row(name, fault.title, fault.rule or "nothing: no alarm")
    Console().print(table)
