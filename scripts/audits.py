"""Audit the package beside every logger and sweep that is installed here, and print a table.

    python scripts/audits.py OUT >> benchmarks/RESULTS.md

Run it in each environment in question; OUT is a folder for the trainings. Everything is offline.
Each training is a process under an audit hook of the interpreter; with Ray, so is every process
that it starts. All of them also do what an audit must see, as if the package did, which shows that
they are audited. Exits with 1 if that is not seen, or anything else that the package promises not
to do.
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

from audited import World, audit_loggers, audit_sweep  # noqa: E402  # of the tests

LOGGERS = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "comet": "comet_ml",
    "clearml": "clearml",
    "dvc": "dvclive",
}
"""Names of loggers, and of their packages."""


def audits(out: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Audit what is installed: what was seen of what a test has planted, and what else."""
    found = {}
    for name, package in LOGGERS.items():
        if find_spec(package):
            found[f"{package} {version(package)}"] = audit_loggers(world(out, name), [name])
    if find_spec("ray"):
        for name, both in sorted(audit_sweep(world(out, "ray")).items()):
            way = "trainable" if name.startswith("own") else "`tune(use_ray=True)`"
            found[f"ray {version('ray')}, {way}, trial `{name}`"] = both
    return found


def world(out: Path, name: str) -> World:
    """Make an empty place for a training."""
    folder = out / f"{name}-{time.time_ns()}"
    folder.mkdir(parents=True)
    return World(folder)


def main() -> int:
    """Print the section and tell whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("out", type=Path, help="folder for the trainings")
    out = parser.parse_args().out.resolve()
    with redirect_stdout(sys.stderr):
        found = audits(out)
    print(f"\n## Audits, {datetime.now(timezone.utc).date()}\n")
    torch, python = version("torch"), platform.python_version()
    print(f"torch {torch}, Python {python}. `scripts/audits.py`, offline.\n")
    print("| Ultralytics | with | a planted socket is seen | what else breaks a promise |")
    print("| --- | --- | --- | --- |")
    for name, (planted, others) in found.items():
        cells = (version("ultralytics"), name, "yes" if len(planted) == 1 else "NO")
        print(f"| {' | '.join(cells)} | {'; '.join(others[:3]) or 'nothing'} |")
    return 0 if all(len(planted) == 1 and not others for planted, others in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
