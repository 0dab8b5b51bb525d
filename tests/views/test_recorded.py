"""Trainings in a pseudo-terminal whose console an experiment logger records."""

import importlib.util
import json
import os
import re
import sys

import pytest
from places import TESTS
from terminals import RULE
from training import TINY, shapes

pytest.importorskip("fcntl")
pytest.importorskip("pyte")

pytestmark = pytest.mark.train

MOVES = re.compile(r"\x1b\[\d*[A-HJ]|\x1b\[[12]K")
"""Sequences that move the cursor or clear more than the rest of a line."""

ROW, BAR = re.compile(r"23 Detect {2,}\d"), re.compile(r"\d/2 .*100% ━+ 4/4")
"""A row that tables and panels have once, and the last frame of an epoch's progress bar."""

EPOCHS = 2

full = pytest.mark.full


@pytest.fixture
def trained(tmp_path):
    """Run a training; return the lines on its terminal and the recorded console."""
    from pseudo_terminal import Terminal

    def trained(*command, **environment):
        record = tmp_path / "record"
        options = {
            **TINY,
            "epochs": EPOCHS,
            "data": shapes(16),
            "project": str(tmp_path),
        }
        terminal = Terminal(
            *(100, 40, *command, record, json.dumps(options)),
            command=(sys.executable,),
            PYTHONPATH=os.pathsep.join(sys.path),
            **environment,
        )
        terminal.read_until(Terminal.is_over)
        assert terminal.code() == 0, "\n".join(terminal.lines())
        return terminal.lines(), record.read_text(encoding="utf-8")

    return trained


def count(lines, start):
    return sum(line.startswith(start) for line in lines)


def assert_readable(record, tables):
    """The record has one table per epoch and one report, and nothing is redrawn."""
    assert RULE not in record
    assert not MOVES.search(record)
    lines = re.sub(r"\x1b\[[\d;]*m", "", record).splitlines()
    assert count(lines, "GradWatch epoch ") == tables
    assert len(ROW.findall(record)) == tables
    assert count(lines, "GradWatch: healthy, nothing found") == 2  # the report and its print


def assert_complete(lines, panels, tables):
    """The terminal has this number of panels and tables, and no remains of others."""
    assert count(lines, RULE) == panels
    assert count(lines, "GradWatch epoch ") == tables
    assert len(ROW.findall("\n".join(lines))) == panels + tables
    assert len(BAR.findall("\n".join(lines))) == EPOCHS, "one line per bar"


@pytest.mark.parametrize(
    ("kind", "moment"),
    [
        pytest.param("patched", "early", marks=full),
        pytest.param("wrapped", "early", marks=full),
        pytest.param("replaced", "early", marks=full),
        pytest.param("patched", "late", marks=full),
        pytest.param("wrapped", "late", marks=full),
        ("replaced", "late"),
    ],
)
def test_lines_are_recorded_but_not_the_panel(trained, kind, moment):
    lines, record = trained((TESTS / "recorded.py"), kind, moment)
    assert_readable(record, tables=EPOCHS)
    assert_complete(lines, panels=1, tables=EPOCHS)
    bars = len(BAR.findall(record))  # a running bar keeps its stream
    assert bars == EPOCHS if moment == "early" or kind != "wrapped" else EPOCHS - 1


@pytest.mark.parametrize(
    ("kind", "moment"),
    [
        ("piped", "early"),
        pytest.param("in_terminals", "early", marks=full),
        pytest.param("piped", "late", marks=full),
        pytest.param("in_terminals", "late", marks=full),
    ],
)
def test_no_panel_if_the_descriptor_is_redirected(trained, kind, moment):
    lines, record = trained((TESTS / "recorded.py"), kind, moment)
    assert_readable(record, tables=EPOCHS)
    assert count(lines, "GradWatch epoch ") == EPOCHS
    assert count(lines, RULE) == (moment == "late")  # the panel drawn before the redirection


@full
@pytest.mark.parametrize("moment", ["early", "late"])
@pytest.mark.parametrize(
    ("kind", "panels"),
    [
        ("wandb", 1),
        ("wandb_redirect", 0),
        ("comet_ml", 1),
        ("comet_ml_native", 0),
        ("clearml", 1),
        ("ultralytics", 1),
    ],
)
def test_real_loggers_record_lines_without_the_panel(trained, tmp_path, kind, moment, panels):
    package = kind.removesuffix("_redirect").removesuffix("_native")
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    if package == "ultralytics" and importlib.util.find_spec("ultralytics.utils.logger") is None:
        pytest.skip("this Ultralytics has no console logger")
    lines, record = trained(
        *((TESTS / "recorded.py"), kind, moment),
        HOME=str(tmp_path),
        CLEARML_CACHE_DIR=str(tmp_path),
    )
    assert_readable(record, tables=EPOCHS)
    assert count(lines, RULE) == max(panels, moment == "late")
    assert count(lines, "GradWatch epoch ") == EPOCHS
