"""Audit the package with every logger that is installed here, and with Ray; print a table.

    python scripts/audits.py OUT >> benchmarks/RESULTS.md

Run it in each environment of interest; OUT is a folder for the trainings. Everything is offline.
Each training is a process under an audit hook of the interpreter, as is every process that Ray
starts. Each of them also opens a socket from injected code, to show that it is audited. Exits with
1 if an audit misses that socket, or finds anything else that the package promises not to do.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from contextlib import redirect_stdout
from datetime import datetime, timezone
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from audited import World, audit_loggers, audit_sweep  # noqa: E402  # from the tests
from stores import PACKAGES  # noqa: E402  # from the tests


def audits(out: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Audit what is installed; return the trouble of injected code and other trouble, by name."""
    found = {}
    for name, package in PACKAGES.items():
        if find_spec(package):
            found[f"{package} {version(package)}"] = audit_loggers(world(out, name), [name])
    if find_spec("ray"):
        for name, both in sorted(audit_sweep(world(out, "ray")).items()):
            way = "trainable" if name.startswith("own") else "`tune(use_ray=True)`"
            found[f"ray {version('ray')}, {way}, trial `{name}`"] = both
    return found


def world(out: Path, name: str) -> World:
    """Create empty folders for a training."""
    folder = out / f"{name}-{time.time_ns()}"
    folder.mkdir(parents=True)
    return World(folder)


def main() -> int:
    """Print the section and return 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("out", type=Path, help="folder for the trainings")
    out = parser.parse_args().out.resolve()
    with redirect_stdout(sys.stderr):
        found = audits(out)
    print(f"\n## Audits, {datetime.now(timezone.utc).date()}\n")
    torch, python = version("torch"), platform.python_version()
    print(f"torch {torch}, Python {python}. `scripts/audits.py`, offline.\n")
    print("| Ultralytics | with | injected socket is seen | what else breaks a promise |")
    print("| --- | --- | --- | --- |")
    for name, (injected, others) in found.items():
        cells = (version("ultralytics"), name, "yes" if len(injected) == 1 else "NO")
        print(f"| {' | '.join(cells)} | {'; '.join(others[:3]) or 'nothing'} |")
    return int(any(len(injected) != 1 or others for injected, others in found.values()))


if __name__ == "__main__":
    sys.exit(main())
