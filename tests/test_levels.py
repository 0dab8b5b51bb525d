from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from values import FAMILIES, LAWS, NET, Part, inside, normed, plan, window

from yolo_gradwatch import model_layout as layouts
from yolo_gradwatch.levels import CEILING, FLOOR, REACH, Reader

BLOCKS = [name for name, _ in NET.blocks]


def reading(norms=(), layout=NET, **sick):
    return Reader(layout).read(normed(window(1, layout=layout, **sick), dict(norms), layout))


def of(column, unit, layout=NET):
    """The value of a unit."""
    return column[Reader(layout).graph.units.index(unit)]


def parted(*parts):
    """A block of these parts, which one other block and then the head read."""
    layout, _ = plan(
        [*parts, Part("model.1"), Part("model.2")],
        ["model.0", "model.1", "model.2"],
        [("model.0", "model.1"), ("model.1", "model.2")],
    )
    return layout


# Levels of units.


@pytest.mark.parametrize(
    ("norms", "level"),
    [
        ((1e-2, 1e0, 1e4), 0.0),
        ((1e4, 1e-2, 1e0), 0.0),
        ((1e-2, 1e4, np.nan), 1.0),
        ((np.nan, 1e4, np.nan), 4.0),
        ((0.0, 1e2, 1e4), 2.0),
        ((0.0, 0.0, 1e4), -np.inf),
        ((0.0, 1e4, np.nan), -np.inf),
        ((np.nan, np.nan, np.nan), np.nan),
    ],
)
def test_the_level_of_a_block_is_the_median_over_its_weights(norms, level):
    found = reading(zip(("model.1.a", "model.1.b", "model.1.c"), norms, strict=True))
    np.testing.assert_allclose(of(found.weights, "model.1"), level, atol=1e-7)


@pytest.mark.parametrize(
    ("norms", "level"), [((1.0, 1e4), 2.0), ((1e2, np.nan), 2.0), ((0.0, 1e4), -np.inf)]
)
def test_the_level_of_two_weights_lies_between_them(norms, level):
    layout = parted(Part("model.0.a"), Part("model.0.b"))
    found = reading(zip(("model.0.a", "model.0.b"), norms, strict=True), layout)
    assert found.weights[0] == level


def test_the_level_of_a_branch_is_that_of_its_weights():
    assert of(reading({"model.6.cv3.1": 1e3}).weights, "model.6.cv3.1") == 3.0


def test_the_level_of_a_module_is_that_of_its_mean_norm():
    one = normed(window(1, layout=NET), {"model.0.conv": 1e3}, fields=["norm_mean"])
    row = NET.modules.index("model.0.conv")
    assert Reader(NET).read(one).modules[row] == 3.0
    other = normed(window(1, layout=NET), {"model.0.conv": 1e3}, fields=["norm_min", "norm_max"])
    assert Reader(NET).read(other).modules[row] == 0.0


@pytest.mark.parametrize(
    ("conv", "bn", "level"),
    [(1e2, 1e1, 2.0), (1e1, 1e2, 2.0), (1e2, np.nan, 2.0), (np.nan, 1e2, 2.0), (0.0, 0.0, -np.inf)],
)
def test_what_arrives_at_a_block_is_told_by_weights_or_norm_layers(conv, bn, level):
    found = reading({"model.2.conv": conv, "model.2.bn": bn})
    assert of(found.arriving, "model.2") == level


def test_of_several_norm_layers_the_largest_tells():
    layout = parted(*(Part(f"model.0.{n}_bn", is_weight=False) for n in "abc"), Part("model.0.d"))
    found = reading({"model.0": 1e-3, "model.0.b_bn": 10}, layout)
    assert found.arriving[0] == 1.0
    assert found.weights[0] == pytest.approx(-3.0)


# What is lost on the way.


def test_the_best_consumer_is_the_highest():
    norms = {"model.4": 1e1, "model.6.cv2.0": 1e3, "model.6.cv3.0": 1e2}
    assert of(reading(norms).best, "model.2") == 3.0
    assert of(reading({**norms, "model.6.cv2.0": np.nan}).best, "model.2") == 2.0
    assert of(reading({**norms, "model.4.bn": 1e5}).best, "model.2") == 5.0


def test_the_hop_leads_from_the_best_consumer_to_the_block():
    norms = {"model.4": 1e1, "model.6.cv2.0": 1e3, "model.2": 10}
    assert of(reading(norms).lost, "model.2") == 2.0


@pytest.mark.parametrize(
    ("level", "lost"), [(1.0, 1.0), (REACH - 0.01, REACH - 0.01), (REACH + 0.01, REACH), (9, REACH)]
)
def test_a_consumer_counts_only_as_far_as_it_may_stand_above_its_own(level, lost):
    found = reading({"model.2": 10.0**level})
    assert of(found.lost, "model.1") == pytest.approx(lost, abs=1e-6)
    assert of(found.best, "model.1") == pytest.approx(level, abs=1e-6)


def test_a_branch_of_the_head_counts_in_full():
    assert of(reading({"model.6.cv2.0": 1e9}).lost, "model.2") == pytest.approx(9.0)


def test_a_block_without_consumers_has_no_hop():
    found = reading(layout=replace(NET, edges=()))
    assert np.isnan(found.best).all()
    assert np.isnan(found.lost).all()


@pytest.mark.parametrize(
    ("norms", "lost"),
    [
        ({"model.5": 0.0}, np.inf),
        ({"model.6": 0.0}, -np.inf),
        ({"model.5": 0.0, "model.6": 0.0}, np.nan),
        ({"model.5": np.nan}, np.nan),
    ],
)
def test_a_norm_of_zero_or_none_makes_a_hop_that_is_not_finite(norms, lost):
    np.testing.assert_equal(of(reading(norms).lost, "model.5"), lost)


def test_a_norm_beyond_float32_stands_above_every_other():
    assert of(reading({"model.5": np.inf}).lost, "model.5") == -CEILING
    assert of(reading({"model.5": np.inf, "model.6": np.inf}).lost, "model.5") == 0.0
    assert of(reading({"model.5": 3.4e38}).lost, "model.5") > -CEILING


# How far a weight stands apart.


def apart(norms, weight="model.1.b", layout=NET):
    found = reading(norms, layout)
    names = [layout.modules[m] for m in Reader(layout).graph.trunk_weights]
    return found.apart[:, names.index(weight)]


@pytest.mark.parametrize("power", [-3, 2])
def test_a_weight_stands_apart_from_its_siblings(power):
    np.testing.assert_allclose(apart({"model.1.b": 10.0**power}), [power, -power], atol=1e-6)


@pytest.mark.parametrize(
    ("block", "consumer", "above", "below"),
    [(1e0, 1e2, 2.0, -4.0), (1e2, 1e0, 2.0, -4.0), (1e6, 1e0, -2.0, -4.0), (1e6, 1e5, -2.0, 1.0)],
)
def test_a_weight_stands_apart_by_the_lesser_of_both_distances(block, consumer, above, below):
    norms = {"model.1": block, "model.1.b": 1e4, "model.2": consumer}
    np.testing.assert_allclose(apart(norms), [above, below], atol=1e-6)


def test_the_weights_of_a_small_block_do_not_stand_apart():
    assert np.isnan(apart({"model.2": 1e5}, "model.2.conv")).all()
    two = parted(Part("model.0.a"), Part("model.0.b"))
    assert np.isnan(apart({}, "model.0.a", two)).all()
    three = parted(Part("model.0.a"), Part("model.0.b"), Part("model.0.c"))
    assert np.isfinite(apart({}, "model.0.a", three)).all()


def test_a_weight_is_compared_with_its_siblings_and_not_with_the_whole_block():
    inner, outer = (tuple(f"model.0.{n}.{i}" for i in "abc") for n in ("m", "n"))
    layout = replace(parted(*map(Part, (*inner, *outer, "model.0.z"))), edges=())
    norms = {**dict.fromkeys(inner, 1e4), "model.0.m.b": 1e6, "model.0.z": 1e5}
    found = [apart(norms, name, layout)[0] for name in (*inner, *outer, "model.0.z")]
    np.testing.assert_allclose(found, [0, 2, 0, 0, 0, 0, 1], atol=1e-6)


def test_without_consumers_the_siblings_alone_tell():
    alone = replace(NET, edges=())
    np.testing.assert_allclose(apart({"model.1.b": 1e3}, layout=alone), [3.0, -3.0])


# The whole trunk.


def test_the_trunk_is_the_median_over_all_its_weights():
    norms = dict(zip(("model.0", "model.1.a", "model.1.b"), (1e1, 1e2, 1e3), strict=True))
    assert reading(norms).trunk == 0.0
    assert reading({**norms, "model.2": 1e4}).trunk == 1.0
    assert reading({"model.6": 1e9, "model": 1e9}).trunk == 0.0
    assert reading({"model.1.bn": 1e9, "model.2.bn": 1e9, "model.4.bn": 1e9}).trunk == 0.0


def test_the_peak_is_that_of_the_highest_norms():
    one = normed(window(1, layout=NET), dict.fromkeys(BLOCKS, 1e3), fields=["norm_max"])
    found = Reader(NET).read(one)
    assert (found.trunk, found.trunk_peak) == (0.0, 3.0)


def test_a_trunk_without_any_gradient_lies_below_the_least_norm():
    found = reading(zero=NET.modules)
    assert found.trunk == found.trunk_peak == FLOOR
    assert np.log10(float(np.nextafter(np.float32(0), np.float32(1)))) > FLOOR


def test_a_trunk_beyond_single_precision_lies_above_the_highest_norm():
    found = reading(dict.fromkeys(BLOCKS, np.inf))
    assert found.trunk == found.trunk_peak == CEILING
    assert np.log10(float(np.finfo(np.float32).max)) < CEILING


def test_a_trunk_without_a_norm_has_no_level():
    found = reading(unknown=NET.modules)
    assert math.isnan(found.trunk)
    assert math.isnan(found.trunk_peak)


def test_a_model_without_blocks_has_no_levels():
    found = reading(layout=layouts.read(nn.Linear(2, 3))[0])
    assert [len(x) for x in (found.weights, found.arriving, found.best, found.lost)] == [0] * 4
    assert found.apart.shape == (2, 0)
    assert math.isnan(found.trunk)


def test_the_window_is_left_as_it_was_and_goes_along():
    one = window(1, layout=NET)
    for name in ("norm_min", "norm_mean", "norm_max"):
        getattr(one, name).flags.writeable = False
    assert Reader(NET).read(one).window is one


# Against plain loops.


@st.composite
def wired(draw):
    """A layout of blocks of any parts, whose edges go forward, and a head."""
    count = draw(st.integers(1, 5))
    sources = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=3))
    parts = []
    for n in range(count):
        weights, norms, others = (draw(st.integers(0, n)) for n in (7, 2, 1))
        parts += [Part(f"model.{n}.{draw(st.sampled_from('mno'))}.{i}") for i in range(weights)]
        parts += [Part(f"model.{n}.{i}_bn", is_weight=False) for i in range(norms)]
        parts += [Part(f"model.{n}.gain", is_weight=False)] * others
    for family in draw(st.lists(st.sampled_from(FAMILIES), min_size=1, unique=True)):
        parts += [Part(f"model.{count}.{family}.{n}.conv") for n in range(len(sources))]
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = draw(st.lists(st.sampled_from(pairs), min_size=1, unique=True)) if pairs else []
    edges = [*sorted(edges, key=lambda edge: edge[1]), *((s, count) for s in sources)]
    named = [(f"model.{a}", f"model.{b}") for a, b in edges]
    return plan(parts, [f"model.{n}" for n in range(count + 1)], named)[0]


VALUES = [0.0, np.nan, 1e-30, 1e-4, 1e-2, 0.3, 1.0, 5.0, 1e3, 1e6]


@st.composite
def cases(draw):
    layout = draw(wired())
    size = len(layout.modules)
    columns = [
        np.array(draw(st.lists(st.sampled_from(VALUES), min_size=size, max_size=size)), np.float32)
        for _ in range(2)
    ]
    one = replace(window(1, layout=layout), norm_mean=columns[0], norm_max=columns[1])
    blocks = [name for name, _ in layout.blocks]
    unknown = draw(st.sets(st.sampled_from(blocks), min_size=1, max_size=2))
    return layout, normed(one, dict.fromkeys(unknown, np.nan), layout)


class Oracle:
    """The same values from loops over names."""

    def __init__(self, layout, one):
        self.layout = layout
        self.level = self.levels_of(one.norm_mean)
        self.peak = self.levels_of(one.norm_max)
        self.roles = dict(zip(layout.modules, layout.roles, strict=True))
        names = [name for name, _ in layout.blocks if name != layout.head]
        self.blocks = [b for b in names if any(self.roles[m] for m in inside(layout, b))]

    def levels_of(self, norms):
        log = [math.log10(x) if x > 0 else -math.inf if x == 0 else math.nan for x in norms]
        return dict(zip(self.layout.modules, log, strict=True))

    def own(self, unit, role):
        return [m for m in inside(self.layout, unit) if self.roles[m] == role]

    def weights(self, unit):
        return median(self.level[m] for m in self.own(unit, "weight"))

    def arriving(self, block):
        return highest([self.weights(block), *(self.level[m] for m in self.own(block, "norm"))])

    def sent(self, unit):
        return self.arriving(unit) if unit in self.blocks else self.weights(unit)

    def consumers(self, block):
        scale = -1
        for source, target in self.layout.edges:
            scale += target == self.layout.head
            if source != block:
                continue
            if target == self.layout.head:
                for family in ("cv2", "cv3"):
                    unit = f"{target}.{family}.{scale}"
                    yield from [unit] if unit in self.layout.modules else []
            elif target in self.blocks:
                yield target
            else:
                yield from self.consumers(target)

    def best(self, block):
        return highest(self.sent(unit) for unit in self.consumers(block))

    def lost(self, block):
        found = []
        for unit in self.consumers(block):
            level = self.sent(unit)
            limit = self.best(unit) + REACH if unit in self.blocks else math.nan
            found.append(min(level, limit))  # one that is NaN: the level
        return highest(found) - self.arriving(block)

    def apart(self, block, sign):
        weights = self.own(block, "weight")
        for m in weights:
            part = m.rpartition(".")[0]
            alike = part if len(self.own(part, "weight")) >= 3 else block
            others = (self.weights(alike), self.best(block))
            distances = [sign * (self.level[m] - other) for other in others]
            found = [distance for distance in distances if not math.isnan(distance)]
            yield min(found, default=math.nan) if len(weights) >= 3 else math.nan

    def trunk(self, levels):
        found = median(levels[m] for block in self.blocks for m in self.own(block, "weight"))
        return max(found, FLOOR) if not math.isnan(found) else found


def median(values):
    return statistics.median([v for v in values if not math.isnan(v)] or [math.nan])


def highest(values):
    return max((v for v in values if not math.isnan(v)), default=math.nan)


@LAWS
@given(cases())
def test_levels_are_what_loops_find(case):
    layout, one = case
    oracle, found = Oracle(layout, one), Reader(layout).read(one)
    units = Reader(layout).graph.units
    expected = {
        "modules": list(oracle.level.values()),
        "weights": [oracle.weights(unit) for unit in units],
        "arriving": [oracle.arriving(block) for block in oracle.blocks],
        "best": [oracle.best(block) for block in oracle.blocks],
        "apart": [[x for b in oracle.blocks for x in oracle.apart(b, sign)] for sign in (1, -1)],
        "trunk": oracle.trunk(oracle.level),
        "trunk_peak": oracle.trunk(oracle.peak),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-12, err_msg=name)


@LAWS
@given(cases())
def test_hops_are_what_loops_find(case):
    layout, one = case
    oracle = Oracle(layout, one)
    expected = [oracle.lost(block) for block in oracle.blocks]
    np.testing.assert_allclose(Reader(layout).read(one).lost, expected, rtol=1e-12)
