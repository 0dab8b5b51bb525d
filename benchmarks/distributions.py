"""What healthy and faulty trainings look like in the quantities beside the gradient norm.

    python benchmarks/distributions.py HEALTHY FAULTY [--keep benchmarks/recordings]

HEALTHY and FAULTY are folders of watched runs, at any depth, such as those that
``scripts/healthy_trainings.py`` and ``yolo-gradwatch demo --fault NAME --out FOLDER`` leave. Prints
for each quantity and role of a module the range over all windows, over all loss items, and over all
calls of the traces. ``--keep`` stores the numbers, thinned: of the windows those in which the
weights were read, leaves alone; all loss items; the first and the last trace.
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
"""Of a layout, with the names printed here; what lies in the head is apart."""

WINDOW_NUMBERS = ("norm_mean", "weight_norm", "weight_max", "update_ratio", "zero_fraction")
FLOW_NUMBERS = ("output_rms", "output_max", "output_zero", "output_saturated", "gradient_norm")
DIGITS = "%.4g"


def role_of(layout: Layout) -> pd.Series:
    """By module: ``conv``, ``norm`` or ``other`` in the trunk, ``head`` for any leaf there."""
    roles = {}
    for name, role, block in zip(layout.modules, layout.roles, layout.block_of, strict=True):
        if role:
            roles[name] = "head" if block == layout.head else ROLES[role]
    return pd.Series(roles, dtype=str)


def weighed(run: Run) -> pd.DataFrame:
    """Rows of the leaves, in windows in which the weights were read."""
    rows = run.windows[run.windows["weight_norm"].notna()]
    rows = rows.assign(role=rows["module"].map(role_of(run.layout))).dropna(subset=["role"])
    return rows[["step_first", "module", "role", *WINDOW_NUMBERS]]


def ends(run: Run) -> pd.DataFrame:
    """Rows of the first and the last trace."""
    flow = run.flow
    rows = flow[flow["step"].isin([flow["step"].min(), flow["step"].max()])]
    return rows[["step", "order", "module", "call", "type", *FLOW_NUMBERS]]


def spread(title: str, values: pd.Series) -> list[str]:
    """A row: how many numbers, how many are not finite, and percentiles of the others."""
    known = values.dropna().to_numpy(np.float64)
    finite = known[np.isfinite(known)]
    found = np.percentile(finite, LEVELS) if len(finite) else [np.nan] * len(LEVELS)
    return [
        *(title, f"{len(known):,}", f"{len(known) - len(finite):,}"),
        *(f"{one:.3g}" for one in found),
    ]


def report(kind: str, runs: Sequence[Run]) -> str:
    """The table of some runs."""
    windows = pd.concat([weighed(run) for run in runs])
    flow = pd.concat([run.flow for run in runs])
    losses = pd.concat([run.losses for run in runs])
    rows = [
        spread(f"{name}, {role}", of_role[name])
        for name in WINDOW_NUMBERS
        for role, of_role in windows.groupby("role")
        if of_role[name].notna().any()
    ]
    rows += [spread(f"flow: {name}", flow[name]) for name in FLOW_NUMBERS]
    rows += [
        spread(f"loss: {item}", of_item["mean"])
        for item, of_item in losses.groupby("item")
        if not item.startswith("lr/")
    ]
    columns = ["quantity", "numbers", "not finite", *(f"{level:g} %" for level in LEVELS)]
    return f"{kind}: {len(runs)} runs.\n\n{table(columns, rows)}\n"


def title(run: Run) -> str:
    """The folder of a run; of one that is only called ``run``, the folder above."""
    return run.folder.parent.name if run.folder.name == "run" else run.folder.name


def keep(folder: Path, kind: str, runs: Sequence[Run]) -> None:
    """Store the thinned numbers of some runs, each kind of table in one file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("windows", weighed), ("flow", ends), ("losses", lambda run: run.losses)):
        tables = [part(run).assign(run=title(run)) for run in runs]
        path = folder / f"{kind}-{name}.csv.xz"
        pd.concat(tables).to_csv(path, index=False, float_format=DIGITS)


def main() -> None:
    """Read, print, and keep what was asked for."""
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
