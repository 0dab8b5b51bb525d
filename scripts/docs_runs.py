"""Run watched trainings for the documentation and store their pictures and numbers."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from trainings import HOME, ONE_EPOCH, YOLO, Repeating, draw_classes, draw_dataset

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.views.png.look import light

if TYPE_CHECKING:
    from docs_faults import Example
    from matplotlib.figure import Figure

    from yolo_gradwatch import Run

mpl.use("agg")

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
WIDTH = 1100


def trained(example: Example, name: str) -> Run:
    """Train with a fault and load the run."""
    net = YOLO(example.model)
    example.fault.inject(net)
    watch = GradWatch(live=False, loggers=()).attach(net)
    data = _data(example)
    options = {**ONE_EPOCH, **example.fault.options, **example.options}
    base = net.task_map[net.task]["trainer"]
    kind = type("Timed", (Repeating, base), {"steps": example.steps})
    no_checkpoint = contextlib.suppress(FileNotFoundError)  # YOLO.train looks for one
    with contextlib.redirect_stdout(sys.stderr), no_checkpoint:
        net.train(trainer=kind, data=str(data), project=str(HOME / "runs"), name=name, **options)
    return load_run(watch.run_dir)


def _data(example: Example) -> Path:
    """Draw the images of an example, some of them without labels."""
    if example.model.endswith("-cls.yaml"):
        return draw_classes(HOME / "classes", train=16, val=4)
    data = draw_dataset(HOME / f"shapes-{example.empty}", train=16, val=1)
    for label in sorted((data.parent / "labels" / "train").iterdir())[: example.empty]:
        label.write_text("", encoding="utf-8")
    return data


def keep(figure: Figure, name: str, width: int = WIDTH) -> None:
    """Store a figure as a small PNG."""
    buffer = io.BytesIO()
    dpi = min(100, width / figure.get_figwidth())
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    (PICTURES / f"{name}.png").write_bytes(light(buffer))


def write_json(path: Path, content: Any) -> None:
    """Write JSON in a form with readable diffs."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8", newline="\n")
