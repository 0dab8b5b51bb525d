"""Measure the cost of the watch on CUDA and check that it works: one section for RESULTS.md.

    python -m benchmarks.cuda [--only PART ...] [--seconds 470] [--small] >> benchmarks/RESULTS.md

Run it in the project's root on a machine with a GPU; it downloads nothing. Each part runs in a
separate process, so that it cannot affect the next one, and is killed after its time limit: its
results so far are printed with a note that it was cut short. Without CUDA, or with ``--small``,
each part only checks in a few seconds that it runs, or prints that it needs CUDA.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))  # its scripts import each other by name

from machine import heading  # noqa: E402
from peers import reason  # noqa: E402

import yolo_gradwatch  # noqa: E402
from benchmarks.cuda.job import Job, has_cuda  # noqa: E402


class Part(NamedTuple):
    """A part of the measurement.

    Attributes:
        title: Title of its section.
        seconds: Time limit; the remaining time of the whole command limits it further.
        has_small: Whether it can run without CUDA.
    """

    title: str
    seconds: float
    has_small: bool = False


PARTS = {
    "marked": Part("Tests", 150),
    "reading": Part("One reading", 60, has_small=True),
    "steps": Part("Steps of a training", 120, has_small=True),
    "waits": Part("Waits for the device", 45, has_small=True),
    "memory": Part("Memory over the steps", 45, has_small=True),
    "compiled": Part("With compile=True", 50, has_small=True),
}
SPARE = 6.0
"""Seconds before its limit at which a part should stop by itself."""

START = 20.0
"""Minimum seconds to start a part."""


def main() -> int:
    """Run the parts and print their sections."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=470)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)  # one part, in this process
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)  # seconds since the epoch
    chosen = parser.parse_args()
    if chosen.to:
        return _run_here(chosen.only[0], chosen.to, chosen.until - time.time())
    is_small = chosen.small or not has_cuda()
    print(_heading(is_small=is_small), flush=True)
    end = time.monotonic() + chosen.seconds
    failures = 0
    for name in chosen.only:
        text, failed = _part(name, end - time.monotonic(), is_small=is_small)
        print(f"### {PARTS[name].title}\n\n{_tidy(text)}\n", flush=True)
        failures += failed
    return min(failures, 1)


def _heading(*, is_small: bool) -> str:
    found = [f"triton {_version('triton')}", f"yolo_gradwatch {yolo_gradwatch.__version__}"]
    notes = [", ".join(found), f"driver {_driver()}"]
    notes += ["small: these figures say only that it runs"] if is_small else []
    return heading("On CUDA", ("torch", "ultralytics", "numpy"), *notes)


def _tidy(text: str) -> str:
    """Collapse repeated empty lines."""
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _driver() -> str:
    command = [
        "nvidia-smi",
        "--query-gpu=driver_version,memory.total,clocks.max.sm",
        "--format=csv,noheader",
    ]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)  # noqa: S603
        return done.stdout.splitlines()[0].replace(",", " with", 1) + " at most"
    return "none"


def _part(name: str, left: float, *, is_small: bool) -> tuple[str, bool]:
    """Return a part's section and whether the part failed."""
    part = PARTS[name]
    if is_small and not part.has_small:
        return "Needs CUDA, and more than a few seconds.", False
    seconds = min(part.seconds, left)
    if seconds < START:
        return "Left out: the time is up.", True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "section.md"
        path.touch()
        if is_small:
            _run_here(name, path, seconds, is_small=True)
            return path.read_text(encoding="utf-8"), False
        words = _run_apart(name, path, seconds)
        return f"{path.read_text(encoding='utf-8')}\n{words}", bool(words)


def _run_here(name: str, path: Path, seconds: float, *, is_small: bool = False) -> int:
    """Run a part in this process."""
    with path.open("a", encoding="utf-8") as file:

        def write(line: str) -> None:
            file.write(f"{line}\n")
            file.flush()

        import_module(f"benchmarks.cuda.{name}").measure(Job(write, seconds, is_small))
    return 0


def _run_apart(name: str, path: Path, seconds: float) -> str:
    """Run a part in a separate process; if it does not finish, return the reason."""
    command = [sys.executable, "-m", "benchmarks.cuda", "--only", name, "--to", str(path)]
    command += ["--until", str(time.time() + seconds - SPARE)]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(  # noqa: S603  # this module
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"\nCut short after {seconds:.0f} s."
        log.seek(0)
        return f"\nFailed: {reason(log.read()) or f'exit code {code}'}" if code else ""


if __name__ == "__main__":
    sys.exit(main())
