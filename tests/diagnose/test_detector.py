from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import NET, feed, fired, lasting, net, skips
from values import LAWS, LAYOUT, MEMBERS, NORMS, runs, sample, window

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.detector import Detector
from yolo_gradwatch.diagnose.rules import hop as rules_hop
from yolo_gradwatch.diagnose.rules import whole as rules_whole
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.windows import Rollup

FEW = settings(LAWS, max_examples=15)


def wild(seed, count=30):
    """Windows with norms that jump by decades, some zero, some without a norm."""
    random = np.random.default_rng(seed)
    for step in range(1, count + 1):
        norms = 10.0 ** random.normal(random.normal(0, 1.5), 1.0, len(NET.modules))
        norms[random.random(len(norms)) < 0.1] = random.choice([0, np.nan])
        columns = dict.fromkeys(NORMS, norms.astype(np.float32))
        yield replace(net(step, skipped=int(random.random() < 0.2)), **columns)


# --- what is remembered ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lasting(2, zero=["model.1.a"]), lasting(2, first=3, zero=["model.1.a"])),
        (lasting(30), lasting(5, dict.fromkeys(NET.modules[1:], 1e3), first=31)),
        (lasting(30), lasting(5, dict.fromkeys(NET.modules[1:], 1e-4), first=31)),
    ],
)
def test_what_is_forgotten_counts_no_more(before, after):
    assert any(feed([*before, *after]))
    detector = Detector(NET, Thresholds())
    for one in before:
        detector.update(one)
    detector.forget()
    assert not any(detector.update(one) for one in after)


def test_skipped_steps_are_forgotten():
    detector = Detector(NET, Thresholds())
    for one in skips(12):
        detector.update(one)
    detector.forget()
    assert [alert.rule for alert in detector.update(net(13, skipped=1))] == ["amp_overflow"]
    assert fired(skips(13), "nonfinite")


@FEW
@given(st.integers(0, 10**6), st.integers(0, 30))
def test_what_is_forgotten_is_as_if_it_had_not_been(seed, length):
    windows = list(wild(seed))
    detector = Detector(NET, Thresholds())
    for one in windows[:length]:
        detector.update(one)
    detector.forget()
    assert [detector.update(one) for one in windows[length:]] == feed(windows[length:])


@pytest.mark.parametrize(
    ("limits", "kept"),
    [({}, 50), ({"dead_branch_windows": 1}, 21), ({"dead_windows": 80}, 80)],
)
def test_memory_is_bounded_and_enough_for_every_rule(limits, kept):
    detector = Detector(LAYOUT, Thresholds(amp_grace=9, **limits))
    for step in range(1, 210):
        detector.update(window(step))
    assert len(detector._readings) == kept
    assert len(detector._marks) == 200
    for step in range(30):
        detector.update(window(step, skipped=1))
    assert len(detector._skipped) == 10
    longest = (rules_hop.HOPS[0], rules_hop.JUMPS[0], rules_whole.LOW_WINDOWS)
    assert kept >= max(*longest, rules_whole.GROWTH_WINDOWS + 1)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])  # noqa: S301  # our own
def test_a_copy_goes_on_where_the_original_was(clone):
    windows = list(wild(3))
    detector = Detector(NET, Thresholds())
    for one in windows[:20]:
        detector.update(one)
    copied = clone(detector)
    after = [detector.update(one) for one in windows[20:]]
    assert [copied.update(one) for one in windows[20:]] == after
    assert any(after)


def test_windows_are_left_as_they_were():
    windows = list(wild(4))
    for one in windows:
        for name in (*NORMS, "weight_norm", "zero", "none"):
            getattr(one, name).flags.writeable = False
    assert any(feed(windows))


# --- laws -----------------------------------------------------------------------------------------


@FEW
@given(st.integers(0, 10**6), st.integers(0, 30), runs())
def test_alerts_of_a_prefix_are_a_prefix(seed, length, run):
    for windows, layout in ((list(wild(seed)), NET), (run[0], LAYOUT)):
        prefix = feed(windows[:length], layout=layout)
        assert prefix == feed(windows, layout=layout)[:length]


@FEW
@given(runs(), st.integers(-3, 3))
def test_scaling_all_norms_changes_no_alert(run, power):
    windows, _ = run
    factor = np.float32(2.0**power)
    scaled = [replace(one, **{n: getattr(one, n) * factor for n in NORMS}) for one in windows]
    assert feed(scaled, layout=LAYOUT) == feed(windows, layout=LAYOUT)


@FEW
@given(st.lists(st.sampled_from([0.0, 1.0, np.inf, np.nan]), min_size=20, max_size=60))
def test_scaling_all_gradients_changes_no_alert(levels):
    def alerts(factor):
        rollup = Rollup(MEMBERS)
        samples = [
            sample(step, [1, 1, 1, level * factor, 1, 1, 1, 1], skipped=np.isinf(level))
            for step, level in enumerate(levels, 1)
        ]
        return feed([one for each in samples for one in rollup.add([each])], layout=LAYOUT)

    assert alerts(1.0) == alerts(2.0)


@LAWS
@given(runs())
def test_alerts_name_known_modules_and_break_their_limit(run):
    windows, _ = run
    for one, alerts in zip(windows, feed(windows, layout=LAYOUT), strict=True):
        for alert in alerts:
            assert alert.module in LAYOUT.modules
            assert alert.step <= one.step_first
            assert alert.severity == RULES[alert.rule].severity
            assert alert.value >= alert.limit or alert.severity == "notice"
