"""Loss items of batches, from the device into windows, compared with numpy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from values import LAWS, sample, windows_from

from yolo_gradwatch.measure.capture import Capture
from yolo_gradwatch.measure.loss_items import BatchItems, LossFold, LossItem
from yolo_gradwatch.measure.losses import MOST_NUMBERS, LossMeter

NAN, INF = math.nan, math.inf


def expected_row(name, values):
    """The table row for the values of an item, in float64 and rounded at the end."""
    values = np.array(values, np.float64)
    finite = values[np.isfinite(values)]
    numbers = [finite.min(), math.fsum(finite) / len(finite), finite.max()] if len(finite) else []
    with np.errstate(over="ignore"):  # a sum beyond float32 is Inf
        rounded = [float(np.float32(number)) for number in numbers] or [None] * 3
    counts = (len(values), len(values) - len(finite), int((values == 0).sum()))
    return LossItem(name, *counts, *rounded)


def carried(batches, *, steps=1):
    """Samples of some steps with the loss items of these batches, given as dicts of numbers."""
    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    capture, meter, samples = Capture([parameter]), LossMeter(), []
    for step, of_step in enumerate(np.array_split(np.array(batches, object), steps), 1):
        for items in of_step:
            tensors = [torch.tensor(value, dtype=torch.float32) for value in items.values()]
            meter.add(tuple(items), tensors)
        capture.take(1, step, [], meter.take((0.01, 0.0)), detailed=False)
        samples += capture.drain()
    return samples


def folded(samples, *, at_once=True):
    fold = LossFold()
    for part in [samples] if at_once else [[one] for one in samples]:
        fold.take(part)
    return {one.item: one for one in fold.items()}


def assert_close(found, expected):
    """Counts and extremes are equal, means to float32."""
    assert replace(found, mean=None) == replace(expected, mean=None)
    assert found.mean == pytest.approx(expected.mean, rel=1e-6, abs=1e-30)


FEW = [{"box": 1.5, "cls": 0.0}, {"box": 0.25, "cls": NAN}, {"box": -INF, "cls": 2.0}]


def test_items_of_a_few_batches_by_hand():
    assert list(folded(carried(FEW)).values()) == [
        LossItem("box", 3, 1, 0, 0.25, 0.875, 1.5),
        LossItem("cls", 3, 1, 1, 0.0, 1.0, 2.0),
        LossItem("sum", 3, 2, 0, 1.5, 1.5, 1.5),
        LossItem("lr/0", 1, 0, 0, *[float(np.float32(0.01))] * 3),
        LossItem("lr/1", 1, 0, 1, 0.0, 0.0, 0.0),
    ]


def test_item_that_is_never_finite_has_no_numbers():
    found = folded(carried([{"box": NAN}, {"box": INF}, {"box": -INF}]))
    assert found["box"] == LossItem("box", 3, 3, 0, None, None, None)


def test_inf_and_minus_inf_make_a_nonfinite_sum():
    assert folded(carried([{"box": INF, "cls": -INF}]))["sum"].nonfinite == 1


NUMBERS = st.one_of(
    st.sampled_from([NAN, INF, -INF, 0.0, 1e-30, 3e38]), st.floats(-1e3, 1e3, width=32)
)
BATCHES = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=3 * MOST_NUMBERS)


@LAWS
@given(BATCHES, st.integers(1, 4), st.booleans())
def test_each_batch_counts_once_regardless_of_batches_per_step(batches, steps, at_once):
    names = ("box", "cls", "dfl")
    samples = carried([dict(zip(names, batch, strict=True)) for batch in batches], steps=steps)
    found = folded(samples, at_once=at_once)
    columns = np.array(batches)
    with np.errstate(invalid="ignore"):
        columns = np.column_stack([columns, columns.sum(axis=1)])
    for name, values in zip((*names, "sum"), columns.T, strict=True):
        expected = expected_row(name, values)
        assert replace(found[name], mean=None) == replace(expected, mean=None)
        finite = values[np.isfinite(values)]
        if len(finite) and found[name].mean != expected.mean:  # not Inf, beyond float32
            # where values cancel out, only rounding is left
            assert abs(found[name].mean - expected.mean) <= 1e-6 * np.abs(finite).max()


@LAWS
@given(BATCHES, st.integers(1, 6))
def test_one_step_at_a_time_gives_the_same_bits_as_many(batches, steps):
    samples = carried([{"box": a, "cls": b} for a, b, _ in batches], steps=steps)
    assert folded(samples, at_once=False) == folded(samples)


def test_items_that_change_between_batches_have_their_own_rows():
    batches = [{"box": 1.0, "cls": 2.0}, {"box": 3.0}, {"box": 5.0, "cls": NAN}, {"dfl": 7.0}]
    samples = carried(batches)
    found = folded(samples)
    assert_close(found["box"], expected_row("box", [1, 3, 5]))
    assert_close(found["cls"], expected_row("cls", [2, NAN]))
    assert_close(found["dfl"], expected_row("dfl", [7]))
    assert_close(found["sum"], expected_row("sum", [3, 3, NAN, 7]))
    assert samples[0].losses[-1].newest == {"dfl": 7.0}  # of the last batch


def test_item_named_sum_has_its_own_row():
    found = folded(carried([{"sum": 1.0, "cls": 2.0}, {"sum": 3.0, "cls": 2.0}]))
    assert found["sum"] == LossItem("sum", 2, 0, 0, 1.0, 2.0, 3.0)


def test_step_without_items_has_no_rows():
    meter = LossMeter()
    meter.add((), [])
    assert meter.take() == ([], (), ())
    assert folded([sample(1)]) == {}


def test_forgotten_batches_do_not_count():
    meter = LossMeter()
    meter.add(("box",), [torch.ones(1)])
    meter.forget()
    assert meter.take().tensors == []


def test_later_changes_by_the_trainer_have_no_effect():
    item = torch.ones(3, requires_grad=True) * 2
    meter = LossMeter()
    meter.add(("a", "b", "c"), [item])
    with torch.no_grad():
        item.fill_(5.0)
    (row,) = meter.take().tensors
    assert row.tolist() == [2.0] * 3
    assert not row.requires_grad


def test_waiting_items_do_not_grow_with_the_batches():
    meter = LossMeter()
    for _ in range(10 * MOST_NUMBERS):
        meter.add(("box", "cls", "dfl"), [torch.ones(3)])
        (waiting,) = meter._waiting.values()
        assert len(waiting.rows) * 3 <= MOST_NUMBERS


def test_windows_have_the_items_of_their_steps():
    def with_items(step, *rows, epoch=1):
        items = (BatchItems(("box",), np.array(rows)[:, None]),)
        return replace(sample(step, epoch=epoch), losses=items, rates=(step / 8,))

    steps = [
        with_items(1, 1.0),
        with_items(2, 2.0, NAN),
        with_items(101, 5.0),
        with_items(102, 0.0, 7.0),
    ]
    found = [{one.item: one for one in window.losses} for window in windows_from(steps)]
    assert [one["box"] for one in found] == [
        LossItem("box", 1, 0, 0, 1.0, 1.0, 1.0),
        LossItem("box", 2, 1, 0, 2.0, 2.0, 2.0),
        LossItem("box", 3, 0, 1, 0.0, 4.0, 7.0),
    ]
    assert [(one["lr/0"].steps, one["lr/0"].max) for one in found] == [
        (1, 0.125),
        (1, 0.25),
        (2, 12.75),
    ]
