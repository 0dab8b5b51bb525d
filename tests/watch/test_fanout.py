"""Unusual outputs; what a whole training hands to them is in ``test_outputs.py``."""

from contextlib import closing
from types import SimpleNamespace

import pytest
from short import told

from yolo_gradwatch import Output
from yolo_gradwatch.runs.outputs import METHODS, OutputBase
from yolo_gradwatch.watch.fanout import Fanout


class Logger:
    """An output of the user's, which raises what it is given at some of its methods."""

    def __init__(self, **raises):
        self.raises, self.calls = raises, []

    def window(self, _window):
        self._note("window")

    def close(self):
        self._note("close")

    def _note(self, name):
        self.calls.append(name)
        if name in self.raises:
            raise self.raises[name]


def serve(*outputs, times=3):
    """Hand on so many windows, then close."""
    fanout = Fanout(outputs)
    for _ in range(times):
        fanout.window(None)
    fanout.close()


def test_the_protocol_the_base_and_the_fanout_have_the_same_methods():
    for kind in (Output, OutputBase, Fanout):
        assert tuple(name for name in vars(kind) if name in METHODS) == METHODS


def test_an_output_may_leave_out_any_method(caplog):
    fanout = Fanout([object(), OutputBase(), SimpleNamespace(window=7, close=None)])
    fanout.window(None)
    fanout.end(None)
    fanout.close()
    assert told(caplog) == []


def test_a_close_that_raises_after_it_is_silent(caplog):
    bad = Logger(window=OSError("no connection"), close=ValueError("closed already"))
    serve(bad)
    assert bad.calls == ["window", "close"]
    assert len(told(caplog)) == 1


def test_one_that_equals_another_is_not_taken_for_it():
    class Same(Logger):
        __hash__ = None

        def __eq__(self, other):
            return True

    bad, good = Same(window=OSError("no connection")), Same()
    serve(bad, good)
    assert good.calls == ["window"] * 3 + ["close"]


def test_a_method_that_cannot_be_found_is_what_raised(caplog):
    class Lost(Logger):
        @property
        def window(self):
            raise ConnectionError("gone")

    bad = Lost()
    serve(bad)
    assert bad.calls == ["close"]
    assert len(told(caplog)) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("method", ["window", "close"])
def test_what_is_no_exception_passes_and_all_are_closed(caplog, error, method):
    first, bad = Logger(), Logger(**{method: error})
    fanout = Fanout([first, bad])
    with pytest.raises(error), closing(fanout):
        fanout.window(None)
    fanout.close()  # a second one does nothing
    assert first.calls[-1] == "close"
    assert first.calls.count("close") == 1
    assert told(caplog) == []
