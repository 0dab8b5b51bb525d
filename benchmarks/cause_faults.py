"""Faults whose call and mechanism are known, for `causes.py`: what is planted, and what is expected.

The expectation was written down before the analysis was tried on the fault. The classes are at
module level, because a checkpoint pickles them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from trainings import Conv

from yolo_gradwatch.demo.faults import FAULTS, Fault, GradientFactor, Wrapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

NAME = ("f", "i", "type", "np")
"""By these Ultralytics finds what a block reads."""

OLD = ("yolo26n", "yolo11n")
"""Models whose blocks have the numbers that the gallery of faults names."""

ONE, TWO = ("yolo26n", "yolov8n"), ("yolo11n", "yolov5n")
CLASSIFY = ("yolo26n-cls", "yolov8n-cls")


class Around(nn.Module):
    """A block with something in front of it or behind it that is no layer."""

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
    """A branch behind a constant, without a connection around it."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.tensor([[factor], [factor]]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """The input times that constant."""
        return x * self.gamma.mean()


def channels(block: Any) -> int:
    """Of the output of a convolution, or of a block that ends with its ``cv2`` or ``cv3``."""
    last = getattr(block, "cv3", getattr(block, "cv2", block))
    return int(last.conv.out_channels)


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
    """A square root, whose slope at 0 is not finite."""
    return torch.sqrt(x.relu())


def logarithm(x: Tensor) -> Tensor:
    """A logarithm, one of whose arguments is 0."""
    return torch.log((x - x.amin()).abs())


def exponential(x: Tensor) -> Tensor:
    """A softmax by hand in half precision."""
    e = (x.half() * 30).exp()
    return (e / e.sum(1, keepdim=True)).float()


def quotient(x: Tensor) -> Tensor:
    """Each map by its own spread, of which one is 0."""
    mask = torch.ones_like(x[:, :, :1, :1])
    mask[:, 0] = 0
    y = x * mask
    return y / y.std((2, 3), keepdim=True)


def behind(index: int, make: Callable[[int], nn.Module]) -> Callable[[Any], None]:
    """Put a module behind a block, made for so many channels."""

    def change(model: Any) -> None:
        block = model.model[index]
        model.model[index] = Wrapped(block, make(channels(block)))

    return change


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


def initialized(way: Callable[[Tensor], object]) -> Callable[[Any], None]:
    """Initialize every convolution in another way."""

    def change(model: Any) -> None:
        for one in model.modules():
            if isinstance(one, nn.Conv2d) and one.weight.requires_grad and one.groups == 1:
                way(one.weight.data)

    return change


def scaled_outputs(factor: float) -> Callable[[Any], None]:
    """Initialize the last convolutions of the class branches too large."""

    def change(model: Any) -> None:
        head = model.model[-1]
        for branches in (head.cv3, getattr(head, "one2one_cv3", None) or ()):
            for branch in branches:
                branch[-1].weight.data *= factor

    return change


def use_scaler(trainer: Any) -> None:
    """AMP's loss scaler on a CPU."""
    trainer.scaler = torch.amp.GradScaler(trainer.device.type)


@dataclass(frozen=True)
class Planted:
    """A fault and what is expected of the analysis.

    Attributes:
        fault: What is planted.
        calls: Modules one of which is to be named, as a regular expression.
        kinds: Mechanisms one of which is right; empty where a trace cannot show the cause.
        models: In which it is planted.
        is_held_out: Whether it was not looked at while the analysis was written.
    """

    fault: Fault
    calls: str = ""
    kinds: frozenset[str] = field(default_factory=frozenset)
    models: tuple[str, str] = ONE
    is_held_out: bool = False


def _planted(  # noqa: PLR0913  # a row of the table
    title: str,
    change: Callable[[Any], None],
    calls: str,
    kinds: str,
    models: tuple[str, str] = ONE,
    *,
    held: bool = False,
    scaler: bool = False,
) -> Planted:
    fault = Fault(title, change=change, begin=use_scaler if scaler else None)
    return Planted(fault, calls, frozenset(kinds.split()), models, held)


def _shown(name: str, calls: str = "", kinds: str = "") -> Planted:
    return Planted(FAULTS[name], calls, frozenset(kinds.split()), OLD)


_NAN, _SLOPE = "not_finite call", "not_finite_gradient"

PLANTED: dict[str, Planted] = {
    "saturated": _shown("saturated", r"model\.4\.behind", "shrinks saturated"),
    "gradient-cut": _shown("gradient-cut", r"model\.4\.behind", "falls"),
    "tanh-stack": _shown("tanh-stack", r"model\.6\.behind", "shrinks"),
    "dying-relu": _shown("dying-relu", r"model\.17\.act", "zero"),
    "detached": _shown("detached", r"model\.10(\.behind)?$", "cut"),
    "amp-overflow": _shown("amp-overflow", r"model\.6\.behind", _SLOPE),
    "loss-spike": _shown("loss-spike"),
    "nan": _shown("nan"),
    # saturated and zero
    "sigmoid-bias": _planted(
        "a Sigmoid whose inputs lie near 14 behind block 2",
        behind(2, partial(plain, 1, nn.Sigmoid, bias=14.0)),
        r"model\.2\.behind\.1", "saturated", ONE,
    ),  # fmt: skip
    "tanh-bias": _planted(
        "a Tanh whose inputs lie near -11 behind block 6",
        behind(6, partial(plain, 1, nn.Tanh, bias=-11.0)),
        r"model\.6\.behind\.1", "saturated", TWO, held=True,
    ),  # fmt: skip
    "sigmoid-three": _planted(
        "three Sigmoids whose inputs lie near 9 behind block 4",
        behind(4, partial(plain, 3, nn.Sigmoid, gain=0.5, bias=9.0)),
        r"model\.4\.behind\.[135]", "saturated", TWO,
    ),  # fmt: skip
    "relu6-end": _planted(
        "block 3 ends with a ReLU6 whose inputs lie above 6", killed("model.3", nn.ReLU6, 30.0),
        r"model\.3\.act", "saturated", ONE, held=True,
    ),  # fmt: skip
    "hardsigmoid-classify": _planted(
        "a Hardsigmoid whose inputs lie near 9 behind block 4 of a classifier",
        behind(4, partial(plain, 1, nn.Hardsigmoid, bias=9.0)),
        r"model\.4\.behind\.1", "saturated", CLASSIFY, held=True,
    ),  # fmt: skip
    "relu-block-5": _planted(
        "the ReLU units of block 5 put out zero", killed("model.5"), r"model\.5\.act", "zero", ONE
    ),
    "relu-inside": _planted(
        "the ReLU units of the last convolution of block 6 put out zero", killed("model.6.cv2"),
        r"model\.6\.cv2\.act", "zero", TWO, held=True,
    ),  # fmt: skip
    # falls, shrinks, zeroed, cut
    "falls-between": _planted(
        "the gradient is multiplied by 1e-4 between the layers of block 4",
        replaced(4, lambda block: Pair(block, partial(thinned, 1e-4))),
        r"model\.4$", "falls", ONE,
    ),  # fmt: skip
    "falls-behind": _planted(
        "the gradient is multiplied by 1e-5 at the end of block 6",
        replaced(6, lambda block: Around(block, after=partial(thinned, 1e-5))),
        r"model\.6$", "falls", TWO,
    ),  # fmt: skip
    "falls-before": _planted(
        "the gradient is multiplied by 1e-4 before the first layer of block 3",
        replaced(3, lambda block: Around(block, before=partial(thinned, 1e-4))),
        r"model\.3$", "falls", ONE, held=True,
    ),  # fmt: skip
    "falls-classify": _planted(
        "the gradient is multiplied by 1e-4 behind block 5 of a classifier",
        behind(5, lambda _: GradientFactor(1e-4)),
        r"model\.5\.behind", "falls", CLASSIFY, held=True,
    ),  # fmt: skip
    "small-stack": _planted(
        "five convolutions of a tenth of He's initialization behind block 4",
        behind(4, partial(plain, 5, nn.ReLU, gain=0.1)),
        r"model\.4\.behind", "shrinks scaled_forward", ONE,
    ),  # fmt: skip
    "sigmoid-stack": _planted(
        "eight convolutions with Sigmoid behind block 2",
        behind(2, partial(plain, 8, nn.Sigmoid, gain=0.7)),
        r"model\.2\.behind", "shrinks", TWO, held=True,
    ),  # fmt: skip
    "times-zero": _planted(
        "the output of block 8 is multiplied by 0",
        replaced(8, lambda block: Around(block, after=partial(times, 0.0))),
        r"model\.8$", "zeroed", ONE,
    ),  # fmt: skip
    "gamma-zero": _planted(
        "the output of block 4 is multiplied by a constant gamma of 0",
        behind(4, lambda _: Gamma(0.0)), r"model\.4\.behind", "zeroed", TWO, held=True,
    ),  # fmt: skip
    "times-small": _planted(
        "the output of block 5 is multiplied by 1e-7",
        replaced(5, lambda block: Around(block, after=partial(times, 1e-7))),
        r"model\.5$", "scaled_forward", ONE,
    ),  # fmt: skip
    "detach-between": _planted(
        "detach() between the layers of block 6", replaced(6, lambda block: Pair(block, cut)),
        r"model\.6$", "cut", ONE,
    ),  # fmt: skip
    "detach-classify": _planted(
        "detach() at the end of block 6 of a classifier",
        replaced(6, lambda block: Around(block, after=cut)),
        r"model\.6$", "cut", CLASSIFY, held=True,
    ),  # fmt: skip
    "no-grad": _planted(
        "block 4 runs under torch.no_grad", replaced(4, without_grad), r"model\.4", "cut uncalled",
        TWO,
    ),  # fmt: skip
    "forgotten": _planted(
        "a convolution of block 6 whose output is not used", replaced(6, Aside),
        r"model\.6(\.aside)?$", "cut", ONE,
    ),  # fmt: skip
    # multiplied, grows, scaled_forward
    "times-1e4": _planted(
        "the gradient is multiplied by 1e4 behind block 4",
        behind(4, lambda _: GradientFactor(1e4)), r"model\.4\.behind", "multiplied", ONE,
    ),  # fmt: skip
    "multiplied-between": _planted(
        "the gradient is multiplied by 1e5 between the layers of block 6",
        replaced(6, lambda block: Pair(block, partial(thinned, 1e5))),
        r"model\.6$", "multiplied", TWO, held=True,
    ),  # fmt: skip
    "large-stack": _planted(
        "six convolutions of ten times He's initialization behind block 4",
        behind(4, partial(plain, 6, nn.ReLU, gain=10.0)),
        r"model\.4\.behind", "grows scaled_forward", ONE,
    ),  # fmt: skip
    "normal-weights": _planted(
        "every convolution initialized from a normal distribution of deviation 1",
        initialized(lambda w: nn.init.normal_(w, 0, 1)), r".*", "scaled_forward grows", ONE,
    ),  # fmt: skip
    "large-classes": _planted(
        "the last convolutions of the class branches are 1,000 times too large",
        scaled_outputs(1000.0), r"model\.2[234].*cv3", "scaled_forward", TWO, held=True,
    ),  # fmt: skip
    # not finite
    "logarithm": _planted(
        "a logarithm of 0 at the end of block 6",
        replaced(6, lambda block: Around(block, after=logarithm)), r"model\.6$", _NAN, ONE,
        scaler=True,
    ),  # fmt: skip
    "half-exp": _planted(
        "a softmax by hand in half precision between the layers of block 4",
        replaced(4, lambda block: Pair(block, exponential)), r"model\.4(\.second\.conv)?$", _NAN,
        TWO, scaler=True,
    ),  # fmt: skip
    "quotient": _planted(
        "a division by a spread of 0 before block 7",
        replaced(7, lambda block: Around(block, before=quotient)), r"model\.7", _NAN, ONE,
        scaler=True, held=True,
    ),  # fmt: skip
    "root": _planted(
        "a square root of 0 at the end of block 6",
        replaced(6, lambda block: Around(block, after=root)), r"model\.6$", _SLOPE, TWO,
        scaler=True,
    ),  # fmt: skip
}
"""Every fault by its name."""
