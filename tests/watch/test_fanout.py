"""Unusual outputs; ``test_outputs.py`` tests what a whole training passes to them."""

from contextlib import closing
from types import SimpleNamespace

import pytest
from short import warnings_of

from yolo_gradwatch import Output
from yolo_gradwatch.runs.outputs import METHODS, OutputBase
from yolo_gradwatch.watch.fanout import Fanout


class Logger:
    """A custom output that raises the given errors in some of its methods."""

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
    """Pass on some windows, then close."""
    fanout = Fanout(outputs)
    for _ in range(times):
        fanout.window(None)
    fanout.close()


def test_protocol_base_and_fanout_have_the_same_methods():
    for kind in (Output, OutputBase, Fanout):
        assert tuple(name for name in vars(kind) if name in METHODS) == METHODS


def test_output_may_omit_any_method(caplog):
    fanout = Fanout([object(), OutputBase(), SimpleNamespace(window=7, close=None)])
    fanout.window(None)
    fanout.end(None)
    fanout.close()
    assert warnings_of(caplog) == []


def test_close_of_a_failed_output_fails_silently(caplog):
    bad = Logger(window=OSError("no connection"), close=ValueError("closed already"))
    serve(bad)
    assert bad.calls == ["window", "close"]
    assert len(warnings_of(caplog)) == 1


def test_outputs_are_compared_by_identity():
    class Same(Logger):
        __hash__ = None

        def __eq__(self, other):
            return True

    bad, good = Same(window=OSError("no connection")), Same()
    serve(bad, good)
    assert good.calls == ["window"] * 3 + ["close"]


def test_error_in_looking_up_a_method_counts_as_raised_by_it(caplog):
    class Lost(Logger):
        @property
        def window(self):
            raise ConnectionError("gone")

    bad = Lost()
    serve(bad)
    assert bad.calls == ["close"]
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("method", ["window", "close"])
def test_interrupt_is_raised_and_all_outputs_are_closed(caplog, error, method):
    first, bad = Logger(), Logger(**{method: error})
    fanout = Fanout([first, bad])
    with pytest.raises(error), closing(fanout):
        fanout.window(None)
    fanout.close()  # a second call does nothing
    assert first.calls[-1] == "close"
    assert first.calls.count("close") == 1
    assert warnings_of(caplog) == []
