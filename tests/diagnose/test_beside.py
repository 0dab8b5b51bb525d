"""Blocks that get little, while the gradient passes them or passes beside them."""

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
"""Block 1 reads block 0, which block 3, a Concat, reads too: no path leads through 1 alone."""

LOW = {"model.1": 1e-3}


def traced(step, **norms):
    """A trace with the gradients at the outputs of blocks, which all have as many elements."""
    calls = [
        Call(n, f"model.{name[1:]}", 1, "", 8, gradient_norm=norm)
        for n, (name, norm) in enumerate(norms.items(), 1)
    ]
    return Flow(1, step, tuple(calls))


def plain(layout, norm):
    """A layout with another parameter in place of a norm layer."""
    roles = zip(layout.modules, layout.roles, strict=True)
    return replace(layout, roles=tuple("other" if name == norm else role for name, role in roles))


def last(windows, flow=None, layout=SKIP):
    """What is named with the last window, by rule."""
    detector = Detector(layout, Thresholds(), {})
    alerts = [detector.update(one, None, flow) for one in windows][-1]
    return {alert.rule: alert.module for alert in alerts}


def names(windows, rule):
    """The modules that a rule names with the last window."""
    return [alert.module for alert in fired(windows, rule)]


VANISHING = {"vanishing": "model.1"}


@pytest.mark.parametrize(("decades", "fires"), [(-0.49, False), (-0.51, True)])
def test_it_vanishes_in_a_block_only_if_all_that_is_behind_it_is_low(decades, fires):
    norms = {"model.0": 10**-0.6, "model.1": 10.0**decades, "model.2": 1e-3}
    assert names(lasting(5, norms), "vanishing") == ["model.2"] * fires


@pytest.mark.parametrize(
    ("source", "around", "found"),
    [
        (1.0, 0.90, {}),  # what is more than that has passed the block
        (1.0, 0.92, VANISHING),
        (1.0, 0.99, VANISHING),
        (0.031, 0.0, VANISHING),  # 1.5 decades below what arrives
        (0.032, 1e-9, {}),
    ],
)
def test_a_trace_shows_what_passes_a_block_that_others_read_around(source, around, found):
    assert last(lasting(5, LOW, layout=SKIP)) == VANISHING
    flow = traced(1, b0=source, b1=1.0, b3=around or 1e-12)
    assert last(lasting(5, LOW, layout=SKIP), flow) == found


def test_a_trace_from_before_the_loss_says_nothing():
    flow = traced(9, b0=1.0, b1=1.0, b3=0.1)
    windows = [*lasting(9, layout=SKIP), *lasting(6, LOW, first=10, layout=SKIP)]
    assert last(windows, flow) == VANISHING
    assert last(lasting(15, LOW, layout=SKIP), flow) == {}


@pytest.mark.parametrize(("size", "found"), [(49, {}), (50, VANISHING)])
def test_a_block_far_smaller_than_its_neighbours_is_a_gate(size, found):
    sizes = tuple(size if name == "model.1" else 1000 for name in SKIP.modules)
    normed = replace(SKIP, parameters=sizes)
    assert last(lasting(5, LOW, layout=normed), layout=normed) == VANISHING
    layout = plain(normed, "model.1.bn")
    assert last(lasting(5, LOW, layout=layout), layout=layout) == found
    assert last(lasting(5, {"model.1": 10**-4.5}, layout=layout), layout=layout) == VANISHING
    cut = traced(1, b0=1.0, b1=1.0, b3=1.0)
    assert last(lasting(5, LOW, layout=layout), cut, layout) == VANISHING


@pytest.mark.parametrize(("own", "found"), [(1e-2, {}), (1e-4, VANISHING)])
def test_a_factor_that_gets_more_than_the_rest_of_its_block_shows_a_branch(own, found):
    row = SKIP.modules.index("model.1")
    roles = tuple("other" if m == row else role for m, role in enumerate(SKIP.roles))
    windows = lasting(5, LOW, layout=SKIP)
    for one in windows:
        one.norm_mean[row] = np.sqrt(2 * 1e-3**2 + own**2)
    assert last(windows, layout=replace(SKIP, roles=roles)) == found


def test_a_factor_that_is_frozen_shows_nothing():
    row = SKIP.modules.index("model.1")
    roles = tuple("other" if m == row else role for m, role in enumerate(SKIP.roles))
    windows = lasting(5, LOW, layout=SKIP)
    for one in windows:
        one.norm_mean[row] = np.nan
    assert last(windows, layout=replace(SKIP, roles=roles))["vanishing"] == "model.1"


def test_a_block_in_front_of_a_low_one_is_compared_with_what_reads_that():
    low = {"model.1": 1e-4, "model.0": 1.0}
    assert fired(lasting(5, low), "exploding") == []
    assert names(lasting(5, {**low, "model.0": 1e3}), "exploding") == ["model.0"]
    assert names(lasting(5, {"model.0": 1e-4, "model.1": 1e-3}), "vanishing") == ["model.1"]


def test_the_units_of_a_gate_may_be_zero_for_long():
    rows = [SKIP.modules.index(f"model.{n}.conv") for n in (1, 2)]
    windows = lasting(20, layout=SKIP)
    for one in windows:
        one.zero_fraction[rows] = 0.6
    assert last(windows) == {"partly_dead": "model.2.conv"}  # the later of both
    sizes = tuple(49 if name == "model.2" else 1000 for name in SKIP.modules)
    assert last(windows, layout=plain(replace(SKIP, parameters=sizes), "model.2.bn")) == {
        "partly_dead": "model.1.conv"
    }
