"""Faults to inject for the pictures of the documentation: one for each rule that a fault can fire.

Most come from the demo and the benchmarks; the others are defined here. ``converged`` and
``stray_step`` need a converged training: a classifier that memorizes 16 images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from more_faults import FAULT_STEP, MORE
from torch import nn

from yolo_gradwatch.demo.faults import FAULTS, Fault, GradientFactor, after, use_scaler

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

V8, V26, CLASSIFIER = "yolov8n.yaml", "yolo26n.yaml", "yolo26n-cls.yaml"


@dataclass(frozen=True)
class Example:
    """A training that fires a rule.

    Attributes:
        fault: The fault to inject.
        model: Model to train from scratch.
        steps: Number of optimizer steps.
        options: Training arguments.
        empty: Number of images without objects, of 16.
    """

    fault: Fault
    model: str = V26
    steps: int = 48
    options: dict[str, Any] = field(default_factory=dict)
    empty: int = 0


class LayerScale(nn.Module):
    """A block as a residual branch scaled by a small factor."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block, self.gamma = block, nn.Parameter(torch.tensor(1e-6))
        for name in ("f", "i", "type", "np"):
            setattr(self, name, getattr(block, name))

    def forward(self, x: Tensor) -> Tensor:
        """Add the scaled output of the block to the input."""
        scaled: Tensor = x + self.gamma * self.block(x)
        return scaled


def at_step(step: int, act: Callable[[Any], None]) -> Callable[[Any], None]:
    """Call ``act`` with the trainer before one batch."""

    def begin(trainer: Any) -> None:
        batches = count(1)

        def on_batch(trainer: Any) -> None:
            if next(batches) == step:
                act(trainer)

        trainer.add_callback("on_train_batch_start", on_batch)

    return begin


def loss_times(factor: float, first: int = 1, last: int = 10**9) -> Callable[[Any], None]:
    """Multiply the loss of a range of steps."""

    def begin(trainer: Any) -> None:
        scale, batches = trainer.scaler.scale, count(1)

        def scaled(loss: Tensor) -> Tensor:
            return scale(loss * (factor if first <= next(batches) <= last else 1.0))

        trainer.scaler.scale = scaled

    return begin


def weight_gradient_times(factor: float) -> Callable[[Any], None]:
    """Multiply the gradient of one weight of block 4."""

    def begin(trainer: Any) -> None:
        weight = trainer.model.model[4].m[0].cv2.conv.weight
        weight.register_hook(lambda gradient: gradient * factor)

    return begin


def _inflate_variance(trainer: Any) -> None:
    trainer.model.model[5].bn.running_var.fill_(1e9)


def _kill_most(net: Any) -> None:
    conv = net.model[5]
    conv.act = nn.ReLU()
    conv.bn.bias.data[: int(0.6 * len(conv.bn.bias))] = -20.0


def _freeze(trainer: Any) -> None:
    trainer.model.model[4].requires_grad_(requires_grad=False)


def _zero_rate(trainer: Any) -> None:
    group = trainer.optimizer.param_groups[1]
    group["lr"] = group["initial_lr"] = 0.0
    trainer.scheduler.base_lrs[1] = 0.0


def _multiply_updates(trainer: Any) -> None:
    """Multiply all further weight updates by 50, at the same learning rate."""
    step, own = trainer.optimizer.step, trainer.model.parameters

    def multiplied_step(*args: Any, **kwargs: Any) -> None:
        before = [p.detach().clone() for p in own()]
        step(*args, **kwargs)
        with torch.no_grad():
            for p, old in zip(own(), before, strict=True):
                p.add_(p - old, alpha=49)

    trainer.optimizer.step = multiplied_step


def _swap_labels(trainer: Any) -> None:
    """Give each image of the next batch the label of another class."""
    preprocess = trainer.preprocess_batch

    def swapped(batch: Any) -> Any:
        trainer.preprocess_batch = preprocess
        batch = preprocess(batch)
        batch["cls"] = (batch["cls"] + 1) % trainer.data["nc"]
        return batch

    trainer.preprocess_batch = swapped


def _scale_block(net: Any) -> None:
    net.model[6] = LayerScale(net.model[6])


def _few_overflows(trainer: Any) -> None:
    use_scaler(trainer)


def _spoil_item(net: Any) -> None:
    """Report ``cls_loss`` as NaN in one step; the loss itself stays finite."""
    build, batches = net.init_criterion, count(1)

    def init_criterion() -> Any:
        criterion = build()

        def spoiled(preds: Any, batch: Any) -> tuple[Tensor, Any]:
            loss, items = criterion(preds, batch)
            if next(batches) == FAULT_STEP:
                items = {**items, "cls_loss": items["cls_loss"] * torch.nan}
            return loss, items

        if hasattr(criterion, "update"):
            spoiled.update = criterion.update  # type: ignore[attr-defined]
        return spoiled

    net.init_criterion = init_criterion


SGD = {"optimizer": "SGD", "lr0": 0.002}
EXAMPLES: dict[str, Example] = {
    "nonfinite": Example(FAULTS["nan"]),
    "weight_overflow": Example(
        Fault(
            "the running variance of block 5 is set to 1e9",
            begin=at_step(FAULT_STEP, _inflate_variance),
        )
    ),
    "dead": Example(FAULTS["dying-relu"]),
    "no_gradient": Example(FAULTS["detached"]),
    "not_updated": Example(MORE["forgotten"], V8),
    "vanishing": Example(FAULTS["saturated"]),
    "exploding": Example(MORE["large-factor"], V8),
    "loss_imbalance": Example(MORE["box-gain"], V8),
    "collapse": Example(
        Fault("the loss is multiplied by 1e-5 from step 31 on", begin=loss_times(1e-5, 31))
    ),
    "total_high": Example(MORE["huge-loss"], V8),
    "total_low": Example(Fault("the loss is multiplied by 1e-7", begin=loss_times(1e-7))),
    "dead_branch": Example(MORE["box-zero"], V8),
    "partly_dead": Example(
        Fault("60 % of the units of block 5 put out zero for every input", change=_kill_most)
    ),
    "small_weights": Example(MORE["small-init"], V8),
    "leaf_vanishing": Example(
        Fault(
            "the gradient of one weight is multiplied by 1e-3", begin=weight_gradient_times(1e-3)
        ),
        V8,
    ),
    "leaf_exploding": Example(
        Fault(
            "the gradient of one weight is multiplied by 1,000", begin=weight_gradient_times(1e3)
        ),
        V8,
    ),
    "large_weights": Example(MORE["large-init"], V8),
    "initial_loss": Example(MORE["large-head"], V8),
    "rate_jump": Example(MORE["rate-jump"], V8),
    "weight_jump": Example(
        Fault(
            "from step 301 on, each step moves the weights 50 times as far",
            begin=at_step(301, _multiply_updates),
        ),
        V8,
        330,
        SGD,
    ),
    "spike": Example(FAULTS["loss-spike"]),
    "weight_growth": Example(FAULTS["learning-rate"]),
    "amp_overflow": Example(
        Fault(
            "under AMP's loss scaler, the gradient overflows after block 6 in the first 3 steps",
            change=after(6, lambda _: GradientFactor(torch.finfo(torch.float32).max, 3)),
            begin=_few_overflows,
        )
    ),
    "loss_nonfinite": Example(
        Fault("cls_loss is reported as NaN in step 21", change=_spoil_item), V8
    ),
    "few_objects": Example(
        Fault("12 of 16 images are background"), V8, 120, {"batch": 1, "nbs": 1}, 12
    ),
    "starved_scale": Example(Fault("no object is large enough for P5"), V8, 300),
    "zero_loss": Example(Fault("dfl=0", options={"dfl": 0.0}), V8),
    "zero_rate": Example(
        Fault("the second group of the optimizer has a learning rate of 0", begin=_zero_rate), V8
    ),
    "frozen": Example(Fault("block 4 is frozen in step 21", begin=at_step(FAULT_STEP, _freeze))),
    "slow_branch": Example(
        Fault("block 6 is a residual branch scaled by 1e-6", change=_scale_block),
        V8,
        48,
        SGD,
    ),
    "converged": Example(Fault("16 images are memorized"), CLASSIFIER, 1200),
    "stray_step": Example(
        Fault("the labels of one batch are wrong in step 1,001", begin=at_step(1001, _swap_labels)),
        CLASSIFIER,
        1200,
    ),
}
"""Each example by the rule that it fires."""
