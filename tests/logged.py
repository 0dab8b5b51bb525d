"""A training in a separate process with loggers of Ultralytics enabled; it loads no pytest.

    python logged.py OPTIONS

OPTIONS are JSON, see `Asked`. The last line of output is the result as JSON.
"""

import hashlib
import json
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from stores import PACKAGES
from ultralytics import YOLO, settings

from yolo_gradwatch import GradWatch
from yolo_gradwatch.demo.shapes import draw_dataset
from yolo_gradwatch.loggers.catalog import LOGGERS


@dataclass
class Asked:
    """Options of the training.

    Attributes:
        settings: Integrations of Ultralytics to enable.
        watch: Arguments of the watch; None to train without one.
        fails: Epoch that ends in an error.
        breaks: A logger that raises from its third call on.
        draws: Whether every logger draws random numbers, as some do.
        opens: A logger whose run the user opens.
    """

    settings: list = field(default_factory=list)
    watch: dict | None = None
    fails: int = 0
    breaks: str = ""
    draws: bool = False
    opens: str = ""


def starve(model, until=5):
    """Zero the gradient of a convolution until an optimizer step."""
    hooks, steps = [], []

    def begin(trainer):
        hooks.append(trainer.model.model[1].conv.weight.register_hook(torch.zeros_like))

    def end(_trainer):
        steps.append(None)
        if len(steps) == until:
            hooks.pop().remove()

    model.add_callback("on_train_start", begin)
    model.add_callback("on_train_batch_end", end)


def fail(model, epoch):
    def end(trainer):
        if trainer.epoch + 1 == epoch:
            raise RuntimeError("injected")

    model.add_callback("on_train_batch_end", end)


def broken(method):
    """Wrap a logger's method so that it raises from its third call on."""
    calls = []

    def call(self, *args):
        calls.append(args)
        if len(calls) > 2:
            raise ConnectionError("no network")
        return method(self, *args)

    return call


def drawing(method):
    """Wrap a logger's method so that it draws random numbers first."""

    def call(self, *args):
        random.random()  # noqa: S311
        np.random.rand()  # noqa: NPY002
        torch.rand(1)
        return method(self, *args)

    return call


def digest(model):
    """Return a hash of a model's weights and buffers."""
    found = hashlib.sha256()
    for tensor in model.state_dict().values():
        found.update(tensor.detach().cpu().numpy().tobytes())
    return found.hexdigest()


def prepare(asked):
    """Apply settings and patches outside the model."""
    known = {*LOGGERS, "hub", "neptune", "raytune"} & set(settings)
    settings.update({**{name: name in asked.settings for name in known}, "sync": False})
    if asked.breaks:
        LOGGERS[asked.breaks].send = broken(LOGGERS[asked.breaks].send)
    for kind in LOGGERS.values() if asked.draws else ():
        kind.send = drawing(kind.send)
    if asked.opens == "wandb":
        import wandb

        wandb.init(project="mine")
    if "clearml" in asked.settings:
        import clearml

        clearml.Task.update_output_model = lambda *_args, **_options: None  # it fails offline


def main():
    asked = Asked(**json.loads(sys.argv[1]))
    data = str(draw_dataset(Path("data").resolve(), train=16, val=4))
    blocks = [[-1, 1, "Conv", [8, 3, 2]]] * 5
    content = {"nc": 3, "backbone": blocks, "head": [[[2, 3, 4], 1, "Detect", ["nc"]]]}
    Path("small.yaml").write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    prepare(asked)
    model = YOLO("small.yaml")
    starve(model)
    fail(model, asked.fails)
    if asked.watch is not None:
        GradWatch(live=False, **asked.watch).attach(model)
    try:
        model.train(
            data=data,
            project=str(Path.cwd()),
            name="run",
            exist_ok=True,
            epochs=4,
            imgsz=64,
            batch=4,
            nbs=4,
            workers=0,
            device="cpu",
            amp=False,
            plots=False,
        )
    finally:
        loaded = [name for name in PACKAGES.values() if name in sys.modules]
        outcome = {"weights": digest(model.trainer.model), "loaded": loaded}
        print(json.dumps(outcome))  # noqa: T201


if __name__ == "__main__":
    main()
