"""Summary of the gradients over a run, or over some of its epochs: a row for each module."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from yolo_gradwatch.diagnose.vocabulary import is_named
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.quantities import QUANTITIES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from yolo_gradwatch.diagnose.finding import Episode, Finding
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.windows import Grid

OVER_RUN = tuple(
    (row, column)
    for row in sorted(QUANTITIES, key=lambda row: row.moment == "once")
    for column in row.over_run
)
"""Pairs of quantity and column; quantities measured at every step come first."""


def summary(
    grid: Grid, layout: Layout, findings: Iterable[Finding], epochs: tuple[int, int] | None = None
) -> pd.DataFrame:
    """Build a table with a row for each module, in forward order.

    Args:
        grid: Grid of the run.
        layout: Layout of the model.
        findings: Findings to list with the modules that they affect.
        epochs: First and last epoch to summarize; all of them by default.

    Returns:
        ``module``, ``type``, ``parameters``; ``steps`` that were not skipped; the columns of
        `OVER_RUN`, with counts summed over the windows, and norms and details NaN where there is
        none; and ``findings``, the rules of findings on the module, separated by spaces, in
        parentheses if the module at fault is another one.
    """
    low, high = epochs or (0, np.iinfo(np.int64).max)
    chosen = (grid.epoch >= low) & (grid.epoch <= high)
    steps = (grid.steps - grid.skipped)[chosen]
    return pd.DataFrame(
        {
            "module": layout.modules,
            "type": layout.types,
            "parameters": layout.parameters,
            "steps": steps.sum(),
            **{
                column.name: column.fold(getattr(grid, row.name)[chosen], steps)
                for row, column in OVER_RUN
            },
            "findings": _rules(layout, findings),
        }
    )


def of_blocks(table: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """Select the rows of the whole model and of the top-level blocks."""
    return table[table["module"].isin([WHOLE, *(name for name, _ in layout.blocks)])]


def matching(table: pd.DataFrame, pattern: str) -> pd.DataFrame:
    """Select the rows whose module matches a pattern such as ``model.2*``."""
    return table[[fnmatchcase(name, pattern) for name in table["module"]]]


def farthest(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """Select the rows that are farthest from normal, in forward order.

    Modules with a finding rank first, then those affected by one, then those without a norm above
    0, then those whose median is the most decades away from the median of their class; by class,
    because a normalization has smaller gradients than a convolution.
    """
    with np.errstate(divide="ignore"):
        levels = np.log10(table["norm_median"].fillna(0.0)).replace(-np.inf, np.nan)
    usual = levels.groupby(table["type"]).transform("median")
    distance = (levels - usual).abs().fillna(np.inf)
    rank = [2 if not rules else rules.startswith("(") for rules in table["findings"]]
    order = np.lexsort((-distance.to_numpy(), rank))
    return table.iloc[np.sort(order[:count])]


def concerned(findings: Iterable[Finding]) -> set[str]:
    """Return the modules that findings name or affect."""
    return {name for finding in findings for name in (finding.module, *finding.modules)}


def chosen_by(findings: Iterable[Finding], words: Collection[str]) -> list[Finding]:
    """Select the findings of some rules or kinds of rules."""
    return [finding for finding in findings if is_named(finding.rule, words)]


def active_in(findings: Iterable[Finding], grid: Grid, epochs: tuple[int, int]) -> list[Finding]:
    """Select the findings with an episode at some step of these epochs."""
    inside = (grid.epoch >= epochs[0]) & (grid.epoch <= epochs[1])
    first, last = grid.step_first[inside], grid.step_last[inside]

    def lasted(episode: Episode) -> bool:
        end = np.inf if episode.step_end is None else episode.step_end
        return bool(((episode.step <= last) & (first < end)).any())

    return [finding for finding in findings if any(map(lasted, finding.episodes))]


def _rules(layout: Layout, findings: Iterable[Finding]) -> list[str]:
    """List the rules of each module's findings, in parentheses if another module is at fault."""
    named = list(findings)
    own: dict[str, dict[str, None]] = {name: {} for name in layout.modules}
    for finding in named:
        own.get(finding.module, {})[finding.rule] = None
    for finding in named:
        for name in finding.modules:
            if finding.rule not in own.get(name, {finding.rule: None}):
                own[name][f"({finding.rule})"] = None
    return [" ".join(own[name]) for name in layout.modules]
