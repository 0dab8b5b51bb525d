"""The scalars of a window that an experiment logger gets."""

from types import SimpleNamespace

import numpy as np
import pytest
from shown import window_of
from values import YOLO26N, layout_of

from yolo_gradwatch.loggers.scalars import Scalars, scalars
from yolo_gradwatch.measure.layout import WHOLE, Layout

SHOWN = ("model", "model.0", "model.1", "model.3", "model.4")


def means(layout, **changes):
    """Norms of 1, except those given by name with `_` for `.`."""
    norms = np.ones(len(layout.modules), np.float32)
    for name, norm in changes.items():
        norms[layout.modules.index(name.replace("_", "."))] = norm
    return norms


def without_updates(numbers):
    return {name: n for name, n in numbers.items() if "/update/" not in name}


def test_scalars_of_model_blocks_clipping_and_skips():
    layout = layout_of()
    norm_mean = means(layout, model=9.0, model_1=0.0, model_3=0.5, model_3_conv=0.4)
    numbers = scalars(layout, window_of(layout, norm_mean=norm_mean, steps=5, skipped=2))
    assert without_updates(numbers) == {
        "gradwatch/model": 9.0,
        "gradwatch/model.0": 1.0,
        "gradwatch/model.1": 0.0,
        "gradwatch/model.3": 0.5,
        "gradwatch/model.4": 1.0,
        "gradwatch/clip_factor": 1.0,
        "gradwatch/skipped": 2.0,
    }
    assert {type(number) for number in numbers.values()} == {float}


@pytest.mark.parametrize("norm", [np.nan, np.inf])
def test_nonfinite_norm_is_left_out(norm):
    layout = layout_of()
    numbers = scalars(layout, window_of(layout, norm_mean=means(layout, model_1=norm)))
    assert set(without_updates(numbers)) == {
        f"gradwatch/{name}" for name in (*SHOWN, "clip_factor", "skipped")
    } - {"gradwatch/model.1"}


def test_update_ratios_are_sent_only_where_measured():
    layout = layout_of()
    norms, ratios = means(layout), means(layout, model_1=np.nan, model_3=0.25)
    numbers = scalars(layout, window_of(layout, norm_mean=norms, update_ratio=ratios))
    updates = {name: n for name, n in numbers.items() if name.startswith("gradwatch/update/")}
    expected = {f"gradwatch/update/{name}": 1.0 for name in SHOWN if name != "model.1"}
    assert updates == {**expected, "gradwatch/update/model.3": 0.25}


def test_model_that_is_not_a_list_of_blocks():
    layout = Layout(
        modules=(WHOLE, "backbone", "backbone.0", "head"),
        types=("Net", "Sequential", "Linear", "Linear"),
        parameters=(2, 1, 1, 1),
        block_of=("", "backbone", "backbone", "head"),
        roles=("", "", "weight", "weight"),
        blocks=(("backbone", "Sequential"), ("head", "Linear")),
        inside=((), ()),
        head="head",
        edges=(),
        kernels=(1, 1, 1, 1),
    )
    assert list(without_updates(scalars(layout, window_of(layout)))) == [
        "gradwatch/model",
        "gradwatch/backbone",
        "gradwatch/head",
        "gradwatch/clip_factor",
        "gradwatch/skipped",
    ]


def test_window_is_written_at_its_last_step_in_the_current_layout():
    written, narrow, wide = [], layout_of(), layout_of(YOLO26N)
    output = Scalars(lambda numbers, step: written.append((len(numbers), step)))
    output.start(SimpleNamespace(layout=narrow, clip=10.0))
    output.window(window_of(narrow, step_last=3))
    output.regroup(wide)
    output.window(window_of(wide, step_last=7))
    assert [step for _, step in written] == [3, 7]
    assert written[0][0] < written[1][0] <= 2 * (len(YOLO26N) + 2)
