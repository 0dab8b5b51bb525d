from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from nets import FAMILIES, NET, inside, normed
from torch import nn
from values import LAWS, Part, plan, window

from yolo_gradwatch.diagnose.reading import BYPASSED, CEILING, FLOOR, REACH, Reader
from yolo_gradwatch.measure import model_layout as layouts

BLOCKS = [name for name, _ in NET.blocks]


def reading(norms=(), layout=NET, **state):
    return Reader(layout).read(normed(window(1, layout=layout, **state), dict(norms), layout))


def of(column, unit, layout=NET):
    """The value of one unit."""
    return column[Reader(layout).graph.units.index(unit)]


# Beyond float32, and without norms.


def test_norm_beyond_float32_is_above_every_other():
    assert of(reading({"model.5": np.inf}).lost, "model.5") == -CEILING
    assert of(reading({"model.5": np.inf, "model.6": np.inf}).lost, "model.5") == 0.0
    assert of(reading({"model.5": 3.4e38}).lost, "model.5") > -CEILING


def test_trunk_without_a_gradient_is_below_the_lowest_norm():
    found = reading(zero=NET.modules)
    assert found.trunk == found.trunk_peak == FLOOR
    assert np.log10(float(np.nextafter(np.float32(0), np.float32(1)))) > FLOOR


def test_trunk_beyond_single_precision_is_above_the_highest_norm():
    found = reading(dict.fromkeys(BLOCKS, np.inf))
    assert found.trunk == found.trunk_peak == CEILING
    assert np.log10(float(np.finfo(np.float32).max)) < CEILING


def test_trunk_without_a_norm_has_no_level():
    found = reading(unknown=NET.modules)
    assert math.isnan(found.trunk)
    assert math.isnan(found.trunk_peak)


def test_model_without_blocks_has_no_levels():
    found = reading(layout=layouts.read(nn.Linear(2, 3))[0])
    assert [len(x) for x in (found.weights, found.arriving, found.best, found.lost)] == [0] * 4
    assert found.apart.shape == (2, 0)
    assert math.isnan(found.trunk)


# Against plain loops.


@st.composite
def wired(draw):
    """A layout of arbitrary blocks with forward edges, and a head."""
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
        if unit not in self.blocks:
            return self.weights(unit)
        level, passing = self.arriving(unit), self.passing(unit)
        return passing if -math.inf < level < passing - BYPASSED else level

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

    def passing(self, block):
        found = []
        for unit in self.consumers(block):
            level = self.sent(unit)
            limit = self.best(unit) + REACH if unit in self.blocks else math.nan
            found.append(min(level, limit))  # if one is NaN, the level
        return highest(found)

    def lost(self, block):
        return self.passing(block) - self.arriving(block)

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
def test_levels_agree_with_plain_loops(case):
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
def test_hops_agree_with_plain_loops(case):
    layout, one = case
    oracle = Oracle(layout, one)
    expected = [oracle.lost(block) for block in oracle.blocks]
    np.testing.assert_allclose(Reader(layout).read(one).lost, expected, rtol=1e-12)
