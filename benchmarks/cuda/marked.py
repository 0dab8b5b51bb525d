"""Run the tests marked ``gpu``."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.cuda.job import Job

ROOT = Path(__file__).parents[2]
MARKS = ("needs_cuda", "mark.gpu")
OUTCOMES = ("PASSED", "FAILED", "ERROR", "SKIPPED", "XFAIL", "XPASS")
LINE = re.compile(rf"^(tests/\S+\.py(?:::.+?)?) ({'|'.join(OUTCOMES)})\b")

UNREAD = re.compile(r"^ERROR (tests/\S+\.py)(?: - (.*))?$")
"""Pytest's line for a file that could not be imported."""


def measure(job: Job) -> None:
    """Run the tests and print the counts and failures.

    Raises:
        SystemExit: A test failed, or the time was too short for all.
    """
    files = [
        str(one.relative_to(ROOT)) for one in sorted(ROOT.glob("tests/**/test_*.py")) if _has(one)
    ]
    command = [sys.executable, "-m", "pytest", "-v", "--tb=no", "-m", "gpu", *files]
    command += ["-p", "no:cacheprovider", "-p", "no:randomly", "--continue-on-collection-errors"]
    process = subprocess.Popen(  # noqa: S603  # our own tests
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},  # keep the output up to a kill
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    cut = ""
    try:
        printed, _ = process.communicate(timeout=job.left)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        cut = f"; cut short after {job.seconds:.0f} s, the others did not run"
    for line in summary(printed.splitlines(), cut):
        job.write(line)
    if cut or process.returncode:
        raise SystemExit("not all tests passed")


def _has(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    return any(mark in text for mark in MARKS)


def summary(lines: Sequence[str], cut: str = "") -> list[str]:
    """Return the number of tests by outcome, and the names of failed tests."""
    found = dict(match.groups() for line in lines if (match := LINE.match(line)))
    unread = dict(match.groups() for line in lines if (match := UNREAD.match(line)))
    found |= dict.fromkeys(unread, "ERROR")
    failed = [name for name, outcome in found.items() if outcome in {"FAILED", "ERROR"}]
    why = {name: f", {words}" for name, words in unread.items() if words}
    counts = {one: sum(outcome == one for outcome in found.values()) for one in OUTCOMES}
    words = ", ".join(f"{count} {one.lower()}" for one, count in counts.items() if count)
    if not found:
        words = f"none ran: {(lines or ['nothing was printed'])[-1].strip('= ')}"
    return [
        f"Tests marked `gpu`: {words}{cut}.",
        *(f"- failed: `{one}`{why.get(one, '')}" for one in failed),
    ]
