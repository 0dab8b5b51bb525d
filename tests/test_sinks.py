import logging

import numpy as np
import pytest
from build import YOLO26N, layout_of, window_of
from short import told

from yolo_gradwatch.layout import WHOLE, Layout
from yolo_gradwatch.sinks import Fanout, scalars

SHOWN = ("model", "model.0", "model.1", "model.3", "model.4")


def means(layout, **changes):
    """Norms of 1, other ones by name with `_` for `.`."""
    norms = np.ones(len(layout.modules), np.float32)
    for name, norm in changes.items():
        norms[layout.modules.index(name.replace("_", "."))] = norm
    return norms


def test_the_whole_model_the_blocks_and_the_skips():
    layout = layout_of()
    norm_mean = means(layout, model=9.0, model_3=0.5, model_3_conv=0.4)
    numbers = scalars(layout, window_of(layout, norm_mean=norm_mean, steps=5, skipped=2))
    assert numbers == {
        "gradwatch/model": 9.0,
        "gradwatch/model.0": 1.0,
        "gradwatch/model.1": 1.0,
        "gradwatch/model.3": 0.5,
        "gradwatch/model.4": 1.0,
        "gradwatch/skipped": 2.0,
    }


@pytest.mark.parametrize("norm", [np.nan, np.inf])
def test_a_norm_without_a_finite_step_is_left_out(norm):
    layout = layout_of()
    numbers = scalars(layout, window_of(layout, norm_mean=means(layout, model_1=norm)))
    assert set(numbers) == {f"gradwatch/{name}" for name in (*SHOWN, "skipped")} - {
        "gradwatch/model.1"
    }


def test_a_norm_of_zero_is_a_number():
    layout = layout_of()
    numbers = scalars(layout, window_of(layout, norm_mean=means(layout, model_1=0.0)))
    assert numbers["gradwatch/model.1"] == 0.0


def test_there_are_no_more_numbers_than_blocks_and_two():
    layout = layout_of(YOLO26N)
    numbers = scalars(layout, window_of(layout))
    assert len(numbers) <= len(YOLO26N) + 2


def test_loggers_get_plain_floats():
    layout = layout_of()
    assert {type(number) for number in scalars(layout, window_of(layout)).values()} == {float}


def test_a_model_that_is_no_list_of_blocks():
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
    assert list(scalars(layout, window_of(layout))) == [
        "gradwatch/model",
        "gradwatch/backbone",
        "gradwatch/head",
        "gradwatch/skipped",
    ]


class Logger:
    """A destination of the user's, which raises what it is given at some of its methods."""

    def __init__(self, **raises):
        self.raises, self.calls = raises, []

    def write(self, _scalars, _step):
        self._note("write")

    def close(self):
        self._note("close")

    def __call__(self, *_args):
        self._note("__call__")

    def _note(self, name):
        self.calls.append(name)
        if name in self.raises:
            raise self.raises[name]


def serve(*outputs, method="write", times=3):
    """Call each so often, then close all."""
    fanout = Fanout()
    for _ in range(times):
        for output in outputs:
            fanout.call(output, method, {}, 1)
    for output in outputs:
        fanout.close(output)


@pytest.mark.parametrize("method", ["write", "__call__"])
def test_one_that_raises_is_named_once_closed_once_and_left_alone(caplog, method):
    good, bad = Logger(), Logger(**{method: OSError("no connection")})
    serve(bad, good, method=method)
    assert bad.calls == [method, "close"]
    assert good.calls == [method] * 3 + ["close"]
    (warning,) = told(caplog)
    assert "OSError: no connection" in warning
    assert ("Logger.write" if method == "write" else "Logger") in warning


def test_a_function_that_raises_is_named_and_has_nothing_to_close(caplog):
    calls = []

    def notify(*args):
        calls.append(args)
        raise RuntimeError("mail server is down")

    fanout = Fanout()
    fanout.call(notify, "__call__", 1)
    fanout.call(notify, "__call__", 2)
    assert calls == [(1,)]
    (warning,) = told(caplog)
    assert "notify raised RuntimeError: mail server is down" in warning


@pytest.mark.parametrize("method", ["write", "__call__"])
def test_a_close_that_raises_after_it_is_for_the_debug_log(caplog, method):
    caplog.set_level(logging.DEBUG, "yolo_gradwatch")
    bad = Logger(**{method: OSError("no connection"), "close": ValueError("closed already")})
    serve(bad, method=method)
    assert bad.calls == [method, "close"]
    ours = [r.levelname for r in caplog.records if r.name.startswith("yolo_gradwatch")]
    assert ours == ["WARNING", "DEBUG"]


def test_a_close_that_raises_in_the_end_is_one_warning(caplog):
    bad, good = Logger(close=OSError("no connection")), Logger()
    serve(bad, good)
    assert [one.calls for one in (bad, good)] == [["write"] * 3 + ["close"]] * 2
    (warning,) = told(caplog)
    assert "Logger.close raised OSError" in warning


def test_one_that_was_given_twice_is_closed_once():
    one = Logger()
    serve(one, one)
    assert one.calls.count("close") == 1


def test_one_that_equals_another_is_not_taken_for_it():
    class Same(Logger):
        __hash__ = None

        def __eq__(self, other):
            return True

    bad, good = Same(write=OSError("no connection")), Same()
    serve(bad, good)
    assert good.calls == ["write"] * 3 + ["close"]


def test_a_method_that_cannot_be_found_is_what_raised(caplog):
    class Lost(Logger):
        @property
        def write(self):
            raise ConnectionError("gone")

    bad = Lost()
    serve(bad)
    assert bad.calls == ["close"]
    assert len(told(caplog)) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("method", ["write", "close"])
def test_what_is_no_exception_passes(caplog, error, method):
    output = Logger(**{method: error})
    with pytest.raises(error):
        serve(output)
    assert told(caplog) == []
