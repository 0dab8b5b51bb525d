import logging
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption(
        "--rewrite-golden", action="store_true", help="write tests/golden anew; read the diff then"
    )
    parser.addoption("--full", action="store_true", help="also the tests that are run on purpose")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--full"):
        return
    left_out = [item for item in items if "full" in item.keywords]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if "full" not in item.keywords]


@pytest.fixture
def golden(request):
    """Compare a text with ``tests/golden/NAME.txt``, or write it there under the option."""

    def check(name, text):
        path = GOLDEN / f"{name}.txt"
        if request.config.getoption("--rewrite-golden"):
            path.write_text(text, encoding="utf-8", newline="\n")
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture
def oracle(monkeypatch, record_property):
    """What torch says of the gradients of the trainings of this test."""
    from oracle import Oracle

    seen = Oracle(monkeypatch)
    yield seen
    record_property("steps", len(seen.norms))
    record_property("modules", max(map(len, seen.norms), default=0))


@pytest.fixture(autouse=True)
def _ultralytics_logs_to_this_test():
    """Point Ultralytics' handlers, made when it was imported, at the stream of this test."""
    if "ultralytics.utils" in sys.modules:
        from ultralytics.utils import LOGGER

        for handler in LOGGER.handlers:
            if type(handler) is logging.StreamHandler:
                handler.stream = sys.stdout  # setStream would flush one that may be closed
