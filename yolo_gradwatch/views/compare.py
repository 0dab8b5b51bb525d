"""Several runs side by side: the norm of each module at the same share of the training."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from yolo_gradwatch.diagnose.causes import at_work
from yolo_gradwatch.measure.arrays import median
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.quantities import QUANTITIES

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.measure.arrays import Counts, Singles
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.windows import Grid
    from yolo_gradwatch.runs.run import Run

PLACES = ("name", "project", "save_dir", "exist_ok", "resume")
"""Arguments that only say where a run is put, or that it goes on."""

PARTS = {"first": (0, 2), "middle": (9, 11), "last": (18, 20)}
"""Twentieths of the steps of a run at which runs are compared."""


class Difference(NamedTuple):
    """An option of the training in which runs differ: its name, and its value in each run."""

    name: str
    by_run: tuple[object, ...]


def compare(runs: Sequence[Run]) -> pd.DataFrame:
    """The median norm of every module in three parts of each run.

    Args:
        runs: Two or more; the first is what the others are compared with.

    Returns:
        A row for each run, module and part: ``run`` (its place, from 1), ``module``, ``type``,
        ``part`` (``first``, ``middle`` or ``last`` tenth of its steps), ``norm`` (L2, median over
        these steps, NaN if there is none), the quantities that are compared beside it (likewise),
        and ``ratio`` (of the norm to that of the first run; NaN where one of the two has none).
    """
    table = pd.concat([_norms(place, run) for place, run in enumerate(runs, 1)], ignore_index=True)
    keys = ["module", "part"]
    first = table[table["run"] == 1].set_index(keys)["norm"]
    firsts = first.reindex(pd.MultiIndex.from_frame(table[keys])).to_numpy()
    table["ratio"] = ratio(table["norm"].to_numpy(), firsts)
    return table


def ratio(values: Singles, firsts: Singles) -> Singles:
    """How many times as large each value is as that of the first run.

    Inf where that is 0, NaN where both are or one is missing.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Singles = values / firsts
    return found


def modules_of(runs: Sequence[Run], *, blocks: bool = False) -> dict[str, list[str]]:
    """The modules of all runs in forward order, with the class that each has in each run.

    Args:
        runs: The runs.
        blocks: The whole model and the top-level blocks only.

    Returns:
        For each module its class in each run; "" where a run lacks it.
    """
    types = [dict(zip(run.layout.modules, run.layout.types, strict=True)) for run in runs]
    tops = {name for run in runs for name, _ in run.layout.blocks} | {WHOLE}
    names = [
        name
        for block in _in_order([list(dict.fromkeys(run.layout.block_of)) for run in runs])
        for name in _merged([_inside(run.layout, block) for run in runs])
    ]
    return {
        name: [own.get(name, "") for own in types] for name in names if not blocks or name in tops
    }


def differences(runs: Sequence[Run]) -> list[Difference]:
    """The options of the trainings, and the versions, that are not the same in all runs.

    Options of which Ultralytics made something else are named ``lr0 (fitted)``. What is not known
    of all runs is left out, such as most options of format version 1, and so is where a run was
    put.
    """
    fitted = {name for run in runs for name in run.meta.options.fitted}
    options = [_options(run, fitted) for run in runs]
    names = dict.fromkeys(name for one in options for name in one)
    known = [name for name in names if all(name in one for one in options)]
    found = [Difference(name, tuple(one[name] for one in options)) for name in known]
    return [one for one in found if any(value != one.by_run[0] for value in one.by_run)]


def _options(run: Run, fitted: Collection[str]) -> dict[str, object]:
    """What a training was given, what Ultralytics made of it, and the versions it ran on."""
    training = run.meta.options.training
    given = {name: v for name, v in training.items() if name not in {*PLACES, "fitted"}}
    made = {f"{n} (fitted)": at_work(training, n) for n in given if n in fitted}
    return {**given, **made, **run.meta.versions}


def only_in(report: Report, others: Sequence[Report]) -> list[Finding]:
    """The findings of a run whose rule holds for no module of the same name in another run."""
    known = {(finding.rule, finding.module) for other in others for finding in other.findings}
    return [f for f in report.findings if (f.rule, f.module) not in known]


def _in_order(orders: Sequence[Sequence[str]]) -> list[str]:
    """The blocks of several models in forward order: by their number, where all have one."""
    blocks = _merged(orders)
    numbers = {name: name.rpartition(".")[2] for name in blocks if name}
    if not all(number.isdecimal() for number in numbers.values()):
        return blocks
    return sorted(blocks, key=lambda name: int(numbers.get(name, -1)))


def _inside(layout: Layout, block: str) -> list[str]:
    named = zip(layout.modules, layout.block_of, strict=True)
    return [name for name, around in named if around == block]


def _merged(orders: Sequence[Sequence[str]]) -> list[str]:
    """One order of all names: those of the first, each other one behind that before it."""
    following: dict[str | None, str | None] = {None: None}
    for names in orders:
        before: str | None = None
        for name in names:
            if name not in following:
                following[name], following[before] = following[before], name
            before = name
    merged: list[str] = []
    place = following[None]
    while place is not None:
        merged.append(place)
        place = following[place]
    return merged


def _norms(place: int, run: Run) -> pd.DataFrame:
    stretches = {part: _weights(run.grid, *stretch) for part, stretch in PARTS.items()}
    parts = [
        pd.DataFrame(
            {
                "run": place,
                "module": run.layout.modules,
                "type": run.layout.types,
                "part": part,
                "norm": median(run.grid.norm_mean, weights),
                **{
                    row.name: median(getattr(run.grid, row.name), weights)
                    for row in QUANTITIES
                    if row.is_compared
                },
            }
        )
        for part, weights in stretches.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _weights(grid: Grid, low: int, high: int) -> Counts:
    """(W,) how much of a stretch of the steps each window covers; of a gap, the nearest windows."""
    if not len(grid.steps):
        return np.zeros(0, np.int64)
    begin, end = grid.step_first[0] - 1, grid.step_last[-1]
    low, high = low * (end - begin), high * (end - begin)
    since, until = 20 * (grid.step_first - 1 - begin), 20 * (grid.step_last - begin)
    covered: Counts = np.maximum(np.minimum(until, high) - np.maximum(since, low), 0)
    if covered.any():
        return covered
    distance = np.abs(since + until - low - high)
    nearest: Counts = (distance == distance.min()).astype(np.int64)
    return nearest
