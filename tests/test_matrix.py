"""What the script that tries other versions reads and writes."""

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
        patch.setitem(sys.modules, "matrix", module)  # dataclasses look there
        spec.loader.exec_module(module)
        yield module


PROJECT = {
    "requires-python": ">=3.10",
    "dependencies": ["numpy>=1.23,<3", "tomli>=2.0; python_version < '3.11'", "torch>=2.0"],
    "optional-dependencies": {"html": ["plotly >=5.15"], "test": ["pytest"]},
}


def test_the_oldest_environment_has_the_lower_bounds_and_the_oldest_python(matrix):
    oldest = matrix.environments(PROJECT)[0]
    assert (oldest.name, oldest.python) == ("oldest", "3.10")
    assert oldest.pins == {"numpy": "1.23", "tomli": "2.0", "torch": "2.0", "plotly": "5.15"}
    text = matrix.constraints(oldest.pins)
    assert text == "numpy==1.23\ntomli==2.0\ntorch==2.0\nplotly==5.15\n"


def test_a_dependency_without_a_lower_bound_is_refused(matrix):
    project = {**PROJECT, "dependencies": ["numpy<3"]}
    with pytest.raises(ValueError, match="numpy<3 has no lower bound"):
        matrix.environments(project)


def test_every_dependency_of_this_project_has_a_lower_bound(matrix):
    pins = matrix.environments(matrix.project())[0].pins
    assert {"torch", "ultralytics", "pandas", "rich", "plotly", "tomli"} <= set(pins)
    assert not {"pytest", "ruff", "mypy", "wandb"} & set(pins)


def test_the_counts_are_those_of_the_last_line(matrix):
    last = "1 failed, 2 passed, 9 deselected, 3 warnings, 2 errors in 142.12s (0:02:22)"
    found, bad = matrix.parsed(f"3 passed in 1.00s of another run\n{last}\n")
    assert (tuple(found.values()), bad) == ((2, 1, 2, 0, 9), ())
    found, _ = matrix.parsed("131 deselected, 5 warnings, 1 error in 14.79s\n")
    assert tuple(found.values()) == (0, 0, 1, 0, 131)


@pytest.mark.slow
def test_the_counts_are_those_that_pytest_itself_prints(matrix, tmp_path):
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
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    counts, bad = matrix.parsed(told)
    assert tuple(counts.values()) == (1, 1, 1, 1, 0)
    assert [name.rpartition("::")[2] for name in bad] == ["test_bad[a - b]", "test_broken"]


@pytest.mark.parametrize("output", ["....\nTerminated\n", "no tests ran in 0.01s\n", ""])
def test_a_run_of_pytest_that_broke_off_is_no_success(matrix, output):
    with pytest.raises(ValueError, match="pytest ran no test to its end"):
        matrix.parsed(output)


def test_the_core_tests_are_whole_files_of_this_checkout(matrix):
    files = matrix.core_tests()
    some = ("measure/test_numbers", "watch/test_training", "diagnose/test_rules", "test_trust")
    assert {f"tests/{name}.py" for name in some} <= set(files)
    assert "tests/test_peers.py" not in files
    assert all((matrix.ROOT / file).exists() for file in files)
    gone = [n for n in matrix.ELSEWHERE if not [*matrix.ROOT.glob(f"tests/**/test_{n}.py")]]
    assert gone == []


def test_an_environment_without_its_python_is_named_and_no_success(matrix, tmp_path):
    environment = matrix.Environment("oldest", "3.10", {})
    outcome = matrix.tried(environment, "", tmp_path, [])
    assert outcome.bad == ("no python3.10; name it by --python VERSION=PATH",)
    assert outcome.counts == {}


def test_an_interpreter_is_a_version_and_a_path(matrix):
    assert matrix.interpreter("3.10=/opt/a=b/python") == ("3.10", "/opt/a=b/python")
    with pytest.raises(matrix.argparse.ArgumentTypeError, match=r"'3\.10' is not VERSION=PATH"):
        matrix.interpreter("3.10")


def test_a_row_tells_the_versions_the_counts_and_the_minutes(matrix):
    environment = matrix.Environment("oldest", "3.10", {})
    counts = dict.fromkeys(matrix.COUNTS, 3)
    outcome = matrix.Outcome({"Python": "3.10.1", "torch": "2.0.0"}, counts, (), 90.0)
    told = matrix.row(environment, outcome)
    assert told == "| oldest | Python 3.10.1, torch 2.0.0 | 3 | 3 | 3 | 3 | 3 | 1.5 |"
    failed = matrix.Outcome({"Python": "3.10"}, {}, ("no such torch",), 6.0)
    assert matrix.row(environment, failed) == "| oldest | Python 3.10 | - | - | - | - | - | 0.1 |"
