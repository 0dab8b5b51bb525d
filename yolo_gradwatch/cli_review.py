"""The command that reviews a finished or running training from its files."""

from __future__ import annotations

import inspect
import sys
from dataclasses import asdict, fields, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from yolo_gradwatch import console
from yolo_gradwatch.cli_runs import (
    Csv,
    Json,
    Pattern,
    found,
    judged,
    matching,
    outcome,
    records,
    show,
    width,
    write_csv,
    write_json,
)
from yolo_gradwatch.runlog import PICTURE_FILE, FormatError
from yolo_gradwatch.thresholds import Thresholds
from yolo_gradwatch.usage import (
    FINE,
    FOUND,
    INTERRUPTED,
    FailOn,
    alarm_words,
    limits_of,
    refuse,
    rule_words,
    tell,
    tell_failed,
    tell_unjudged,
    why_failed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from yolo_gradwatch.finding import Finding
    from yolo_gradwatch.report import Report
    from yolo_gradwatch.review import Run

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="A run's folder or its gradwatch.csv; of a folder above, the newest watched run.",
        show_default=False,
    ),
]
LimitsFile = Annotated[
    Path | None,
    typer.Option(help="TOML file with other limits, NAME = VALUE; others are the defaults."),
]


def _with_limits(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each limit of the rules."""
    own = inspect.signature(command, eval_str=True)
    named = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    limits = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                (int if field.type == "int" else float) | None,
                typer.Option(
                    help=f"Default {field.default:g}; see the README.",
                    show_default=False,
                    rich_help_panel="Limits, instead of those of the training",
                ),
            ],
        )
        for field in fields(Thresholds)
    ]
    command.__signature__ = own.replace(parameters=[*named, *limits])  # type: ignore[attr-defined]
    return command


@_with_limits
def review(  # noqa: PLR0913, PLR0917  # each is an option of the command
    run: Folder,
    module: Pattern = "",
    rule: Annotated[
        str, typer.Option(metavar="WORDS", help="Modules that these rules or kinds concern.")
    ] = "",
    epochs: Annotated[
        str, typer.Option(metavar="A:B", help="Epochs A to B only, both included.")
    ] = "",
    top: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="The N modules that are farthest from normal."),
    ] = None,
    csv: Csv = False,
    json: Json = False,
    fail_on: FailOn = "",
    follow: Annotated[
        bool, typer.Option("--follow", help="Live report of a training that runs elsewhere.")
    ] = False,
    plot: Annotated[
        bool, typer.Option("--plot", help=f"Draw {PICTURE_FILE} into the run's folder.")
    ] = False,
    modules: Annotated[
        bool, typer.Option("--modules", help="All modules in the picture, not the blocks.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with an interactive heat map."),
    ] = None,
    thresholds: LimitsFile = None,
    **limits: float | None,
) -> None:
    """Review a watched training from its files: what was wrong, where, since when, what to try.

    Needs neither a GPU nor the data. --module, --rule, --top and --epochs narrow it down.

    Limits such as --vanishing decide every alert anew.
    """
    if csv and json:
        refuse("--csv and --json are two forms of the same; choose one")
    if html is not None:
        _check_page(html)
    words = alarm_words("--fail-on", fail_on)
    rules = rule_words("--rule", rule)
    span = _span(epochs)
    choose = partial(_chosen_limits, thresholds, limits)
    try:
        folder = _followed(run, choose, on_stderr=csv or json) if follow else found(run)
        loaded, report = judged(folder, choose)
    except FormatError as error:
        refuse(error)
    findings = _findings(loaded, report, rules, span)
    table = _table(loaded, findings, module, span, top, by_rule=bool(rules))
    is_whole = not (module or rules or top)
    if csv:
        write_csv(table, [report])
    elif json:
        _print_json(loaded, report, findings, table, span)
    elif follow and is_whole and not span:
        show([console.end_report(report)])
    else:
        _print_review(loaded, report, findings, table, span=span, is_whole=is_whole)
    if plot or modules:
        _draw(loaded, report, modules=modules)
    if html is not None:
        _write_page(loaded, report, html)
    why = why_failed(report, words)
    if why:
        tell_failed(report, why)
    else:
        tell_unjudged(report, words)
    raise typer.Exit(FOUND if why else FINE)


def _followed(path: Path, choose: Callable[[Thresholds], Thresholds], *, on_stderr: bool) -> Path:
    from yolo_gradwatch.follow import follow
    from yolo_gradwatch.review import find_run

    try:
        return follow(path, choose, on_stderr=on_stderr)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # nobody reads it any more
        return find_run(path)


def _chosen_limits(
    file: Path | None, options: dict[str, float | None], own: Thresholds
) -> Thresholds:
    """The limits of the training, or those of a file, but for single ones that are given."""
    base = limits_of(file) if file else own
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    try:
        return replace(base, **given)
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        named = name in given
        option = (name if named else next(iter(given))).replace("_", "-")
        refuse(f"--{option} {rest}" if named else f"--{option}: {error}")


def _span(epochs: str) -> tuple[int, int] | None:
    """First and last epoch, from ``3:8``, ``3:``, ``:8`` or ``5``."""
    if not epochs:
        return None
    first, colon, last = epochs.partition(":")
    try:
        span = int(first or 1), int(last or sys.maxsize) if colon else int(first)
    except ValueError:
        span = (0, 0)
    if not 1 <= span[0] <= span[1]:
        refuse(f"--epochs: {epochs!r} is no range of epochs such as 3:8, 3:, :8 or 5")
    return span


def _findings(
    run: Run, report: Report, rules: Sequence[str], span: tuple[int, int] | None
) -> tuple[Finding, ...]:
    """The findings of some rules, in some epochs."""
    from yolo_gradwatch import summary

    findings = summary.chosen_by(report.findings, rules) if rules else list(report.findings)
    return tuple(summary.standing_in(findings, run.grid, span) if span else findings)


def _table(  # noqa: PLR0913  # one argument an option that narrows it
    run: Run,
    findings: Sequence[Finding],
    pattern: str,
    span: tuple[int, int] | None,
    top: int | None,
    *,
    by_rule: bool,
) -> pd.DataFrame:
    """The summary of the modules that were asked for."""
    from yolo_gradwatch import summary

    table = summary.summary(run.grid, run.layout, findings, span)
    epochs = run.grid.epoch
    if span and not ((epochs >= span[0]) & (epochs <= span[1])).any():
        last = epochs.max(initial=0)
        refuse(f"--epochs: no optimizer step in these epochs; the run has 1 to {last}")
    if pattern:
        table = matching(table, pattern)
    if by_rule:
        table = table[table["module"].isin(summary.concerned(findings))]
    return summary.farthest(table, top) if top else table


def _print_review(  # noqa: PLR0913  # as `_table`
    run: Run,
    report: Report,
    findings: Sequence[Finding],
    table: pd.DataFrame,
    span: tuple[int, int] | None,
    *,
    is_whole: bool,
) -> None:
    """The run at a glance, its blocks in some epochs, or the single modules that were asked for."""
    from yolo_gradwatch.overview import headline, overview, single_modules
    from yolo_gradwatch.summary import of_blocks

    cells = width()
    if is_whole and not span:
        show(overview(run, report, table, cells))
    elif table.empty:
        show([headline(run, report, findings), Text("No module has such a finding.")])
    else:
        shown = of_blocks(table, run.layout) if is_whole else table
        show(single_modules(run, report, findings, shown, cells))


def _print_json(
    run: Run,
    report: Report,
    findings: Sequence[Finding],
    table: pd.DataFrame,
    span: tuple[int, int] | None,
) -> None:
    low, high = span or (1, sys.maxsize)
    write_json(
        {
            **outcome(report),
            "findings": [_as_json(finding) for finding in findings],
            "epochs": [asdict(epoch) for epoch in report.epochs if low <= epoch.epoch <= high],
            "modules": records(table),
            "meta": {name: run.meta[name] for name in ("versions", "options", "events")},
        }
    )


def _as_json(finding: Finding) -> dict[str, object]:
    """A finding with all of its episodes, and what sums these up."""
    summed = {name: getattr(finding, name) for name in ("epoch", "step", "step_end", "value")}
    return {**asdict(finding), **summed}


def _draw(run: Run, report: Report, *, modules: bool) -> None:
    from yolo_gradwatch import plots
    from yolo_gradwatch.heatmap import heatmap

    path = run.folder / PICTURE_FILE
    _written(path, lambda: plots.write(heatmap(run, report, modules=modules), report, path))


def _check_page(path: Path) -> None:
    """Refuse what no page can be written to, before anything else is done."""
    try:
        is_folder, is_other = path.is_dir(), path.exists() and not path.is_file()
    except OSError as error:  # too long a name
        refuse(f"--html: {path}: {error.strerror}")
    if not path.name or is_folder:
        refuse(f"--html: {path} is a folder; name a file, as in page.html")
    if is_other:  # a device or a pipe, which the page would replace
        refuse(f"--html: {path} is no regular file; name a file, as in page.html")
    if find_spec("plotly") is None:
        refuse("--html needs plotly: pip install 'yolo-gradwatch[html]'")


def _write_page(run: Run, report: Report, path: Path) -> None:
    from yolo_gradwatch import page

    _written(path, lambda: page.write(run, report, path))


def _written(path: Path, write: Callable[[], None]) -> None:
    """Write a file; its path goes where no data goes."""
    try:
        write()
    except OSError as error:
        refuse(f"{path}: {error.strerror}; choose another folder, or copy the run to one")
    tell(f"  {path}")
