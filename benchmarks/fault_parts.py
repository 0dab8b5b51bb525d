"""What faults are made of: modules of somebody's own, operations, initializations.

The classes are at module level, because a checkpoint pickles them.
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

NAME = ("f", "i", "type", "np")
"""By these Ultralytics finds what a block reads."""


class Around(nn.Module):
    """A block with an operation before or after it that is not a layer."""

    def __init__(self, block: Any, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.block, self.before, self.after = block, before, after
        for name in NAME:
            setattr(self, name, getattr(block, name))

    def forward(self, x: Any) -> Any:
        """The block's output, changed in this forward."""
        x = self.before(x) if self.before and self.training else x
        y = self.block(x)
        return self.after(y) if self.after and self.training else y


class Pair(nn.Module):
    """Two convolutions, and something between them that is no layer."""

    def __init__(self, block: Any, between: Any) -> None:
        super().__init__()
        self.first = Conv(block.cv1.conv.in_channels, channels(block), 1)
        self.second = Conv(channels(block), channels(block), 3)
        self.between = between
        for name in NAME:
            setattr(self, name, getattr(block, name))

    def forward(self, x: Tensor) -> Tensor:
        """Both, one after the other."""
        return self.second(self.between(self.first(x)))


class Aside(nn.Module):
    """A block with a part whose output is forgotten."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block, self.aside = block, nn.Conv2d(channels(block), channels(block), 1)
        for name in NAME:
            setattr(self, name, getattr(block, name))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output alone."""
        y: Tensor = self.block(x)
        self.aside(y)
        return y


class Gamma(nn.Module):
    """A branch scaled by a constant, without a connection around it."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.tensor([[factor], [factor]]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """The input times that constant."""
        return x * self.gamma.mean()


def thinned(factor: float, x: Tensor) -> Tensor:
    """The same values, whose gradient is multiplied."""
    return x + (factor - 1) * (x - x.detach())


def cut(x: Tensor) -> Tensor:
    """The same values without a gradient."""
    return x.detach()


def without_grad(block: Any) -> Any:
    """A block whose forward runs under ``torch.no_grad``."""
    block.forward = torch.no_grad()(block.forward)
    return block


def times(factor: float, x: Tensor) -> Tensor:
    """The values times a number."""
    return x * factor


def root(x: Tensor) -> Tensor:
    """A length by hand, whose slope at 0 is not finite."""
    return torch.sqrt((x * _all_but_one(x)).square())


def logarithm(x: Tensor) -> Tensor:
    """A logarithm, one of whose arguments is 0."""
    return torch.log((x - x.amin()).abs())


def exponential(x: Tensor) -> Tensor:
    """A softmax by hand in half precision."""
    e = (x.half() * 30).exp()
    return (e / e.sum(1, keepdim=True)).float()


def quotient(x: Tensor) -> Tensor:
    """Each map by its own spread, of which one is 0."""
    y = x * _all_but_one(x)
    return y / y.std((2, 3), keepdim=True)


def _all_but_one(x: Tensor) -> Tensor:
    """1 for each map, but 0 for the first."""
    mask = torch.ones_like(x[:, :, :1, :1])
    mask[:, 0] = 0
    return mask


def replaced(index: int, make: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Put something into the place of a block."""

    def change(model: Any) -> None:
        model.model[index] = make(model.model[index])

    return change


def plain(  # noqa: PLR0913  # what a plain stack is made of
    depth: int, act: Any, channels: int, *, gain: float = 1.0, bias: float = 0.0, norm: bool = False
) -> nn.Sequential:
    """A stack of convolutions of He's initialization times a gain."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        conv = nn.Conv2d(channels, channels, 1)
        nn.init.kaiming_normal_(conv.weight)
        conv.weight.data *= gain
        nn.init.constant_(conv.bias, bias)
        layers += [conv, *([nn.BatchNorm2d(channels)] if norm else []), act()]
    return nn.Sequential(*layers)


def killed(path: str, act: Callable[[], nn.Module] = nn.ReLU, bias: float = -20.0) -> Any:
    """Let a convolution's activation see nothing but values on one side."""

    def change(model: Any) -> None:
        conv = model.get_submodule(path)
        conv.act = act()
        nn.init.constant_(conv.bn.bias, bias)

    return change


def scaled_outputs(factor: float) -> Callable[[Any], None]:
    """Initialize the last convolutions of the class branches too large."""

    def change(model: Any) -> None:
        head = model.model[-1]
        for branches in (head.cv3, getattr(head, "one2one_cv3", None) or ()):
            for branch in branches:
                branch[-1].weight.data *= factor

    return change
