from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import total_norm
from torch import nn
from values import LAWS, LAYOUT, MEMBERS, Part, assert_same, plan, sample

from yolo_gradwatch import model_layout as layouts
from yolo_gradwatch.clipping import CLIP_OVERFLOW
from yolo_gradwatch.diagnosis import Diagnosis
from yolo_gradwatch.layout import module_norms
from yolo_gradwatch.outliers import HISTORY_LEAST, HISTORY_STEPS, SKIPS_IN_A_ROW
from yolo_gradwatch.sample import Detail
from yolo_gradwatch.thresholds import Thresholds
from yolo_gradwatch.windows import FINE_STRETCHES, Rollup

P = len(MEMBERS.elements)
ROW = {name: m for m, name in enumerate(LAYOUT.modules)}
FAR = 1_000_001  # a step so late that a window holds 20,000 steps

BEYOND = 1e38
"""Norm of each parameter in a step that clipping multiplies by 0, though all of it is finite."""

ONE_BLOCK = plan([Part("model.0.conv"), Part("model.1.conv")])[1]
"""A trunk of one weight, so that its norm is the level of its block; and a head."""


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 4)
        self.decoder = nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight
        self.again = self.encoder
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.again(self.decoder(self.encoder(x)))


def chain():
    return nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.ReLU(), nn.Linear(5, 4)))


def half_frozen():
    model = chain()
    model[0].weight.requires_grad_(requires_grad=False)
    return model


def expected_windows(steps, *, interval=1, epoch=10**9, anomalies=()):
    """First and last step of each window, from the words of the design in whole numbers.

    Anomalies are steps that are not finite.
    """
    windows, first, fine_until, stretches, was_bad = [], 1, 0, 0, False
    for step in range(1, steps + 1, interval):
        is_bad = step in anomalies
        begins, was_bad = is_bad and not was_bad, is_bad
        if begins and step > fine_until and stretches < 40:
            stretches += 1
            fine_until = step + 10 * interval
        if begins and first < step:
            windows.append((first, step - interval))
        first = step if begins else first
        held = step - first + interval
        ends = (step + interval - 1) // epoch > (step - 1) // epoch  # the next one is in another
        if begins or step <= fine_until or 50 * held >= step or ends:
            windows.append((first, step))
            first = step + interval
    return windows if first > step else [*windows, (first, step)]


def windows_of(samples, members=MEMBERS, interval=1):
    rollup = Rollup(members, interval)
    windows = [window for one in samples for window in rollup.add([one])]
    return windows + rollup.close()


def spans(windows):
    return [(window.step_first, window.step_last) for window in windows]


def level_samples(levels, first=FAR):
    """Steps whose trunk block has the given norms."""
    return [sample(first + i, [level, 1.0], size=2) for i, level in enumerate(levels)]


def anomalous(levels, first=FAR):
    """Whether the last of these steps begins a stretch of fine windows."""
    samples = level_samples([*levels, *[levels[-1]] * 3], first)
    last = first + len(levels) - 1
    return (last, last) in spans(windows_of(samples, ONE_BLOCK))


@pytest.mark.parametrize("build", [chain, Tied, half_frozen])
def test_module_norms_equal_those_of_torch(build):
    torch.manual_seed(0)
    model = build()
    model(torch.randn(3, 4)).square().sum().backward()
    parameters = layouts.watched(model)
    found, members = layouts.read(model)
    norms = np.array([0.0 if p.grad is None else p.grad.double().norm().item() for p in parameters])
    modules = {layouts.clean_name(name): module for name, module in model.named_modules()}
    for name, norm in zip(found.modules, module_norms(norms, members), strict=True):
        gradients = [p.grad.double() for p in modules[name].parameters() if p.grad is not None]
        assert norm == pytest.approx(total_norm(gradients), rel=1e-12)


def test_the_norm_of_the_model_is_what_clipping_returns():
    torch.manual_seed(0)
    model = chain()
    model(torch.randn(3, 4)).square().sum().backward()
    _, members = layouts.read(model)
    norms = np.array([p.grad.norm().item() for p in layouts.watched(model)])
    total = torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0).item()
    assert module_norms(norms, members)[0] == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_nonfinite_parameter_spoils_only_the_modules_around_it(bad):
    norms = module_norms(np.array([1, 1, 1, bad, 1, 1, 1, 1.0]), MEMBERS)
    spoilt = {name: norms[m] for name, m in ROW.items() if not np.isfinite(norms[m])}
    assert list(spoilt) == ["model", "model.1", "model.1.conv"]
    np.testing.assert_array_equal(list(spoilt.values()), [bad] * 3)


SIZES = st.lists(st.one_of(st.just(0.0), st.floats(2**-149, 3.4e38)), min_size=P, max_size=P).map(
    np.array
)
"""Norms that float32 gradients can have."""


@LAWS
@given(SIZES)
def test_a_parent_is_at_least_as_large_as_each_child(norms):
    found = module_norms(norms, MEMBERS)
    for name, m in ROW.items():
        for other, n in ROW.items():
            if name == "model" or other.startswith(f"{name}."):
                assert found[m] >= found[n] * (1 - 1e-12)


@LAWS
@given(SIZES, st.integers(-20, 20))
def test_module_norms_scale_with_the_gradient(norms, power):
    scaled = module_norms(norms * 2.0**power, MEMBERS)
    np.testing.assert_allclose(scaled, module_norms(norms, MEMBERS) * 2.0**power, rtol=1e-12)


def test_zero_fraction_is_of_the_modules_own_weights():
    zeros = np.array([3, np.nan, np.nan, 6, np.nan, 0, np.nan, 5])
    found = dict(zip(LAYOUT.modules, zero_fraction(zeros, MEMBERS), strict=True))
    told = {name: share for name, share in found.items() if not np.isnan(share)}
    assert told == {"model.0.conv": 0.25, "model.1.conv": 1.0, "model.2.a": 0.0, "model.2.b": 1.0}


def test_zero_fraction_of_two_weights_is_that_of_their_elements():
    _, members = plan([Part("model.0", 30), Part("model.0", 10), Part("model.1", 4)])
    np.testing.assert_array_equal(
        zero_fraction(np.array([15.0, 10.0, 1.0]), members), [np.nan, 0.625, 0.25]
    )


def test_zero_fraction_is_unknown_without_a_gradient_and_without_weights():
    assert np.isnan(zero_fraction(np.full(P, np.nan), MEMBERS)).all()
    _, members = plan([Part("model.0", is_weight=False)])
    assert np.isnan(zero_fraction(np.array([np.nan]), members)).all()


def test_the_first_50_steps_are_windows_of_their_own():
    windows = spans(windows_of(sample(step) for step in range(1, 53)))
    assert windows == [*((step, step) for step in range(1, 51)), (51, 52)]


@pytest.mark.parametrize(
    ("steps", "interval", "epoch"),
    [
        (5000, 1, 10**9),
        (5000, 1, 333),
        (1500, 1, 1),
        (5000, 7, 10**9),
        (3000, 4, 50),
        (900, 100, 10**9),
    ],
)
def test_windows_follow_the_rule_of_the_design(steps, interval, epoch):
    taken = range(1, steps + 1, interval)
    samples = [sample(step, epoch=1 + (step - 1) // epoch) for step in taken]
    expected = expected_windows(steps, interval=interval, epoch=epoch)
    assert spans(windows_of(samples, interval=interval)) == expected


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
    assert spans(windows_of(samples, interval=interval)) == expected


def test_windows_cover_every_step_once():
    windows = windows_of(sample(step, np.nan if step == 77 else 1.0) for step in range(1, 1001))
    assert all(next_.step_first == one.step_last + 1 for one, next_ in pairwise(windows))
    assert sum(window.steps for window in windows) == 1000


def test_a_resumed_run_begins_with_a_wide_window():
    assert spans(windows_of(sample(step) for step in range(1001, 1051))) == [
        (1001, 1021),
        (1022, 1042),
        (1043, 1050),
    ]


def test_the_end_of_an_epoch_closes_a_window():
    rollup = Rollup(MEMBERS)
    for step in (1001, 1002):
        assert rollup.add([sample(step, epoch=1)]) == []
    closed = rollup.add([sample(1003, epoch=2)])
    assert spans(closed) == [(1001, 1002)]
    assert closed[0].epoch == 1
    assert [window.epoch for window in rollup.close()] == [2]
    assert rollup.close() == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, BEYOND, 1e39])
def test_a_spoilt_step_is_a_window_of_its_own_and_so_are_the_next_10(bad):
    norms = [1.0] * 5 + [bad] + [1.0] * 14
    windows = spans(windows_of(sample(FAR + i, norm) for i, norm in enumerate(norms)))
    assert windows == [
        (FAR, FAR + 4),
        *((FAR + i, FAR + i) for i in range(5, 16)),
        (FAR + 16, FAR + 19),
    ]


def skips(pattern, first=FAR):
    """Steps of which AMP skipped those that are an ``s``, because of an overflow."""
    return [
        sample(first + i, np.inf if kind == "s" else 1.0, skipped=kind == "s")
        for i, kind in enumerate(pattern)
    ]


@pytest.mark.parametrize("pattern", ["sss", "..sss", "sss.sss.sss", "ss." * 20])
def test_a_few_steps_that_amp_skipped_are_not_anomalous(pattern):
    assert spans(windows_of(skips(pattern))) == [(FAR, FAR + len(pattern) - 1)]


@pytest.mark.parametrize("before", ["", ".", "..s."])
@pytest.mark.parametrize("after", ["", "s", "." * 3])
def test_the_fourth_skip_in_a_row_opens_a_fine_stretch(before, after):
    assert SKIPS_IN_A_ROW == 4
    pattern = f"{before}ssss{after}{'.' * 15}"
    fourth = FAR + len(before) + 3
    windows = spans(windows_of(skips(pattern)))
    assert windows == [
        (FAR, fourth - 1),
        *((fourth + i, fourth + i) for i in range(13)),
        (fourth + 13, FAR + len(pattern) - 1),
    ]


def test_skips_count_in_a_row_over_the_end_of_an_epoch():
    steps = [replace(one, epoch=1 + (one.step >= FAR + 2)) for one in skips("ssss")]
    assert spans(windows_of(steps)) == [(FAR, FAR + 1), (FAR + 2, FAR + 2), (FAR + 3, FAR + 3)]


def test_skips_that_go_on_open_one_stretch_only():
    windows = spans(windows_of(skips("." * 5 + "s" * 600 + "." * 20)))
    alone = [first - FAR for first, last in windows if first == last]
    assert alone == list(range(8, 21))  # from the fourth on
    assert windows[-1] == (FAR + 21, FAR + 624)


def test_skipped_steps_are_no_history():
    levels = level_samples([1.0] * (HISTORY_LEAST - 1))
    skipped = [
        sample(FAR + 50 + 2 * i, [np.inf, 1.0], size=2, skipped=True) for i in range(HISTORY_LEAST)
    ]
    between = [sample(FAR + 51, [1.0, 1.0], size=2)]
    cases = {False: skipped[:3], True: [*skipped[:1], *between, *skipped[1:3]]}
    for opens, steps in cases.items():
        jump = level_samples([100.0, 1.0], FAR + 100)
        assert (len(windows_of([*levels, *steps, *jump], ONE_BLOCK)) > 1) is opens


@pytest.mark.parametrize(
    ("norm", "opens"),
    [
        (10.0 * (1 - 1e-9), False),
        (10.0, False),
        (10.0 * (1 + 1e-9), True),
        (0.1 * (1 + 1e-9), False),
        (0.1, False),
        (0.1 * (1 - 1e-9), True),
        (0.0, True),
    ],
)
def test_a_level_more_than_a_decade_off_is_anomalous(norm, opens):
    assert anomalous([1.0] * 30 + [norm]) is opens


def test_the_level_is_compared_with_the_highest_and_the_lowest():
    assert not anomalous([1.0] * 30 + [5.0] + [1.0] * 30 + [49.0])
    assert anomalous([1.0] * 30 + [5.0] + [1.0] * 30 + [51.0])
    assert not anomalous([1.0] * 30 + [0.2] + [1.0] * 30 + [0.021])
    assert anomalous([1.0] * 30 + [0.2] + [1.0] * 30 + [0.019])


@pytest.mark.parametrize(("before", "opens"), [(18, False), (19, True), (20, True)])
def test_levels_are_judged_from_step_20_on(before, opens):
    assert anomalous([1.0] * before + [100.0]) is opens


@pytest.mark.parametrize(("since", "opens"), [(99, False), (100, True), (101, True)])
def test_levels_are_compared_with_the_last_100_steps(since, opens):
    assert HISTORY_STEPS == 100
    assert anomalous([10.0] + [1.0] * since + [30.0]) is opens


def test_a_block_that_dies_and_one_that_wakes_are_anomalous():
    assert anomalous([1.0] * 30 + [0.0])
    assert anomalous([0.0] * 30 + [1e-6])
    assert not anomalous([0.0] * 30)


def test_the_level_is_the_median_of_the_weights_of_a_block():
    _, members = plan(
        [
            *[Part(f"model.0.{n}") for n in "abc"],
            *[Part(f"model.0.{n}", is_weight=False) for n in "defg"],
            Part("model.1"),
        ]
    )
    steady = [sample(FAR + i, size=8) for i in range(30)]
    moves = {
        (1000, 1, 1, 1, 1, 1, 1, 1): False,
        (1, 1, 1, 1000, 1000, 1000, 1000, 1000): False,
        (1000, 1, 1000, 1, 1, 1, 1, 1): True,
    }
    for norms, opens in moves.items():
        windows = windows_of([*steady, sample(FAR + 30, norms, size=8)], members)
        assert (len(windows) == 2) is opens, norms


def test_the_level_of_two_weights_is_the_mean_of_their_norms():
    _, members = plan([Part("model.0.a"), Part("model.0.b"), Part("model.1")])
    steady = [sample(FAR + i, size=3) for i in range(30)]
    for norm, opens in ((19.0 * (1 - 1e-9), False), (19.0 * (1 + 1e-9), True)):
        jump = sample(FAR + 30, [norm, 1.0, 1.0], size=3)
        assert (len(windows_of([*steady, jump], members)) == 2) is opens


def test_a_jump_in_the_head_is_not_anomalous():
    steady = [sample(FAR + i, [1.0, 1.0], size=2) for i in range(30)]
    assert len(windows_of([*steady, sample(FAR + 30, [1.0, 1e6], size=2)], ONE_BLOCK)) == 1


@pytest.mark.parametrize("blocks", [["model.0"], ["model.0", "model.1"]])
def test_a_model_without_a_trunk_has_no_levels(blocks):
    parts = [Part(block, is_weight=block == blocks[-1]) for block in blocks]
    _, members = plan(parts)
    norms = [1.0] * 30 + [1e6, 1.0]
    samples = [sample(FAR + i, norm, size=len(parts)) for i, norm in enumerate(norms)]
    assert len(windows_of(samples, members)) == 1


def with_jumps(count, *, every=120):
    """Steps of which one in so many jumps, and the steps that do."""
    jumps = [FAR + every * (n + 1) for n in range(count)]
    levels = [100.0 if step in jumps else 1.0 for step in range(FAR, jumps[-1] + every)]
    return level_samples(levels), jumps


def test_at_most_40_stretches():
    assert FINE_STRETCHES == 40
    samples, jumps = with_jumps(42)
    windows = windows_of(samples, ONE_BLOCK)
    alone = [window.step_first for window in windows if window.steps == 1]
    assert alone == [step + i for step in jumps[:40] for i in range(11)]
    assert windows[-1].norm_max[0] > 99


def test_spoilt_steps_that_are_far_apart_use_stretches_up():
    bad = [FAR + 20 * n for n in range(42)]
    windows = windows_of(
        sample(step, np.nan if step in bad else 1.0) for step in range(FAR, FAR + 20 * 42)
    )
    alone = [window.step_first for window in windows if window.steps == 1]
    assert alone == [step + i for step in bad[:40] for i in range(11)] + bad[40:]


@pytest.mark.parametrize("norms", [[np.nan, 1.0], [np.inf, 1.0], [1.0, np.nan], [1e39, 1.0]])
@pytest.mark.parametrize("lasts", [1, 2, 30, 5000])
def test_a_spoilt_step_closes_its_window_after_all_stretches_are_used_up(norms, lasts):
    samples, _ = with_jumps(FINE_STRETCHES)
    first = samples[-1].step + 501
    bad = [sample(first + i, norms, size=2) for i in range(lasts)]
    fine = level_samples([1.0] * 500, samples[-1].step + 1), level_samples([1.0], first + lasts)
    begins = []
    rollup = Rollup(ONE_BLOCK)
    for one in [*samples, *fine[0], *bad, *fine[1]]:
        begins += [(w.step_first, w.step_last, one.step) for w in rollup.add([one])]
    assert begins[-2:] == [
        (jump_end(samples), first - 1, first),
        (first, first, first),
    ]
    assert spans(rollup.close()) == [(first + 1, first + lasts)]


def jump_end(samples):
    """The step after the last fine stretch of `with_jumps`."""
    return max(one.step for one in samples if one.norms[0] > 1) + 11


def test_a_run_that_is_nan_to_its_end_does_not_write_a_window_a_step():
    windows = windows_of(sample(step, np.nan if step > 2000 else 1.0) for step in range(1, 20_001))
    assert spans(windows_of(sample(step) for step in range(1, 20_001)))[-1][1] == 20_000
    inside = [window for window in windows if window.step_first > 2000]
    assert [window.steps for window in inside[:11]] == [1] * 11
    assert 100 < len(inside) < 150  # a window is 2 % of 2,000 to 20,000 steps


def test_a_nan_behind_steps_that_are_too_large_is_a_window_of_its_own():
    """An explosion that ends in NaN is no reason to report the NaN later."""
    samples, _ = with_jumps(FINE_STRETCHES)
    begin = samples[-1].step + 1
    large = [sample(begin + i, [1e25, 1.0], size=2) for i in range(30)]
    bad = [sample(begin + 30 + i, [np.nan, 1.0], size=2) for i in range(3)]
    windows = windows_of([*samples, *large, *bad], ONE_BLOCK)
    firsts = [one for one in spans(windows) if one[0] >= begin]
    assert firsts == [
        (begin, begin),
        (begin + 1, begin + 29),
        (begin + 30, begin + 30),
        (begin + 31, begin + 32),
    ]


def test_spoilt_steps_in_a_row_are_one_anomaly():
    """So a streak leaves the stretches to other anomalies."""
    samples, jumps = with_jumps(FINE_STRETCHES)
    first = FAR - 1000
    bad = [sample(step, [np.nan, 1.0], size=2) for step in range(first, first + 900)]
    windows = windows_of([*bad, *samples], ONE_BLOCK)
    alone = [window.step_first for window in windows if window.steps == 1]
    assert alone == [
        *range(first, first + 11),
        *(step + i for step in jumps[: FINE_STRETCHES - 1] for i in range(11)),
    ]


@pytest.mark.parametrize("between", [1, 2, 50])
def test_a_step_that_amp_skips_does_not_end_a_streak_and_a_fine_one_does(between):
    for skipped, alone in ((True, 1), (False, 2)):
        rollup = Rollup(MEMBERS)
        rollup._stretches = FINE_STRETCHES
        steps = [sample(FAR, np.nan)]
        steps += [sample(FAR + 1 + i, skipped=skipped) for i in range(between)]
        steps += [sample(FAR + 1 + between, np.nan), sample(FAR + 2 + between)]
        windows = rollup.add(steps) + rollup.close()
        assert sum(w.steps == 1 and w.nonfinite[0] == 1 for w in windows) == alone


def test_what_begins_anew_ends_a_streak():
    rollup = Rollup(MEMBERS)
    rollup._stretches = FINE_STRETCHES
    found = []
    for step in range(FAR, FAR + 6):
        if step == FAR + 3:
            found += rollup.close()
            rollup.begin_anew()
        found += rollup.add([sample(step, np.nan)])
    assert spans(found) == [(FAR, FAR), (FAR + 1, FAR + 2), (FAR + 3, FAR + 3)]


def test_a_step_that_clipping_multiplies_by_zero_is_no_history():
    levels = [1.0] * 30 + [BEYOND] + [1.0] * 30
    assert anomalous([*levels, 11.0])
    assert not anomalous([*levels, 9.0])


@pytest.mark.parametrize(
    ("norm", "is_spoilt"), [(CLIP_OVERFLOW * (1 - 1e-9), False), (CLIP_OVERFLOW * 1.001, True)]
)
def test_a_step_is_spoilt_from_where_clipping_multiplies_by_zero(norm, is_spoilt):
    rollup = Rollup(ONE_BLOCK)
    rollup.add(level_samples([1.0]))
    high = sample(FAR + 1, [0.0, norm], size=2)
    assert rollup.is_urgent([high]) is is_spoilt
    assert bool(rollup.add([high])) is is_spoilt


def test_after_an_anomaly_the_next_10_captured_steps_are_windows():
    taken = range(FAR, FAR + 300, 10)
    steps = [sample(step, np.nan if step == FAR + 50 else 1.0) for step in taken]
    alone = [w.step_first for w in windows_of(steps, interval=10) if w.steps == 1]
    assert alone == list(range(FAR + 50, FAR + 160, 10))


def test_an_anomaly_within_a_stretch_opens_no_other():
    bad = {FAR + 5, FAR + 10, FAR + 15}
    samples = [sample(FAR + i, np.nan if FAR + i in bad else 1.0) for i in range(30)]
    alone = [window.step_first - FAR for window in windows_of(samples) if window.steps == 1]
    assert alone == list(range(5, 16))


def test_counts_are_of_steps_that_amp_did_not_skip():
    bad = [1, 1, 1, np.inf, 1, 1, 1, 1]
    zero = [0, 0, 0, 1, 1, 1, 1, 1]
    none = np.array([0, 0, 0, 1, 1, 0, 0, 0], bool)
    steps = [
        sample(FAR, zero),
        sample(FAR + 1, 1.0, missing=none),
        sample(FAR + 2, bad, skipped=True),
        sample(FAR + 3, zero, skipped=True),
        sample(FAR + 4, 1.0, missing=none, skipped=True),
    ]
    (window,) = windows_of(steps)
    assert (window.steps, window.skipped) == (5, 3)
    assert not window.nonfinite.any()
    assert {n for n, m in ROW.items() if window.zero[m]} == {
        "model.0",
        "model.0.conv",
        "model.0.bn",
    }
    assert {n for n, m in ROW.items() if window.none[m]} == {
        "model.1",
        "model.1.conv",
        "model.1.bn",
    }
    assert window.zero.max() == window.none.max() == 1


def test_nonfinite_counts_and_is_not_zero():
    (window,) = windows_of([sample(FAR, [1, 1, 1, np.nan, 0, 1, 1, 1])])
    assert {n for n, m in ROW.items() if window.nonfinite[m]} == {
        "model",
        "model.1",
        "model.1.conv",
    }
    assert {n for n, m in ROW.items() if window.zero[m]} == {"model.1.bn"}


def test_a_module_with_one_gradient_of_two_is_not_without():
    missing = np.array([0, 1, 0, 0, 0, 0, 0, 0], bool)
    (window,) = windows_of([sample(FAR, 2.0, missing=missing)])
    assert not window.none.any()
    assert window.norm_mean[ROW["model.0.bn"]] == 2.0


def test_norms_are_over_finite_steps():
    norms = [3.0, np.inf, 4.0, np.nan, 8.0]
    skipped = [False, True, False, True, True]
    pairs = zip(norms, skipped, strict=True)
    samples = [sample(FAR + i, norm, skipped=skip) for i, (norm, skip) in enumerate(pairs)]
    (window,) = windows_of(samples)
    conv = ROW["model.0.conv"]
    assert (window.norm_min[conv], window.norm_mean[conv], window.norm_max[conv]) == (3, 5, 8)
    assert window.norm_max[0] == np.float32(np.sqrt(8 * 64))


def test_norms_without_a_finite_step_are_unknown():
    (window,) = windows_of([sample(FAR, np.nan, skipped=True)])
    assert np.isnan([window.norm_min, window.norm_mean, window.norm_max]).all()


def test_norms_of_a_module_without_a_gradient_are_unknown():
    (window,) = windows_of([sample(FAR, missing=True)])
    assert np.isnan(window.norm_mean).all()
    assert (window.none == 1).all()
    assert not window.zero.any()


def frozen_at(step, frozen, norms=2.0, **options):
    """A step in which the parameters of these numbers were frozen; others may be missing."""
    flags = np.isin(np.arange(P), frozen)
    missing = flags | np.isin(np.arange(P), options.pop("missing", ()))
    return replace(sample(step, norms, missing=missing, **options), frozen=flags)


BLOCK_0, BLOCK_1 = [0, 1, 2], [3, 4]  # parameters of model.0 and model.1


def test_a_layer_that_was_frozen_has_no_norm_and_no_count():
    (window,) = windows_of([frozen_at(FAR, BLOCK_1)])
    silent = {n for n, m in ROW.items() if np.isnan(window.norm_mean[m])}
    assert silent == {"model.1", "model.1.conv", "model.1.bn"}
    assert not (window.nonfinite + window.zero + window.none).any()
    assert np.isnan(window.norm_min[ROW["model.1"]])
    assert np.isnan(window.norm_max[ROW["model.1"]])


def test_the_other_layers_keep_their_numbers():
    norms = [3.0, 1.0, 2.0, 5.0, 7.0, 1.0, 2.0, 4.0]
    (window,) = windows_of([frozen_at(FAR, BLOCK_1, norms)])
    (whole,) = windows_of([sample(FAR, norms)])
    for name, m in ROW.items():
        if name.startswith(("model.0", "model.2")):
            assert window.norm_mean[m] == whole.norm_mean[m], name
    assert window.norm_mean[0] == np.float32(np.sqrt(3**2 + 1 + 2**2 + 1 + 2**2 + 4**2))


def test_a_module_of_which_a_part_is_frozen_has_the_norm_of_the_rest():
    (window,) = windows_of([frozen_at(FAR, [0], [9, 3, 4, 1, 1, 1, 1, 1])])
    assert window.norm_mean[ROW["model.0"]] == 5.0
    assert np.isnan(window.norm_mean[ROW["model.0.conv"]])
    assert not window.none.any()


def test_a_module_half_frozen_and_half_without_a_gradient_is_without():
    (window,) = windows_of([frozen_at(FAR, [1], missing=[2])])
    assert {n for n, m in ROW.items() if window.none[m]} == {"model.0.bn"}
    (window,) = windows_of([frozen_at(FAR, BLOCK_0[1:], missing=BLOCK_0[:1])])
    assert {n for n, m in ROW.items() if window.none[m]} == {"model.0", "model.0.conv"}


def test_a_layer_that_is_frozen_within_a_window_has_the_norms_before():
    steps = [sample(FAR, 2.0), sample(FAR + 1, 4.0), frozen_at(FAR + 2, BLOCK_1)]
    (window,) = windows_of(steps)
    conv = ROW["model.1.conv"]
    assert (window.norm_min[conv], window.norm_mean[conv], window.norm_max[conv]) == (2, 3, 4)
    assert window.none[conv] == window.zero[conv] == 0


def test_steps_before_a_layer_is_frozen_count_as_they_did():
    steps = [sample(FAR, missing=np.isin(np.arange(P), BLOCK_1)), frozen_at(FAR + 1, BLOCK_1)]
    (window,) = windows_of(steps)
    assert window.none[ROW["model.1"]] == 1
    steps = [sample(FAR, np.where(np.isin(np.arange(P), BLOCK_1), 0, 1)), *steps[1:]]
    (window,) = windows_of(steps)
    assert window.zero[ROW["model.1"]] == 1


def test_freezing_a_block_late_in_a_run_is_no_number_of_its_own():
    before, after = range(FAR, FAR + 30), range(FAR + 30, FAR + 60)
    steps = [*map(sample, before), *(frozen_at(step, BLOCK_1) for step in after)]
    windows = windows_of(steps)
    assert sum(window.steps for window in windows) == 60
    assert not any((window.none + window.zero + window.nonfinite).any() for window in windows)


def test_a_model_of_which_everything_is_frozen_has_no_numbers():
    (window,) = windows_of([frozen_at(FAR, range(P))])
    assert np.isnan([window.norm_min, window.norm_mean, window.norm_max]).all()
    assert not (window.nonfinite + window.zero + window.none).any()


def long_overflow(begins, lasts, after=300, interval=1):
    """News of a long run in which some steps in a row overflow, with the step of each."""
    norms = np.where(np.arange(P) == 3, np.inf, 1.0)
    rollup = Rollup(MEMBERS, interval)
    diagnosis = Diagnosis(LAYOUT, Thresholds(), {"amp": True}, lambda *_steps: "")
    for step in range(begins - 300, begins + lasts + after, interval):
        bad = begins <= step < begins + lasts
        one = sample(step, norms if bad else 1.0, skipped=bad)
        for window in rollup.add([one]):
            for news in diagnosis.update(window):
                yield step, news


@pytest.mark.parametrize("begins", [1000, 5003, 100_017, FAR])
@pytest.mark.parametrize("interval", [1, 10])
def test_a_long_overflow_late_in_a_run_is_told_at_once(begins, interval):
    """Windows are 20 to 20,000 steps long there, and 12 skipped steps in a row are let pass."""
    news = long_overflow(begins, 60 * interval, interval=interval)
    told = [one for one in news if one[1].finding.rule == "nonfinite"]
    assert next(news.change for _, news in told) == "start"
    step, news = told[0]
    assert begins + 12 * interval <= step <= begins + 20 * interval
    assert news.finding.module == "model.1.conv"
    assert begins <= news.finding.step <= begins + 4 * interval
    assert news.finding.severity == "critical"


@pytest.mark.parametrize("lasts", [1, 3, 12])
def test_an_overflow_that_amp_gets_over_late_in_a_run_is_no_alarm(lasts):
    news = list(long_overflow(5003, lasts))
    assert {one.finding.severity for _, one in news} <= {"notice"}


def test_values_are_float32():
    (window,) = windows_of([sample(FAR, 1 / 3)])
    for name in ("norm_min", "norm_mean", "norm_max", "zero_fraction", "weight_norm"):
        assert getattr(window, name).dtype == np.float32
    assert window.norm_mean[ROW["model.0.conv"]] == np.float32(1 / 3)


def test_a_norm_beyond_float32_is_infinite_and_no_warning():
    """Many finite float32 elements have a norm that float32 cannot hold."""
    (window,) = windows_of([sample(FAR, 1e39, detail=Detail(np.full(P, 1e39), np.full(P, 0.0)))])
    assert np.isinf(window.norm_mean).all()
    assert np.isinf(window.weight_norm).all()
    assert not window.nonfinite.any()


def test_details_are_those_of_the_first_step():
    details = [Detail(np.full(P, float(n)), np.full(P, 2.0 * n)) for n in (1, 2)]
    steps = [sample(FAR, detail=details[0]), sample(FAR + 1, detail=details[1]), sample(FAR + 2)]
    (window,) = windows_of(steps)
    assert window.weight_norm[ROW["model.0.conv"]] == 1.0
    assert window.weight_norm[0] == np.float32(np.sqrt(P))
    assert window.zero_fraction[ROW["model.0.conv"]] == np.float32(2 / 12)
    assert np.isnan(window.zero_fraction[ROW["model.0.bn"]])


def test_details_are_unknown_where_an_anomaly_opened_the_window():
    detail = Detail(np.ones(P), np.zeros(P))
    steps = [sample(FAR, detail=detail), sample(FAR + 1), sample(FAR + 2, np.nan)]
    first, second = windows_of(steps)
    assert not np.isnan(first.weight_norm).any()
    assert np.isnan(second.weight_norm).all()
    assert np.isnan(second.zero_fraction).all()


KINDS = st.sampled_from(
    [*["fine"] * 6, "nan", "beyond", "jump", "skip", "missing", "frozen", "zero"]
)


def drawn_samples(kinds, first):
    """Steps of any kind, with norms of many digits; each 30 are an epoch."""
    rng = np.random.default_rng(len(kinds))
    for step, kind in enumerate(kinds, first):
        norms = rng.lognormal(size=P)
        norms[3] = {"nan": np.nan, "skip": np.inf, "zero": 0.0, "beyond": 1e39}.get(kind, norms[3])
        norms = norms * (1e3 if kind == "jump" else 1.0)
        detail = Detail(np.full(P, float(step)), np.full(P, 1.0))
        one = sample(
            step,
            norms,
            epoch=1 + step // 30,
            missing=np.isin(np.arange(P), BLOCK_1) & (kind in ("missing", "frozen")),
            skipped=kind == "skip",
            detail=detail,
        )
        yield replace(one, frozen=one.missing) if kind == "frozen" else one


@LAWS
@given(
    st.lists(KINDS, min_size=1, max_size=150),
    st.sets(st.integers(1, 149)),
    st.sampled_from([1, 1001, FAR]),
)
def test_windows_are_the_same_bit_for_bit_however_many_samples_come_at_once(kinds, cuts, first):
    samples = list(drawn_samples(kinds, first))
    edges = [0, *sorted(cut for cut in cuts if cut < len(samples)), len(samples)]
    rollup = Rollup(MEMBERS)
    together = [w for a, b in pairwise(edges) for w in rollup.add(samples[a:b])] + rollup.close()
    apart = windows_of(samples)
    assert len(together) == len(apart)
    for one, other in zip(together, apart, strict=True):
        assert_same(one, other)


def test_a_window_of_many_steps_takes_no_more_memory_than_one_of_few():
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


def test_windows_are_foretold_while_many_steps_are_not_looked_at():
    """The first steps of windows have details though the steps before them still wait."""
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


def test_newest_is_the_last_sample():
    rollup = Rollup(MEMBERS)
    assert rollup.newest.shape == (0, len(LAYOUT.modules))
    rollup.add([sample(FAR, 2.0)])
    np.testing.assert_allclose(rollup.newest[-1, 0], 2 * np.sqrt(P))
    rollup.add([sample(FAR + 1, 3.0)])
    rollup.close()
    np.testing.assert_allclose(rollup.newest[-1, 0], 3 * np.sqrt(P))


@LAWS
@given(
    st.sets(st.integers(1, 150), max_size=5),
    st.integers(1, 4),
    st.sampled_from([10**9, 75, 20]),
    st.sampled_from([0, 2000]),
)
def test_opens_window_foretells_where_windows_begin(bad, interval, epoch, offset):
    """As far as can be known: a step does not tell beforehand that it will be anomalous."""
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


def test_a_full_window_is_foretold_while_its_steps_are_on_their_way():
    rollup = Rollup(MEMBERS)
    rollup.add([sample(1001)])
    assert not rollup.opens_window(1002)
    assert not rollup.opens_window(1021)
    assert rollup.opens_window(1022)  # 1001 to 1021 are 2 % of 1021 steps, landed or not


@pytest.mark.parametrize("anomalies", [0, 40])
def test_300_epochs_of_coco_stay_below_60_mb(anomalies):
    steps, epochs, modules, row = 2_200_000, 300, 434, 110
    bad = {steps * n // 41 for n in range(1, anomalies + 1)}
    windows = expected_windows(steps, epoch=steps // epochs, anomalies=bad)
    assert len(windows) * modules * row < 60e6


@LAWS
@given(
    steps=st.lists(st.tuples(st.sampled_from([0.1, 1.0, 9.0]), st.booleans()), min_size=1),
    first=st.sampled_from([1, 500]),
    clip=st.sampled_from([1.0, 10.0, 1e3]),
)
def test_a_window_counts_the_steps_whose_total_norm_is_above_the_clip(steps, first, clip):
    samples = [sample(i, norm, skipped=skips) for i, (norm, skips) in enumerate(steps, first)]
    rollup = Rollup(MEMBERS, clip=clip)
    windows = [*rollup.add(samples), *rollup.close()]
    for one in windows:
        inside = [s for s in samples if one.step_first <= s.step <= one.step_last]
        above = [s for s in inside if not s.skipped and np.linalg.norm(s.norms) > clip]
        assert one.clipped == len(above)


@pytest.mark.parametrize(("norm", "clipped"), [(np.inf, 1), (np.nan, 0)])
def test_an_infinite_norm_is_clipped_and_one_that_is_no_number_is_not(norm, clipped):
    (one,) = Rollup(MEMBERS).add([sample(1, norm)])
    assert one.clipped == clipped
