"""Text of a comparison: each run relative to the first one."""

from __future__ import annotations

import math
from collections import Counter
from string import ascii_uppercase
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from rich.cells import cell_len
from rich.text import Text

from yolo_gradwatch.measure.quantities import QUANTITIES
from yolo_gradwatch.views.apart import sentences as shares
from yolo_gradwatch.views.beside import beside
from yolo_gradwatch.views.compare import PARTS, differences, only_in, ratio
from yolo_gradwatch.views.parting import parting
from yolo_gradwatch.views.terminal.glyphs import norm_text
from yolo_gradwatch.views.terminal.lines import finding_text
from yolo_gradwatch.views.terminal.parting import sentences
from yolo_gradwatch.views.terminal.review import remarks
from yolo_gradwatch.views.terminal.table import Column, columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.runs.run import Run
    from yolo_gradwatch.views.parting import Parting


_FAR = 10.0
"""Ratio from which it is in bold; so is one below its inverse."""

_APART, _MOST = 1.1, 3
"""For quantities other than the norm: least factor, and most modules per quantity, to show."""


def side_by_side(
    runs: Sequence[Run],
    reports: Sequence[Report],
    table: pd.DataFrame,
    names: dict[str, list[str]],
    width: int | None,
) -> list[Text]:
    """Return the paragraphs that compare runs with the first of them.

    Args:
        runs: Two or more runs.
        reports: Report of each run.
        table: Result of `compare.compare`.
        names: Module -> its class in each run; these are shown.
        width: Cells per line; None for no limit, as in a file.
    """
    heads = [
        line
        for letter, report in zip(ascii_uppercase, reports, strict=False)
        for line in (
            Text.assemble((f"{letter}  ", "bold"), report.path),
            Text(f"   {report.verdict}"),
            *remarks(report),
        )
    ]
    pairs = [
        part
        for i in range(1, len(runs))
        for part in (
            _shares((runs[0], runs[i]), (reports[0], reports[i]), names, i),
            _pair(table, names, i, width),
            _farthest(table, names, i, width),
            _steps(parting(runs[0], runs[i]), ascii_uppercase[i]),
        )
    ]
    return [Text("\n").join(heads), *pairs, _options(runs, width), _findings_apart(reports)]


def _shares(
    runs: tuple[Run, Run], reports: tuple[Report, Report], names: dict[str, list[str]], other: int
) -> Text:
    """Say where a run is farthest from the first, at the same share of their trainings."""
    letter = ascii_uppercase[other]
    kinds = {name: [kinds[0], kinds[other]] for name, kinds in names.items()}
    lines = [Text(f"  {line}") for line in shares(beside(runs, reports, kinds, letter))]
    title = Text(f"{letter} relative to A, at the same share of training", "bold")
    return Text("\n").join([title, *lines]) if lines else Text()


def _options(runs: Sequence[Run], width: int | None) -> Text:
    """Tabulate the options that differ; empty if there are none."""
    found = differences(runs)
    if not found:
        return Text()
    values = zip(*([str(value) for value in one.by_run] for one in found), strict=True)
    named = Column("option", [one.name for one in found], is_left=True)
    table = [
        named,
        *(Column(x, own, is_left=True) for x, own in zip(ascii_uppercase, values, strict=False)),
    ]
    wide = sum(max(map(cell_len, (c.heading, *c.cells))) for c in table) + 2 * len(runs)
    text = columns(table, width)
    if width is not None and wide > width:
        text = Text("\n").join([Text(f"  {line}") for line in options_apart(runs)])
    return Text("\n").join([Text("Options that differ", "bold"), text])


def _steps(found: Parting, letter: str) -> Text:
    """Say from which step a run differs from the first."""
    lines = [Text(f"  {sentence}") for sentence in sentences(found, letter)]
    return Text("\n").join([Text(f"{letter} compared with A, step by step", "bold"), *lines])


def options_apart(runs: Sequence[Run]) -> list[str]:
    """Return the options that differ, each with its value in every run."""
    return [f"{one.name}: {_by_letter(one.by_run)}" for one in differences(runs)]


def _by_letter(values: Iterable[object]) -> str:
    return ", ".join(
        f"{letter} {value}" for letter, value in zip(ascii_uppercase, values, strict=False)
    )


def _pair(table: pd.DataFrame, names: dict[str, list[str]], other: int, width: int | None) -> Text:
    """Tabulate the norms of the first run and another one, a line per module."""
    text = columns(pair_columns(table, names, other), width, wraps=True)
    return Text("\n").join([Text(pair_title(other), "bold"), text])


def pair_title(other: int) -> str:
    """Return the title of `pair_columns`."""
    what = "in the first, middle and last tenth of each run"
    return f"Gradient norm, {ascii_uppercase[other]} relative to A, {what}"


def pair_columns(table: pd.DataFrame, names: dict[str, list[str]], other: int) -> list[Column]:
    """Return the norms of the first run and of another one, a row per module of either.

    Args:
        table: Result of `compare.compare`.
        names: Module -> its class in each run; these are shown.
        other: Index of the other run, from 0.
    """
    shown = {name: kinds for name, kinds in names.items() if kinds[0] or kinds[other]}

    def cells(what: str, run: int, part: str) -> list[str]:
        rows = table[(table["run"] == run) & (table["part"] == part)]
        values = dict(zip(rows["module"], rows[what], strict=True))
        return [norm_text(values.get(name)) for name in shown]

    letter = ascii_uppercase[other]
    classes = [_classes(kinds[0], kinds[other], letter) for kinds in shown.values()]
    ratios = [_ratios(p, cells("ratio", other + 1, p)) for p in PARTS]
    ratios[0] = ratios[0]._replace(heading=f"{letter}/A {ratios[0].heading}")
    return [
        Column("module", list(shown), is_left=True),
        Column("A last", cells("norm", 1, "last")),
        Column(f"{letter} last", cells("norm", other + 1, "last")),
        *ratios,
        Column("class", classes, is_left=True),
    ]


def _ratios(part: str, cells: list[str]) -> Column:
    """Return a column of ratios, with those far from 1 in bold."""
    values = (float(cell) if cell != "-" else 1.0 for cell in cells)
    styles = ["" if 1 / _FAR < value < _FAR else "bold" for value in values]
    return Column(part, cells, styles)


def _farthest(
    table: pd.DataFrame, names: dict[str, list[str]], other: int, width: int | None
) -> Text:
    """Tabulate the modules that differ most in quantities other than the norm; empty if none do."""
    found = farthest_columns(table, names, other)
    title = Text(farthest_title(other), "bold")
    return Text("\n").join([title, columns(found, width)]) if found else Text()


def farthest_title(other: int) -> str:
    """Return the title of `farthest_columns`."""
    return f"Largest differences besides the norm, {ascii_uppercase[other]} relative to A"


def farthest_columns(table: pd.DataFrame, names: dict[str, list[str]], other: int) -> list[Column]:
    """Return the modules that differ most in each compared quantity; no columns if none do.

    Args: As for `pair_columns`.
    """
    letter, keys = ascii_uppercase[other], ["module", "part"]
    a, b = (table[table["run"] == run].set_index(keys) for run in (1, other + 1))
    rows: list[tuple[str, ...]] = []
    for quantity in QUANTITIES:
        if not quantity.is_compared:
            continue
        both = pd.DataFrame({"a": a[quantity.name], "b": b[quantity.name]}).dropna()
        # A zero has no ratio: an update is 0 wherever a warm-up begins, or nothing learns.
        both = both[both.index.isin(names, level="module") & (both > 0).all(axis="columns")]
        both["ratio"] = ratio(both["b"].to_numpy(), both["a"].to_numpy())
        both["far"] = np.abs(np.log(both["ratio"].to_numpy()))
        far = both[both["far"] > math.log(_APART)].sort_values(
            "far", ascending=False, kind="stable"
        )
        far = far[~far.index.get_level_values("module").duplicated()].head(_MOST)
        heading = quantity.over_run[-1].heading
        rows += [
            (heading, *where, *(norm_text(value) for value in values))
            for where, *values in far[["a", "b", "ratio"]].itertuples(name=None)
        ]
    heads = ("quantity", *keys, "A", letter, f"{letter}/A")
    return [
        Column(head, cells, is_left=i < 3)
        for i, (head, cells) in enumerate(zip(heads, zip(*rows, strict=True), strict=False))
    ]


def _classes(one: str, other: str, letter: str) -> str:
    if not one:
        return f"{other}, only in {letter}"
    if not other:
        return f"{one}, only in A"
    return one if one == other else f"{one} in A, {other} in {letter}"


def _findings_apart(reports: Sequence[Report]) -> Text:
    """List the findings that only one run has."""
    lines = [
        Text.assemble((f"  only in {letter}:", "bold"), finding_text(finding))
        for letter, finding in found_apart(reports)
    ]
    return Text("\n").join([Text(count_apart(reports), "bold"), *lines])


def count_apart(reports: Sequence[Report]) -> str:
    """Count the findings that only one run has, and those that several have."""
    having = Counter(
        key for report in reports for key in {(f.rule, f.module) for f in report.findings}
    )
    if all(count == len(reports) for count in having.values()):
        every = "both" if len(reports) == 2 else "all"
        return f"Findings: the same in {every} runs" if having else "Findings: none"
    shared = sum(count > 1 for count in having.values())
    same = f", {shared} in more than one run" if shared else ""
    return f"Findings in one run only: {len(found_apart(reports))}{same}"


def found_apart(reports: Sequence[Report]) -> list[tuple[str, Finding]]:
    """Return the findings that only one run has, each with the letter of the run."""
    return [
        (letter, finding)
        for letter, report in zip(ascii_uppercase, reports, strict=False)
        for finding in only_in(report, [other for other in reports if other is not report])
    ]
