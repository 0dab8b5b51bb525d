"""Train with planted faults, and draw the pictures of the documentation from these runs.

    PYTHONPATH=benchmarks:scripts python scripts/docs_pictures.py [--only findings lessons demo]

What was measured is kept beside the pictures, in ``docs/pictures/*.json``: pages quote it from there
(``scripts/docs_pages.py``). A few seconds a training on a CPU, ten minutes in all. ``docs/live.svg``
is made by ``scripts/terminal_recording.py``, ``docs/notebook.png`` by ``scripts/notebook_picture.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from docs_faults import SHOWN
from trainings import HOME, SMALL, YOLO, InMemory, draw_dataset

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.views.png.look import light

if TYPE_CHECKING:
    from docs_faults import Shown
    from matplotlib.figure import Figure

    from yolo_gradwatch import Run

mpl.use("agg")

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
WIDTH = 1100
OPTIONS = {
    **SMALL,
    "epochs": 1,
    "mosaic": 0.0,
    "optimizer": "AdamW",
    "lr0": 0.002,
    "warmup_epochs": 0,
}


def main() -> None:
    """Draw what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=["findings", "lessons", "demo"])
    parser.add_argument("--rules", nargs="*", default=list(SHOWN))
    given = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    if "demo" in given.only:
        demo()
    if "lessons" in given.only:
        import docs_lessons

        docs_lessons.main()
    if "findings" in given.only:
        findings(given.rules)


def trained(shown: Shown, name: str) -> Run:
    """Train with a fault, and read the files."""
    net = YOLO(shown.model)
    shown.fault.plant(net)
    watch = GradWatch(live=False, loggers=()).attach(net)
    data = draw_dataset(HOME / f"shapes-{shown.empty}", train=16, val=1)
    for label in sorted((data.parent / "labels" / "train").iterdir())[: shown.empty]:
        label.write_text("", encoding="utf-8")
    options = {**OPTIONS, **shown.fault.options, **shown.options}
    kind = type("Timed", (InMemory,), {"steps": shown.steps})
    no_checkpoint = contextlib.suppress(FileNotFoundError)  # YOLO.train looks for one
    with contextlib.redirect_stdout(sys.stderr), no_checkpoint:
        net.train(trainer=kind, data=str(data), project=str(HOME / "runs"), name=name, **options)
    return load_run(watch.run_dir)


def findings(rules: list[str]) -> None:
    """A picture for each rule, and what its finding says."""
    path = PICTURES / "findings.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for rule in rules:
        shown = SHOWN[rule]
        run = trained(shown, rule)
        found = [one for one in run.report().findings if one.rule == rule]
        if not found:
            others = ", ".join(f"{one.rule} {one.module}" for one in run.report().findings)
            print(f"{rule}: NOT FOUND, but {others or 'nothing'}", flush=True)
            continue
        first = found[0]
        known[rule] = {
            "fault": shown.fault.title,
            "model": shown.model.removesuffix(".yaml"),
            "steps": shown.steps,
            "module": first.module,
            "since": first.episodes[0].step,
            "message": first.message,
        }
        keep(run.plot(), f"finding-{rule}")
        print(f"{rule}: {first.module}", flush=True)
    ordered = {rule: known[rule] for rule in RULES if rule in known}
    write_json(path, ordered)


def demo() -> None:
    """The demo with a fault: heat map and the curves along the network."""
    from yolo_gradwatch.cli.demo import train_on_shapes
    from yolo_gradwatch.demo.faults import FAULTS

    folder = HOME / "gradwatch-demo"
    folder.mkdir(exist_ok=True)
    watch = GradWatch(live=False, loggers=())
    with contextlib.chdir(HOME), contextlib.redirect_stdout(sys.stderr):
        train_on_shapes(Path("gradwatch-demo"), watch, FAULTS["gradient-cut"], 8)
        run = load_run("gradwatch-demo/run")
        keep(run.plot(), "gradwatch", width=1200)
        keep(run.plot_flow(), "flow")


def keep(figure: Figure, name: str, width: int = WIDTH) -> None:
    """A figure as a small PNG."""
    buffer = io.BytesIO()
    dpi = min(100, width / figure.get_figwidth())
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    (PICTURES / f"{name}.png").write_bytes(light(buffer))


def write_json(path: Path, content: Any) -> None:
    """As text that shows what changed."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
