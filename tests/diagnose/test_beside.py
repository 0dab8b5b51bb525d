"""Blocks with a low gradient, where the gradient passes through them or bypasses them."""

from dataclasses import replace

import numpy as np
import pytest
from nets import fired, lasting
from values import Part, plan

from yolo_gradwatch.diagnose.detector import Detector
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.trace import Call, Flow

PLANNED, _ = plan(
    [
        *(Part(f"model.{n}.{x}", is_weight=x == "conv") for n in range(3) for x in ("conv", "bn")),
        Part("model.4.conv"),
    ],
    [f"model.{n}" for n in range(6)],
    [*((f"model.{n}", f"model.{n + 1}") for n in range(5)), ("model.0", "model.3")],
)

SKIP = replace(
    PLANNED, blocks=tuple((n, "Concat" if n == "model.3" else k) for n, k in PLANNED.blocks)
)
"""Blocks 1 and 3 (a Concat) both read block 0, so not every path leads through block 1."""

LOW = {"model.1": 1e-3}


def traced(step, **norms):
    """A trace with these gradient norms at block outputs of equal size."""
    calls = [
        Call(n, f"model.{name[1:]}", 1, "", 8, gradient_norm=norm)
        for n, (name, norm) in enumerate(norms.items(), 1)
    ]
    return Flow(1, step, tuple(calls))


def plain(layout, norm):
    """The layout with a norm layer replaced by some other parameter."""
    roles = zip(layout.modules, layout.roles, strict=True)
    return replace(layout, roles=tuple("other" if name == norm else role for name, role in roles))


def last(windows, flow=None, layout=SKIP):
    """The module that each rule names in the last window."""
    detector = Detector(layout, Thresholds(), {})
    alerts = [detector.update(one, None, flow) for one in windows][-1]
    return {alert.rule: alert.module for alert in alerts}


def names(windows, rule):
    """A window of one step whose blocks or weights are off by decades, or `BROKEN`.

    The place "" is the whole net.
    """
    return [alert.module for alert in fired(windows, rule)]


VANISHING = {"vanishing": "model.1"}


@pytest.mark.parametrize(("decades", "fires"), [(-0.49, False), (-0.51, True)])
def test_vanishing_needs_every_upstream_block_to_be_low(decades, fires):
    norms = {"model.0": 10**-0.6, "model.1": 10.0**decades, "model.2": 1e-3}
    assert names(lasting(5, norms), "vanishing") == ["model.2"] * fires


@pytest.mark.parametrize(
    ("source", "around", "found"),
    [
        (1.0, 0.90, {}),  # any more than that came through the block
        (1.0, 0.92, VANISHING),
        (1.0, 0.99, VANISHING),
        (0.031, 0.0, VANISHING),  # 1.5 decades below what arrives
        (0.032, 1e-9, {}),
    ],
)
def test_trace_shows_how_much_gradient_bypasses_a_block(source, around, found):
    assert last(lasting(5, LOW, layout=SKIP)) == VANISHING
    flow = traced(1, b0=source, b1=1.0, b3=around or 1e-12)
    assert last(lasting(5, LOW, layout=SKIP), flow) == found


def test_trace_from_before_the_drop_is_ignored():
    flow = traced(9, b0=1.0, b1=1.0, b3=0.1)
    windows = [*lasting(9, layout=SKIP), *lasting(6, LOW, first=10, layout=SKIP)]
    assert last(windows, flow) == VANISHING
    assert last(lasting(15, LOW, layout=SKIP), flow) == {}


@pytest.mark.parametrize(("size", "found"), [(49, {}), (50, VANISHING)])
def test_block_far_smaller_than_its_neighbours_is_a_gate(size, found):
    sizes = tuple(size if name == "model.1" else 1000 for name in SKIP.modules)
    normed = replace(SKIP, parameters=sizes)
    assert last(lasting(5, LOW, layout=normed), layout=normed) == VANISHING
    layout = plain(normed, "model.1.bn")
    assert last(lasting(5, LOW, layout=layout), layout=layout) == found
    assert last(lasting(5, {"model.1": 10**-4.5}, layout=layout), layout=layout) == VANISHING
    cut = traced(1, b0=1.0, b1=1.0, b3=1.0)
    assert last(lasting(5, LOW, layout=layout), cut, layout) == VANISHING


@pytest.mark.parametrize(("own", "found"), [(1e-2, {}), (1e-4, VANISHING)])
def test_factor_with_more_gradient_than_the_rest_of_its_block_reveals_a_branch(own, found):
    row = SKIP.modules.index("model.1")
    roles = tuple("other" if m == row else role for m, role in enumerate(SKIP.roles))
    windows = lasting(5, LOW, layout=SKIP)
    for one in windows:
        one.norm_mean[row] = np.sqrt(2 * 1e-3**2 + own**2)
    assert last(windows, layout=replace(SKIP, roles=roles)) == found


def test_frozen_factor_reveals_nothing():
    row = SKIP.modules.index("model.1")
    roles = tuple("other" if m == row else role for m, role in enumerate(SKIP.roles))
    windows = lasting(5, LOW, layout=SKIP)
    for one in windows:
        one.norm_mean[row] = np.nan
    assert last(windows, layout=replace(SKIP, roles=roles)) == {**VANISHING, "frozen": "model.1"}


def test_block_before_a_low_one_is_compared_with_the_readers_of_the_low_one():
    low = {"model.1": 1e-4, "model.0": 1.0}
    assert fired(lasting(5, low), "exploding") == []
    assert names(lasting(5, {**low, "model.0": 1e3}), "exploding") == ["model.0"]
    assert names(lasting(5, {"model.0": 1e-4, "model.1": 1e-3}), "vanishing") == ["model.1"]


def test_units_of_a_gate_may_stay_zero():
    rows = [SKIP.modules.index(f"model.{n}.conv") for n in (1, 2)]
    windows = lasting(20, layout=SKIP)
    for one in windows:
        one.zero_fraction[rows] = 0.6
    assert last(windows) == {"partly_dead": "model.2.conv"}  # the later of the two
    sizes = tuple(49 if name == "model.2" else 1000 for name in SKIP.modules)
    assert last(windows, layout=plain(replace(SKIP, parameters=sizes), "model.2.bn")) == {
        "partly_dead": "model.1.conv"
    }
