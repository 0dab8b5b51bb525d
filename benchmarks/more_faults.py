"""More faults of the kinds that the rules cover, in addition to ``demo/faults``, for any detector.

They change block 4 of the trunk or the head, which both YOLO26n and YOLOv8n have.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from yolo_gradwatch.demo.faults import Detached, Fault, GradientFactor, after, stack

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

BLOCK = 4
FAULT_STEP = 21
"""Optimizer step at which a fault occurs that is not present from the beginning."""


class Scale(nn.Module):
    """Multiplies its input by a constant.

    Args:
        factor: The constant.
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled input."""
        return x * self.factor


class Rooted(nn.Module):
    """Square root of a masked input; its slope is infinite where the mask gives 0.

    Args:
        eps: Added under the root.
    """

    def __init__(self, eps: float = 0.0) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return the root of the positive values."""
        return (x * (x > 0) + self.eps).sqrt()


class Logged(nn.Module):
    """Logarithm of the positive part; minus infinity at 0.

    Args:
        eps: Added to the argument.
    """

    def __init__(self, eps: float = 0.0) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return the logarithm."""
        return (x.relu() + self.eps).log()


class Softmax(nn.Module):
    """Hand-written softmax over the channels; in half precision, its exp overflows above 11.

    Args:
        dtype: Precision of the computation.
    """

    def __init__(self, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted input."""
        scores = (4 * x).to(self.dtype).exp()
        weights = scores / scores.sum(1, keepdim=True)
        return x * (1 + weights.to(x.dtype))


def after_block(*parts: nn.Module) -> Callable[[Any], None]:
    """Append modules to the block."""
    return after(BLOCK, lambda _: nn.Sequential(*parts))


def plain_stack(depth: int, activation: type[nn.Module]) -> Callable[[Any], None]:
    """Append convolutions without normalization to the block."""
    return after(BLOCK, lambda channels: stack(channels, depth, activation))


def _dead_stack(net: Any) -> None:
    plain_stack(2, nn.ReLU)(net)
    for conv in net.model[BLOCK].after[::2]:
        nn.init.constant_(conv.bias, -5.0)


def scaled_weights(factor: float) -> Callable[[Any], None]:
    """Multiply the initial weights of all convolutions."""

    def change(net: Any) -> None:
        for conv in convolutions(net):
            conv.weight.data *= factor

    return change


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    """Return the trained convolutions."""
    found = (module for module in net.modules() if isinstance(module, nn.Conv2d))
    return [conv for conv in found if conv.weight.requires_grad]


def branches(net: Any, *names: str) -> list[nn.ModuleList]:
    """Return branches of the head by name, including its one-to-one copies where they exist."""
    head = net.model[-1]
    found = (getattr(head, f"{copy}{name}", None) for name in names for copy in ("", "one2one_"))
    return [branch for branch in found if branch is not None]


def last_layers(net: Any) -> list[nn.Conv2d]:
    """Return the last convolutions of the box and class branches."""
    return [scale[-1] for branch in branches(net, "cv2", "cv3") for scale in branch]


def _enlarge_head(net: Any) -> None:
    for conv in last_layers(net):
        conv.weight.data *= 300


def _detach_boxes(net: Any) -> None:
    for branch in branches(net, "cv2"):
        for i, scale in enumerate(branch):
            branch[i] = nn.Sequential(*scale, Detached())


def _multiply_boxes(net: Any) -> None:
    build = net.init_criterion

    def init_criterion() -> Any:
        criterion = build()

        def multiplied(preds: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
            loss, items = criterion(preds, batch)
            factors = torch.ones_like(loss)
            factors[0] = 1e4
            return loss * factors, {**items, "box_loss": items["box_loss"] * 1e4}

        if hasattr(criterion, "update"):
            multiplied.update = criterion.update  # type: ignore[attr-defined]
        return multiplied

    net.init_criterion = init_criterion


def _forget(trainer: Any) -> None:
    """Remove the block's weights from the optimizer."""
    own = {id(p) for p in trainer.model.model[BLOCK].parameters()}
    for group in trainer.optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in own]


def _raise_rate(trainer: Any) -> None:
    """Add a callback that multiplies the learning rate in mid-training."""
    batches = count(1)

    def raise_rate(trainer: Any) -> None:
        if next(batches) == FAULT_STEP:
            for group in trainer.optimizer.param_groups:
                group["lr"] *= 50

    trainer.add_callback("on_train_batch_start", raise_rate)


def _multiply_loss(trainer: Any) -> None:
    scale = trainer.scaler.scale
    trainer.scaler.scale = lambda loss: scale(loss * 1e22)


def _spoil_image(trainer: Any) -> None:
    """Fill the images of one step with NaN, as a broken file or augmentation does."""
    prepare, batches = trainer.preprocess_batch, count(1)

    def preprocess_batch(batch: Any) -> Any:
        batch = prepare(batch)
        if next(batches) == FAULT_STEP:
            batch["img"] = batch["img"] * torch.nan
        return batch

    trainer.preprocess_batch = preprocess_batch


MORE: dict[str, Fault] = {
    "root": Fault("square root without epsilon after block 4", change=after_block(Rooted())),
    "log": Fault("logarithm of 0 after block 4", change=after_block(Logged())),
    "half-exp": Fault("exp in half precision after block 4", change=after_block(Softmax())),
    "large-factor": Fault(
        "gradient times 1e4 after block 4", change=after_block(GradientFactor(1e4))
    ),
    "small-factor": Fault("output times 1e-4 after block 4", change=after_block(Scale(1e-4))),
    "large-init": Fault("all weights begin 100 times too large", change=scaled_weights(100)),
    "small-init": Fault("all weights begin 1,000 times too small", change=scaled_weights(1e-3)),
    "large-head": Fault("head's last convolutions begin 300 times too large", change=_enlarge_head),
    "forgotten": Fault("weights of block 4 are in no parameter group", begin=_forget),
    "box-gain": Fault("box=75000, 10,000 times its default", options={"box": 75_000.0}),
    "box-item": Fault("box_loss is multiplied by 10,000 in code", change=_multiply_boxes),
    "box-zero": Fault("box=0 and dfl=0", options={"box": 0.0, "dfl": 0.0}),
    "detached-boxes": Fault("detach() after the box branch", change=_detach_boxes),
    "dying-relu-4": Fault("plain ReLU stack whose biases are -5", change=_dead_stack),
    "relu-stack": Fault("plain stack of 20 with ReLU", change=plain_stack(20, nn.ReLU)),
    "tanh-stack-4": Fault("plain stack of 24 with Tanh", change=plain_stack(24, nn.Tanh)),
    "rate-jump": Fault(f"learning rate times 50 at step {FAULT_STEP}", begin=_raise_rate),
    "high-rate": Fault("SGD with lr0=1", options={"optimizer": "SGD", "lr0": 1.0}),
    "huge-loss": Fault("loss times 1e22: clipping multiplies by 0", begin=_multiply_loss),
    "nan-image": Fault(f"images of step {FAULT_STEP} are NaN", begin=_spoil_image),
}
"""Every fault by its name."""
