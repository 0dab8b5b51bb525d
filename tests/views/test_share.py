import numpy as np
import pytest
from values import window
from watched import written

from yolo_gradwatch.views.share import share_of


def trained(folder, epochs, planned=0, status="finished", **training):
    """A run of epochs, each given by its number and count of steps; one window per step."""
    windows, step = [], 1
    for epoch, steps in epochs:
        windows += [window(step + i, epoch=epoch) for i in range(steps)]
        step += steps
    options = {"training": {**({"epochs": planned} if planned else {}), **training}}
    return written(folder, windows, options=options, status=status)


@pytest.mark.parametrize(
    ("epochs", "planned", "status", "edges"),
    [
        ([(1, 2), (2, 2)], 2, "finished", [0, 0.25, 0.5, 0.75, 1]),
        ([(1, 4), (2, 1)], 2, "finished", [0, 0.125, 0.25, 0.375, 0.5, 1]),  # warm-up
        ([(1, 2), (2, 2)], 4, "finished", [0, 0.125, 0.25, 0.375, 0.5]),  # patience
        ([(1, 2), (2, 1)], 4, "failed", [0, 0.125, 0.25, 0.375]),
        ([(1, 2), (2, 1)], 0, "failed", [0, 1 / 3, 2 / 3, 1]),
        ([(3, 2), (4, 2)], 4, "finished", [0.5, 0.625, 0.75, 0.875, 1]),  # resumed elsewhere
        ([(1, 2), (2, 1), (1, 1), (2, 2)], 2, "finished", [0, 0, 0, 0, 0.5, 0.75, 1]),
        ([(1, 2), (2, 2)], 1, "finished", [0, 0.25, 0.5, 0.75, 1]),  # more than planned
    ],
)
def test_steps_are_placed_within_the_planned_epochs(tmp_path, epochs, planned, status, edges):
    found = share_of(trained(tmp_path, epochs, planned, status))
    np.testing.assert_allclose(found.edges, edges)
    assert found.planned == (max(planned, epochs[-1][0]) if planned else 0)
    assert (found.begin, found.end) == pytest.approx((edges[0], edges[-1]))


def test_planned_epochs_of_a_time_limited_training_are_unknown(tmp_path):
    found = share_of(trained(tmp_path, [(1, 2)], 100, time=0.5))
    assert (found.planned, found.end) == (0, 1.0)


def test_windows_of_equal_shares(tmp_path):
    share = share_of(trained(tmp_path, [(1, 2), (2, 2)], 4, "failed"))
    begin, end, there = share.columns(8)
    assert there.tolist() == [True] * 4 + [False] * 4
    assert list(zip(begin[there], end[there], strict=True)) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    begin, end, there = share.columns(2)
    assert (begin[0], end[0], there.tolist()) == (0, 4, [True, False])
    assert not share_of(trained(tmp_path / "none", [])).columns(4)[2].any()
