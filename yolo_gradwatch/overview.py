"""Renders a review on the console: the run, its findings, blocks, epochs or single modules."""

from __future__ import annotations

import math
from collections import Counter
from string import ascii_uppercase
from typing import TYPE_CHECKING

from rich.text import Text

from yolo_gradwatch.arrays import FLOAT32_MAX
from yolo_gradwatch.board import Board
from yolo_gradwatch.columns import Column, columns
from yolo_gradwatch.compare import PARTS, differences, only_in
from yolo_gradwatch.console import STYLES, number, sparkline, told, verdict
from yolo_gradwatch.summary import OVER_RUN, of_blocks
from yolo_gradwatch.windows import windows_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

    from yolo_gradwatch.board import BlockRow
    from yolo_gradwatch.clipping import EpochClipping
    from yolo_gradwatch.finding import Finding
    from yolo_gradwatch.quantities import Quantity
    from yolo_gradwatch.report import Report
    from yolo_gradwatch.review import Run

_TEXTS = ("module", "type", "findings")


def _place(row: Quantity) -> int:
    """Norms come first, then what is counted, then what is taken on a first step only."""
    return 2 if row.moment == "first step" else int(row.is_count)


_HEADINGS = {
    "module": "module",
    "type": "class",
    "parameters": "parameters",
    **{
        column.name: column.heading
        for row, column in sorted(OVER_RUN, key=lambda pair: _place(pair[0]))
    },
    "findings": "findings",
}
_SPARK = 32
_NARROW_SPARK = 12
_EPOCHS = 30  # that many are listed whole; of more, the first and the last ten
_EDGE = 10


def overview(run: Run, report: Report, table: pd.DataFrame, width: int | None) -> list[Text]:
    """A run at a glance.

    Args:
        run: The run.
        report: Its findings.
        table: Its summary.
        width: Cells of a line; None for as many as are needed, as in a file.
    """
    heading = Text("Gradient norm of each block, over the optimizer steps", "bold")
    return [
        headline(run, report, report.findings),
        Text("\n").join(map(Text, report.facts())),
        Text("\n").join([heading, _blocks(run, report, of_blocks(table, run.layout), width)]),
        *epochs_text(report.epochs, width, report.interval),
    ]


def single_modules(
    run: Run, report: Report, findings: Sequence[Finding], table: pd.DataFrame, width: int | None
) -> list[Text]:
    """Some modules of a run, one a line, below the findings that concern them."""
    some = f"{len(table)} of {len(run.layout.modules)} modules"
    heading = Text(f"Gradient norm of {some}, over the optimizer steps", "bold")
    head = Text("\n").join([headline(run, report, findings), *_remarks(report)])
    return [head, Text("\n").join([heading, modules_text(table, width)])]


def headline(run: Run, report: Report, findings: Iterable[Finding]) -> Text:
    """The verdict, where it comes from, and findings in full."""
    source = Text(f"  {report.path}: {source_of(run)}", "dim")
    return Text("\n").join([verdict(report), source, *map(told, findings)])


def _remarks(report: Report) -> list[Text]:
    return [Text(f"  {remark}") for remark in report.remarks]


_EVENTS = {
    "start": "started",
    "resume": "resumed",
    "nan_recovery": "recovered from NaN",
    "oom_restart": "begun again with half the batch",
    "thaw": "joined by layers that thawed",
}


def source_of(run: Run) -> str:
    """How the training ended and restarted, what was trained on what, and with which versions."""
    versions = ", ".join(f"{name} {version}" for name, version in run.meta["versions"].items())
    using = f" ({versions})" if versions else ""
    options = run.meta["options"]["training"]
    model, data = options.get("model"), options.get("data")
    events = [
        f"{_EVENTS.get(e['kind'], e['kind'])} before step {e['step']:,}"
        for e in run.meta["events"][1:]
    ]
    return f"{', '.join([run.status, *events])}, {model} on {data}{using}"


def modules_text(table: pd.DataFrame, width: int | None) -> Text:
    """A table with a line a module."""
    return columns(list(module_columns(table).values()), width)


def module_columns(table: pd.DataFrame) -> dict[str, Column]:
    """The columns of a summary that are shown, by their name in it."""
    return {
        name: Column(heading, _cells(table[name]), is_left=name in _TEXTS)
        for name, heading in _HEADINGS.items()
    }


def epochs_text(
    epochs: Sequence[EpochClipping], width: int | None, interval: int = 1
) -> list[Text]:
    """Clipping and AMP of each epoch; of very many, the first and the last."""
    if not epochs:
        return []
    hidden = len(epochs) - 2 * _EDGE if len(epochs) > _EPOCHS else 0
    shown = [*epochs[:_EDGE], *epochs[-_EDGE:]] if hidden else epochs
    text = columns(
        [
            Column("epoch", [f"{e.epoch}" for e in shown]),
            Column("steps" if interval == 1 else "captured", [f"{e.steps:,}" for e in shown]),
            Column("median", [number(e.norm_median) for e in shown]),
            Column("highest", [number(e.norm_max) for e in shown]),
            Column("clipped", [f"{e.clipped / max(e.steps, 1):.0%}" for e in shown]),
            Column("by a factor of", [number(e.clip_ratio) for e in shown]),
            Column("AMP skipped", [f"{e.skipped:,}" for e in shown]),
            Column("loss scale", ["-" if e.scale is None else f"{e.scale:g}" for e in shown]),
        ],
        width,
    )
    heading = Text("Gradient of the whole model, clipping and AMP of each epoch", "bold")
    more = [Text(f"… {hidden:,} epochs between them; --json has all", "dim")] if hidden else []
    return [Text("\n").join([heading, text, *more])]


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
        for line in (Text(f"{letter}  {report.path}: {report.verdict}"), *_remarks(report))
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
        return [_number(values.get(name)) for name in shown]

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
        Text.assemble((f"  only in {ascii_uppercase[i]}:", "bold"), told(finding))
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


def _blocks(run: Run, report: Report, table: pd.DataFrame, width: int | None) -> Text:
    """A line a block with its history, whose width depends on the line's."""
    board = Board(run.layout, clip=run.clip)
    for window in windows_of(run.grid):
        board.add_window(window)
    board.show(report.findings)
    rows = board.rows()
    whole, blocks = table.iloc[:1], table.iloc[1:]
    if width is None or width >= 100:
        return columns(_block_columns(rows, whole, blocks, _SPARK), width)
    return columns(_block_columns(rows, whole, blocks, _NARROW_SPARK), width)


def _block_columns(
    rows: Sequence[BlockRow], whole: pd.DataFrame, blocks: pd.DataFrame, spark: int
) -> list[Column]:
    norms = [
        Column(name, [*_cells(blocks[f"norm_{name}"]), *_cells(whole[f"norm_{name}"])])
        for name in ("first", "median", "last")
    ]
    styles = [*(STYLES[row.severity] for row in rows), ""]
    return [
        Column("block", [*(row.label for row in rows), "whole model"], is_left=True),
        *norms,
        Column("state", [*(row.state for row in rows), ""], styles, is_left=True),
        Column(
            "history",
            [*(sparkline(row.history, spark) for row in rows), ""],
            ["cyan"] * (len(rows) + 1),
            is_left=True,
        ),
    ]


def _cells(column: pd.Series) -> list[str]:
    """A column of a summary as text; "-" for what there is none of."""
    if column.name in _TEXTS:
        return [str(value) or "-" for value in column]
    if column.dtype.kind == "f":
        return [_number(min(value, FLOAT32_MAX)) for value in column]  # Inf is beyond float32
    return [f"{value:,}" for value in column]


def _number(value: float | None) -> str:
    """A norm, "-" where there is none."""
    return number(None if value is None or math.isnan(value) else float(value))
