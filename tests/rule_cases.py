"""For each rule of the catalogue, a run that fires it and a finding for its message."""

from dataclasses import replace
from math import log10
from typing import Any, NamedTuple

import numpy as np
from nets import (
    NET,
    bad_loss,
    costing,
    curve,
    heavy,
    inside,
    lasting,
    moving,
    net,
    resting,
    upstream,
    weighing,
    zeroed,
)
from values import Part, plan

from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.loss_items import LossItem
from yolo_gradwatch.measure.optimizer import Group, Optimizer
from yolo_gradwatch.measure.windows import Window

BOXES = tuple(f"model.6.cv2.{scale}" for scale in range(3))
PAIRED = tuple(f"model.6.one2one_cv2.{scale}" for scale in range(3))

FIVE = Thresholds(dead_branch_windows=5)
"""Default limits, except for a shorter wait in the head."""


def items(**means):
    """Return the loss items of a window of one batch, with their sum."""
    means["sum"] = sum(means.values())
    return tuple(LossItem(name, 1, 0, int(v == 0), v, v, v) for name, v in means.items())


def rates(*values):
    """Return the learning rates of a window of one step."""
    named = ((f"lr/{group}", value) for group, value in enumerate(values))
    return tuple(LossItem(name, 1, 0, int(v == 0), v, v, v) for name, v in named)


def fallen(count, loss=0.0078125, first=2):
    """Return windows with a tiny gradient and a small loss."""
    return lasting(count, {WHOLE: 2.0**-12}, first=first, losses=items(cls=loss))


class Run(NamedTuple):
    """A run that fires one rule and no other.

    Attributes:
        windows: The minimum that the rule needs with ``FIVE``.
        module: Module in the alert.
        value: Number that the rule compares with its limit.
        fires: Whether it fires with a limit just below the value, at it, and just above it.
        step: Step of the alert.
        affected: Affected blocks.
        given: Further input of the detector: options of the training, or the optimizer.
    """

    windows: list[Window]
    module: str
    value: float
    fires: tuple[bool, bool, bool] | None
    step: int = 1
    affected: tuple[str, ...] = ()
    given: dict[str, Any] = {}  # noqa: RUF012  # never changed


ABOVE, FROM, BELOW, UP_TO = (
    (True, False, False),
    (True, True, False),
    (False, False, True),
    (False, True, True),
)
"""Fires above the limit, from the limit up, below the limit, or up to the limit."""

BEFORE_2 = ("model.0", "model.1")

STILL = Optimizer("SGD", (Group(0.0, 0.0, 1, 10),), zero_rate=("model.2.conv.weight",))
"""An optimizer with a group whose learning rate stays 0."""

RUNS = {
    "nonfinite": Run([net(1, steps=13, skipped=13)], WHOLE, 13, ABOVE),
    "amp_overflow": Run([net(1, steps=2, skipped=2)], WHOLE, 2, UP_TO),
    "loss_nonfinite": Run([bad_loss(net(1), "box_loss")], WHOLE, 1, None),
    "weight_overflow": Run([heavy(1, "model.2.conv", 1e5)], "model.2.conv", 1e5, ABOVE),
    "dead": Run(lasting(3, zero=["model.4.conv"]), "model.4.conv", 3, FROM),
    "no_gradient": Run(lasting(3, none=["model.4.conv"]), "model.4.conv", 3, FROM),
    "not_updated": Run([resting(n, "model.4.conv") for n in range(1, 4)], "model.4.conv", 3, FROM),
    "dead_branch": Run(
        lasting(5, zero=inside(NET, *BOXES)), "model.6.cv2", 5, FROM, affected=BOXES
    ),
    "few_objects": Run(
        lasting(5, steps=2, zero=dict.fromkeys(inside(NET, *BOXES), 1)),
        "model.6.cv2",
        5,
        FROM,
        affected=BOXES,
    ),
    "starved_scale": Run(
        lasting(5, steps=50, zero=dict.fromkeys(inside(NET, BOXES[2], PAIRED[2]), 50)),
        BOXES[2],
        5,
        FROM,
        affected=PAIRED[2:],
    ),
    "partly_dead": Run(
        [zeroed(n, 0.75 + 0.05 * (n != 9)) for n in range(1, 22, 4)], "model.2.conv", 0.75, FROM
    ),
    "zero_loss": Run(
        [costing(net(1), box_loss=0.0, cls_loss=1.0)],
        "model.6",
        1,
        None,
        given={"training": {"box": 0.0}},
    ),
    "zero_rate": Run([net(1)], "model.2.conv", 1, None, given={"optimizer": STILL}),
    "frozen": Run(lasting(3, unknown=["model.2.conv"]), "model.2.conv", 3, None),
    "small_weights": Run([weighing(1, 2.0**-10)], WHOLE, 2.0**-10 / 10**0.25, BELOW),
    "vanishing": Run(lasting(5, upstream(1e-3)), "model.2", 3, ABOVE, affected=BEFORE_2),
    "slow_branch": Run(
        [moving(one, {"model.1": 2.0**-6}) for one in lasting(5, {"model.1": 1e-3})],
        "model.1",
        2.0**-6,
        BELOW,
    ),
    "exploding": Run(lasting(3, upstream(1e3)), "model.2", 3, ABOVE, affected=BEFORE_2),
    "leaf_vanishing": Run(lasting(3, {"model.1.b": 1e-3}), "model.1.b", 3, ABOVE),
    "leaf_exploding": Run(lasting(3, {"model.1.b": 1e3}), "model.1.b", 3, ABOVE),
    "loss_imbalance": Run(
        lasting(5, {WHOLE: 2e3}, losses=items(box=1.0, own=1024.0)), WHOLE, log10(1024), ABOVE
    ),
    "large_weights": Run([weighing(1, 64)], WHOLE, 64 / 10**0.25, ABOVE),
    "initial_loss": Run(
        lasting(5, {WHOLE: 2e4}, losses=items(box=8.0, cls=512.0)), WHOLE, 512, ABOVE
    ),
    "rate_jump": Run(
        [net(n, losses=rates(0.01 if n < 4 else 0.08)) for n in range(1, 5)],
        WHOLE,
        log10(8),
        ABOVE,
        4,
    ),
    "weight_jump": Run(
        [
            *(weighing(n, 4.0625 if n % 2 == 0 else 4.0) for n in range(1, 22)),
            weighing(22, 6),
        ],
        WHOLE,
        log10(log10(1.5) / log10(1.015625)),
        ABOVE,
        21,
    ),
    "stray_step": Run(
        [
            net(1, {WHOLE: 8.0}, losses=items(cls=8.0)),
            *lasting(10, {WHOLE: 2.0**-9}, first=2, losses=items(cls=0.03125)),
            net(12, {WHOLE: 2.0**7}, losses=items(cls=0.03125)),
        ],
        WHOLE,
        16 * log10(2),
        ABOVE,
        12,
    ),
    "spike": Run(curve(0, 0, 1, 0, 0, 3), WHOLE, 2, ABOVE, 6),
    "collapse": Run(curve(*[0] * 9, *[1] * 11, -4, -3, -3.5), WHOLE, 4, ABOVE, 21),
    "total_high": Run(lasting(3, {WHOLE: 1e8}), WHOLE, 1e8, ABOVE),
    "total_low": Run(lasting(10, {WHOLE: 2.0**-12}), WHOLE, 2.0**-12, BELOW),
    "converged": Run([net(1, losses=items(cls=8.0)), *fallen(10)], WHOLE, 2.0**-12, BELOW, 2),
    "weight_growth": Run([weighing(1, 5), weighing(2, 50)], WHOLE, 1, ABOVE),
}

BRANCH = "model.4.cv2"

HEADED, _ = plan(
    [
        *(Part(f"model.{b}.{x}", is_weight=x == "conv") for b in range(4) for x in ("conv", "bn")),
        *(Part(f"{BRANCH}.{scale}.{x}") for scale in range(3) for x in ("conv", "out")),
    ],
    edges=[(f"model.{b}", f"model.{b + 1}") for b in range(4)],
)
"""A chain of four blocks, and a head with one family at three scales."""

WORDED = {
    **dict.fromkeys(("dead", "no_gradient", "not_updated", "frozen"), ("model.3.conv", 3.0, 3.0)),
    **dict.fromkeys(("leaf_vanishing", "leaf_exploding"), ("model.3.conv", 2.5, 2.0)),
    "nonfinite": ("model.3.conv", 1.0, 0.0),
    "amp_overflow": (WHOLE, 1.0, 12.0),
    "loss_nonfinite": (WHOLE, 1.0, 1.0),
    "weight_overflow": ("model.3.bn", 1e5, 65504.0),
    "dead_branch": (BRANCH, 50.0, 50.0),
    "few_objects": (BRANCH, 50.0, 50.0),
    "zero_loss": ("model.4", 1.0, 1.0),
    "zero_rate": ("model.3.conv", 1.0, 1.0),
    "starved_scale": (f"{BRANCH}.2", 50.0, 50.0),
    "partly_dead": ("model.3.conv", 0.8, 0.5),
    "vanishing": ("model.3", 4.5, 2.0),
    "slow_branch": ("model.3", 0.008, 0.05),
    "exploding": ("model.3", 3.5, 2.5),
    "small_weights": (WHOLE, 0.0013, 0.015),
    "loss_imbalance": (WHOLE, 4.2, 2.0),
    "large_weights": (WHOLE, 13.0, 4.0),
    "initial_loss": (WHOLE, 580.0, 200.0),
    "rate_jump": (WHOLE, 1.7, 0.7),
    "weight_jump": (WHOLE, 1.4, 1.0),
    "converged": (WHOLE, 2.5e-5, 1e-3),
    "stray_step": (WHOLE, 5.4, 4.5),
    "spike": (WHOLE, 1.7, 1.5),
    "collapse": (WHOLE, 3.3, 3.0),
    "total_high": (WHOLE, 2.5e7, 1e7),
    "total_low": (WHOLE, 2.5e-5, 1e-3),
    "weight_growth": (WHOLE, 0.7, 0.3),
}
"""A module of ``HEADED``, a value and a limit for the message of each rule."""

ODD = [0.0, np.nan, np.inf, 1e-40, 1e-9, 1e-3, 0.1, 1.0, 1.0, 1.0, 10.0, 1e3, 1e9, 1e15, 3e38]


def anything(seed, values=ODD, count=30):
    """Yield windows of arbitrary, inconsistent numbers."""
    random = np.random.default_rng(seed)
    size = len(NET.modules)

    def drawn(choices):
        return random.choice(choices, size).astype(np.float32)

    for step in range(1, count + 1):
        steps = int(random.integers(1, 4))
        counts = random.integers(0, steps + 1, (3, size)) * (random.random((3, size)) < 0.3)
        yield replace(
            net(step, steps=steps, skipped=int(random.choice([0, 0, 0, 1]))),
            **dict(zip(("nonfinite", "zero", "none"), counts, strict=True)),
            **{name: drawn(values) for name in ("norm_min", "norm_mean", "norm_max")},
            weight_norm=drawn([0, np.nan, np.inf, 1e-30, 1, 2, 1e30]),
            zero_fraction=drawn([0, 0.4, 0.6, 1, np.nan]),
        )
