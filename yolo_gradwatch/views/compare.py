"""Comparison of several runs: the norm of each module at the same share of the training."""

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
"""Arguments that only set the folder of a run, or resume it."""

PARTS = {"first": (0, 2), "middle": (9, 11), "last": (18, 20)}
"""Part -> its begin and end, in twentieths of the steps of a run."""


class Difference(NamedTuple):
    """A training option that differs between runs: its name and its value in each run."""

    name: str
    by_run: tuple[object, ...]


def compare(runs: Sequence[Run]) -> pd.DataFrame:
    """Compute the median norm of every module in three parts of each run.

    Args:
        runs: Two or more; the others are compared with the first.

    Returns:
        A row for each run, module and part: ``run`` (its position, from 1), ``module``, ``type``,
        ``part`` (``first``, ``middle`` or ``last`` tenth of its steps), ``norm`` (L2, median over
        these steps, NaN if there is none), the other compared quantities (likewise), and ``ratio``
        (the norm relative to that of the first run; NaN where either run has none).
    """
    table = pd.concat([_norms(place, run) for place, run in enumerate(runs, 1)], ignore_index=True)
    keys = ["module", "part"]
    first = table[table["run"] == 1].set_index(keys)["norm"]
    firsts = first.reindex(pd.MultiIndex.from_frame(table[keys])).to_numpy()
    table["ratio"] = ratio(table["norm"].to_numpy(), firsts)
    return table


def ratio(values: Singles, firsts: Singles) -> Singles:
    """Divide each value by that of the first run.

    Inf where only the latter is 0, NaN where both are 0 or one is missing.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Singles = values / firsts
    return found


def modules_of(runs: Sequence[Run], *, blocks: bool = False) -> dict[str, list[str]]:
    """List the modules of all runs in forward order.

    Args:
        runs: The runs.
        blocks: List only the whole model and the top-level blocks.

    Returns:
        Module -> its class in each run; "" where a run does not have it.
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
    """Return the training options and versions that are not the same in all runs.

    The value that Ultralytics replaced an option with is listed as ``lr0 (fitted)``. Options that
    are unknown for a run are left out, such as most options in format version 1, and so is the
    folder of a run.
    """
    fitted = {name for run in runs for name in run.meta.options.fitted}
    options = [_options(run, fitted) for run in runs]
    names = dict.fromkeys(name for one in options for name in one)
    known = [name for name in names if all(name in one for one in options)]
    found = [Difference(name, tuple(one[name] for one in options)) for name in known]
    return [one for one in found if any(value != one.by_run[0] for value in one.by_run)]


def _options(run: Run, fitted: Collection[str]) -> dict[str, object]:
    """Return the options of a training as given and as fitted by Ultralytics, and its versions."""
    training = run.meta.options.training
    given = {name: v for name, v in training.items() if name not in {*PLACES, "fitted"}}
    made = {f"{n} (fitted)": at_work(training, n) for n in given if n in fitted}
    return {**given, **made, **run.meta.versions}


def only_in(report: Report, others: Sequence[Report]) -> list[Finding]:
    """Return the findings of a run that no other run has by the same rule in the same module."""
    known = {(finding.rule, finding.module) for other in others for finding in other.findings}
    return [f for f in report.findings if (f.rule, f.module) not in known]


def _in_order(orders: Sequence[Sequence[str]]) -> list[str]:
    """Order the blocks of several models in forward order: by number, if all of them have one."""
    blocks = _merged(orders)
    numbers = {name: name.rpartition(".")[2] for name in blocks if name}
    if not all(number.isdecimal() for number in numbers.values()):
        return blocks
    return sorted(blocks, key=lambda name: int(numbers.get(name, -1)))


def _inside(layout: Layout, block: str) -> list[str]:
    named = zip(layout.modules, layout.block_of, strict=True)
    return [name for name, around in named if around == block]


def _merged(orders: Sequence[Sequence[str]]) -> list[str]:
    """Merge several orders: a name missing from the first comes right after its predecessor."""
    following: dict[str | None, str | None] = {None: None}  # a linked list; None is its head
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
    """(W,) how much of a stretch of the steps each window covers; in a gap, the nearest windows.

    In twentieths of a step, so that the numbers stay integers.
    """
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
