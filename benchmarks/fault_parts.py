"""Building blocks of faults: custom modules, operations and initializations.

The classes are at module level, because checkpoints pickle them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from trainings import Conv

from yolo_gradwatch.demo.faults import channels

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

BLOCK_ATTRIBUTES = ("f", "i", "type", "np")
"""Attributes by which Ultralytics finds a block's inputs."""


class Around(nn.Module):
    """A block with an operation before or after it that is not a layer."""

    def __init__(self, block: Any, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.block, self.before, self.after = block, before, after
        for name in BLOCK_ATTRIBUTES:
            setattr(self, name, getattr(block, name))

    def forward(self, x: Any) -> Any:
        """Apply the block with both operations; in evaluation, the block alone."""
        x = self.before(x) if self.before and self.training else x
        y = self.block(x)
        return self.after(y) if self.after and self.training else y


class Pair(nn.Module):
    """Two convolutions with an operation between them that is not a layer."""

    def __init__(self, block: Any, between: Any) -> None:
        super().__init__()
        self.first = Conv(block.cv1.conv.in_channels, channels(block), 1)
        self.second = Conv(channels(block), channels(block), 3)
        self.between = between
        for name in BLOCK_ATTRIBUTES:
            setattr(self, name, getattr(block, name))

    def forward(self, x: Tensor) -> Tensor:
        """Apply both convolutions, with the operation between them."""
        return self.second(self.between(self.first(x)))


class Aside(nn.Module):
    """A block with an extra convolution whose output is dropped."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block, self.aside = block, nn.Conv2d(channels(block), channels(block), 1)
        for name in BLOCK_ATTRIBUTES:
            setattr(self, name, getattr(block, name))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output only."""
        y: Tensor = self.block(x)
        self.aside(y)
        return y


class Gamma(nn.Module):
    """A branch scaled by a constant, without a connection around it."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.tensor([[factor], [factor]]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled input."""
        return x * self.gamma.mean()


def scale_gradient(factor: float, x: Tensor) -> Tensor:
    """Return the input with its gradient scaled."""
    return x + (factor - 1) * (x - x.detach())


def cut(x: Tensor) -> Tensor:
    """Return the input without its gradient."""
    return x.detach()


def without_grad(block: Any) -> Any:
    """Run the block's forward under ``torch.no_grad``."""
    block.forward = torch.no_grad()(block.forward)
    return block


def times(factor: float, x: Tensor) -> Tensor:
    """Return the input multiplied by a factor."""
    return x * factor


def root(x: Tensor) -> Tensor:
    """Hand-written absolute value whose slope at 0 is not finite."""
    return torch.sqrt((x * _all_but_one(x)).square())


def logarithm(x: Tensor) -> Tensor:
    """Logarithm with one argument of exactly 0."""
    return torch.log((x - x.amin()).abs())


def exponential(x: Tensor) -> Tensor:
    """Hand-written softmax in half precision."""
    e = (x.half() * 30).exp()
    return (e / e.sum(1, keepdim=True)).float()


def quotient(x: Tensor) -> Tensor:
    """Divide each map by its standard deviation, which is 0 for one of them."""
    y = x * _all_but_one(x)
    return y / y.std((2, 3), keepdim=True)


def _all_but_one(x: Tensor) -> Tensor:
    """Return a mask of 0 for the first map and 1 for all others."""
    mask = torch.ones_like(x[:, :, :1, :1])
    mask[:, 0] = 0
    return mask


def replaced(index: int, make: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Replace a block."""

    def change(model: Any) -> None:
        model.model[index] = make(model.model[index])

    return change


def plain(  # noqa: PLR0913  # the options of a stack
    depth: int, act: Any, channels: int, *, gain: float = 1.0, bias: float = 0.0, norm: bool = False
) -> nn.Sequential:
    """Return a stack of convolutions with He initialization times a gain."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        conv = nn.Conv2d(channels, channels, 1)
        nn.init.kaiming_normal_(conv.weight)
        conv.weight.data *= gain
        nn.init.constant_(conv.bias, bias)
        layers += [conv, *([nn.BatchNorm2d(channels)] if norm else []), act()]
    return nn.Sequential(*layers)


def killed(path: str, act: Callable[[], nn.Module] = nn.ReLU, bias: float = -20.0) -> Any:
    """Shift a convolution's outputs to one side of its activation."""

    def change(model: Any) -> None:
        conv = model.get_submodule(path)
        conv.act = act()
        nn.init.constant_(conv.bn.bias, bias)

    return change


def scaled_outputs(factor: float) -> Callable[[Any], None]:
    """Multiply the initial weights of the last convolutions in the class branches."""

    def change(model: Any) -> None:
        head = model.model[-1]
        for branches in (head.cv3, getattr(head, "one2one_cv3", None) or ()):
            for branch in branches:
                branch[-1].weight.data *= factor

    return change
