"""The text of a comparison: runs beside the first of them."""

from __future__ import annotations

from collections import Counter
from string import ascii_uppercase
from typing import TYPE_CHECKING

from rich.text import Text

from yolo_gradwatch.views.compare import PARTS, differences, only_in
from yolo_gradwatch.views.terminal.glyphs import norm_text
from yolo_gradwatch.views.terminal.lines import finding_text
from yolo_gradwatch.views.terminal.review import remarks
from yolo_gradwatch.views.terminal.table import Column, columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.runs.run import Run


def side_by_side(
    runs: Sequence[Run],
    reports: Sequence[Report],
    table: pd.DataFrame,
    names: dict[str, list[str]],
    width: int | None,
) -> list[Text]:
    """Runs beside the first of them.

    Args:
        runs: Two or more.
        reports: Theirs.
        table: What `compare.compare` gives.
        names: The modules to show, with their class in each run.
        width: Cells of a line; None for as many as are needed, as in a file.
    """
    heads = [
        line
        for letter, report in zip(ascii_uppercase, reports, strict=False)
        for line in (Text(f"{letter}  {report.path}: {report.verdict}"), *remarks(report))
    ]
    differing = [Text(f"   {one.name}: {_by_letter(one.by_run)}") for one in differences(runs)]
    pairs = [_pair(table, names, i, width) for i in range(1, len(runs))]
    return [Text("\n").join([*heads, *differing]), *pairs, _findings_apart(reports)]


def _by_letter(values: Iterable[object]) -> str:
    return ", ".join(
        f"{letter} {value}" for letter, value in zip(ascii_uppercase, values, strict=False)
    )


def _pair(table: pd.DataFrame, names: dict[str, list[str]], other: int, width: int | None) -> Text:
    """The first run and another one, a line a module that one of them has."""
    shown = {name: kinds for name, kinds in names.items() if kinds[0] or kinds[other]}

    def cells(what: str, run: int, part: str) -> list[str]:
        rows = table[(table["run"] == run) & (table["part"] == part)]
        values = dict(zip(rows["module"], rows[what], strict=True))
        return [norm_text(values.get(name)) for name in shown]

    letter = ascii_uppercase[other]
    classes = [_classes(kinds[0], kinds[other], letter) for kinds in shown.values()]
    ratios = [Column(f"{letter}/A {p}", cells("ratio", other + 1, p)) for p in PARTS]
    text = columns(
        [
            Column("module", list(shown), is_left=True),
            Column("A last", cells("norm", 1, "last")),
            Column(f"{letter} last", cells("norm", other + 1, "last")),
            *ratios,
            Column("class", classes, is_left=True),
        ],
        width,
    )
    what = "first, middle and last tenth of the steps of each run"
    return Text("\n").join([Text(f"Gradient norm, {letter} beside A: {what}", "bold"), text])


def _classes(one: str, other: str, letter: str) -> str:
    if not one:
        return f"{other}, only in {letter}"
    if not other:
        return f"{one}, only in A"
    return one if one == other else f"{one} in A, {other} in {letter}"


def _findings_apart(reports: Sequence[Report]) -> Text:
    """The findings that only one run has."""
    lines = [
        Text.assemble((f"  only in {ascii_uppercase[i]}:", "bold"), finding_text(finding))
        for i, report in enumerate(reports)
        for finding in only_in(report, [other for other in reports if other is not report])
    ]
    having = Counter(
        key for report in reports for key in {(f.rule, f.module) for f in report.findings}
    )
    shared = sum(count > 1 for count in having.values())
    same = f", {shared} in more than one run" if shared else ""
    heading = Text(f"Findings: {len(lines)} in one run only{same}", "bold")
    return Text("\n").join([heading, *lines])
