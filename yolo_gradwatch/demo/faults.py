"""A gallery of faults to inject into a training, to see what each one looks like.

The classes are at module level, because checkpoints pickle them. Faults are injected
through Ultralytics' callbacks before the watch reads the model; the watch does not know about them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

STEP = 21
"""Optimizer step at which a fault occurs that is not present from the beginning."""


class Wrapped(nn.Module):
    """A block of an Ultralytics model followed by another module, in the block's place.

    Args:
        block: The original block, whose place in the model's list is taken.
        after: The module that its output passes through.
    """

    def __init__(self, block: Any, after: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.after = after
        for name in ("f", "i", "type", "np"):  # Ultralytics finds a block's inputs by these
            setattr(self, name, getattr(block, name))

    def forward(self, x: Any) -> Any:
        """Apply the block, then the module after it."""
        return self.after(self.block(x))


class _Scaled(torch.autograd.Function):
    """The identity, with its gradient scaled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None


class GradientFactor(nn.Module):
    """Passes the signal through and scales its gradient.

    Args:
        factor: Below 1 the gradient vanishes, far above 1 it explodes.
        calls: Number of training batches affected.
    """

    def __init__(self, factor: float, calls: int = 1_000_000) -> None:
        super().__init__()
        self.factor = factor
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        """Return the input unchanged."""
        self.calls -= self.training
        if self.calls < 0:
            return x
        scaled: Tensor = _Scaled.apply(x, self.factor)
        return scaled


class Detached(nn.Module):
    """Cuts its input off from the loss, as a forgotten ``detach()`` does."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the input without its gradient."""
        return x.detach() if self.training else x


def stack(channels: int, depth: int, activation: type[nn.Module]) -> nn.Sequential:
    """Return convolutions and activations without normalization or residual connections."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(channels, channels, 1), activation()]
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Fault:
    """A fault to inject, and the finding expected from the watch.

    Attributes:
        title: What is wrong, in one line.
        rule: The rule that finds it; "" for a healthy training.
        module: The module that the finding names.
        change: Called with the new model, before the training moves it to its device.
        begin: Called with the trainer after its setup.
        options: Training arguments that the fault needs.
    """

    title: str
    rule: str = ""
    module: str = ""
    change: Callable[[Any], None] | None = None
    begin: Callable[[Any], None] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def inject(self, model: Any) -> None:
        """Inject this fault into the trainings of an Ultralytics model."""
        if self.change:
            model.add_callback("on_pretrain_routine_start", self._change_model)
        if self.begin:
            model.add_callback("on_train_start", self.begin)

    def _change_model(self, trainer: Any) -> None:
        build = trainer.get_model

        def get_model(*args: Any, **kwargs: Any) -> Any:
            model = build(*args, **kwargs)
            if self.change:
                self.change(model)
            return model

        trainer.get_model = get_model


def after(index: int, make: Callable[[int], nn.Module]) -> Callable[[Any], None]:
    """Put a module after a block; ``make`` gets the number of channels there."""

    def change(model: Any) -> None:
        block = model.model[index]
        model.model[index] = Wrapped(block, make(channels(block)))

    return change


def channels(block: Any) -> int:
    """Return the output channels of a convolution, or of a block ending with ``cv2`` or ``cv3``."""
    last = getattr(block, "cv3", getattr(block, "cv2", block))
    return int(last.conv.out_channels)


def _kill(model: Any) -> None:
    """Make the units of block 17 output zero for every input."""
    conv = model.model[17]
    conv.act = nn.ReLU()
    nn.init.constant_(conv.bn.bias, -20.0)


def _set_rate(trainer: Any) -> None:
    """Set the learning rate to 10 in the optimizer: Ultralytics rejects ``lr0`` above 1."""
    for group in trainer.optimizer.param_groups:
        group["lr"] = group["initial_lr"] = 10.0
    trainer.scheduler.base_lrs = [10.0 for _ in trainer.scheduler.base_lrs]


def _in_step(factor: float) -> Callable[[Tensor], Tensor]:
    """Return a function that scales its argument, on its call number ``STEP`` only."""
    calls = count(1)
    return lambda value: value * factor if next(calls) == STEP else value


def _multiply_loss(trainer: Any) -> None:
    """Multiply the loss of one step by 1e5."""
    scale, in_step = trainer.scaler.scale, _in_step(1e5)
    trainer.scaler.scale = lambda loss: scale(in_step(loss))


def _spoil_gradient(trainer: Any) -> None:
    """Put a NaN into the gradient of one weight in one step."""
    trainer.model.model[6].cv2.conv.weight.register_hook(_in_step(torch.nan))


def use_scaler(trainer: Any) -> None:
    """Use AMP's loss scaler, also on a CPU."""
    if not hasattr(torch.amp, "GradScaler"):
        raise NotImplementedError(f"this fault needs torch 2.3 or later, not {torch.__version__}")
    trainer.scaler = torch.amp.GradScaler(trainer.device.type)


FAULTS: dict[str, Fault] = {
    "healthy": Fault("no fault: the control"),
    "saturated": Fault(
        "six convolutions with Sigmoid and without normalization after block 4",
        "vanishing",
        "model.4",
        change=after(4, lambda channels: stack(channels, 6, nn.Sigmoid)),
    ),
    "gradient-cut": Fault(
        "the gradient is multiplied by 1e-4 after block 4",
        "vanishing",
        "model.4",
        change=after(4, lambda _: GradientFactor(1e-4)),
    ),
    "tanh-stack": Fault(
        "a plain stack of 24 convolutions with Tanh after block 6",
        "vanishing",
        "model.6",
        change=after(6, lambda channels: stack(channels, 24, nn.Tanh)),
    ),
    "dying-relu": Fault(
        "the ReLU units of block 17 output zero for every input", "dead", "model.17", change=_kill
    ),
    "detached": Fault(
        "the output of block 10 is cut off with detach()",
        "no_gradient",
        "model.10",
        change=after(10, lambda _: Detached()),
    ),
    "learning-rate": Fault(
        "SGD with a learning rate of 10",
        "weight_growth",
        "model",
        begin=_set_rate,
        options={"optimizer": "SGD", "warmup_epochs": 0},
    ),
    "loss-spike": Fault(
        f"the loss of step {STEP} is multiplied by 1e5", "spike", "model", begin=_multiply_loss
    ),
    "nan": Fault(
        f"one weight of block 6 gets a NaN gradient in step {STEP}",
        "nonfinite",
        "model.6.cv2.conv",
        begin=_spoil_gradient,
    ),
    "amp-overflow": Fault(
        "under AMP's loss scaler, the gradient overflows after block 6 in the first 20 steps",
        "nonfinite",
        "model.6",
        change=after(6, lambda _: GradientFactor(torch.finfo(torch.float32).max, 20)),
        begin=use_scaler,
    ),
}
"""Every fault by its name on the command line."""
