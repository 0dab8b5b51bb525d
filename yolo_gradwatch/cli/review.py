"""Command ``review``: one run, finished or still running, from its files."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from yolo_gradwatch.cli.options import (
    Csv,
    FailOn,
    Json,
    Pattern,
    alarm_words,
    chosen_limits,
    epoch_span,
    found,
    judged,
    limits,
    matching,
    rule_words,
    taking,
)
from yolo_gradwatch.cli.output import (
    INTERRUPTED,
    check_format,
    check_plotly,
    check_target,
    leave,
    records,
    refuse,
    show,
    width,
    write_csv,
    write_file,
    write_json,
)
from yolo_gradwatch.diagnose.record import finding_record
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.runs.schema import DEPTH_FILE, FLOW_FILE, PICTURE_FILE
from yolo_gradwatch.views.terminal.lines import end_report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.runs.run import Run

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="A run's folder or its gradwatch.csv; in a parent folder, the newest watched run.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class _Narrowed:
    """Selection of what to show of a run.

    Attributes:
        pattern: Pattern of module names; "" for all.
        rules: Rules whose findings and modules are shown; all if empty.
        top: Number of modules farthest from normal; None for all.
        span: First and last epoch; None for all.
        single: Show all modules instead of blocks.
    """

    pattern: str
    rules: tuple[str, ...]
    top: int | None
    span: tuple[int, int] | None
    single: bool = False

    @property
    def is_by_blocks(self) -> bool:
        """Whether to show blocks instead of single modules."""
        return not (self.pattern or self.rules or self.top or self.single)

    @property
    def is_whole(self) -> bool:
        """Whether to show the overview, without any selection."""
        return self.is_by_blocks and not self.span


@taking(limits())
def review(  # noqa: PLR0913, PLR0917  # each is an option of the command
    run: Folder,
    module: Pattern = "",
    rule: Annotated[
        str,
        typer.Option(
            metavar="WORDS", help="Only modules with findings of these rules, kinds or severities."
        ),
    ] = "",
    epochs: Annotated[str, typer.Option(metavar="A:B", help="Only epochs A to B, inclusive.")] = "",
    top: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Only the N modules farthest from normal."),
    ] = None,
    csv: Csv = False,
    json: Json = False,
    fail_on: FailOn = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Live report of a run that another process trains."),
    ] = False,
    plot: Annotated[
        bool,
        typer.Option("--plot", help=f"Draw {PICTURE_FILE} and {DEPTH_FILE} into the run's folder."),
    ] = False,
    modules: Annotated[
        bool,
        typer.Option("--modules", help="Show all modules instead of blocks, also with --plot."),
    ] = False,
    flow: Annotated[
        bool,
        typer.Option("--flow", help="Show the newest traced batch; --epochs selects older ones."),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with an interactive heat map."),
    ] = None,
    thresholds: Annotated[
        Path | None,
        typer.Option(help="TOML file with other limits, one NAME = VALUE per line."),
    ] = None,
    **limits: float | None,
) -> None:
    """Review a watched run from its files: what went wrong, where, when, and what to try.

    Needs neither a GPU nor the data. Use --module, --rule, --top and --epochs to narrow it down.

    Setting a limit such as --vanishing re-evaluates all findings.
    """
    check_format(csv=csv, json=json)
    if flow and (csv or json):
        refuse(f"--flow prints a table only; the numbers are in {FLOW_FILE}")
    if html is not None:
        _check_page(html)
    words = alarm_words("--fail-on", fail_on)
    shown = _Narrowed(module, rule_words("--rule", rule), top, epoch_span(epochs), modules)
    choose = partial(chosen_limits, thresholds, limits)
    folder = _followed(run, choose, on_stderr=csv or json) if follow else found(run)
    loaded, report = judged(folder, choose)
    findings = _findings(loaded, report, shown)
    table = _table(loaded, findings, shown)
    if csv:
        write_csv(table, [report])
    elif json:
        write_json(_as_json(loaded, report, findings, table, shown))
    elif flow:
        show([_flow(loaded, shown)])
    elif follow and shown.is_whole:
        show([end_report(report)])
    else:
        show(_paragraphs(loaded, report, findings, table, shown))
    if plot:
        _draw(loaded, report, modules=modules)
    if html is not None:
        _write_page(loaded, report, html)
    leave(report, words)


def _followed(path: Path, choose: Callable[[Thresholds], Thresholds], *, on_stderr: bool) -> Path:
    from yolo_gradwatch.runs.find import find_run
    from yolo_gradwatch.views.terminal.follow import follow

    try:
        return follow(path, choose, on_stderr=on_stderr)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # the reader has closed the pipe
        return find_run(path)


def _findings(run: Run, report: Report, shown: _Narrowed) -> list[Finding]:
    """Return the findings of the selected rules in the selected epochs."""
    from yolo_gradwatch.views import summary

    findings = list(report.findings)
    if shown.rules:
        findings = summary.chosen_by(findings, shown.rules)
    return summary.active_in(findings, run.grid, shown.span) if shown.span else findings


def _table(run: Run, findings: Sequence[Finding], shown: _Narrowed) -> pd.DataFrame:
    """Return the summary of the selected modules."""
    from yolo_gradwatch.views import summary

    table = summary.summary(run.grid, run.layout, findings, shown.span)
    epochs = run.grid.epoch
    if shown.span and not ((epochs >= shown.span[0]) & (epochs <= shown.span[1])).any():
        last = epochs.max(initial=0)
        refuse(f"--epochs: no optimizer step in these epochs; the run has 1 to {last}")
    if shown.pattern:
        table = matching(table, shown.pattern)
    if shown.rules:
        table = table[table["module"].isin(summary.concerned(findings))]
    return summary.farthest(table, shown.top) if shown.top else table


def _paragraphs(
    run: Run, report: Report, findings: Sequence[Finding], table: pd.DataFrame, shown: _Narrowed
) -> Sequence[Text]:
    """Return the overview of the run, its blocks in some epochs, or the selected modules."""
    from yolo_gradwatch.views.summary import of_blocks
    from yolo_gradwatch.views.terminal.review import headline, overview, single_modules

    if shown.is_whole:
        return overview(run, report, table, width())
    if table.empty:
        return [headline(run, report, findings), Text("No module has such a finding.")]
    rows = of_blocks(table, run.layout) if shown.is_by_blocks else table
    return single_modules(run, report, findings, rows, width())


def _flow(run: Run, shown: _Narrowed) -> Text:
    """Return the newest trace in the selected epochs, limited to the selected modules."""
    from yolo_gradwatch.runs import traces
    from yolo_gradwatch.views.terminal.flow import flow_text

    table = run.flow  # reading it checks the file
    flow = traces.newest(run.folder / FLOW_FILE, shown.span)
    steps = table["step"].unique().tolist()
    if flow is None:
        known = f"only steps {', '.join(f'{one:,}' for one in steps)} were" if steps else ""
        refuse(f"--flow: no such batch was traced, {known or f'there is no {FLOW_FILE}'}")
    rows = table[table["step"] == flow.step].reset_index(drop=True)
    calls = [flow.calls[place] for place in matching(rows, shown.pattern or "*").index]
    return flow_text(flow, calls, width(), steps)


def _as_json(
    run: Run, report: Report, findings: Sequence[Finding], table: pd.DataFrame, shown: _Narrowed
) -> dict[str, object]:
    low, high = shown.span or (1, sys.maxsize)
    meta = asdict(run.meta)
    epochs = tuple(epoch for epoch in report.epochs if low <= epoch.epoch <= high)
    return {
        **replace(report, epochs=epochs).to_dict(),
        "findings": [finding_record(finding) for finding in findings],
        "modules": records(table),
        "meta": {name: meta[name] for name in ("versions", "options", "events")},
    }


def _draw(run: Run, report: Report, *, modules: bool) -> None:
    from yolo_gradwatch.views.heatmap import heatmap
    from yolo_gradwatch.views.picture import draw_depth
    from yolo_gradwatch.views.png import figure as png

    path = run.folder / PICTURE_FILE
    write_file(path, lambda: png.write(heatmap(run, report, modules=modules), report, path))
    if len(run.flow):
        write_file(run.folder / DEPTH_FILE, lambda: draw_depth(run, report))


def _check_page(path: Path) -> None:
    """Refuse a page that cannot be written before any other work is done."""
    check_target("--html", path, example="page.html")
    check_plotly()


def _write_page(run: Run, report: Report, path: Path) -> None:
    from yolo_gradwatch.views.html import page

    write_file(path, lambda: page.write(run, report, path))
