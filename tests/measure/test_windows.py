"""Which steps a window holds. test_quantities tests its values."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import pairwise
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from values import FAR, LAWS, LAYOUT, MEMBERS, Part, assert_same, plan, sample, windows_from

from yolo_gradwatch.diagnose.diagnosis import Diagnosis
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.allowance import Allowance
from yolo_gradwatch.measure.clipping import CLIP_OVERFLOW
from yolo_gradwatch.measure.layout import module_norms
from yolo_gradwatch.measure.outliers import HISTORY_LEAST, SKIPS_IN_A_ROW
from yolo_gradwatch.measure.rollup import Rollup
from yolo_gradwatch.measure.sample import Change, Detail, Weights

P = len(MEMBERS.elements)
ROW = {name: m for m, name in enumerate(LAYOUT.modules)}

BEYOND = 1e38
"""Parameter norm in a step that clipping multiplies by 0, although all of it is finite."""

ONE_BLOCK = plan([Part("model.0.conv"), Part("model.1.conv")])[1]
"""A trunk of one weight, whose norm is the level of its block, and a head."""

STEPS = {".": 1.0, "s": np.inf, "n": np.nan, "i": np.inf, "b": BEYOND, "B": 1e39}
"""Steps as letters: fine, skipped by AMP, and four kinds of spoiled ones."""


def steps_of(letters, first=FAR, interval=1):
    return [
        sample(first + interval * i, STEPS[letter], skipped=letter == "s")
        for i, letter in enumerate(letters)
    ]


def spans(windows, first=0):
    return [(window.step_first - first, window.step_last - first) for window in windows]


def alone(windows, first=0):
    """The steps that are windows of their own."""
    return [window.step_first - first for window in windows if window.steps == 1]


def expected_windows(steps, *, interval=1, epoch=10**9, anomalies=()):
    """First and last step of each window, by the rule of the design in whole numbers.

    Anomalies are steps that are not finite.
    """
    windows, first, fine_until, was_bad = [], 1, 0, False
    left, renewed = 10.0, 50
    for step in range(1, steps + 1, interval):
        is_bad = step in anomalies
        starts, was_bad = is_bad and not was_bad, is_bad
        if starts and step > fine_until:
            left = min(10.0, left + 3 * log2(max(1.0, step / renewed)))
            renewed = max(renewed, step)
            if left >= 5:
                left -= 1
                fine_until = step + 10 * interval
        if starts and first < step:
            windows.append((first, step - interval))
        first = step if starts else first
        held = step - first + interval
        # the next step is in another epoch
        ends = (step + interval - 1) // epoch > (step - 1) // epoch
        if starts or step <= fine_until or 50 * held >= step or ends:
            windows.append((first, step))
            first = step + interval
    return windows if first > step else [*windows, (first, step)]


# --- from parameters to modules -------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nonfinite_parameter_spoils_only_the_modules_around_it(bad):
    norms = module_norms(np.array([1, 1, 1, bad, 1, 1, 1, 1.0]), MEMBERS)
    spoiled = {name: norms[m] for name, m in ROW.items() if not np.isfinite(norms[m])}
    assert list(spoiled) == ["model", "model.1", "model.1.conv"]
    np.testing.assert_array_equal(list(spoiled.values()), [bad] * 3)


SIZES = st.lists(st.one_of(st.just(0.0), st.floats(2**-149, 3.4e38)), min_size=P, max_size=P).map(
    np.array
)
"""Norms possible for float32 gradients."""


@LAWS
@given(SIZES, st.integers(-20, 20))
def test_parent_is_at_least_as_large_as_each_child_and_norms_scale(norms, power):
    found = module_norms(norms, MEMBERS)
    for name, m in ROW.items():
        for other, n in ROW.items():
            if name == "model" or other.startswith(f"{name}."):
                assert found[m] >= found[n] * (1 - 1e-12)
    scaled = module_norms(norms * 2.0**power, MEMBERS)
    np.testing.assert_allclose(scaled, found * 2.0**power, rtol=1e-12)


# --- how windows grow -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "interval", "epoch"),
    [
        pytest.param(5000, 1, 333, marks=pytest.mark.slow),
        *((5000, 1, 10**9), (1500, 1, 1), (5000, 7, 10**9), (3000, 4, 50), (900, 100, 10**9)),
    ],
)
def test_windows_follow_the_rule_of_the_design(steps, interval, epoch):
    taken = range(1, steps + 1, interval)
    windows = windows_from(
        (sample(step, epoch=1 + (step - 1) // epoch) for step in taken), interval=interval
    )
    assert spans(windows) == expected_windows(steps, interval=interval, epoch=epoch)
    assert sum(window.steps for window in windows) == len(taken)
    if epoch == 10**9 and interval == 1:
        assert spans(windows)[:51] == [*((step, step) for step in range(1, 51)), (51, 52)]


@LAWS
@given(
    st.sets(st.integers(1, 200), max_size=9),
    st.integers(1, 3),
    st.sampled_from([10**9, 90, 40, 7]),
    st.sampled_from([np.nan, np.inf, BEYOND]),
)
def test_anomalous_steps_open_fine_stretches(bad, interval, epoch, norm):
    taken = range(1, 201, interval)
    samples = [
        sample(step, norm if step in bad else 1.0, epoch=1 + (step - 1) // epoch) for step in taken
    ]
    expected = expected_windows(200, interval=interval, epoch=epoch, anomalies=bad)
    assert spans(windows_from(samples, interval=interval)) == expected


def test_resumed_run_starts_with_a_wide_window():
    windows = windows_from(sample(step) for step in range(1001, 1051))
    assert spans(windows) == [(1001, 1021), (1022, 1042), (1043, 1050)]


def test_end_of_an_epoch_closes_a_window():
    rollup = Rollup(MEMBERS)
    for step in (1001, 1002):
        assert rollup.add([sample(step, epoch=1)]) == []
    closed = [*rollup.add([sample(1003, epoch=2)]), *rollup.close()]
    assert spans(closed) == [(1001, 1002), (1003, 1003)]
    assert [window.epoch for window in closed] == [1, 2]
    assert rollup.close() == []


def fine(first, last):
    return [(step, step) for step in range(first, last + 1)]


SPANS = {
    **{"....." + bad + "." * 14: [(0, 4), *fine(5, 15), (16, 19)] for bad in "nibB"},
    **{skips: [(0, len(skips) - 1)] for skips in ("sss", "..sss", "sss.sss.sss", "ss." * 20)},
    **{  # the fourth skip in a row opens a fine stretch
        f"{before}ssss{after}{'.' * 15}": [
            (0, len(before) + 2),
            *fine(len(before) + 3, len(before) + 15),
            (len(before) + 16, len(before + after) + 18),
        ]
        for before in ("", ".", "..s.")
        for after in ("", "s", "...")
    },
    # Continued skips open one stretch only, and so do anomalies within a stretch.
    "." * 5 + "s" * 600 + "." * 20: [(0, 7), *fine(8, 20), (21, 624)],
    ".....n....n....n" + "." * 14: [(0, 4), *fine(5, 15), (16, 29)],
}


@pytest.mark.parametrize("letters", SPANS)
def test_windows_around_anomalous_steps(letters):
    assert SKIPS_IN_A_ROW == 4
    assert spans(windows_from(steps_of(letters)), FAR) == SPANS[letters]


def test_skips_in_a_row_are_counted_across_epochs():
    steps = [replace(one, epoch=1 + (one.step >= FAR + 2)) for one in steps_of("ssss")]
    assert spans(windows_from(steps), FAR) == [(0, 1), (2, 2), (3, 3)]


# --- levels off the past --------------------------------------------------------------------------


def level_samples(levels, first=FAR):
    """Steps whose trunk block has the given norms."""
    return [sample(first + i, [level, 1.0], size=2) for i, level in enumerate(levels)]


LEVELS = [
    *(([1.0] * 30 + [10.0 * (1 + shift)], shift > 0) for shift in (-1e-9, 0, 1e-9)),
    *(([1.0] * 30 + [0.1 * (1 + shift)], shift < 0) for shift in (-1e-9, 0, 1e-9)),
    *(([1.0] * 30 + [5.0] + [1.0] * 30 + [last], last > 50) for last in (49.0, 51.0)),
    *(([1.0] * 30 + [0.2] + [1.0] * 30 + [last], last < 0.02) for last in (0.021, 0.019)),
    *(([1.0] * before + [100.0], before >= HISTORY_LEAST) for before in (18, 19, 20)),
    # the past is 45 % of the steps, but at least 120
    *(([10.0] + [1.0] * since + [30.0], since > 118) for since in (99, 118, 119)),
    *(([1.0] * 1000 + [10.0] + [1.0] * since + [30.0], since > 900) for since in (700, 1100)),
    # a block that dies, one that revives, and one that stays dead
    *(([1.0] * 30 + [0.0], True), ([0.0] * 30 + [1e-6], True), ([0.0] * 31, False)),
    # a step that clipping multiplies by 0 is not part of the past
    *(([1.0] * 30 + [BEYOND] + [1.0] * 30 + [last], last > 10) for last in (11.0, 9.0)),
]


@pytest.mark.parametrize(("levels", "opens"), LEVELS)
def test_level_more_than_a_decade_off_its_past_opens_a_stretch(levels, opens):
    assert HISTORY_LEAST == 19
    samples = level_samples([*levels, *[levels[-1]] * 3])
    last = len(levels) - 1
    assert ((last, last) in spans(windows_from(samples, ONE_BLOCK), FAR)) is opens


def test_skipped_steps_are_not_part_of_the_past():
    levels = level_samples([1.0] * (HISTORY_LEAST - 1))
    skipped = [
        sample(FAR + 50 + 2 * i, [np.inf, 1.0], size=2, skipped=True) for i in range(HISTORY_LEAST)
    ]
    between = [sample(FAR + 51, [1.0, 1.0], size=2)]
    cases = {False: skipped[:3], True: [*skipped[:1], *between, *skipped[1:3]]}
    for opens, steps in cases.items():
        jump = level_samples([100.0, 1.0], FAR + 100)
        assert (len(windows_from([*levels, *steps, *jump], ONE_BLOCK)) > 1) is opens


THREE_WEIGHTS = [
    *(Part(f"model.0.{n}") for n in "abc"),
    *(Part(f"model.0.{n}", is_weight=False) for n in "defg"),
    Part("model.1"),
]
TWO_WEIGHTS = [Part("model.0.a"), Part("model.0.b"), Part("model.1")]
TRUNK_AND_HEAD = [Part("model.0.conv"), Part("model.1.conv")]


@pytest.mark.parametrize(
    ("parts", "norms", "opens"),
    [
        # the level of a block is the median of its weights
        (THREE_WEIGHTS, (1000, 1, 1, 1, 1, 1, 1, 1), False),
        (THREE_WEIGHTS, (1, 1, 1, 1000, 1000, 1000, 1000, 1000), False),
        (THREE_WEIGHTS, (1000, 1, 1000, 1, 1, 1, 1, 1), True),
        (TWO_WEIGHTS, (19.0 * (1 - 1e-9), 1, 1), False),
        (TWO_WEIGHTS, (19.0 * (1 + 1e-9), 1, 1), True),
        # the head has no level, and a model without a trunk has none
        (TRUNK_AND_HEAD, (1, 1e6), False),
        ([Part("model.0")], (1e6,), False),
        ([Part("model.0", is_weight=False), Part("model.1")], (1e6, 1e6), False),
    ],
)
def test_level_of_a_block_is_the_median_of_its_weights(parts, norms, opens):
    steps = [sample(FAR + i, size=len(parts)) for i in range(30)]
    steps.append(sample(FAR + 30, norms, size=len(parts)))
    assert len(windows_from(steps, plan(parts)[1])) == 1 + opens


# --- the allowance of stretches -------------------------------------------------------------------


def exhausted(rollup):
    """A roll-up without stretches left."""
    rollup._allowance._left, rollup._allowance._step = 0.0, 10**9
    return rollup


def test_noise_leaves_four_stretches_for_shifts():
    noise, shifts = Allowance(50), Allowance(50)
    assert [noise.allows(40, is_shift=False) for _ in range(8)] == [True] * 6 + [False] * 2
    assert [noise.allows(40, is_shift=True) for _ in range(5)] == [True] * 4 + [False]
    assert [shifts.allows(40, is_shift=True) for _ in range(11)] == [True] * 10 + [False]


@pytest.mark.parametrize("start", [50, 1000, 100_000])
def test_three_stretches_become_free_as_the_steps_double(start):
    allowance = Allowance(50)
    while allowance.allows(start, is_shift=True):
        pass
    taken = [
        allowance.allows(step, is_shift=True) for step in np.linspace(start, 2.01 * start, 2000)
    ]
    assert sum(taken) == 3
    assert sum(allowance.allows(start * 2**40, is_shift=True) for _ in range(20)) == 10


def test_without_stretches_the_window_keeps_the_highest_norm():
    rollup = exhausted(Rollup(ONE_BLOCK))
    windows = rollup.add(level_samples([1.0] * 30 + [100.0] + [1.0] * 30)) + rollup.close()
    assert [(w.steps, w.norm_max[0] > 99) for w in windows] == [(61, True)]


def test_repeated_noise_opens_no_stretch():
    levels = [100.0 if step % 100 == 99 else 1.0 for step in range(100 * 40)]
    windows = windows_from(level_samples(levels), ONE_BLOCK)
    assert alone(windows, FAR) == [*range(99, 110)]


def test_spoiled_steps_far_apart_use_up_the_stretches():
    windows = windows_from(steps_of(("n" + "." * 19) * 42))
    bad = range(0, 20 * 42, 20)
    assert alone(windows, FAR) == [step + i for step in bad[:6] for i in range(11)] + [*bad[6:]]


@pytest.mark.slow
@pytest.mark.parametrize("norms", [[np.nan, 1.0], [np.inf, 1.0], [1.0, np.nan], [1e39, 1.0]])
@pytest.mark.parametrize("lasts", [1, 2, 30, 5000])
def test_spoiled_step_closes_its_window_even_without_stretches(norms, lasts):
    before, first = level_samples([1.0] * 500), FAR + 500
    bad = [sample(first + i, norms, size=2) for i in range(lasts)]
    starts = []
    rollup = exhausted(Rollup(ONE_BLOCK))
    for one in [*before, *bad, *level_samples([1.0], first + lasts)]:
        starts += [(w.step_first, w.step_last, one.step) for w in rollup.add([one])]
    assert starts == [(FAR, first - 1, first), (first, first, first)]
    assert spans(rollup.close()) == [(first + 1, first + lasts)]


@pytest.mark.slow
def test_run_that_stays_nan_does_not_write_a_window_per_step():
    windows = windows_from(
        sample(step, np.nan if step > 2000 else 1.0) for step in range(1, 20_001)
    )
    assert windows[-1].step_last == 20_000
    inside = [window for window in windows if window.step_first > 2000]
    assert [window.steps for window in inside[:11]] == [1] * 11
    assert 100 < len(inside) < 150  # a window is 2 % of 2,000 to 20,000 steps


def test_nan_after_too_large_steps_is_a_window_of_its_own():
    """An explosion that ends in NaN must not delay the report of the NaN."""
    large = [sample(FAR + i, [1e25, 1.0], size=2) for i in range(30)]
    bad = [sample(FAR + 30 + i, [np.nan, 1.0], size=2) for i in range(3)]
    rollup = exhausted(Rollup(ONE_BLOCK))
    windows = spans(rollup.add([*large, *bad]) + rollup.close(), FAR)
    assert windows == [(0, 0), (1, 29), (30, 30), (31, 32)]


def test_spoiled_steps_in_a_row_are_one_anomaly():
    """A streak leaves the stretches for other anomalies."""
    rollup = Rollup(ONE_BLOCK)
    windows = rollup.add([sample(FAR + i, [np.nan, 1.0], size=2) for i in range(900)])
    assert alone(windows, FAR) == [*range(11)]
    assert rollup._allowance._left == 9.0


@pytest.mark.parametrize("between", [1, 2, 50])
def test_fine_step_ends_a_streak_and_a_skipped_one_does_not(between):
    for letter, count in (("s", 1), (".", 2)):
        rollup = exhausted(Rollup(MEMBERS))
        windows = rollup.add(steps_of(f"n{letter * between}n.")) + rollup.close()
        assert sum(w.steps == 1 and w.nonfinite[0] == 1 for w in windows) == count


def test_restart_ends_a_streak():
    rollup = exhausted(Rollup(MEMBERS))
    found = rollup.add(steps_of("nnn")) + rollup.close()
    rollup.restart()
    found += rollup.add(steps_of("nnn", FAR + 3))
    assert spans(found, FAR) == [(0, 0), (1, 2), (3, 3)]


@pytest.mark.parametrize(
    ("norm", "is_spoiled"), [(CLIP_OVERFLOW * (1 - 1e-9), False), (CLIP_OVERFLOW * 1.001, True)]
)
def test_step_is_spoiled_above_the_norm_that_clipping_zeroes(norm, is_spoiled):
    rollup = Rollup(ONE_BLOCK)
    rollup.add(level_samples([1.0]))
    high = sample(FAR + 1, [0.0, norm], size=2)
    assert rollup.is_urgent([high]) is is_spoiled
    assert bool(rollup.add([high])) is is_spoiled


def long_overflow(start, lasts, after=300, interval=1):
    """Changes of a long run with an overflow of some steps, with the step of each change."""
    norms = np.where(np.arange(P) == 3, np.inf, 1.0)
    rollup = Rollup(MEMBERS, interval)
    diagnosis = Diagnosis(LAYOUT, Thresholds(), {"amp": True})
    for step in range(start - 300, start + lasts + after, interval):
        bad = start <= step < start + lasts
        one = sample(step, norms if bad else 1.0, skipped=bad)
        for window in rollup.add([one]):
            for change in diagnosis.update(window):
                yield step, change


@pytest.mark.parametrize("start", [1000, 5003, 100_017, FAR])
@pytest.mark.parametrize("interval", [1, 10])
def test_long_overflow_late_in_a_run_is_reported_at_once(start, interval):
    """Windows there are 20 to 20,000 steps long; 12 skipped steps in a row are tolerated."""
    changes = long_overflow(start, 60 * interval, interval=interval)
    step, first = next(one for one in changes if one[1].finding.rule == "nonfinite")
    assert (first.change, first.finding.severity) == ("start", "critical")
    assert start + 12 * interval <= step <= start + 20 * interval
    assert first.finding.module == "model.1.conv"
    assert start <= first.finding.step <= start + 4 * interval


@pytest.mark.parametrize("lasts", [1, 3, 12])
def test_overflow_that_amp_recovers_from_late_in_a_run_is_no_alarm(lasts):
    changes = list(long_overflow(5003, lasts))
    assert {one.finding.severity for _, one in changes} <= {"notice"}


# --- shifts ---------------------------------------------------------------------------------------


def opened(samples, members=ONE_BLOCK):
    """The steps that open a fine stretch."""
    found = alone(windows_from(samples, members), FAR)
    return [step for step in found if step - 1 not in found]


USUAL = [1.0] * 100

SHIFTS = [
    (USUAL + [5.7] * 5, [104]),
    (USUAL + [5.6] * 30, []),  # 10**0.75 is 5.62
    (USUAL + [1 / 5.7] * 5, [104]),
    (USUAL + [1 / 5.6] * 30, []),
    (USUAL + [5.7] * 4 + [1.0] * 20, []),
    (USUAL + ([9.0] * 4 + [1.0]) * 9, []),
    ([1.0] * 55 + [9.0] * 9, [59 + 1]),  # the 61st step is the first one judged
    # a further shift counts from a quarter of a decade, which is a factor of 1.78
    (USUAL + [6.0] * 14 + [10.6] * 5, [104]),
    (USUAL + [6.0] * 14 + [10.7] * 5, [104, 118]),
    # it may return and shift again
    (USUAL + [6.0] * 20 + [1.0] * 20 + [6.0] * 20, [104]),
    # a drift of 2 % a step, without any outlier
    ([1.0] * 1000 + [0.98**n for n in range(1, 180)], [1089, 1118, 1147, 1176]),
]


@pytest.mark.parametrize(("levels", "steps"), SHIFTS)
def test_five_steps_off_the_past_open_a_stretch(levels, steps):
    assert opened(level_samples(levels)) == steps


def test_shift_of_one_weight_or_of_the_whole_trunk_opens_a_stretch():
    parts = [Part(f"model.{b}.{n}") for b in range(3) for n in "abc"]
    members = plan([*parts, Part("model.3")])[1]
    rng = np.random.default_rng(0)
    noise = rng.lognormal(0, 0.7, 160)  # of the batch: two decades from end to end
    for factors, opens in (
        ({4: 0.05}, True),
        ({4: 0.0}, True),
        ({9: 0.0}, False),
        (dict.fromkeys(range(9), 1e-3), True),
        ({}, False),
    ):
        scale = np.array([factors.get(p, 1.0) for p in range(10)])
        steps = [
            sample(FAR + i, level * (scale if i >= 140 else 1.0), size=10)
            for i, level in enumerate(noise)
        ]
        found = opened(steps, members)
        assert bool(found) is opens
        assert all(140 <= step <= 144 for step in found)


@pytest.mark.parametrize(("factor", "opens"), [(2.0, []), (2.1, [30]), (0.1, [])])
def test_rate_jump_opens_a_stretch(factor, opens):
    rates = [0.0] * 10 + [0.01 * n for n in range(1, 11)] + [0.1] * 10 + [0.1 * factor] * 30
    steps = [
        replace(one, rates=(0.02, rate))
        for one, rate in zip(level_samples([1.0] * 60), rates, strict=True)
    ]
    assert opened(steps) == opens


# --- many steps at once ---------------------------------------------------------------------------


BLOCK_1 = [3, 4]  # parameters of model.1
KINDS = st.sampled_from(
    [*["fine"] * 6, "nan", "beyond", "jump", "skip", "missing", "frozen", "zero"]
)


def drawn_samples(kinds, first):
    """Steps of any kind, with norms of many digits; an epoch has 30."""
    rng = np.random.default_rng(len(kinds))
    for step, kind in enumerate(kinds, first):
        norms = rng.lognormal(size=P)
        norms[3] = {"nan": np.nan, "skip": np.inf, "zero": 0.0, "beyond": 1e39}.get(kind, norms[3])
        one = sample(
            step,
            norms * (1e3 if kind == "jump" else 1.0),
            epoch=1 + step // 30,
            missing=np.isin(np.arange(P), BLOCK_1) & (kind in ("missing", "frozen")),
            skipped=kind == "skip",
            detail=Detail(np.full(P, 1.0), Weights(*np.full((2, P), float(step)))),
        )
        change = None if step % 3 else Change(*np.full((2, P), float(step)))
        yield replace(one, frozen=one.missing if kind == "frozen" else None, change=change)


@LAWS
@given(
    st.lists(KINDS, min_size=1, max_size=150),
    st.sets(st.integers(1, 149)),
    st.sampled_from([1, 1001, FAR]),
)
def test_windows_are_identical_however_many_samples_arrive_at_once(kinds, cuts, first):
    samples = list(drawn_samples(kinds, first))
    edges = [0, *sorted(cut for cut in cuts if cut < len(samples)), len(samples)]
    rollup = Rollup(MEMBERS)
    together = [w for a, b in pairwise(edges) for w in rollup.add(samples[a:b])] + rollup.close()
    for one, other in zip(together, windows_from(samples), strict=True):
        assert_same(one, other)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps_of_a_window():
    rollup = Rollup(MEMBERS)
    batch = [sample(FAR + i) for i in range(32)]
    rollup.add(batch)
    tracemalloc.start()
    for n in range(1, 500):
        rollup.add([replace(one, step=one.step + 32 * n) for one in batch])
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 100_000
    assert spans(rollup.close()) == [(FAR, FAR + 32 * 500 - 1)]


def test_window_starts_are_predicted_while_steps_wait():
    """The first steps of windows have details even if the steps before them still wait."""
    plain, late, waiting = Rollup(MEMBERS), Rollup(MEMBERS), []
    expected, found = [], []
    for step in range(101, 301):
        expected.append(plain.opens_window(step))
        plain.add([sample(step)])
        found.append(late.opens_window(step))
        waiting.append(sample(step))
        if len(waiting) == 7:
            late.add(waiting)
            waiting = []
    assert found == expected
    assert 40 < sum(found) < 70


def test_newest_are_the_norms_added_last():
    rollup = Rollup(MEMBERS)
    assert rollup.newest.shape == (0, len(LAYOUT.modules))
    rollup.add([sample(FAR, 2.0), sample(FAR + 1, 3.0)])
    rollup.close()
    np.testing.assert_allclose(rollup.newest[:, 0], np.sqrt(P) * np.array([2.0, 3.0]))


@LAWS
@given(
    st.sets(st.integers(1, 150), max_size=5),
    st.integers(1, 4),
    st.sampled_from([10**9, 75, 20]),
    st.sampled_from([0, 2000]),
)
def test_opens_window_predicts_where_windows_start(bad, interval, epoch, offset):
    """As far as possible: an anomalous step cannot be predicted."""
    rollup = Rollup(MEMBERS, interval)
    opened, windows, last = set(), [], 1
    for step in range(1 + offset, 151 + offset, interval):
        current = 1 + step // epoch
        if current != last:
            windows += rollup.close()
        last = current
        if rollup.opens_window(step):
            opened.add(step)
        norm = np.nan if step - offset in bad else 1.0
        windows += rollup.add([sample(step, norm, epoch=current)])
    first = {window.step_first for window in windows + rollup.close()}
    assert opened <= first
    assert first - opened <= {step + offset for step in bad}


# --- clipping -------------------------------------------------------------------------------------


@LAWS
@given(
    steps=st.lists(
        st.tuples(st.sampled_from([0.1, 0.5, 1.0, 5.0, 9.0, np.inf, np.nan]), st.booleans()),
        min_size=1,
    ),
    first=st.sampled_from([1, 500]),
    clip=st.sampled_from([1.0, 10.0, 1e3]),
)
def test_window_counts_the_steps_with_a_total_norm_above_the_clip(steps, first, clip):
    samples = [sample(i, norm, skipped=skips) for i, (norm, skips) in enumerate(steps, first)]
    rollup = Rollup(MEMBERS, clip=clip)
    for one in [*rollup.add(samples), *rollup.close()]:
        inside = [s for s in samples if one.step_first <= s.step <= one.step_last]
        above = [s for s in inside if not s.skipped and np.linalg.norm(s.norms) > clip]
        assert one.clipped == len(above)
