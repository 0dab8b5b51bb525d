"""Input and output of scripts/matrix.py, which runs the tests with other versions."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "matrix.py"


@pytest.fixture(scope="module")
def matrix():
    spec = importlib.util.spec_from_file_location("matrix", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matrix", module)  # dataclasses look it up there
        spec.loader.exec_module(module)
        yield module


PROJECT = {
    "requires-python": ">=3.10",
    "dependencies": ["numpy>=1.23,<3", "tomli>=2.0; python_version < '3.11'", "torch>=2.0"],
    "optional-dependencies": {"html": ["plotly >=5.15"], "test": ["pytest"]},
}


def test_oldest_environment_has_lower_bounds_and_oldest_python(matrix):
    oldest = matrix.environments(PROJECT)[0]
    assert (oldest.name, oldest.python) == ("oldest", "3.10")
    assert oldest.pins == {"numpy": "1.23", "tomli": "2.0", "torch": "2.0", "plotly": "5.15"}
    text = matrix.constraints(oldest.pins)
    assert text == "numpy==1.23\ntomli==2.0\ntorch==2.0\nplotly==5.15\n"


def test_dependency_without_lower_bound_is_rejected(matrix):
    project = {**PROJECT, "dependencies": ["numpy<3"]}
    with pytest.raises(ValueError, match="numpy<3 has no lower bound"):
        matrix.environments(project)


def test_every_project_dependency_has_a_lower_bound(matrix):
    pins = matrix.environments(matrix.project())[0].pins
    assert {"torch", "ultralytics", "pandas", "rich", "plotly", "tomli"} <= set(pins)
    assert not {"pytest", "ruff", "mypy", "wandb"} & set(pins)


def test_counts_come_from_the_last_summary_line(matrix):
    last = "1 failed, 2 passed, 9 deselected, 3 warnings, 2 errors in 142.12s (0:02:22)"
    found, bad = matrix.parsed(f"3 passed in 1.00s of another run\n{last}\n")
    assert (tuple(found.values()), bad) == ((2, 1, 2, 0, 9), ())
    found, _ = matrix.parsed("131 deselected, 5 warnings, 1 error in 14.79s\n")
    assert tuple(found.values()) == (0, 0, 1, 0, 131)


@pytest.mark.slow
def test_counts_match_real_pytest_output(matrix, tmp_path):
    test = tmp_path / "test_it.py"
    test.write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "@pytest.mark.parametrize('text', ['a - b'])\n"
        "def test_bad(text): assert text == 'c - d'\n"
        "def test_left(): pytest.skip('no reason')\n"
        "def test_broken(missing): pass\n"
    )
    command = matrix._pytest(sys.executable, [str(test), "--rootdir", str(tmp_path)])
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    counts, bad = matrix.parsed(output)
    assert tuple(counts.values()) == (1, 1, 1, 1, 0)
    assert [name.rpartition("::")[2] for name in bad] == ["test_bad[a - b]", "test_broken"]


@pytest.mark.parametrize("output", ["....\nTerminated\n", "no tests ran in 0.01s\n", ""])
def test_unfinished_pytest_run_is_an_error(matrix, output):
    with pytest.raises(ValueError, match="pytest ran no test to its end"):
        matrix.parsed(output)


def test_core_tests_are_existing_files_without_the_excluded(matrix):
    files = matrix.core_tests()
    some = ("measure/test_numbers", "watch/test_training", "diagnose/test_rules", "test_trust")
    assert {f"tests/{name}.py" for name in some} <= set(files)
    assert "tests/test_peers.py" not in files
    assert all((matrix.ROOT / file).exists() for file in files)
    gone = [n for n in matrix.EXCLUDED if not [*matrix.ROOT.glob(f"tests/**/test_{n}.py")]]
    assert gone == []


def test_missing_python_is_reported_as_failure(matrix, tmp_path):
    environment = matrix.Environment("oldest", "3.10", {})
    outcome = matrix.run_tests(environment, "", tmp_path, [])
    assert outcome.bad == ("no python3.10; name it by --python VERSION=PATH",)
    assert outcome.counts == {}


def test_interpreter_argument_is_version_and_path(matrix):
    assert matrix.interpreter("3.10=/opt/a=b/python") == ("3.10", "/opt/a=b/python")
    with pytest.raises(matrix.argparse.ArgumentTypeError, match=r"'3\.10' is not VERSION=PATH"):
        matrix.interpreter("3.10")


def test_row_has_versions_counts_and_minutes(matrix):
    environment = matrix.Environment("oldest", "3.10", {})
    counts = dict.fromkeys(matrix.COUNTS, 3)
    outcome = matrix.Outcome({"Python": "3.10.1", "torch": "2.0.0"}, counts, (), 90.0)
    row = matrix.row(environment, outcome)
    assert row == "| oldest | Python 3.10.1, torch 2.0.0 | 3 | 3 | 3 | 3 | 3 | 1.5 |"
    failed = matrix.Outcome({"Python": "3.10"}, {}, ("no such torch",), 6.0)
    assert matrix.row(environment, failed) == "| oldest | Python 3.10 | - | - | - | - | - | 0.1 |"
