"""Trainings whose console an experiment logger records, in a pseudo-terminal."""

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
"""Sequences that move the cursor, or clear more than the rest of a line."""

ROW, BAR = re.compile(r"23 Detect {2,}\d"), re.compile(r"\d/2 .*100% ━+ 4/4")
"""What a table and a panel have once, and the last frame of the progress bar of an epoch."""

EPOCHS = 2

full = pytest.mark.full


@pytest.fixture
def trained(tmp_path):
    """What a training shows on a terminal, and what was recorded of it."""
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
    """A table an epoch and the report, once each, and nothing that is redrawn."""
    assert RULE not in record
    assert not MOVES.search(record)
    lines = re.sub(r"\x1b\[[\d;]*m", "", record).splitlines()
    assert count(lines, "GradWatch epoch ") == tables
    assert len(ROW.findall(record)) == tables
    assert count(lines, "GradWatch: healthy, nothing found") == 2  # ours, and the user's print


def assert_whole(lines, panels, tables):
    """As many panels and tables as there are to be, and nothing of another panel."""
    assert count(lines, RULE) == panels
    assert count(lines, "GradWatch epoch ") == tables
    assert len(ROW.findall("\n".join(lines))) == panels + tables
    assert len(BAR.findall("\n".join(lines))) == EPOCHS, "one line a bar"


@pytest.mark.parametrize(
    ("kind", "moment"),
    [
        ("patched", "early"),
        pytest.param("wrapped", "early", marks=full),
        pytest.param("replaced", "early", marks=full),
        pytest.param("patched", "late", marks=full),
        pytest.param("wrapped", "late", marks=full),
        ("replaced", "late"),
    ],
)
def test_lines_are_recorded_and_the_panel_is_not(trained, kind, moment):
    lines, record = trained((TESTS / "recorded.py"), kind, moment)
    assert_readable(record, tables=EPOCHS)
    assert_whole(lines, panels=1, tables=EPOCHS)
    bars = len(BAR.findall(record))  # a bar that runs goes on writing where it has begun
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
def test_there_is_no_panel_where_the_descriptor_is_redirected(trained, kind, moment):
    lines, record = trained((TESTS / "recorded.py"), kind, moment)
    assert_readable(record, tables=EPOCHS)
    assert count(lines, "GradWatch epoch ") == EPOCHS
    assert count(lines, RULE) == (moment == "late")  # the one that was there when it came


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
def test_real_loggers_record_lines_and_the_panel_stays_whole(
    trained, tmp_path, kind, moment, panels
):
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
