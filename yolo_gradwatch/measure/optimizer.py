"""What an optimizer moves: its parameter groups, and parameters that are frozen or in no group."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Group:
    """A parameter group of an optimizer.

    Attributes:
        lr: The learning rate that its schedule starts from (``initial_lr``), else the current one;
            None if it is not a finite number on the host.
        weight_decay: Weight decay, 0 if the group has none; None as for ``lr``.
        parameters: Number of tensors in it, including frozen ones.
        elements: Number of elements in these tensors.
    """

    lr: float | None
    weight_decay: float | None
    parameters: int
    elements: int


@dataclass(frozen=True, slots=True)
class Optimizer:
    """An optimizer and its model, from an optimizer step on.

    Names are those of the model's parameters, as in ``named_parameters`` and without the prefixes
    of wrappers; a shared one has its first name. No name is both trainable and frozen.

    Attributes:
        name: Class of the optimizer.
        groups: Parameter groups, in the optimizer's order.
        outside: Trainable parameters in no group.
        zero_rate: Trainable parameters in a group whose learning rate is 0, both now and where its
            schedule starts.
        frozen: Parameters frozen by the training's own options, such as ``freeze`` and the fixed
            ``.dfl``.
        frozen_otherwise: Parameters frozen without such an option.
        thawed: Trainable parameters that were frozen earlier in the run.
        elements_outside: Number of elements in ``outside``; 0 in files of older versions.
        step: First optimizer step for which this is known to hold; checked before an epoch and at
            the first step of a window.
    """

    name: str
    groups: tuple[Group, ...]
    outside: tuple[str, ...] = ()
    zero_rate: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    frozen_otherwise: tuple[str, ...] = ()
    thawed: tuple[str, ...] = ()
    elements_outside: int = 0
    step: int = 1
