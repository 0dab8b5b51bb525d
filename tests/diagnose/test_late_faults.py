"""Faults that start late in a long and noisy run, from steps to findings."""

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
    """(S, P) decades: noise of the batch and of each weight; one step in 150 is an outlier."""
    rng = np.random.default_rng(seed)
    batch = rng.normal(0, 0.3, (count, 1)).clip(-0.9, 0.9)
    batch += np.where(rng.random((count, 1)) < 1 / 150, rng.uniform(1.0, 2.0, (count, 1)), 0)
    return batch + rng.normal(0, 0.15, (count, SIZE))


class Training:
    """A training of ten steps a second: three steps are processed together."""

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
"""The expected rule and module, and how the fault changes the levels."""


def first_finding(training, start, steps, change):
    """How many steps it took until the first finding of a continued training, and that finding."""
    training = copy.deepcopy(training)
    for n, levels in enumerate(noise(steps, 1)):
        training.take(start + n, **change(n, levels))
        if training.changes:
            step, first = training.changes[0]
            return step - start + 1, first.finding
    return None


LATE = [1000, 20_000, pytest.param(200_000, marks=pytest.mark.full)]


@pytest.mark.parametrize("start", LATE)
def test_noise_raises_no_alarm_and_uses_no_stretches(start):
    training = healthy(start - 1)
    assert training.changes == []
    assert training.windows < 60 + 1.2 * 50 * np.log(start / 50) + 60
    assert training.rollup._allowance._left >= 9


@pytest.mark.parametrize("start", LATE)
@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found_within_20_steps_or_a_500th_of_the_run(fault, start):
    rule, module, change = FAULTS[fault]
    took, finding = first_finding(healthy(start - 1), start, 500, lambda _, levels: change(levels))
    assert (finding.rule, finding.module) == (rule, module)
    assert took <= max(20, start / 500)
    assert start * 0.98 - 1 <= finding.step <= start + 10  # the window in which it starts
    assert finding.well == finding.step - 1


WEIGHTS = {
    "grow by 10 % a step": ("weight_jump", lambda n: {"growth": min(1.1**n, 100.0)}),
    "grow by 1 % a step": ("weight_jump", lambda n: {"growth": 1.01**n}),
    "shrink to a tenth": ("weight_jump", lambda n: {"growth": 0.1 if n else 1.0}),
    "overflow": ("weight_overflow", lambda n: {"largest": np.inf if n else 1.0}),
}
"""The expected rule, and what n steps of the fault do to the weights."""


@pytest.mark.parametrize("after", [1, 8, 150])
@pytest.mark.parametrize("start", LATE)
@pytest.mark.parametrize("fault", WEIGHTS)
def test_fault_visible_only_in_weights_is_found_as_soon(fault, start, after):
    rule, change = WEIGHTS[fault]
    took, finding = first_finding(
        healthy(start - 1),
        start,
        after + 500,
        lambda n, levels: {"levels": levels, **change(max(n - after + 1, 0))},
    )
    assert (finding.rule, finding.module) == (rule, WHOLE)
    assert 0 < took - after <= max(20, start / 500)


@pytest.mark.parametrize("start", [1000, 20_000])
def test_growth_after_a_jump_of_the_rate_is_found_as_soon(start):
    took, finding = first_finding(
        healthy(start - 1),
        start,
        500,
        lambda n, levels: {"levels": levels, "growth": 1.1**n, "rate": 0.5},
    )
    assert (finding.rule, finding.module) == ("rate_jump", WHOLE)
    assert took <= max(20, start / 500)


@pytest.mark.parametrize("start", [1000, 20_000])
def test_drift_is_found_soon_after_the_limit_and_dates_from_before_it(start):
    """2 % a step are lost after block 2, so that 2 decades are gone after 228 steps."""
    took, finding = first_finding(
        healthy(start - 1),
        start,
        400,
        lambda n, levels: {"levels": levels - np.log10(1.0 / 0.98) * n * (BLOCK <= 2)},
    )
    assert (finding.rule, finding.module) == ("vanishing", "model.2")
    assert 200 <= took <= 229 + 20
    assert start <= finding.step <= start + 150


# --- newest value and start of a drift ------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.1, 2.2, 2.3, 2.4], 2.4),
        ([2.1, 2.9, 2.3, 2.4, 2.5], 2.3),  # it was higher before
        ([2.1, 2.2, 2.6, 2.5], 2.3),
        ([2.5, 2.4, 2.3], 2.3),
        ([2.0, np.nan, 2.5], 2.3),
    ],
)
def test_rising_values_report_the_newest_and_others_the_median(values, expected):
    assert risen(np.array(values), 2.3) == expected


@pytest.mark.parametrize(
    ("before", "values", "windows"),
    [
        ([0.5] * 10, [2.1, 2.2, 2.3], 0),
        ([0.5] * 10 + [0.9, 1.4], [1.8, 2.2, 2.3], 3),
        ([0.5] * 10 + [0.9, 0.7, 1.4], [1.8, 2.2, 2.3], 2),  # back in the normal range
        ([0.5] * 10 + [0.79, 0.81, 0.82], [2.2], 2),
        ([0.5] * 10 + [0.79, 0.81], [2.2], 0),  # a jump within that window
        ([0.5] * 10 + [np.nan, 1.4, 1.5], [2.2], 2),
        ([0.5] * (RUN_UP_WINDOWS - 3) + [0.9, 1.4], [2.2], 0),  # too few to know what is normal
        ([], [2.2, 2.3], 0),
    ],
)
def test_drift_starts_where_it_leaves_the_normal_range(before, values, windows):
    assert run_up(np.array(before), np.array(values), 2.0) == windows


def test_fault_from_the_first_windows_was_never_healthy():
    training = Training()
    for step, levels in enumerate(noise(WELL_WINDOWS + 30, 0), 1):
        training.take(step, levels - 2.8 * (BLOCK <= 2))
    _, first = training.changes[0]
    assert (first.finding.rule, first.finding.well) == ("vanishing", 0)
