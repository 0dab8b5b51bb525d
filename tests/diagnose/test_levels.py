"""Orders of magnitude, learning rates, and trainings with nothing left to learn."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from nets import NET, curve, feed, fired, heavy, inside, lasting, net, normed, weighing
from rule_cases import fallen, items, rates
from shown import finding_of

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.detector import Detector
from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.report import Report
from yolo_gradwatch.diagnose.rules.rates import QUICK, _quick
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.clipping import EpochClipping
from yolo_gradwatch.measure.layout import WHOLE

LIMITS = Thresholds()


def rules_at(windows, training=None):
    """The rules that hold in the last window."""
    detector = Detector(NET, LIMITS, training or {})
    return {a.rule for a in [detector.update(one) for one in windows][-1]}


def losing(count, norm, first=1, **means):
    return lasting(count, {WHOLE: norm}, first=first, losses=items(**means))


# --- loss items -----------------------------------------------------------------------------------


def test_large_item_is_named_with_its_size_and_the_norm():
    (alert,) = fired(losing(8, 2e5, box=4.0, grade=6e4), "loss_imbalance")
    assert alert.step == 1
    assert (alert.reason.names, alert.reason.values) == (("grade",), (6e4, pytest.approx(2e5)))


@pytest.mark.parametrize(
    "last",
    [
        losing(1, 2e5, first=5, box=4.0, grade=30.0),
        losing(1, 2e5, first=5, box=6e4, grade=4.0),
        losing(1, 2e5, first=5, box=0.0, grade=6e4),
        lasting(1, {WHOLE: 2e5}, first=5),
    ],
    ids=["small again", "another item", "no object", "losses unknown"],
)
def test_item_must_be_too_large_in_every_window(last):
    assert "loss_imbalance" in rules_at(losing(5, 2e5, box=4.0, grade=6e4))
    assert "loss_imbalance" not in rules_at([*losing(4, 2e5, box=4.0, grade=6e4), *last])


def test_item_at_the_limit_is_judged_alike_despite_rounding():
    windows = losing(5, 2e5, box=1562.4375, grade=156243.75)  # 2.0000000000000004 decades
    assert [alert.step for alert in fired(windows, "loss_imbalance")] in ([], [1])


@pytest.mark.parametrize(("norm", "found"), [(900, False), (1100, True)])
def test_display_only_item_is_ignored(norm, found):
    windows = losing(5, norm, box=4.0, shown=6e4)
    assert ("loss_imbalance" in rules_at(windows)) == found


@pytest.mark.parametrize(
    ("means", "training", "found"),
    [
        ({"box": 6.0, "cls": 500.0}, {}, True),
        ({"box": 6.0, "cls": 500.0}, {"batch": 8, "imgsz": 96}, True),
        ({"box": 6.0, "cls": 500.0}, {"batch": 64, "imgsz": 640}, False),
        ({"box": 0.0, "cls": 500.0}, {}, False),
        ({"box": 6.0, "cls": 94.0}, {}, False),
        ({"loss": 500.0}, {}, True),
    ],
)
def test_loss_that_starts_too_large(means, training, found):
    assert ("initial_loss" in rules_at(losing(5, 2e4, **means), training)) == found
    assert "initial_loss" not in rules_at(losing(5, 9e3, **means), training)
    later = [*losing(5, 2e4, box=6.0, cls=5.0), *losing(5, 2e4, first=6, **means)]
    assert "initial_loss" not in rules_at(later, training)


@pytest.mark.parametrize(("loss", "found"), [(200.0, False), (300.0, True)])
def test_large_class_loss_is_normal_with_few_objects_per_image(loss, found):
    training = {"batch": 16, "imgsz": 640}
    windows = losing(5, 2e3, box_loss=0.5, cls_loss=loss)
    assert ("loss_imbalance" in rules_at(windows, training)) == found
    assert "loss_imbalance" in rules_at(windows)
    fitted = {"batch": -1, "imgsz": 640, "fitted": {"batch": 16}}  # AutoBatch
    assert ("loss_imbalance" in rules_at(windows, fitted)) == found


@pytest.mark.parametrize(("item", "is_own"), [("box_loss", True), ("grade_loss", False)])
def test_only_an_item_of_the_user_has_a_target_to_divide(item, is_own):
    reason = Reason("item", (item,), (6e4, 2e5))
    finding = finding_of("loss_imbalance", WHOLE, value=4.0, limit=2.0, reason=reason)
    words = RULES["loss_imbalance"].message(NET, {"box": 7.5}, finding)
    raised = RULES["loss_imbalance"].message(NET, {"box": 7500.0}, finding)
    assert ("standard deviation" in words.remedy) != is_own
    assert "box=7500" in raised.why


@pytest.mark.parametrize(("then", "is_in_the_loss"), [(9.0, False), (90.0, True)])
def test_loss_shows_where_a_spike_comes_from(then, is_in_the_loss):
    courses = zip(curve(0, 0, 0, 0, 0, 3), [8.0] * 5 + [then], strict=True)
    (alert,) = fired([replace(one, losses=items(box=loss)) for one, loss in courses], "spike")
    assert alert.reason.values == (8.0, then)
    finding = finding_of("spike", WHOLE, value=3.0, limit=1.5, reason=alert.reason)
    words = RULES["spike"].message(NET, {}, finding)
    assert ("labels" in words.remedy) == is_in_the_loss


@pytest.mark.parametrize(("gain", "is_named"), [(7.5, False), (7500.0, True)])
def test_overlap_loss_is_not_blamed_on_the_initialization(gain, is_named):
    reason = Reason("item", ("box_loss",), (6e4, 2e5))
    finding = finding_of("loss_imbalance", WHOLE, value=4.0, limit=2.0, reason=reason)
    words = RULES["loss_imbalance"].message(NET, {"box": gain}, finding)
    assert ("box=7500" in words.why) == is_named
    assert "Ultralytics" not in words.remedy


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-3, 0.0])
@pytest.mark.parametrize(
    ("blocks", "found"),
    [
        (("model.1",), ["model.1"]),
        (("model.1", "model.4"), ["model.1", "model.4"]),
        (("model.0", "model.1", "model.2"), [WHOLE]),
    ],
)
def test_small_weights_name_their_blocks_and_zeros_are_ignored(blocks, found, size):
    window = weighing(1, 1.0)
    rows = [NET.modules.index(name) for name in inside(NET, *blocks)]
    window.weight_norm[rows] = size
    alerts = fired([window], "small_weights")
    assert [alert.module for alert in alerts] == (found if size else [])
    assert {n for alert in alerts for n in alert.reason.names} == (set(blocks) if size else set())


def test_branch_that_starts_at_zero_is_not_initialized_too_small():
    row = NET.modules.index("model.1.a")
    rows = [NET.modules.index(name) for name in inside(NET, "model.1")]
    first, later = weighing(1, 1.0), weighing(2, 1.0)
    later.weight_norm[rows] = 1e-3
    assert [alert.module for alert in fired([first, later], "small_weights")] == ["model.1"]
    first.weight_norm[rows] = 0.0
    assert fired([first, later], "small_weights") == []
    first.weight_norm[row] = 1e-3  # one of them did not start at zero
    assert [alert.module for alert in fired([first, later], "small_weights")] == ["model.1"]


def test_weights_that_grew_were_not_initialized_too_large():
    assert "large_weights" in rules_at([weighing(1, 30), weighing(2, 30)])
    assert "large_weights" not in rules_at([weighing(1, 1), weighing(2, 30)])
    assert "large_weights" not in rules_at([weighing(1, 30), weighing(2, 1)])


# --- the learning rate ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("course", "since"),
    [
        ([0.01] * 5 + [0.5] * 3, 6),
        ([0.0, 0.001, 0.002, 0.003, 0.004, 0.005], None),
        ([0.0, 0.0, 0.001, 0.009, 0.01], None),
        ([0.1, 0.08, 0.001, 0.05], None),
        ([0.01] * 5 + [0.5, 0.01], None),
        ([0.01] * 5 + [0.04], None),
    ],
    ids=["jump", "warm-up", "short warm-up", "second cycle", "back again", "less than fivefold"],
)
def test_rate_jump_needs_a_lasting_fivefold_rise(course, since):
    windows = [net(n, losses=rates(0.01, rate)) for n, rate in enumerate(course, 1)]
    found = fired(windows, "rate_jump")
    assert [alert.step for alert in found] == ([since] if since else [])
    assert [alert.reason.names for alert in found] == ([("lr/1",)] if since else [])


@pytest.mark.parametrize(
    ("rate", "training", "reason"),
    [
        (10.0, {"lr0": 0.01}, Reason("rate", values=(10.0, 0.01))),
        (10.0, {"lr0": 0.01, "fitted": {"lr0": 5.0}}, None),
        (0.1, {"lr0": 0.01, "warmup_bias_lr": 0.1}, None),
        (0.05, {"lr0": 0.01}, None),
        (10.0, {}, None),
    ],
    ids=["in code", "as fitted", "of the warm-up", "fivefold", "unknown"],
)
def test_rate_that_no_option_asks_for_is_the_reason(rate, training, reason):
    windows = [replace(weighing(n, w), losses=rates(rate)) for n, w in ((1, 5.0), (2, 50.0))]
    (alert,) = fired(windows, "weight_growth", training=training)
    assert alert.reason == reason


@pytest.mark.parametrize(
    ("rule", "windows"),
    [
        ("dead", lasting(3, zero=["model.4.conv"])),
        ("weight_overflow", [heavy(1, "model.2.conv", 1e5)]),
    ],
)
@pytest.mark.parametrize(("rate", "values"), [(10.0, (10.0, 0.01)), (0.01, ())])
def test_damage_by_a_rate_that_no_option_asks_for_names_it(rule, windows, rate, values):
    windows = [replace(one, losses=rates(rate)) for one in windows]
    (alert,) = fired(windows, rule, training={"lr0": 0.01})
    assert (alert.reason.values if alert.reason else ()) == values


def moving(epoch=9):
    """A net whose weights suddenly move 26 times faster."""
    before = [weighing(n, 4.0625 if n % 2 == 0 else 4.0) for n in range(1, 22)]
    return [replace(one, epoch=epoch) for one in (*before, weighing(22, 6.0))]


@pytest.mark.parametrize(("epoch", "found"), [(3, False), (4, True)])
def test_weights_may_move_faster_in_the_warm_up(epoch, found):
    assert ("weight_jump" in rules_at(moving(epoch), {"warmup_epochs": 3.0})) == found


def test_jump_ends_once_the_weights_are_calm_again():
    calm = [replace(weighing(n, 6.0), epoch=9) for n in range(23, 33)]
    assert "weight_jump" in rules_at([*moving(), *calm[:9]])
    assert "weight_jump" not in rules_at([*moving(), *calm])


TRUNK = [name for name in NET.modules if name[6:7] in {"0", "1", "2", "4", "5"}]


@pytest.mark.parametrize("frozen", [TRUNK, TRUNK[:-2]], ids=["all", "most"])
def test_thawed_weights_do_not_jump(frozen):
    """They were frozen for longer than the detector remembers; the others go on as before."""
    thawed = [weighing(n, 4.0 * 1.1 ** (n - 60)) for n in range(61, 73)]
    still = [name for name in TRUNK if name not in frozen]
    given = [
        normed(
            replace(one, epoch=9),
            dict.fromkeys(still, 4.0 + 1e-4 * (n % 2)),
            fields=["weight_norm"],
        )
        for n, one in enumerate([*lasting(60, unknown=frozen), *thawed])
    ]
    assert "weight_jump" not in rules_at(given)
    free = [replace(one, norm_mean=np.ones_like(one.norm_mean)) for one in given]
    assert "weight_jump" in rules_at(free)


def test_quickest_tenth_is_the_quantile_that_numpy_finds():
    rng = np.random.default_rng(0)
    values = np.where(rng.random((9, 17)) < 0.3, np.nan, rng.random((9, 17)))
    values[1], values[2, 1:] = np.nan, np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a row of NaN only
        expected = np.nanquantile(values, QUICK, axis=1)
    np.testing.assert_allclose(_quick(values), expected, rtol=1e-12)


# --- nothing left to learn ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opening", "later", "found"),
    [
        (losing(1, 50.0, cls=2.0), fallen(10, loss=1e-3), "converged"),
        (losing(1, 50.0, cls=2.0), fallen(10, loss=1.0), "total_low"),
        (losing(1, 1e-3, cls=2.0), fallen(10, loss=1e-3), "total_low"),
        (lasting(1, {WHOLE: 50.0}), lasting(10, {WHOLE: 1e-4}, first=2), "converged"),
        (lasting(1, {WHOLE: 1e-3}), lasting(10, {WHOLE: 1e-4}, first=2), "total_low"),
    ],
    ids=["solved", "a high loss", "never higher", "no loss", "no loss, never higher"],
)
def test_low_norm_is_a_fault_unless_the_loss_fell_with_it(opening, later, found):
    assert rules_at([*opening, *later]) == {found}


def test_weights_that_grew_are_destroyed_and_not_solved():
    windows = [*losing(1, 50.0, cls=2.0), *fallen(10, loss=1e-3)]
    large = np.full(len(NET.modules), 50.0, np.float32)
    windows[1:] = [replace(one, weight_norm=large) for one in windows[1:]]
    assert "total_low" in rules_at(windows)
    assert "converged" not in rules_at(windows)


def test_solved_training_reports_how_far_its_loss_fell():
    alert = feed([*losing(1, 50.0, cls=2.0), *fallen(10, loss=2.0**-10)])[-1][0]
    assert (alert.severity, alert.reason.values) == ("notice", (2.0, 2.0**-10))


# --- a norm around its limit ----------------------------------------------------------------------


def test_norm_that_swings_around_its_limit_stays_too_high():
    course = [2e7, 2e7, 2e7, 5e6, 2e7, 2e6, 5e6]
    windows = [net(n, {WHOLE: norm}) for n, norm in enumerate(course, 1)]
    assert [bool(fired(windows[:n], "total_high")) for n in (2, 3, 4, 5, 6, 7)] == [
        False,
        *[True] * 5,
    ]
    assert not fired([*windows, net(8, {WHOLE: 9e5})], "total_high")


# --- clipping in the report -----------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "is_usual"), [(143.0, True), (500.0, False)])
def test_only_a_usual_clip_ratio_is_called_normal(tmp_path, ratio, is_usual):
    epoch = EpochClipping(1, steps=100, clipped=100, norm_median=10 * ratio, clip_ratio=ratio)
    report = Report(tmp_path, "finished", 100, 9, (), (epoch,))
    assert ("normal for YOLO" in str(report)) == is_usual


def exploding_after(stray, begin):
    """A converged run that explodes later, with or without a stray step before that."""

    def at(step, decades):
        norms = dict.fromkeys(NET.modules, 10.0**decades)
        return net(step, norms, losses=items(cls=8.0 if step == 1 else 0.03125))

    before = [at(1, 1.0), *(at(step, -3.0) for step in range(2, 12))]
    strays = [at(12, 2.0 if stray else -3.0), *(at(step, -3.0) for step in range(13, begin))]
    return [*before, *strays, *(at(begin + n, 5.0) for n in range(6))]


@pytest.mark.parametrize("begin", [13, 15, 21, 26])
def test_stray_step_hides_no_explosion_after_it(begin):
    windows = exploding_after(stray=True, begin=begin)
    assert [alert.step for alert in fired(windows[:12], "stray_step")] == [12]
    assert "spike" not in rules_at(windows[:12])
    for run in (windows, exploding_after(stray=False, begin=begin)):
        assert {alert.step for alert in fired(run, "spike")} == {begin}


@pytest.mark.parametrize(("highest", "jumped"), [(60.0, True), (1.3, False)])
def test_loss_of_a_spike_is_the_highest_of_its_window(highest, jumped):
    """A window, or the batches since the last captured step, may hold ordinary losses too."""
    losses = [replace(one, max=highest) for one in items(cls=1.2)]
    windows = [replace(one, losses=tuple(items(cls=1.2))) for one in curve(0, 0, 0, 0, 0)]
    (alert,) = fired([*windows, replace(curve(3, first=6)[0], losses=tuple(losses))], "spike")
    before, then = alert.reason.values
    assert (then > 3 * before) == jumped
