"""Command ``runs``: all watched runs in a folder, from their small files."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from yolo_gradwatch.cli.options import FailOn, alarm_words
from yolo_gradwatch.cli.output import (
    FINE,
    FOUND,
    INTERRUPTED,
    check_format,
    check_target,
    records,
    refuse,
    show,
    tell,
    tell_unjudged,
    why_failed,
    width,
    write_csv,
    write_file,
    write_json,
)
from yolo_gradwatch.diagnose.vocabulary import hint
from yolo_gradwatch.plain import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from yolo_gradwatch.runs.find import Tree
    from yolo_gradwatch.runs.glance import Glance

_ALSO = {"mAP": "score"}
"""Alias -> column."""

Folder = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        help="A folder with runs in it, at any depth, such as runs/detect or a Ray experiment.",
        show_default=False,
    ),
]


def runs(  # noqa: PLR0913, PLR0917  # each is an option of the command
    folder: Folder,
    unhealthy: Annotated[bool, typer.Option("--unhealthy", help="Unhealthy runs only.")] = False,
    sort: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help="Sort by a column of --csv, or by mAP: largest or worst first, text A to Z. "
            "A leading minus reverses it, as in --sort=-loss.",
            show_default=False,
        ),
    ] = "",
    csv: Annotated[bool, typer.Option("--csv", help="The runs as CSV on standard output.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="The runs as JSON on standard output.")
    ] = False,
    fail_on: FailOn = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a page with one row per run, linked to its folder."
        ),
    ] = None,
) -> None:
    """List all watched runs in a folder, newest first: verdict, first finding, mAP, options.

    Findings are those reported during training; use [bold]review[/bold] to re-evaluate a run. A run
    with damaged or incomplete files has no verdict and fails --fail-on.
    """
    from yolo_gradwatch.runs.many import table

    check_format(csv=csv, json=json)
    if html is not None:
        check_target("--html", html, example="runs.html")
    column, backwards = _column(sort)
    words = alarm_words("--fail-on", fail_on)
    tree, found = _read(folder)
    whole = table(found)
    chosen = _chosen(whole, column, unhealthy=unhealthy, backwards=backwards)
    if csv:
        write_csv(_harmless(chosen), [])
    elif json:
        write_json({"folder": str(folder), "runs": _records(chosen), **_others(tree)})
    else:
        _show(whole, chosen, tree, folder)
    if html is not None:
        _write_page(whole, chosen, tree, folder, html)
    _leave(found, words)


def _column(sort: str) -> tuple[str, bool]:
    """Return the column of ``--sort``, "" for none, and whether its order is reversed."""
    from yolo_gradwatch.runs.many import COLUMNS

    asked = sort.removeprefix("-")
    names = {
        name.casefold(): column for name, column in {**_ALSO, **{n: n for n in COLUMNS}}.items()
    }
    if asked and asked.casefold() not in names:
        near = hint(asked, [*COLUMNS, *_ALSO], f"choose one of {', '.join(COLUMNS)}")
        refuse(f"--sort: there is no column {asked!r}{near}")
    return names.get(asked.casefold(), ""), sort.startswith("-")


def _read(folder: Path) -> tuple[Tree, list[Glance]]:
    """Find the trainings below a folder, and read those that were watched."""
    from yolo_gradwatch.runs.find import tree_of
    from yolo_gradwatch.runs.many import glances
    from yolo_gradwatch.views.terminal.reading import Reading

    with closing(Reading()) as reading:
        try:
            tree = tree_of(folder)
            return tree, glances(tree.runs, reading)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def _chosen(table: pd.DataFrame, column: str, *, unhealthy: bool, backwards: bool) -> pd.DataFrame:
    from yolo_gradwatch.views.runs import ordered

    if unhealthy:
        table = table[table["verdict"] == "unhealthy"]
    return ordered(table, column, backwards=backwards) if column else table


def _harmless(table: pd.DataFrame) -> pd.DataFrame:
    """Remove terminal control characters from the texts of a table."""
    texts = [name for name in map(str, table) if table[name].dtype == object]
    return table.assign(**{name: table[name].map(printable) for name in texts})


def _records(table: pd.DataFrame) -> list[dict[str, object]]:
    """Return the rows for JSON, with times in ISO 8601."""
    times = table["written"].map(lambda time: time.isoformat(timespec="seconds"))
    return records(table.assign(written=times.astype("object")))


def _others(tree: Tree) -> dict[str, object]:
    return {name: [str(one) for one in getattr(tree, name)] for name in ("unwatched", "closed")}


def _show(whole: pd.DataFrame, chosen: pd.DataFrame, tree: Tree, folder: Path) -> None:
    from yolo_gradwatch.views.terminal.runs import runs_text

    show(runs_text(whole, chosen, tree, folder, width()))


def _write_page(
    whole: pd.DataFrame, chosen: pd.DataFrame, tree: Tree, folder: Path, path: Path
) -> None:
    from yolo_gradwatch.views.html import runs as page

    write_file(path, lambda: page.write(whole, chosen, tree, folder, path))


def _leave(found: Sequence[Glance], words: tuple[str, ...]) -> NoReturn:
    """Exit with `FOUND` and a line for each run that fails ``--fail-on``, if any do."""
    failed = {one.report.path: why for one in found if words and (why := _why_failed(one, words))}
    for path, why in failed.items():
        tell(f"--fail-on failed: {path}: {why}")
    if words and not failed:
        for one in found:
            tell_unjudged(one.report, words)
    raise typer.Exit(FOUND if failed else FINE)


def _why_failed(one: Glance, words: tuple[str, ...]) -> str:
    """Explain why a run fails ``--fail-on``; a run that could not be read fails."""
    if one.report.modules:
        found = why_failed(one.report, words)
        return found or ("" if one.is_whole else "; ".join(one.report.remarks))
    return "; ".join(one.report.remarks) or "nothing is known of it"
