"""The live panel in a pseudo-terminal, as drawn by a terminal emulator."""

import re

import pytest
from pseudo_terminal import Terminal
from terminals import RULE

pytestmark = pytest.mark.train


@pytest.mark.parametrize(
    ("columns", "lines"), [(80, 24), pytest.param(140, 40, marks=pytest.mark.full)]
)
def test_panel_stays_intact_below_the_normal_output(tmp_path, columns, lines):
    terminal = Terminal(columns, lines, "demo", "--epochs", "2", "--out", str(tmp_path))
    terminal.read_until(lambda t: any(RULE in line for line in t.lines()))
    terminal.read_until(lambda t: any("━" in line and "/6" in line for line in t.screen.display))
    assert sum(RULE in line for line in terminal.lines()) == 1
    terminal.read_until(Terminal.is_over)
    assert terminal.code() == 0
    output = terminal.lines()
    assert sum(RULE in line for line in output) == 1, "a panel was left behind"
    assert sum(line.startswith("23 Detect") for line in output) == 1
    # Before 8.4.130 the bar is longer than a narrow terminal.
    assert len(re.findall("100% ━+ 6/6", "".join(output))) == 2, "one bar per epoch"
    assert any(line.startswith("GradWatch: healthy, nothing found in 12 steps") for line in output)
    order = [i for i, line in enumerate(output) if "Starting training" in line or RULE in line]
    assert len(order) == 2
    assert order[0] < order[1]


def test_ctrl_c_restores_the_terminal(tmp_path):
    terminal = Terminal(80, 24, "demo", "--epochs", "50", "--out", str(tmp_path))
    terminal.read_until(lambda t: any("━" in line and "/6" in line for line in t.screen.display))
    terminal.type(b"\x03")
    terminal.read_until(Terminal.is_over)
    assert terminal.code() == 130
    output = terminal.lines()
    assert sum(RULE in line for line in output) == 1, "a panel was left behind"
    assert any("interrupted" in line for line in output)
    assert not any("Traceback" in line for line in output)


def test_no_live_option_prints_tables(tmp_path, monkeypatch):
    terminal = Terminal(80, 24, "demo", "--no-live", "--epochs", "1", "--out", str(tmp_path))
    terminal.read_until(Terminal.is_over)
    assert terminal.code() == 0
    output = terminal.lines()
    assert not any(RULE in line for line in output)
    assert any(line.startswith("GradWatch epoch 1/1") for line in output)
