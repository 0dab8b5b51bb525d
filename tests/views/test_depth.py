"""Numbers along the depth of the network, and their picture."""

import numpy as np
import pytest
from commands import outcome
from traced import BLOCKS, flow_of, run_of

from yolo_gradwatch.runs.schema import DEPTH_FILE
from yolo_gradwatch.views.depth import PANELS, depth
from yolo_gradwatch.views.png import depth as png


def roles(picture):
    return [(curve.step, curve.role) for curve in picture.curves]


@pytest.mark.parametrize(
    ("steps", "dead_from", "expected"),
    [
        ((), None, []),
        ((1,), None, [(1, "first")]),
        ((1, 2), None, [(1, "first"), (2, "last")]),
        ((1, 2, 4, 8, 16), None, [(1, "first"), (4, "middle"), (16, "last")]),
        (
            (1, 2, 4, 7, 8, 16),
            4,  # reported at step 6
            [(1, "first"), (4, "middle"), (7, "after dead"), (16, "last")],
        ),
        ((1, 2, 4), 4, [(1, "first"), (2, "middle"), (4, "last")]),
    ],
)
def test_selected_traces_and_their_roles(tmp_path, steps, dead_from, expected):
    run = run_of(tmp_path, steps, dead_from=dead_from)
    picture = depth(run, run.report())
    assert roles(picture) == expected
    assert picture.found == ((BLOCKS.index("model.1"),) if dead_from else ())
    assert len(set(picture.colours)) == len(picture.curves)


def test_numbers_are_those_of_the_first_call_of_each_block(tmp_path):
    run = run_of(tmp_path, (1, 3, 8))
    first, middle, last = depth(run, run.report()).curves
    for curve in (first, middle, last):
        np.testing.assert_array_equal(curve.levels["rms"], [1, 2, 3])
        np.testing.assert_array_equal(curve.levels["gradient"], [2, 4, 6])
    updates = [curve.levels["update"][0] for curve in (first, middle, last)]
    np.testing.assert_allclose(updates, [0.001, np.nan, 0.008], rtol=1e-6)  # none at step 3


@pytest.mark.parametrize("odd", [0.0, np.nan, np.inf])
def test_zero_and_nonfinite_numbers_are_drawn(tmp_path, odd):
    run = run_of(tmp_path, (), flows=[flow_of(1), flow_of(2, rms=odd, gradient=odd)])
    figure = run.plot_flow()
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(PANELS.values())
    drawn = [line for line in figure.axes[1].lines if line.get_marker() in {"v", "x"}]
    marks = sum(len(line.get_xdata()) for line in drawn)
    assert marks == len(BLOCKS)
    png.write(depth(run, run.report()), run.report(), tmp_path / "flow.png")
    assert (tmp_path / "flow.png").read_bytes().startswith(b"\x89PNG")


def test_run_without_a_trace_has_an_empty_figure(tmp_path):
    run = run_of(tmp_path, ())
    assert run.plot_flow().axes == []
    outcome("review", tmp_path, "--plot")
    assert not (tmp_path / DEPTH_FILE).exists()


@pytest.mark.slow
def test_review_writes_the_picture(tmp_path):
    run_of(tmp_path, (1, 2, 4))
    outcome("review", tmp_path, "--plot")
    assert (tmp_path / DEPTH_FILE).stat().st_size > 10_000
