"""scripts/hold_up.py, which runs the full tier, on generated tests."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "hold_up.py"

CONFTEST = """
def pytest_addoption(parser):
    parser.addoption("--full", action="store_true")


def pytest_configure(config):
    config.addinivalue_line("markers", "full: of the full tier")
"""

TESTS = """
import pytest

full = pytest.mark.full


@full
@pytest.mark.parametrize("name", ["a|b"])
def test_good(name, record_property):
    record_property("steps", 6)


@full
def test_bad():
    assert 1 + 1 == 3, "one line\\nand another"


@full
def test_left_out():
    pytest.skip("no data here")


def test_of_another_tier():
    raise AssertionError
"""


def run_script(folder, tests):
    (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (folder / "test_it.py").write_text(tests, encoding="utf-8")
    command = [sys.executable, SCRIPT, folder / "test_it.py"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_table_has_a_row_for_each_full_test(tmp_path):
    done = run_script(tmp_path, TESTS)
    assert done.returncode == 1
    rows = [line[2:-2].split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows[0] == ["file", "test", "result", "seen", "seconds"]
    assert [row[:4] for row in rows[2:]] == [
        ["test_it.py", r"test_good[a\|b]", "passed", "steps 6"],
        ["test_it.py", "test_bad", "failed: AssertionError: one line", ""],
        ["test_it.py", "test_left_out", "skipped: no data here", ""],
    ]
    assert "Tests: 1 passed, 1 failed, 1 skipped" in done.stdout
    assert "# Where it holds up, 20" in done.stdout
    assert "ultralytics 8" in done.stdout


def test_exit_code_is_that_of_pytest(tmp_path):
    assert run_script(tmp_path, "def broken(").returncode == 2
