"""A trainer with the interface of Ultralytics' own: every event of a training, in milliseconds.

It trains a real network with a real optimizer; ``test_session.py`` compares it with the original.
"""

import math
from collections import defaultdict
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

BLOCKS, CHANNELS = 6, 4


class Block(nn.Module):
    """A convolution with normalization that reads the previous block."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.f = -1
        self.conv, self.bn = nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x):
        return torch.nn.functional.silu(self.bn(self.conv(x)))


class Net(nn.Module):
    """A chain of blocks, in the form of Ultralytics, with two loss items."""

    def __init__(self):
        super().__init__()
        blocks = [Block(CHANNELS if i else 3, CHANNELS) for i in range(BLOCKS)]
        self.model = nn.Sequential(*blocks)

    def loss(self, batch):
        out = self.model(batch["img"])
        items = {"box_loss": (out - 1).pow(2).mean(), "cls_loss": out.abs().mean()}
        return sum(items.values()), {name: item.detach() for name, item in items.items()}

    def forward(self, batch):
        return self.loss(batch)


def scaler_of(enabled):
    """Return a loss scaler for a CPU; before torch 2.3, only a disabled one exists."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler("cpu", enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)


class FakeTrainer:
    """Calls everything that a watch can see, in the order of Ultralytics' trainer.

    Args:
        overrides: Training arguments; ``images`` is the size of the data set.
        _callbacks: Callbacks of the model.
    """

    loss_names = ("box_loss", "cls_loss")
    ddp = False
    """Whether the training launches other processes to run in."""

    def __init__(self, overrides, _callbacks=None):
        self.args = SimpleNamespace(**{"images": 8, "warmup_epochs": 0, "freeze": 0, **overrides})
        self.save_dir = Path(self.args.project) / self.args.name
        self.last = self.save_dir / "weights" / "last.pt"
        self.last.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{name}: {value}\n" for name, value in vars(self.args).items()]
        (self.save_dir / "args.yaml").write_text("".join(lines), encoding="utf-8")
        self.callbacks = defaultdict(list, {e: [*c] for e, c in (_callbacks or {}).items()})
        self.device, self.world_size = torch.device("cpu"), 0
        self.batch_size, self.epochs = self.args.batch, self.args.epochs
        self.resume = bool(getattr(self.args, "resume", False))
        self.plots, self.start_epoch, self.nan_recovery_attempts = {}, 0, 0
        if not self.ddp:
            self.run_callbacks("on_pretrain_routine_start")

    def add_callback(self, event, callback):
        self.callbacks[event].append(callback)

    def run_callbacks(self, event):
        for callback in self.callbacks.get(event, []):
            callback(self)

    def _get_warmup_iterations(self, batches):
        return round(self.args.warmup_epochs * batches)

    def on_plot(self, name, data=None):
        self.plots[Path(name)] = {"data": data}

    def train(self):
        try:
            self._do_train()
        finally:
            self.run_callbacks("teardown")

    def setup_model(self):
        self.model = self.get_model()

    def get_model(self):
        return Net()

    def preprocess_batch(self, batch):
        batch["img"] = batch["img"].float()
        return batch

    def optimizer_step(self):
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=10.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def validate(self):
        return {}, 0.0

    def save_model(self):
        parts = {"model": self.model, "optimizer": self.optimizer}
        states = {name: deepcopy(part.state_dict()) for name, part in parts.items()}
        torch.save({**states, "epoch": self.epoch, "args": vars(self.args)}, self.last)

    def _load(self):
        saved = torch.load(self.last, weights_only=False)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        return saved["epoch"]

    def _setup_train(self):
        torch.manual_seed(0)
        self.setup_model()
        self.ema = SimpleNamespace(ema=self.model)
        self.freeze_layer_names = [*(f"model.{i}." for i in range(self.args.freeze)), ".dfl"]
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not name.startswith(tuple(self.freeze_layer_names)))
        self.amp = bool(self.args.amp)
        self.scaler = scaler_of(self.amp)
        self._build_loader()
        parameters, rate = self.model.parameters(), getattr(self.args, "lr0", 0.01)
        self.optimizer = torch.optim.SGD(parameters, lr=rate)
        self.optimizer.param_groups[0]["initial_lr"] = rate
        self.stop = False
        if self.resume:
            self.start_epoch = self._load() + 1
        self.run_callbacks("on_pretrain_routine_end")

    def _build_loader(self):
        """Build batches of file names and noise, the same in every training."""
        chance, size = torch.Generator().manual_seed(1), self.batch_size
        images = torch.randn(self.args.images, 3, 4, 4, generator=chance)
        files = [f"{i}.png" for i in range(self.args.images)]
        starts = range(0, self.args.images, size)
        self.train_loader = [(files[i : i + size], images[i : i + size]) for i in starts]
        self.accumulate = max(round(self.args.nbs / size), 1)

    def _do_train(self):
        self._setup_train()
        self.run_callbacks("on_train_start")
        epoch, self._last_step, self._oom_retries = self.start_epoch, -1, 0
        while True:
            self.epoch = epoch
            self.run_callbacks("on_train_epoch_start")
            self.model.train()
            if not self._run_epoch(epoch):
                continue
            self.run_callbacks("on_train_epoch_end")
            self.metrics, self.fitness = self.validate()
            if self._handle_nan_recovery(epoch):
                continue
            self.nan_recovery_attempts = 0
            self.stop |= epoch + 1 >= self.epochs
            if self.args.save and self.save_model() is not False:
                self.run_callbacks("on_model_save")
            self.run_callbacks("on_fit_epoch_end")
            if self.stop:
                break
            epoch += 1
        self.run_callbacks("on_train_end")

    def _run_epoch(self, epoch):
        """Run an epoch; False if memory ran out, to restart it with half the batch size."""
        for i, (files, images) in enumerate(self.train_loader):
            self.run_callbacks("on_train_batch_start")
            try:
                batch = self.preprocess_batch({"im_file": files, "img": images})
                self.loss, self.loss_items = self.model(batch)
                self.scaler.scale(self.loss).backward()
            except RuntimeError as error:
                if "out of memory" not in str(error) or epoch > self.start_epoch:
                    raise
                self._oom_retries += 1
                self.loss = self.loss_items = None
                self.batch_size = max(self.batch_size // 2, 1)
                self._build_loader()
                self._last_step = -1
                self.optimizer.zero_grad()
                return False
            ni = i + len(self.train_loader) * epoch
            if ni - self._last_step >= self.accumulate:
                self.optimizer_step()
                self._last_step = ni
            self.run_callbacks("on_train_batch_end")
            if self.stop:
                break
        return True

    def _handle_nan_recovery(self, epoch):
        if math.isfinite(self.loss.detach()) or epoch == self.start_epoch:
            return False
        self.nan_recovery_attempts += 1
        if self.nan_recovery_attempts > 3:
            raise RuntimeError(f"NaN persisted for {self.nan_recovery_attempts} epochs")
        self._load()
        self._last_step = -1
        self.optimizer.zero_grad()
        return True


for builder in (FakeTrainer.setup_model, FakeTrainer.get_model):
    builder.__module__ = "ultralytics.engine"  # as if Ultralytics built it


class FakeModel:
    """The parts of an Ultralytics model that `GradWatch.attach` and ``training.train`` use.

    Args:
        tasks: Keys of the model's task map.
    """

    task = "detect"

    def __init__(self, tasks=("trainer", "predictor")):
        self.task_map = {"detect": dict.fromkeys(tasks, object)}
        self.callbacks = {"on_pretrain_routine_start": []}
        self.model = Net()

    def add_callback(self, event, call):
        self.callbacks.setdefault(event, []).append(call)

    def train(self, trainer=None, **options):
        self.trainer = (trainer or FakeTrainer)(overrides=options, _callbacks=self.callbacks)
        self.trainer.train()
