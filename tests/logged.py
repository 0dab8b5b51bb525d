"""A training in a process of its own, with loggers of Ultralytics at work; it loads no pytest.

    python logged.py OPTIONS

OPTIONS are JSON: the arguments of ``train``, the ``settings`` that are on, and ``watch``, the
arguments of the watch, None without one. ``fault`` is a step up to which no gradient reaches a
convolution; ``breaks`` names a logger that raises from its third call on; ``draws`` has every
logger draw random numbers; ``opens`` is a run of the user's own. Its last line is what is left of
it, as JSON.
"""

import hashlib
import json
import random
import sys

import numpy as np
import torch
from ultralytics import YOLO, settings

from yolo_gradwatch import GradWatch
from yolo_gradwatch.loggers.catalog import LOGGERS


def starve(until):
    """Callbacks under which no gradient reaches a convolution up to an optimizer step."""
    hooks, steps = [], []

    def begin(trainer):
        weight = trainer.model.model[1].conv.weight
        hooks.append(weight.register_hook(torch.zeros_like))

    def end(_trainer):
        steps.append(None)
        if len(steps) == until:
            hooks.pop().remove()

    return {"on_train_start": begin, "on_train_batch_end": end}


def broken(method):
    """A method of a logger that raises from its third call on."""
    calls = []

    def call(self, *args):
        calls.append(args)
        if len(calls) > 2:
            raise ConnectionError("no network")
        return method(self, *args)

    return call


def drawing(method):
    """A method of a logger that draws random numbers first, as some do."""

    def call(self, *args):
        random.random()  # noqa: S311
        np.random.rand()  # noqa: NPY002
        torch.rand(1)
        return method(self, *args)

    return call


def digest(model):
    """The weights and buffers of a model, bit for bit."""
    found = hashlib.sha256()
    for tensor in model.state_dict().values():
        found.update(tensor.detach().cpu().numpy().tobytes())
    return found.hexdigest()


def main():
    options = json.loads(sys.argv[1])
    wanted, breaks, draws = options.pop("settings"), options.pop("breaks", ""), options.pop("draws")
    asked, fault, opens = options.pop("watch"), options.pop("fault", 0), options.pop("opens", "")
    known = {*LOGGERS, "hub", "neptune", "raytune"} & set(settings)
    settings.update({**{name: name in wanted for name in known}, "sync": False})
    if breaks:
        LOGGERS[breaks].send = broken(LOGGERS[breaks].send)
    for kind in LOGGERS.values() if draws else ():
        kind.send = drawing(kind.send)
    if opens == "wandb":
        import wandb

        wandb.init(project="mine")
    model = YOLO(options.pop("model"))
    for event, call in starve(fault).items() if fault else ():
        model.add_callback(event, call)
    if asked is not None:
        GradWatch(live=False, **asked).attach(model)
    model.train(**options)
    print(json.dumps({"weights": digest(model.trainer.model)}))  # noqa: T201


if __name__ == "__main__":
    main()
