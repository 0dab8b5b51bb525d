"""When the weights are read, and which of their changes count."""

import numpy as np
import pytest
from values import MEMBERS

from yolo_gradwatch.measure.allowance import MOST
from yolo_gradwatch.measure.arrays import FLOAT16_MAX
from yolo_gradwatch.measure.sample import Detail, Sample, Weights
from yolo_gradwatch.measure.weighing import MOVED, Weighing

P = len(MEMBERS.elements)
TRUNK = np.concatenate(MEMBERS.trunk)


def weighed(step, norms=1.0, largest=1.0):
    weights = Weights(np.full(P, 1.0) * norms, np.full(len(MEMBERS.names), 1.0) * largest)
    return Sample(1, step, np.ones(P), np.zeros(P, np.bool_), detail=Detail(np.zeros(P), weights))


def started(**before):
    weighing = Weighing(MEMBERS, 1)
    weighing.begin(weighed(1000, **before))
    return weighing


def due(opens, interval=1, last=3000):
    weighing = Weighing(MEMBERS, interval)
    return [n for n in range(1, last, interval) if weighing.is_due(n, opens=n in opens)]


def test_weights_are_read_every_ten_steps_or_thousandth_of_the_run():
    assert due({1, 2, 64, 80}, last=100) == [1, 2, 51, 61, 64, 74, 80, 90]
    assert due({1}, interval=10, last=400) == [1, 101, 201, 301]
    late = due({20_000}, last=20_100)
    assert late[-5:] == [20_000, 20_021, 20_042, 20_063, 20_084]


def test_windows_of_few_steps_do_not_all_have_the_weights_read():
    assert due({*range(1, 100)}, last=73) == [1, 2, 4, 8, 16, 32, 51, 56, 61, 64, 69]


def only(rows, value):
    norms = np.ones(P)
    norms[rows] = value
    return norms


@pytest.mark.parametrize(
    ("now", "counts"),
    [
        ({"norms": 10 ** (MOVED * 0.99)}, False),
        ({"norms": 10 ** (MOVED * 1.01)}, True),
        ({"norms": 10 ** -(MOVED * 1.01)}, True),
        ({"norms": only(np.setdiff1d(np.arange(P), TRUNK), 9.0)}, False),
        ({"norms": only(TRUNK[:1], 9.0)}, True),
        ({"norms": only(TRUNK, 0.0)}, False),
        ({"norms": only(TRUNK, np.nan)}, False),
        ({"largest": FLOAT16_MAX}, False),
        ({"largest": FLOAT16_MAX * 1.01}, True),
        ({"largest": np.nan}, True),
    ],
)
def test_change_of_a_tenth_of_the_layers_or_an_overflow_counts(now, counts):
    assert started().shows_change(weighed(1010, **now)) is counts


def test_overflow_from_the_start_of_the_window_is_no_change():
    assert not started(largest=np.inf).shows_change(weighed(1010, largest=np.inf))


def test_nothing_counts_without_weights_at_the_start():
    for weighing in (Weighing(MEMBERS, 1), started()):
        weighing.restart()
        assert not weighing.shows_change(weighed(1010, 9.0))


def test_number_of_changes_is_bounded():
    weighing = started()
    found = sum(weighing.shows_change(weighed(1000 + n, 9.0)) for n in range(100))
    assert found == MOST
