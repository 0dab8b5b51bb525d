"""Faults that begin late in a long and noisy run, from steps to findings."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
from values import Part, plan

from yolo_gradwatch.diagnose.diagnosis import Diagnosis
from yolo_gradwatch.diagnose.findings import WELL_WINDOWS
from yolo_gradwatch.diagnose.rules.history import RUN_UP_WINDOWS, risen, run_up
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.rollup import Rollup
from yolo_gradwatch.measure.sample import Detail, Sample, Weights

BLOCKS, LEAVES = 6, 4
NET, MEMBERS = plan(
    [Part(f"model.{b}.{leaf}") for b in range(BLOCKS + 1) for leaf in "abcd"],
    edges=[(f"model.{b}", f"model.{b + 1}") for b in range(BLOCKS)],
)
SIZE = (BLOCKS + 1) * LEAVES
BLOCK = np.arange(SIZE) // LEAVES
BLOCK_2, LEAF = BLOCK == 2, np.arange(SIZE) == 2 * LEAVES + 1


def noise(count, seed):
    """(S, P) decades: of the batch, of each weight, and a step in 150 far above all others."""
    rng = np.random.default_rng(seed)
    batch = rng.normal(0, 0.3, (count, 1)).clip(-0.9, 0.9)
    batch += np.where(rng.random((count, 1)) < 1 / 150, rng.uniform(1.0, 2.0, (count, 1)), 0)
    return batch + rng.normal(0, 0.15, (count, SIZE))


class Training:
    """Steps as a training of ten a second has them: three are looked at together."""

    def __init__(self):
        self.rollup, self.waiting = Rollup(MEMBERS), []
        self.diagnosis = Diagnosis(NET, Thresholds(), {"amp": False})
        self.windows, self.changes = 0, []

    def take(self, step, levels, together=3, **fault):
        missing, growth = fault.get("missing", np.zeros(SIZE, np.bool_)), fault.get("growth", 1.0)
        begins = self.rollup.opens_window(step)
        largest = np.full(SIZE, fault.get("largest", growth))
        weights = Weights(np.full(SIZE, growth), largest)
        weighed = weights if self.rollup.weighing.is_due(step, opens=begins) else None
        detail = Detail(np.zeros(SIZE), weighed) if begins or weighed else None
        norms, rates = np.where(missing, 0.0, 10.0**levels), (fault.get("rate", 0.01),)
        self.waiting.append(Sample(1, step, norms, missing, detail=detail, rates=rates))
        if len(self.waiting) < together and not self.rollup.is_urgent(self.waiting):
            return
        for window in self.rollup.add(self.waiting):
            self.windows += 1
            self.changes += [(step, one) for one in self.diagnosis.update(window)]
        self.waiting = []


@functools.cache
def healthy(steps):
    training = Training()
    for step, levels in enumerate(noise(steps, 0), 1):
        training.take(step, levels, together=32)
    return training


FAULTS = {
    "vanishing": ("vanishing", "model.2", lambda x: {"levels": x - 2.8 * (BLOCK <= 2)}),
    "exploding": ("exploding", "model.2", lambda x: {"levels": x + 3.2 * BLOCK_2}),
    "dead": ("dead", "model.2", lambda x: {"levels": np.where(BLOCK_2, -np.inf, x)}),
    "a dead layer": ("dead", "model.2.b", lambda x: {"levels": np.where(LEAF, -np.inf, x)}),
    "no gradient": ("no_gradient", "model.2.b", lambda x: {"levels": x, "missing": LEAF}),
    "leaf": ("leaf_vanishing", "model.2.b", lambda x: {"levels": x - 2.8 * LEAF}),
    "collapse": ("collapse", WHOLE, lambda x: {"levels": x - 4.5}),
    "spike": ("spike", WHOLE, lambda x: {"levels": x + 6.0}),
}
"""The rule and the module that are right, and what becomes of the levels."""


def told(training, begin, steps, change):
    """The first finding of a training that goes on, and how many steps that took."""
    training = copy.deepcopy(training)
    for n, levels in enumerate(noise(steps, 1)):
        training.take(begin + n, **change(n, levels))
        if training.changes:
            step, first = training.changes[0]
            return step - begin + 1, first.finding
    return None


LATE = [1000, 20_000, pytest.param(200_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("begin", LATE)
def test_noise_raises_no_alarm_and_leaves_the_stretches_to_faults(begin):
    training = healthy(begin - 1)
    assert training.changes == []
    assert training.windows < 60 + 1.2 * 50 * np.log(begin / 50) + 60
    assert training.rollup._allowance._left >= 9


@pytest.mark.parametrize("begin", LATE)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_within_20_steps_or_a_500th_of_the_run(fault, begin):
    rule, module, change = FAULTS[fault]
    took, finding = told(healthy(begin - 1), begin, 500, lambda _, levels: change(levels))
    assert (finding.rule, finding.module) == (rule, module)
    assert took <= max(20, begin / 500)
    assert begin * 0.98 - 1 <= finding.step <= begin + 10  # the window in which it begins
    assert finding.well == finding.step - 1


WEIGHTS = {
    "grow by 10 % a step": ("weight_jump", lambda n: {"growth": min(1.1**n, 100.0)}),
    "grow by 1 % a step": ("weight_jump", lambda n: {"growth": 1.01**n}),
    "shrink to a tenth": ("weight_jump", lambda n: {"growth": 0.1 if n else 1.0}),
    "overflow": ("weight_overflow", lambda n: {"largest": np.inf if n else 1.0}),
}
"""The rule that is right, and what n steps of the fault make of the weights."""


@pytest.mark.parametrize("after", [1, 8, 150])
@pytest.mark.parametrize("begin", LATE)
@pytest.mark.parametrize("fault", WEIGHTS)
def test_a_fault_that_only_weights_show_is_found_as_soon(fault, begin, after):
    rule, change = WEIGHTS[fault]
    took, finding = told(
        healthy(begin - 1),
        begin,
        after + 500,
        lambda n, levels: {"levels": levels, **change(max(n - after + 1, 0))},
    )
    assert (finding.rule, finding.module) == (rule, WHOLE)
    assert 0 < took - after <= max(20, begin / 500)


@pytest.mark.parametrize("begin", [1000, 20_000])
def test_weights_that_grow_from_a_jump_of_the_rate_are_found_as_soon(begin):
    took, finding = told(
        healthy(begin - 1),
        begin,
        500,
        lambda n, levels: {"levels": levels, "growth": 1.1**n, "rate": 0.5},
    )
    assert (finding.rule, finding.module) == ("rate_jump", WHOLE)
    assert took <= max(20, begin / 500)


@pytest.mark.parametrize("begin", [1000, 20_000])
def test_a_drift_is_found_soon_after_the_limit_and_begins_before_it(begin):
    """2 % a step are lost after block 2, so that 2 decades are gone after 228 steps."""
    took, finding = told(
        healthy(begin - 1),
        begin,
        400,
        lambda n, levels: {"levels": levels - np.log10(1.0 / 0.98) * n * (BLOCK <= 2)},
    )
    assert (finding.rule, finding.module) == ("vanishing", "model.2")
    assert 200 <= took <= 229 + 20
    assert begin <= finding.step <= begin + 150


# --- of a drift, the newest value and where it began ----------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.1, 2.2, 2.3, 2.4], 2.4),
        ([2.1, 2.9, 2.3, 2.4, 2.5], 2.3),  # it has been higher
        ([2.1, 2.2, 2.6, 2.5], 2.3),
        ([2.5, 2.4, 2.3], 2.3),
        ([2.0, np.nan, 2.5], 2.3),
    ],
)
def test_what_rises_has_its_newest_value_and_all_else_the_median(values, expected):
    assert risen(np.array(values), 2.3) == expected


@pytest.mark.parametrize(
    ("before", "values", "windows"),
    [
        ([0.5] * 10, [2.1, 2.2, 2.3], 0),
        ([0.5] * 10 + [0.9, 1.4], [1.8, 2.2, 2.3], 3),
        ([0.5] * 10 + [0.9, 0.7, 1.4], [1.8, 2.2, 2.3], 2),  # back within the usual
        ([0.5] * 10 + [0.79, 0.81, 0.82], [2.2], 2),
        ([0.5] * 10 + [0.79, 0.81], [2.2], 0),  # a jump within that window
        ([0.5] * 10 + [np.nan, 1.4, 1.5], [2.2], 2),
        ([0.5] * (RUN_UP_WINDOWS - 3) + [0.9, 1.4], [2.2], 0),  # too few to know what is usual
        ([], [2.2, 2.3], 0),
    ],
)
def test_a_drift_begins_where_it_leaves_what_was_usual(before, values, windows):
    assert run_up(np.array(before), np.array(values), 2.0) == windows


def test_a_fault_of_the_first_windows_was_never_well():
    training = Training()
    for step, levels in enumerate(noise(WELL_WINDOWS + 30, 0), 1):
        training.take(step, levels - 2.8 * (BLOCK <= 2))
    _, first = training.changes[0]
    assert (first.finding.rule, first.finding.well) == ("vanishing", 0)
