"""What an optimizer moves: its groups of parameters, and what is in none of them or frozen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Group:
    """A group of an optimizer's parameters.

    Attributes:
        lr: The learning rate that its schedule starts from (``initial_lr``), else the current one;
            None where it is not a finite number on the host.
        weight_decay: 0 where the group has none; None as for ``lr``.
        parameters: Tensors in it, frozen ones too.
        elements: Of these tensors together.
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
        name: Its class.
        groups: In its order.
        outside: Trainable parameters in no group.
        zero_rate: Trainable parameters in a group whose learning rate is 0, now and where its
            schedule starts from.
        frozen: Parameters that the training's own options freeze, such as ``freeze`` and the
            fixed ``.dfl``.
        frozen_otherwise: Parameters that are frozen without such an option.
        thawed: Trainable parameters that were frozen earlier in the run.
        elements_outside: Of the tensors in ``outside`` together; 0 in files of older versions.
        step: The first optimizer step for which this is known to hold; it is looked at before an
            epoch and at the first step of a window.
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
