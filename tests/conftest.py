import inspect
import logging
import subprocess
import sys
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from types import CodeType, SimpleNamespace

import pytest
import training  # noqa: F401  # sets Ultralytics' environment, before anything imports it

GOLDEN = Path(__file__).parent / "golden"

with suppress(ImportError):  # a machine with a GPU may have no more than the package needs
    import hypothesis

    hypothesis.settings.register_profile("patient", deadline=None)  # other work makes tests slow
    hypothesis.settings.load_profile("patient")


def pytest_addoption(parser):
    parser.addoption(
        "--rewrite-golden", action="store_true", help="rewrite tests/golden; then check the diff"
    )
    parser.addoption("--full", action="store_true", help="also run the tests of the full tier")


@cache
def starts_process(function):
    """Return whether a test function, or one that it refers to, uses ``subprocess``."""
    left, seen = [function], set()
    while left:
        one = left.pop()
        if one is subprocess:
            return True
        if one not in seen:
            seen.add(one)
            left.extend(named_in(one))
    return False


@cache
def named_in(function):
    """Return the functions, methods of classes and ``subprocess`` that a function refers to."""
    function = inspect.unwrap(function)
    codes = [getattr(function, "__code__", None)]
    if codes[0] is None:
        return []
    for code in codes:  # grows by the nested functions
        codes.extend(one for one in code.co_consts if isinstance(one, CodeType))
    known = [function.__globals__.get(name) for code in codes for name in code.co_names]
    inside = [one for value in known if inspect.isclass(value) for one in vars(value).values()]
    return [one for one in (*known, *inside) if one is subprocess or inspect.isfunction(one)]


def pytest_collection_modifyitems(config, items):
    for item in items:
        fixtures = item._fixtureinfo.name2fixturedefs.values()
        functions = [item.function, *(one.func for found in fixtures for one in found)]
        if any(map(starts_process, functions)):
            item.add_marker(pytest.mark.slow)
    if config.getoption("--full"):
        return
    left_out = [item for item in items if "full" in item.keywords]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if "full" not in item.keywords]


@pytest.fixture
def as_rank(monkeypatch):
    """Run as one of the ranks; Ultralytics is imported first, because it copies the rank then."""
    import ultralytics.data.build
    import ultralytics.models.yolo  # noqa: F401

    return lambda rank: monkeypatch.setattr("ultralytics.utils.RANK", rank)


@pytest.fixture
def golden(request):
    """Compare a text with ``tests/golden/NAME.txt``, or rewrite it with ``--rewrite-golden``."""

    def check(name, text):
        path = GOLDEN / f"{name}.txt"
        if request.config.getoption("--rewrite-golden"):
            path.write_text(text, encoding="utf-8", newline="\n")
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture
def terminal(monkeypatch):
    """Replace the streams by terminals; call it inside a test, because pytest swaps them first.

    The panel is drawn on every request, as in a slow training.
    """
    from terminals import Terminal

    from yolo_gradwatch.views.terminal import screen
    from yolo_gradwatch.watch.ultralytics.training import log_handlers

    def take():
        clock = SimpleNamespace(monotonic=count(0.0, 2 * screen.MOST_SECONDS).__next__)
        monkeypatch.setattr(screen, "time", clock)
        for name, value in {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stdout", Terminal())
        monkeypatch.setattr(sys, "stderr", Terminal())
        for handler in log_handlers():
            if type(handler) is logging.StreamHandler:  # not one of pytest's
                monkeypatch.setattr(handler, "stream", sys.stdout)

    return take


@pytest.fixture
def oracle(monkeypatch, record_property):
    """Record torch's own gradient numbers for the trainings of this test."""
    from oracle import Oracle

    seen = Oracle(monkeypatch)
    yield seen
    record_property("steps", len(seen.norms))
    record_property("modules", max(map(len, seen.norms), default=0))


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.train)])
def way(request, monkeypatch):
    """Train on the fake trainer, and on Ultralytics' own in the train tier."""
    return _way(request.param, monkeypatch)


@pytest.fixture(params=["fake", pytest.param("real", marks=[pytest.mark.train, pytest.mark.full])])
def faked(request, monkeypatch):
    """Train on the fake trainer, and on Ultralytics' own in the full tier."""
    return _way(request.param, monkeypatch)


def _way(name, monkeypatch):
    from short import FAKE, blank_pictures, real

    if name == "real":
        return real()
    blank_pictures(monkeypatch)
    return FAKE


@pytest.fixture(autouse=True)
def _ultralytics_logs_to_this_test():
    """Point Ultralytics' log handlers, created on import, at the stream of this test."""
    if "ultralytics.utils" in sys.modules:
        from ultralytics.utils import LOGGER

        for handler in LOGGER.handlers:
            if type(handler) is logging.StreamHandler:
                handler.stream = sys.stdout  # setStream would flush a stream that may be closed
