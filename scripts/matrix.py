"""Run the core tests with the oldest, middle and newest versions of the dependencies.

    python scripts/matrix.py OUT [--only oldest] [--python 3.10=PATH] [--tests FILE] \
        >> benchmarks/RESULTS.md

Builds or updates a virtual environment of each kind in the folder OUT: ``oldest`` has the lower
bounds of pyproject.toml, ``middle`` versions in between, ``newest`` what pip picks. PyPI's torch
for Linux is the CUDA build: 5 to 8 GB per environment. Prints a section for the record; the output
of pip and pytest goes to standard error and ``OUT/NAME.log``. Exits with 1 if an environment could
not be built or a test failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
EXTRA = "html"
"""The extra whose dependencies also have lower bounds; the others are developer tools."""

EXCLUDED = (
    *("benchmarks", "cuda", "distributed", "examples", "healthy", "overhead", "packaging"),
    *("peers", "repository"),
)
"""Test files that do not depend on the versions of dependencies, or take long."""

COUNTS = ("passed", "failed", "errors", "skipped", "deselected")


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment: its Python, and the pinned versions of some packages."""

    name: str
    python: str
    pins: dict[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an environment: versions, pytest's counts and failed tests."""

    versions: dict[str, str]
    counts: dict[str, int]
    bad: tuple[str, ...]
    seconds: float


def environments(project: dict[str, Any]) -> list[Environment]:
    """Return the three environments for a pyproject.toml."""
    lowest = project["requires-python"].removeprefix(">=")
    return [
        Environment("oldest", lowest, lower_bounds(project)),
        # torch 2.4 has float64 norms in one call; Ultralytics 8.4.100 activates in place
        Environment("middle", "3.11", {"ultralytics": "8.4.100", "torch": "2.4.0"}),
        Environment("newest", "3.13", {}),
    ]


def lower_bounds(project: dict[str, Any]) -> dict[str, str]:
    """Return the lower bound of each dependency.

    Raises:
        ValueError: A dependency has no lower bound.
    """
    lines = project["dependencies"] + project["optional-dependencies"][EXTRA]
    return {Requirement(line).name: _lower_bound(Requirement(line)) for line in lines}


def _lower_bound(requirement: Requirement) -> str:
    found = [one.version for one in requirement.specifier if one.operator == ">="]
    if not found:
        raise ValueError(f"{requirement} has no lower bound")
    return found[0]


def constraints(pins: dict[str, str]) -> str:
    """Return the pins as a constraints file of pip."""
    return "".join(f"{name}=={version}\n" for name, version in pins.items())


def parsed(output: str) -> tuple[dict[str, int], tuple[str, ...]]:
    """Parse the counts and the failed tests from pytest's short summary.

    Raises:
        ValueError: There is no summary: pytest ran no test or did not finish.
    """
    last = re.findall(r"^=* ?((?:\d+ \w+, )*\d+ \w+) in [\d.]+s", output, re.MULTILINE)
    if not last:
        raise ValueError("pytest ran no test to its end")
    numbers = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", last[-1])}
    numbers["errors"] = numbers.pop("error", 0) + numbers.pop("errors", 0)
    bad = re.findall(r"^(?:FAILED|ERROR) (\S+?(?:\[.*?\])?)(?: - .*)?$", output, re.MULTILINE)
    return {name: numbers.get(name, 0) for name in COUNTS}, tuple(bad)


def row(environment: Environment, outcome: Outcome) -> str:
    """Return a line of the table."""
    versions = ", ".join(f"{name} {version}" for name, version in outcome.versions.items())
    counts = [str(outcome.counts.get(name, "-")) for name in COUNTS]
    cells = [environment.name, versions, *counts, f"{outcome.seconds / 60:.1f}"]
    return f"| {' | '.join(cells)} |"


def run_tests(environment: Environment, python: str, out: Path, tests: list[str]) -> Outcome:
    """Build an environment and run the tests in it."""
    folder, log = out / environment.name, out / f"{environment.name}.log"
    log.write_text("", encoding="utf-8")
    begin = time.monotonic()
    try:
        interpreter = install(environment, python, folder, log)
        versions = versions_in(interpreter)
        begin = time.monotonic()
        counts, bad = parsed(logged(_pytest(interpreter, tests), log, folder))
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        return Outcome({"Python": environment.python}, {}, (str(error),), time.monotonic() - begin)
    return Outcome(versions, counts, bad, time.monotonic() - begin)


def install(environment: Environment, python: str, folder: Path, log: Path) -> str:
    """Install the package with test tools and dependencies; return the environment's Python."""
    if not python:
        raise ValueError(f"no python{environment.python}; name it by --python VERSION=PATH")
    logged([python, "-m", "venv", str(folder)], log, folder, check=True)
    interpreter = str(folder / "bin" / "python")
    pins = folder / "constraints.txt"
    pins.write_text(constraints(environment.pins), encoding="utf-8")
    install = [interpreter, "-m", "pip", "install", "--upgrade", "--upgrade-strategy", "eager"]
    package = ["--constraint", str(pins), "--editable", f"{ROOT}[test]", "torchvision"]
    logged([*install, *package], log, folder, check=True)
    return interpreter


def versions_in(interpreter: str) -> dict[str, str]:
    """Return the versions of Python, the dependencies, torchvision and Click."""
    command = [interpreter, "-m", "pip", "list", "--format", "json"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    found = {one["name"].lower(): one["version"] for one in listed}
    python = subprocess.run([interpreter, "-V"], check=True, capture_output=True, text=True)
    names = [*lower_bounds(project()), "torchvision", "click"]
    there = {name: found[name] for name in names if name in found}
    return {"Python": python.stdout.split()[1], **there}


def _pytest(interpreter: str, tests: list[str]) -> list[str]:
    """Return a pytest command with a fixed order, no cache, and a list of failed tests."""
    options = ["-q", "-rfE", "--tb=short", "-p", "no:randomly", "-p", "no:cacheprovider"]
    return [interpreter, "-m", "pytest", *options, *tests]


def logged(command: list[str], log: Path, folder: Path, *, check: bool = False) -> str:
    """Run a command in the checkout; log and return its output."""
    settings = folder / "yolo"
    settings.mkdir(exist_ok=True)  # or Ultralytics would use settings that all processes share
    quiet = {
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",  # keep the log current
        "YOLO_OFFLINE": "true",
        "YOLO_CONFIG_DIR": str(settings),
    }
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    lines = []
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**inherited, **quiet},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        for line in process.stdout or ():
            lines.append(line)
            file.write(line)
            sys.stderr.write(line)
    if check and process.returncode:
        raise ValueError(f"{command[2]}: {(lines or ['no output'])[-1].strip()}")
    return "".join(lines)


def project() -> dict[str, Any]:
    """Return the project table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return table


def core_tests() -> list[str]:
    """Return all test files except those in `EXCLUDED`."""
    left_out = {f"test_{name}.py" for name in EXCLUDED}
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if file.name not in left_out]


def interpreter(text: str) -> tuple[str, str]:
    """Parse a version and a path from an argument such as ``3.10=/usr/bin/python3.10``."""
    version, sign, path = text.partition("=")
    if not (version and sign and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not VERSION=PATH")
    return version, path


def main() -> int:
    """Print the section and return 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("out", type=Path, help="folder for the environments, 20 GB")
    known = environments(project())
    names = [one.name for one in known]
    parser.add_argument("--only", action="append", choices=names, help="may be repeated")
    parser.add_argument(
        "--python", action="append", default=[], type=interpreter, metavar="VERSION=PATH"
    )
    parser.add_argument(
        "--tests", action="append", metavar="ARG", help="arguments of pytest; the core tests if not"
    )
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    given = dict(options.python)
    print(f"\n## Versions, {datetime.now(timezone.utc).date()}\n")
    print(f"{os.cpu_count()} CPU cores, {platform.platform()}; one thread.", end=" ")
    print(f"Tests: {' '.join(options.tests or ['all but', *EXCLUDED])}.\n")
    print(f"| environment | versions | {' | '.join(COUNTS)} | minutes |")
    print(f"| --- | --- |{' --- |' * len(COUNTS)} --- |", flush=True)
    bad = []
    for one in known:
        if one.name not in (options.only or names):
            continue
        python = given.get(one.python) or shutil.which(f"python{one.python}") or ""
        outcome = run_tests(one, python, out, options.tests or core_tests())
        print(row(one, outcome), flush=True)
        bad += [f"- {one.name}: `{name}`" for name in outcome.bad]
    print("\nFailed:\n\n" + "\n".join(bad) if bad else "\nNone failed.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
