import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from values import LAWS

from yolo_gradwatch.views.timeline import DENSE, Timeline


def timeline_of(widths, begin=1):
    """A timeline of windows of these numbers of steps."""
    widths = np.array(widths)
    first = begin + np.cumsum(widths) - widths
    return Timeline(first, first + widths - 1)


def as_watched(steps):
    """Widths of windows as in a run: single steps, then 2 % of the steps so far."""
    widths, done = [], 0
    while done < steps:
        widths.append(min(max(done // 50, 1), steps - done))
        done += widths[-1]
    return widths


WIDTHS = st.one_of(
    st.lists(st.integers(1, 300), min_size=1, max_size=60),
    st.integers(1, 20_000).map(as_watched),
)


@LAWS
@given(WIDTHS, st.integers(1, 10**6))
def test_windows_cover_the_whole_axis_in_order(widths, begin):
    line = timeline_of(widths, begin)
    assert line.left[0] == 0
    assert line.right[-1] == pytest.approx(1)
    assert (line.left < line.right).all()
    gaps = line.left[1:] - line.right[:-1]
    width = line.gap[1] - line.gap[0] if line.gap else 0
    assert sorted(gaps[gaps > 1e-9]) == pytest.approx([width] if width else [])


@LAWS
@given(WIDTHS, st.integers(1, 10**6))
def test_widths_are_proportional_to_steps_on_each_side_of_the_break(widths, begin):
    line = timeline_of(widths, begin)
    share = (line.right - line.left) / widths
    is_dense = np.cumsum(widths) <= (line.dense if line.gap else 0)
    for part in (share[is_dense], share[~is_dense]):
        np.testing.assert_allclose(part, part[:1].repeat(len(part)), rtol=1e-6)


@pytest.mark.parametrize(
    ("widths", "dense"),
    [
        ([1] * 400, 0),
        ([1] * 401, DENSE),
        (as_watched(5000), DENSE),
        (as_watched(100_000), DENSE),
        ([5] * 100, DENSE),
        ([1] * 30 + [60] * 20, 90),  # the break is between two windows
        ([1000], 0),
        ([500, 500], 0),
    ],
)
def test_first_steps_of_a_long_run_have_their_own_scale(widths, dense):
    line = timeline_of(widths)
    assert (line.gap is not None) == bool(dense)
    if dense:
        assert line.dense == dense
        assert line.right[np.cumsum(widths) <= dense][-1] == pytest.approx(line.gap[0])
        assert line.left[np.cumsum(widths) > dense][0] == pytest.approx(line.gap[1])


def test_first_steps_of_a_long_run_take_an_eighth_of_the_width():
    line = timeline_of(as_watched(1400))
    assert line.gap[0] < 0.125
    assert line.at(np.array(1200)) == pytest.approx(0.876, abs=0.01)


@LAWS
@given(WIDTHS, st.integers(1, 2000))
def test_columns_contain_the_windows_at_their_place(widths, count):
    line = timeline_of(widths)
    begin, end = line.columns(count)
    assert (begin < end).all()
    seen = np.zeros(len(widths), bool)
    for i, (first, last) in enumerate(zip(begin, end, strict=True)):
        seen[first:last] = True
        left, right = i / count, (i + 1) / count
        touched = np.flatnonzero((line.left < right - 1e-9) & (line.right > left + 1e-9))
        assert set(touched.tolist()) <= set(range(first, last))
    assert seen.all()


@LAWS
@given(WIDTHS, st.integers(1, 10**6))
def test_places_convert_back_to_steps(widths, begin):
    line = timeline_of(widths, begin)
    steps = np.arange(begin, begin + sum(widths), max(sum(widths) // 50, 1))
    np.testing.assert_allclose(line.step(line.at(steps)), steps, rtol=1e-9)
    assert line.at(np.array([0, 10**9])).tolist() == [0, 1]


@LAWS
@given(WIDTHS, st.integers(1, 10**6))
def test_ticks_are_few_round_and_apart(widths, begin):
    line = timeline_of(widths, begin)
    ticks = line.ticks(9)
    assert ticks[0] == begin
    assert len(ticks) <= 13
    assert (np.diff(line.at(np.array(ticks))) > 0.03).all()
    later = [tick for tick in ticks[1:] if not line.gap or line.at(np.array(tick)) > line.gap[0]]
    assert len(set(np.diff(later))) <= 1


def test_ticks_of_a_long_run_are_even():
    assert timeline_of(as_watched(1387)).ticks(9) == [1, 20, 40, 200, 400, 600, 800, 1000, 1200]
    assert timeline_of([1] * 48).ticks(9) == [1, 10, 20, 30, 40]
    assert timeline_of([7]).ticks(9) == [1, 2, 3, 4, 5, 6, 7]


def test_round_epochs_are_labelled_where_they_begin():
    widths = as_watched(1387)
    line = timeline_of(widths)
    epoch = (np.cumsum(widths) - 1) // 73 + 1
    found = line.epochs(epoch, 12)
    assert list(found) == [1, *range(2, 20, 2)]
    assert found[4] == line.left[np.flatnonzero(epoch == 4)[0]]


def test_repeated_epoch_is_labelled_where_it_first_began():
    line = timeline_of([1] * 6)
    assert line.epochs(np.array([1, 2, 3, 2, 3, 4]), 12) == pytest.approx(
        {1: 0, 2: 1 / 6, 3: 2 / 6, 4: 5 / 6}
    )


def test_not_all_of_many_epochs_are_labelled():
    line = timeline_of([1] * 300)
    found = line.epochs(np.arange(1, 301), 12)
    assert list(found) == [1, *range(50, 301, 50)]


@pytest.mark.parametrize("last", [0, 2**63 - 1])
def test_impossible_last_step_is_accepted(last):
    line = Timeline(np.array([1, 2, 3]), np.array([1, 2, last]))
    assert (line.left < line.right).all()
    assert line.ticks(9)
    assert [len(side) for side in line.columns(10)] == [10, 10]
