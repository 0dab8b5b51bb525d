"""Ranges of all quantities other than the gradient norm in healthy and faulty trainings.

    python benchmarks/distributions.py HEALTHY FAULTY [--keep benchmarks/recordings]

HEALTHY and FAULTY are folders with watched runs at any depth, such as the output of
``scripts/healthy_trainings.py`` and ``yolo-gradwatch demo --fault NAME --out FOLDER``. Prints the
range of each quantity by module role over all windows, of each loss item, and of each flow quantity
over all traced calls. ``--keep`` stores a reduced set of numbers: leaf modules in the windows that
read the weights, all loss items, and the first and last trace.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from machine import heading, table

from yolo_gradwatch import load_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch import Layout, Run

LEVELS = (0, 0.1, 1, 50, 99, 99.9, 100)
"""Percentiles."""

ROLES = {"weight": "conv", "norm": "norm", "other": "other"}
"""Roles of a layout and their printed names; leaves of the head are listed separately."""

WINDOW_NUMBERS = ("norm_mean", "weight_norm", "weight_max", "update_ratio", "zero_fraction")
FLOW_NUMBERS = ("output_rms", "output_max", "output_zero", "output_saturated", "gradient_norm")
DIGITS = "%.4g"


def role_of(layout: Layout) -> pd.Series:
    """Map each leaf to ``conv``, ``norm`` or ``other`` in the trunk, or to ``head``."""
    roles = {}
    for name, role, block in zip(layout.modules, layout.roles, layout.block_of, strict=True):
        if role:
            roles[name] = "head" if block == layout.head else ROLES[role]
    return pd.Series(roles, dtype=str)


def leaf_rows(run: Run) -> pd.DataFrame:
    """Return the rows of the leaves in windows that read the weights."""
    rows = run.windows[run.windows["weight_norm"].notna()]
    rows = rows.assign(role=rows["module"].map(role_of(run.layout))).dropna(subset=["role"])
    return rows[["step_first", "module", "role", *WINDOW_NUMBERS]]


def first_and_last(run: Run) -> pd.DataFrame:
    """Return the rows of the first and the last trace."""
    flow = run.flow
    rows = flow[flow["step"].isin([flow["step"].min(), flow["step"].max()])]
    return rows[["step", "order", "module", "call", "type", *FLOW_NUMBERS]]


def distribution(title: str, values: pd.Series) -> list[str]:
    """Return a row: count, count of non-finite numbers, and percentiles of the others."""
    known = values.dropna().to_numpy(np.float64)
    finite = known[np.isfinite(known)]
    found = np.percentile(finite, LEVELS) if len(finite) else [np.nan] * len(LEVELS)
    return [
        *(title, f"{len(known):,}", f"{len(known) - len(finite):,}"),
        *(f"{one:.3g}" for one in found),
    ]


def report(kind: str, runs: Sequence[Run]) -> str:
    """Return the table of a group of runs."""
    windows = pd.concat([leaf_rows(run) for run in runs])
    flow = pd.concat([run.flow for run in runs])
    losses = pd.concat([run.losses for run in runs])
    rows = [
        distribution(f"{name}, {role}", of_role[name])
        for name in WINDOW_NUMBERS
        for role, of_role in windows.groupby("role")
        if of_role[name].notna().any()
    ]
    rows += [distribution(f"flow: {name}", flow[name]) for name in FLOW_NUMBERS]
    rows += [
        distribution(f"loss: {item}", of_item["mean"])
        for item, of_item in losses.groupby("item")
        if not item.startswith("lr/")
    ]
    columns = ["quantity", "numbers", "not finite", *(f"{level:g} %" for level in LEVELS)]
    return f"{kind}: {len(runs)} runs.\n\n{table(columns, rows)}\n"


def title(run: Run) -> str:
    """Return the run's folder name, or that of its parent for a folder called ``run``."""
    return run.folder.parent.name if run.folder.name == "run" else run.folder.name


def keep(folder: Path, kind: str, runs: Sequence[Run]) -> None:
    """Store the reduced numbers of a group of runs, one file per kind of table."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (
        ("windows", leaf_rows),
        ("flow", first_and_last),
        ("losses", lambda run: run.losses),
    ):
        tables = [part(run).assign(run=title(run)) for run in runs]
        path = folder / f"{kind}-{name}.csv.xz"
        pd.concat(tables).to_csv(path, index=False, float_format=DIGITS)


def main() -> None:
    """Print the ranges, and store the numbers with ``--keep``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("healthy", type=Path)
    parser.add_argument("faulty", type=Path)
    parser.add_argument("--keep", type=Path)
    chosen = parser.parse_args()
    print(heading("Distributions", ("torch", "ultralytics")))
    for kind in ("healthy", "faulty"):
        found = sorted(getattr(chosen, kind).rglob("gradwatch.json"))
        runs = [load_run(path.parent) for path in found]
        print(report(kind, runs))
        if chosen.keep:
            keep(chosen.keep, kind, runs)


if __name__ == "__main__":
    sys.exit(main())
