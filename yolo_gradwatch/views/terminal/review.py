"""Text of a review: the run, its findings, blocks, epochs or single modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from yolo_gradwatch.measure.arrays import FLOAT32_MAX
from yolo_gradwatch.measure.windows import windows_of
from yolo_gradwatch.views.live import Board
from yolo_gradwatch.views.summary import OVER_RUN, of_blocks
from yolo_gradwatch.views.terminal.glyphs import norm_text, number, sparkline, state_style
from yolo_gradwatch.views.terminal.lines import finding_text, verdict
from yolo_gradwatch.views.terminal.table import Column, columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pandas as pd

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.measure.clipping import EpochClipping
    from yolo_gradwatch.measure.quantities import Quantity
    from yolo_gradwatch.runs.run import Run
    from yolo_gradwatch.views.live import BlockRow

_TEXTS = ("module", "type", "findings")


def _place(row: Quantity) -> int:
    """Return the sort key of a quantity: norms, then counts, then those taken once per window."""
    return 2 if row.moment == "once" else int(row.is_count)


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
_EPOCHS = 30  # up to this many epochs are all listed
_EDGE = 10  # of more epochs, this many are listed from either end


def overview(run: Run, report: Report, table: pd.DataFrame, width: int | None) -> list[Text]:
    """Return the overview of a run.

    Args:
        run: The run.
        report: Report with its findings.
        table: Summary of the run.
        width: Cells per line; None for no limit, as in a file.
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
    """Return some modules of a run, one per line, below the findings that affect them."""
    some = f"{len(table)} of {len(run.layout.modules)} modules"
    heading = Text(f"Gradient norm of {some}, over the optimizer steps", "bold")
    head = Text("\n").join([headline(run, report, findings), *remarks(report)])
    return [head, Text("\n").join([heading, modules_text(table, width)])]


def headline(run: Run, report: Report, findings: Iterable[Finding]) -> Text:
    """Return the verdict, its source, and findings in full."""
    source = Text(f"  {report.path}: {source_of(run)}", "dim")
    return Text("\n").join([verdict(report), source, *map(finding_text, findings)])


def remarks(report: Report) -> list[Text]:
    """Return the remarks on the files of a run, such as missing ones."""
    return [Text(f"  {remark}") for remark in report.remarks]


_EVENTS = {
    "start": "started",
    "resume": "resumed",
    "nan_recovery": "recovered from NaN",
    "oom_restart": "restarted with half the batch",
    "thaw": "layers unfrozen",
}


def source_of(run: Run) -> str:
    """Describe a training: status and restarts, model, data, and versions."""
    versions = ", ".join(f"{name} {version}" for name, version in run.meta.versions.items())
    using = f" ({versions})" if versions else ""
    options = run.meta.options.training
    model, data = options.get("model"), options.get("data")
    events = [
        f"{_EVENTS.get(event.kind, event.kind)} before step {event.step:,}"
        for event in run.meta.events[1:]
    ]
    return f"{', '.join([run.status, *events])}, {model} on {data}{using}"


def modules_text(table: pd.DataFrame, width: int | None) -> Text:
    """Return a table with a line per module."""
    return columns(list(module_columns(table).values()), width)


def module_columns(table: pd.DataFrame) -> dict[str, Column]:
    """Name in the summary -> column to show."""
    return {
        name: Column(heading, _cells(table[name]), is_left=name in _TEXTS)
        for name, heading in _HEADINGS.items()
    }


def epochs_text(
    epochs: Sequence[EpochClipping], width: int | None, interval: int = 1
) -> list[Text]:
    """Tabulate clipping and AMP of each epoch; of very many, only the first and the last ones."""
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


def _blocks(run: Run, report: Report, table: pd.DataFrame, width: int | None) -> Text:
    """Tabulate the blocks with their histories, which are shorter in a narrow terminal."""
    board = Board(run.layout, clip=run.meta.options.clip)
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
    styles = [*(state_style(row.state, row.severity) for row in rows), ""]
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
    """Convert a column of a summary to text; "-" for missing values."""
    if column.name in _TEXTS:
        return [str(value) or "-" for value in column]
    if column.dtype.kind == "f":
        return [norm_text(min(value, FLOAT32_MAX)) for value in column]  # Inf is beyond float32
    return [f"{value:,}" for value in column]
