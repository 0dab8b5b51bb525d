"""The advice of the messages as code.

Repairs of a model change the module that the finding names. Where the advice is to find and remove
something, the code knows the classes and wraps of `more_faults` and `demo/faults`.
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
    """Code that follows a piece of advice.

    Attributes:
        net: Functions that change the model, called with the finding.
        begin: Functions that change the trainer after its setup, called with the finding.
        options: Training arguments.
    """

    net: tuple[Callable[[Any, Finding], None], ...] = ()
    begin: tuple[Callable[[Any, Finding], None], ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def __add__(self, other: Self) -> Repair:
        """Combine two repairs."""
        options = {**self.options, **other.options}
        return Repair((*self.net, *other.net), (*self.begin, *other.begin), options)

    def apply(self, model: Any, finding: Finding) -> None:
        """Repair the trainings of an Ultralytics model."""

        def change(net: Any) -> None:
            for one in self.net:
                one(net, finding)

        def begin(trainer: Any) -> None:
            for one in self.begin:
                one(trainer, finding)

        Fault("", change=change, begin=begin).inject(model)


class _Around(nn.Module):
    """A residual connection around a module that keeps the shape."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        """Add the module's output to the input."""
        found: Tensor = x + self.inside(x)
        return found


def named(net: Any, finding: Finding) -> nn.Module:
    """Return the module that a finding names."""
    return net if finding.module == WHOLE else net.get_submodule(finding.module)


def _replace(place: nn.Module, kinds: Any, make: Callable[[nn.Module], nn.Module]) -> None:
    """Replace all modules of the given classes by the result of ``make``."""
    for parent in list(place.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, kinds):
                setattr(parent, name, make(child))


def _stacks(place: nn.Module) -> Iterator[nn.Sequential]:
    """Yield sequences that start with a bare convolution."""
    for one in place.modules():
        if isinstance(one, nn.Sequential) and isinstance(one[0], (nn.Conv2d, _Normalized)):
            yield one


class _Normalized(nn.Sequential):
    """A convolution with BatchNorm."""


def smooth(net: Any, finding: Finding) -> None:
    """Replace activations that saturate or die by SiLU."""
    _replace(named(net, finding), SHARP, lambda _: nn.SiLU())


def normalize(net: Any, finding: Finding) -> None:
    """Add BatchNorm after each bare convolution."""
    for one in list(_stacks(named(net, finding))):
        for i, layer in enumerate(one):
            if isinstance(layer, nn.Conv2d):
                one[i] = _Normalized(layer, nn.BatchNorm2d(layer.out_channels))


def reset_norms(net: Any, finding: Finding) -> None:
    """Set weights to 1 and biases to 0 in each BatchNorm."""
    for one in named(net, finding).modules():
        if isinstance(one, nn.BatchNorm2d):
            one.reset_parameters()


def bypass_by_two(net: Any, finding: Finding) -> None:
    """Add a residual connection around every two layers with their activations."""
    for one in list(_stacks(named(net, finding))):
        _regroup(one, 4)


def _regroup(one: nn.Sequential, size: int) -> None:
    layers = list(one)
    del one[:]
    for at in range(0, len(layers), size):
        one.append(_Around(nn.Sequential(*layers[at : at + size])))


def bypass_whole(net: Any, finding: Finding) -> None:
    """Add a residual connection around each whole stack."""
    for one in list(_stacks(named(net, finding))):
        _regroup(one, len(one))


def remove_cuts(net: Any, finding: Finding) -> None:
    """Remove factors and detach() calls."""
    _replace(named(net, finding), (GradientFactor, Detached, Scale), lambda _: nn.Identity())


def remove_hooks(trainer: Any, finding: Finding) -> None:
    """Remove the hooks that corrupt the gradients of the module's parameters."""
    for parameter in named(trainer.model, finding).parameters():
        (parameter._backward_hooks or {}).clear()  # noqa: SLF001  # no public API


def add_epsilon(net: Any, finding: Finding) -> None:
    """Add an epsilon to a root or logarithm without one."""
    for one in named(net, finding).modules():
        if getattr(one, "eps", None) == 0:
            one.eps = 1e-3


def use_single_precision(net: Any, finding: Finding) -> None:
    """Compute in float32 instead of half precision."""
    for one in named(net, finding).modules():
        if getattr(one, "dtype", None) == torch.float16:
            one.dtype = torch.float32


def initialize(net: Any, finding: Finding) -> None:
    """Apply Ultralytics' initialization: PyTorch's, and the biases of the head."""
    del finding
    for conv in convolutions(net):
        conv.reset_parameters()
    net.model[-1].bias_init()


def initialize_head(net: Any, finding: Finding) -> None:
    """Initialize the head's last convolutions with a small standard deviation."""
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
    """Scale the loss down so that the gradient has a norm of 1,000."""
    scale, factor = trainer.scaler.scale, 1e3 / finding.value
    trainer.scaler.scale = lambda loss: scale(loss.double() * factor).float()


def disable_scaler(trainer: Any, finding: Finding) -> None:
    """Disable the loss scaler, as without AMP."""
    del finding
    trainer.scaler = torch.amp.GradScaler(trainer.device.type, enabled=False)


def remove_factor(trainer: Any, finding: Finding) -> None:
    """Remove the factor on the loss, in the trainer's scaler or the model's criterion."""
    del finding
    vars(trainer.scaler).pop("scale", None)
    vars(trainer.model).pop("init_criterion", None)


def restore_rate(trainer: Any, finding: Finding) -> None:
    """Restore the learning rate that the options ask for."""
    del finding
    rate = trainer.args.lr0
    for group in trainer.optimizer.param_groups:
        group["lr"] = group["initial_lr"] = rate
    trainer.scheduler.base_lrs = [rate for _ in trainer.scheduler.base_lrs]


def remove_callback(trainer: Any, finding: Finding) -> None:
    """Remove the user's callbacks that change the optimizer."""
    del finding
    own = trainer.callbacks["on_train_batch_start"]
    own[:] = [call for call in own if call.__module__ != "more_faults"]


def clean_images(trainer: Any, finding: Finding) -> None:
    """Replace non-finite values in the images."""
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
OPENED = Repair(net=(remove_cuts,))
UNHOOKED = Repair(begin=(remove_hooks,))
EPSILON = Repair(net=(add_epsilon,))
RESET = Repair(net=(reset_norms,))
SINGLE = Repair(net=(use_single_precision,))
INITIAL = Repair(net=(initialize,))
HEAD = Repair(net=(initialize_head,))
COMPLETE = Repair(begin=(complete,))
SCALED_LOSS = Repair(begin=(scale_loss,))
WITHOUT_FACTOR = Repair(begin=(remove_factor,))
USUAL_RATE = Repair(begin=(restore_rate,))
WITHOUT_CALLBACK = Repair(begin=(remove_callback,))
WITHOUT_IMAGES = Repair(begin=(clean_images,))
WITHOUT_AMP = Repair(begin=(disable_scaler,), options={"amp": False})
LOWER_RATE = Repair(options={"lr0": 0.01})
USUAL_GAINS = Repair(options={"box": 7.5, "dfl": 1.5})
