"""Run the tests of the full tier and print a table for the record.

    python scripts/hold_up.py [TESTS ...] > benchmarks/HOLD_UP.md

TESTS are test files, folders or pytest node ids; the default is all of ``tests/``. Pytest's output
goes to standard error. Exits with pytest's exit code: 1 if a test failed.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGES = ("ultralytics", "torch", "numpy", "pandas")
COLUMNS = ("file", "test", "result", "seen", "seconds")


def run(tests: list[str], report: Path) -> int:
    """Run the full tier of the given tests and write a JUnit report."""
    options = ["--full", "-m", "full", f"--junit-xml={report}", "-o", "junit_family=xunit1"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", *options, *tests]
    folder = Path(__file__).parents[1]
    return subprocess.run(command, cwd=folder, stdout=sys.stderr, check=False).returncode


def row(case: ET.Element) -> tuple[str, ...]:
    """Return the cells of a test; ``seen`` lists the properties that it recorded."""
    seen = [f"{one.get('name')} {one.get('value')}" for one in case.iter("property")]
    seconds = f"{float(case.get('time', '0')):.0f}"
    file = case.get("file", "").removeprefix("tests/")
    return file, case.get("name", ""), result(case), ", ".join(seen), seconds


def result(case: ET.Element) -> str:
    """Return ``passed``, or ``failed`` or ``skipped`` with the first line of the reason."""
    for kind, said in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
        found = case.find(kind)
        if found is not None:
            reason = found.get("message", "").partition("\n")[0]
            return f"{said}: {reason}" if reason else said
    return "passed"


def section(cases: Iterable[ET.Element]) -> str:
    """Return the section of the record in Markdown."""
    rows = [row(case) for case in cases]
    results = Counter(cells[2].partition(":")[0] for cells in rows)
    counts = ", ".join(f"{results[name]} {name}" for name in ("passed", "failed", "skipped"))
    minutes = sum(int(cells[-1]) for cells in rows) / 60
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    machine = f"{os.cpu_count()} CPU cores, {platform.system()}, Python {platform.python_version()}"
    table = [" | ".join(cell.replace("|", "\\|") for cell in cells) for cells in rows]
    head = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    lines = "\n".join(f"| {line} |" for line in [*head, *table])
    return (
        f"# Where it holds up, {datetime.now(timezone.utc).date()}\n\n"
        f"{machine}, {versions}.\n\n{lines}\n\nTests: {counts}; {minutes:.0f} minutes."
    )


def main() -> int:
    """Run the tests, print the table and return pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("tests", nargs="*", default=["tests"], help="files, folders, single tests")
    tests = parser.parse_args().tests
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = run(tests, report)
        if report.exists():
            print(section(ET.parse(report).iter("testcase")))  # noqa: S314  # written by pytest
    return code


if __name__ == "__main__":
    sys.exit(main())
