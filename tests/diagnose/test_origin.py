"""Where a NaN came from, judged by what was still finite, and the wording of the finding."""

from dataclasses import replace

import numpy as np
import pytest
from nets import bad_loss, beyond, net
from values import layout_of

from yolo_gradwatch.diagnose.detector import Detector
from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.trace import Call, Flow

CLASSES = ("Conv", "C2f", "OwnAttention", "Upsample", "Concat", "C2f", "Conv", "Detect")
INF = float("inf")
ITEMS = ("box_loss", "cls_loss", "dfl_loss")

FULL = layout_of(CLASSES)


def without_norm(layout, *blocks):
    """The layout without the BatchNorm of these blocks."""
    gone = {f"{block}.bn" for block in blocks}
    rows = [m for m, name in enumerate(layout.modules) if name not in gone]
    columns = ("modules", "types", "parameters", "block_of", "roles", "kernels")
    return replace(layout, **{n: tuple(getattr(layout, n)[m] for m in rows) for n in columns})


CHAIN = without_norm(FULL, "model.2")
"""A chain of eight blocks; the third is a custom block without normalization."""


def spoiled_from(block, layout=CHAIN, step=2):
    """A window in whose step the BatchNorm statistics are not finite from a block on."""
    norms = [n for n in layout.modules if n.endswith(".bn") and int(n.split(".")[1]) >= block]
    one = beyond(step, dict.fromkeys(norms, INF), layout=layout)
    return replace(one, nonfinite=np.ones(len(layout.modules), np.int64))


def alerts(*windows, layout=CHAIN, flow=None, rule="nonfinite"):
    """The alerts of a rule in the last window."""
    detector = Detector(layout, Thresholds(), {})
    found = [detector.update(one, None, flow) for one in windows]
    return [alert for alert in found[-1] if alert.rule == rule]


def only(found):
    (alert,) = found
    return alert


CLEAN = beyond(1, {}, layout=CHAIN)


@pytest.mark.parametrize("skipped", [0, 1])
def test_nan_in_the_forward_is_named_between_clean_and_spoiled_statistics(skipped):
    bad = bad_loss(replace(spoiled_from(5), skipped=skipped), *ITEMS)
    if skipped:
        bad = replace(bad, nonfinite=np.zeros_like(bad.nonfinite))
    alert = only(alerts(CLEAN, bad))
    assert (alert.module, alert.step, alert.limit) == ("model.2", 2, 0.0)
    assert alert.reason.kind == "forward"
    assert alert.reason.names == ("model.2", "model.5", "model.1", "model.2")
    assert alert.reason.values == (float(skipped),)


@pytest.mark.parametrize(
    ("block", "layout", "module", "suspects"),
    [
        (2, FULL, "model.2", ("model.2",)),  # its own normalization is spoiled
        (5, FULL, "model.2", ("model.2",)),  # after its last normalization: a custom block
        (1, CHAIN, "model.1", ("model.1",)),  # only a standard block upstream
        (6, CHAIN, "model.6", ("model.6",)),
    ],
)
def test_suspect_is_the_custom_block(block, layout, module, suspects):
    first = beyond(1, {}, layout=layout)
    alert = only(alerts(first, bad_loss(spoiled_from(block, layout), *ITEMS), layout=layout))
    assert (alert.module, alert.reason.names[3:]) == (module, suspects)


def test_block_without_parameters_is_the_suspect_and_its_reader_is_named():
    kinds = tuple((n, "OwnGate" if n == "model.3" else kind) for n, kind in FULL.blocks)
    layout = replace(FULL, blocks=kinds)
    first = beyond(1, {}, layout=layout)
    alert = only(alerts(first, bad_loss(spoiled_from(5, layout), *ITEMS), layout=layout))
    assert (alert.module, alert.reason.names[3:]) == ("model.5", ("model.3",))


def test_images_are_the_suspect_where_everything_is_spoiled():
    found = alerts(CLEAN, bad_loss(spoiled_from(0), *ITEMS))
    assert {alert.reason.kind for alert in found} == {"input"}


def test_statistics_spoiled_before_are_ignored():
    before = replace(spoiled_from(5, step=1), nonfinite=np.zeros(len(CHAIN.modules), np.int64))
    found = alerts(before, bad_loss(spoiled_from(5), *ITEMS))
    assert {alert.reason.kind for alert in found} == {"loss"}


def test_nan_weights_are_the_reason():
    nan = np.full(len(CHAIN.modules), np.nan, np.float32)
    bad = replace(spoiled_from(0), weight_norm=nan)
    for before, was_finite in (((), 0.0), ((CLEAN,), 1.0)):  # then the checkpoint was NaN, too
        reason = Reason("weights", values=(0.0, was_finite), rank=1)
        assert {alert.reason for alert in alerts(*before, bad)} == {reason}
    after = replace(bad, step_first=3, step_last=3)  # the step before spoiled them
    assert {alert.reason for alert in alerts(CLEAN, spoiled_from(5), after)} == {None}


@pytest.mark.parametrize(
    ("bad", "kind", "names"),
    [
        ((), "slope", ()),
        (ITEMS[:1], "loss items", ("box_loss", "", "cls_loss", "dfl_loss")),
        (ITEMS[1:], "loss items", ("cls_loss", "dfl_loss", "", "box_loss")),
        (ITEMS, "loss", ()),
    ],
)
def test_loss_items_give_the_reason_if_no_buffer_is_spoiled(bad, kind, names):
    one = replace(spoiled_from(9), nonfinite=np.ones(len(CHAIN.modules), np.int64))
    found = alerts(CLEAN, bad_loss(one, *bad))
    assert {(alert.reason.kind, alert.reason.names) for alert in found} == {(kind, names)}


def test_no_reason_without_losses():
    assert {alert.reason for alert in alerts(CLEAN, spoiled_from(5))} == {None}


def traced(bad, step=2):
    """A trace whose outputs are not finite from a module on."""
    named = [name for name in CHAIN.modules if name != WHOLE]
    at = named.index(bad)
    calls = [
        Call(n, name, 1, "Own", 9, output_max=INF if n > at else 1.0)
        for n, name in enumerate(named, 1)
    ]
    return Flow(1, step, tuple(calls))


def test_traced_call_outranks_the_buffers():
    flow = traced("model.2.conv")
    bad = bad_loss(spoiled_from(5), *ITEMS)
    alert = only(alerts(CLEAN, bad, flow=flow))
    assert (alert.module, alert.reason.kind) == ("model.2.conv", "call")
    assert alert.reason.rank > only(alerts(CLEAN, bad)).reason.rank


def test_trace_of_an_earlier_step_or_of_spoiled_weights_names_no_call():
    bad = bad_loss(spoiled_from(5), *ITEMS)
    early = alerts(CLEAN, bad, flow=traced("model.2.conv", step=1))
    later = replace(bad, step_first=3, step_last=3)
    late = alerts(CLEAN, bad, later, flow=traced("model.0.conv", step=3))
    assert {alert.reason.kind for alert in (*early, *late)}.isdisjoint({"call"})


# --- losses and buffers with finite gradients -----------------------------------------------------


def test_bad_loss_with_finite_gradients_is_only_a_notice():
    bad = bad_loss(beyond(2, {}, layout=CHAIN), "cls_loss", batches=3)
    notice = only(alerts(CLEAN, bad, rule="loss_nonfinite"))
    assert (notice.severity, notice.module, notice.value) == ("notice", WHOLE, 3.0)
    assert notice.reason.names == ("cls_loss",)
    assert alerts(CLEAN, bad) == []
    both = bad_loss(spoiled_from(5), "cls_loss")
    assert alerts(CLEAN, both, rule="loss_nonfinite") == []


@pytest.mark.parametrize("rule", ["amp_overflow", "nonfinite"])
def test_skipped_step_is_calibration_only_with_a_finite_loss(rule):
    for bad in ((), ITEMS):
        one = bad_loss(net(1, steps=1, skipped=1), *bad)
        detector = Detector(CHAIN, Thresholds(), {})
        fired = {alert.rule for alert in detector.update(in_the_chain(one))}
        assert (rule in fired) == (bool(bad) == (rule == "nonfinite"))


def in_the_chain(one):
    """The window with the modules of the chain."""
    return replace(beyond(1, {}, layout=CHAIN), skipped=one.skipped, losses=one.losses)


@pytest.mark.parametrize(("every", "is_found"), [(2, True), (3, False)])
def test_half_of_the_steps_skipped_is_an_alarm_even_if_never_two_in_a_row(every, is_found):
    chain = [beyond(n, {}, layout=CHAIN) for n in range(1, 61)]
    windows = [replace(one, skipped=int(one.step_first % every == 0)) for one in chain]
    found = alerts(*windows)
    assert bool(found) == is_found
    if found:
        assert (only(found).value, only(found).reason.values) == (13.0, (13.0, 26.0))


def test_bad_running_statistics_last_until_a_reading_is_fine():
    spoiled = beyond(1, {"model.1.bn": INF}, layout=CHAIN)
    unread = replace(spoiled, step_first=2, weight_max=np.full_like(spoiled.weight_max, np.nan))
    for windows in ([spoiled], [spoiled, unread]):
        alert = only(alerts(*windows, rule="weight_overflow"))
        assert (alert.module, alert.step, alert.value) == ("model.1.bn", 1, INF)
        assert alert.reason.kind == "buffers"
    assert alerts(spoiled, beyond(3, {}, layout=CHAIN), rule="weight_overflow") == []


@pytest.mark.parametrize("before", [1.0, INF])
def test_mask_that_was_always_infinite_is_intended(before):
    first = beyond(1, {"model.1": before}, layout=CHAIN)
    found = alerts(first, beyond(2, {"model.1": INF}, layout=CHAIN), rule="weight_overflow")
    assert [alert.module for alert in found] == ["model.1"] * (before == 1.0)


def test_weights_beyond_half_precision_are_named_as_weights():
    one = beyond(1, {"model.1.conv": 1e5}, layout=CHAIN)
    norms = one.weight_norm.copy()
    norms[[CHAIN.modules.index(n) for n in (WHOLE, "model.1", "model.1.conv")]] = 1e5
    alert = only(alerts(replace(one, weight_norm=norms), rule="weight_overflow"))
    assert (alert.module, alert.reason.kind) == ("model.1.conv", "weights")
