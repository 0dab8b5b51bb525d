"""What the messages advise, as code.

What changes a model acts in the module that a finding names. Where the advice is to find something
and take it out, the code knows the classes and wraps of `more_faults` and `demo/faults`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from more_faults import Scale, convolutions, last_layers
from torch import nn

from yolo_gradwatch.demo.faults import Detached, Fault, GradientFactor
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor
    from typing_extensions import Self

    from yolo_gradwatch.diagnose.finding import Finding

SHARP = (nn.Sigmoid, nn.Tanh, nn.ReLU)


@dataclass(frozen=True)
class Repair:
    """How to follow an advice.

    Attributes:
        net: Change the model, given what the finding names.
        begin: Change the trainer, when it is set up.
        options: Arguments of the training.
    """

    net: tuple[Callable[[Any, Finding], None], ...] = ()
    begin: tuple[Callable[[Any, Finding], None], ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def __add__(self, other: Self) -> Repair:
        """Both, one after the other."""
        options = {**self.options, **other.options}
        return Repair((*self.net, *other.net), (*self.begin, *other.begin), options)

    def plant(self, model: Any, finding: Finding) -> None:
        """Arrange for the trainings of an Ultralytics model to be repaired."""

        def change(net: Any) -> None:
            for one in self.net:
                one(net, finding)

        def begin(trainer: Any) -> None:
            for one in self.begin:
                one(trainer, finding)

        Fault("", change=change, begin=begin).plant(model)


class _Around(nn.Module):
    """A residual connection around a module that keeps the shape."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        """The input, and what the module makes of it."""
        found: Tensor = x + self.inside(x)
        return found


def named(net: Any, finding: Finding) -> nn.Module:
    """The module that a finding names."""
    return net if finding.module == WHOLE else net.get_submodule(finding.module)


def _replace(place: nn.Module, kinds: Any, make: Callable[[nn.Module], nn.Module]) -> None:
    """Put what ``make`` returns in place of all modules of some classes."""
    for parent in list(place.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kinds):
                setattr(parent, name, make(child))


def _stacks(place: nn.Module) -> Iterator[nn.Sequential]:
    """Sequences of bare convolutions."""
    for one in place.modules():
        if isinstance(one, nn.Sequential) and isinstance(one[0], (nn.Conv2d, _Normalized)):
            yield one


class _Normalized(nn.Sequential):
    """A convolution with BatchNorm."""


def smooth(net: Any, finding: Finding) -> None:
    """SiLU in place of what saturates or dies."""
    _replace(named(net, finding), SHARP, lambda _: nn.SiLU())


def normalize(net: Any, finding: Finding) -> None:
    """BatchNorm after each bare convolution."""
    for one in list(_stacks(named(net, finding))):
        for i, layer in enumerate(one):
            if isinstance(layer, nn.Conv2d):
                one[i] = _Normalized(layer, nn.BatchNorm2d(layer.out_channels))


def reset_norms(net: Any, finding: Finding) -> None:
    """Weights of 1 and biases of 0 in each BatchNorm."""
    for one in named(net, finding).modules():
        if isinstance(one, nn.BatchNorm2d):
            one.reset_parameters()


def bypass_by_two(net: Any, finding: Finding) -> None:
    """A residual connection around every two layers, each with its activation."""
    for one in list(_stacks(named(net, finding))):
        _regroup(one, 4)


def _regroup(one: nn.Sequential, size: int) -> None:
    layers = list(one)
    del one[:]
    for at in range(0, len(layers), size):
        one.append(_Around(nn.Sequential(*layers[at : at + size])))


def bypass_whole(net: Any, finding: Finding) -> None:
    """A residual connection around each stack as a whole."""
    for one in list(_stacks(named(net, finding))):
        _regroup(one, len(one))


def open_up(net: Any, finding: Finding) -> None:
    """Take out what multiplies or cuts off."""
    _replace(named(net, finding), (GradientFactor, Detached, Scale), lambda _: nn.Identity())


def unhook(trainer: Any, finding: Finding) -> None:
    """Take out what spoils the gradient of the module's own parameters."""
    for parameter in named(trainer.model, finding).parameters():
        (parameter._backward_hooks or {}).clear()  # noqa: SLF001  # no public door


def add_epsilon(net: Any, finding: Finding) -> None:
    """An epsilon under a root or a log that has none."""
    for one in named(net, finding).modules():
        if getattr(one, "eps", None) == 0:
            one.eps = 1e-3


def in_single(net: Any, finding: Finding) -> None:
    """Compute in float32 what was in half precision."""
    for one in named(net, finding).modules():
        if getattr(one, "dtype", None) == torch.float16:
            one.dtype = torch.float32


def initialize(net: Any, finding: Finding) -> None:
    """The initialization of Ultralytics: that of PyTorch, and the biases of the head."""
    del finding
    for conv in convolutions(net):
        conv.reset_parameters()
    net.model[-1].bias_init()


def initialize_head(net: Any, finding: Finding) -> None:
    """The head's last convolutions with a small deviation."""
    del finding
    for conv in last_layers(net):
        nn.init.normal_(conv.weight, std=0.05)
    net.model[-1].bias_init()


def complete(trainer: Any, finding: Finding) -> None:
    """Give the optimizer all parameters."""
    del finding
    groups = trainer.optimizer.param_groups
    known = {id(p) for group in groups for p in group["params"]}
    groups[0]["params"] += [p for p in trainer.model.parameters() if id(p) not in known]


def scale_loss(trainer: Any, finding: Finding) -> None:
    """Divide the loss by what brings the gradient to a norm of 1,000."""
    scale, factor = trainer.scaler.scale, 1e3 / finding.value
    trainer.scaler.scale = lambda loss: scale(loss.double() * factor).float()


def without_scaler(trainer: Any, finding: Finding) -> None:
    """No loss scaler, as without AMP."""
    del finding
    trainer.scaler = torch.amp.GradScaler(trainer.device.type, enabled=False)


def take_out_factor(trainer: Any, finding: Finding) -> None:
    """Take out what multiplies the loss: of the trainer's own, or of the model's criterion."""
    del finding
    vars(trainer.scaler).pop("scale", None)
    vars(trainer.model).pop("init_criterion", None)


def set_usual_rate(trainer: Any, finding: Finding) -> None:
    """Take out what sets a rate that no option asks for."""
    del finding
    rate = trainer.args.lr0
    for group in trainer.optimizer.param_groups:
        group["lr"] = group["initial_lr"] = rate
    trainer.scheduler.base_lrs = [rate for _ in trainer.scheduler.base_lrs]


def without_callback(trainer: Any, finding: Finding) -> None:
    """Take out the callbacks of the user's own that change the optimizer."""
    del finding
    own = trainer.callbacks["on_train_batch_start"]
    own[:] = [call for call in own if call.__module__ != "more_faults"]


def without_images(trainer: Any, finding: Finding) -> None:
    """Take out images that are not finite."""
    del finding
    prepare = trainer.preprocess_batch

    def preprocess_batch(batch: Any) -> Any:
        batch = prepare(batch)
        batch["img"] = torch.nan_to_num(batch["img"])
        return batch

    trainer.preprocess_batch = preprocess_batch


NOTHING = Repair()
SMOOTH = Repair(net=(smooth,))
NORMALIZED = Repair(net=(normalize,))
BYPASSED = Repair(net=(bypass_whole,))
BYPASSED_BY_TWO = Repair(net=(bypass_by_two,))
OPENED = Repair(net=(open_up,))
UNHOOKED = Repair(begin=(unhook,))
EPSILON = Repair(net=(add_epsilon,))
RESET = Repair(net=(reset_norms,))
SINGLE = Repair(net=(in_single,))
INITIAL = Repair(net=(initialize,))
HEAD = Repair(net=(initialize_head,))
COMPLETE = Repair(begin=(complete,))
SCALED_LOSS = Repair(begin=(scale_loss,))
WITHOUT_FACTOR = Repair(begin=(take_out_factor,))
USUAL_RATE = Repair(begin=(set_usual_rate,))
WITHOUT_CALLBACK = Repair(begin=(without_callback,))
WITHOUT_IMAGES = Repair(begin=(without_images,))
WITHOUT_AMP = Repair(begin=(without_scaler,), options={"amp": False})
LOWER_RATE = Repair(options={"lr0": 0.01})
USUAL_GAINS = Repair(options={"box": 7.5, "dfl": 1.5})
