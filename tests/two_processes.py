"""A detection trainer that Ultralytics launches in two processes, on the CPU instead of two GPUs.

Processes import it by name from here. Only the CUDA parts are replaced; the launch, the reduction
of gradients and the training are Ultralytics' own.
"""

import gc
import json
import os
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from torch import distributed, nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import LOCAL_RANK, RANK
from ultralytics.utils.torch_utils import unwrap_model

INJECT_NAN = "INJECT_NAN_AT_STEP"
"""Environment variable with the step in which rank 1 adds a NaN to the gradient."""


class _Fixed:
    """An attribute that the trainer's constructor cannot overwrite from its CUDA devices."""

    def __init__(self, value):
        self._value = value

    def __get__(self, owner, kind):
        return self._value

    def __set__(self, owner, value):
        """Keep the value."""


def _on_the_cpu(parallel):
    """Wrap DDP so that it ignores the CUDA devices."""

    def wrap(model, **options):
        del options["device_ids"]
        return parallel(model, **options)

    return wrap


class TwoProcessTrainer(DetectionTrainer):
    """Stores each rank's gradient of each step next to the run's folder.

    Ultralytics attaches its loggers only to a class with the word Trainer in its name.
    """

    ddp = _Fixed(LOCAL_RANK == -1)
    world_size = _Fixed(2)

    def _setup_ddp(self):
        distributed.init_process_group(
            "gloo", rank=RANK, world_size=self.world_size, timeout=timedelta(seconds=60)
        )
        nn.parallel.DistributedDataParallel = _on_the_cpu(nn.parallel.DistributedDataParallel)

    def _setup_train(self):
        super()._setup_train()
        self.added, self.steps = {}, 0
        for name, parameter in unwrap_model(self.model).named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(partial(self._note, name))

    def _note(self, name, gradient):
        """Store this rank's gradient; parameter hooks run before the reduction."""
        nan_at = int(os.environ.get(INJECT_NAN, "0"))
        if RANK == 1 and name == "model.6.cv2.conv.weight" and self.steps + 1 == nan_at:
            gradient = gradient * float("nan")
        self.added[name] = gradient.detach().clone()
        return gradient

    def optimizer_step(self):
        self.steps += 1
        torch.save(self.added, self._beside(f"step-{self.steps}-rank-{RANK}.pt"))
        self.added = {}
        before = self._weights()
        super().optimizer_step()
        items = self.loss_items
        if torch.is_tensor(items):
            items = dict(zip(self.loss_names, items, strict=True))
        moved = (before, self._weights(), items)
        torch.save(moved, self._beside(f"moved-{self.steps}-rank-{RANK}.pt"))

    def _weights(self):
        named = unwrap_model(self.model).named_parameters()
        return {name: p.detach().double() for name, p in named if p.requires_grad}

    def _do_train(self):
        super()._do_train()
        calls = [call for calls in self.callbacks.values() for call in calls]
        wrapped = {"unscale_": self.scaler, "preprocess_batch": self}
        note = {
            "recorders": sum(type(found).__name__ == "Recorder" for found in gc.get_objects()),
            "wraps": [name for name, owner in wrapped.items() if name in vars(owner)],
            "listeners": sum(call.__module__ == "yolo_gradwatch.watch.listening" for call in calls),
        }
        self._beside(f"end-rank-{RANK}.json").write_text(json.dumps(note), encoding="utf-8")

    def final_eval(self):
        """Skip the validation, which would run on a CUDA device in each rank."""

    def _beside(self, name):
        return Path(self.args.project) / name
