"""Self-contained HTML page with a table of runs."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from yolo_gradwatch.runs.schema import PICTURE_FILE
from yolo_gradwatch.views.html.frame import framed, write_page
from yolo_gradwatch.views.runs import counts, metric, name_of, remarks, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd

    from yolo_gradwatch.runs.find import Tree
    from yolo_gradwatch.views.runs import Shown

_TEXTS = ("verdict", "finding", "status", "optimizer")
"""Columns of text, aligned to the left; all others are numbers."""

_COLUMNS = {
    "verdict": "verdict",
    "finding": "first finding",
    "status": "status",
    "epochs": "epochs",
    "score": "score",
    "loss": "loss",
    "steps": "steps",
    "clipped": "clipped",
    "optimizer": "optimizer",
    "lr0": "lr0",
}


def write(whole: pd.DataFrame, table: pd.DataFrame, tree: Tree, above: Path, path: Path) -> None:
    """Write the page of the runs below a folder, atomically replacing an earlier one.

    Args:
        whole: All runs, as returned by `load_runs`.
        table: Runs to show, in their order.
        tree: Everything that was found below the folder.
        above: The folder.
        path: File to write; the links on the page are relative to it.

    Raises:
        OSError: The page cannot be written.
    """
    write_page(path, page(whole, table, tree, above, path))


def page(whole: pd.DataFrame, table: pd.DataFrame, tree: Tree, above: Path, path: Path) -> str:
    """Render the page; for the arguments see `write`."""
    said, verdicts = counts(whole, above)
    name = escape(said)
    return framed(
        "runs.html",
        name,
        ("sort.js", "runs.js"),
        style="runs.css",
        heading=name,
        verdict=escape(verdicts),
        table="\n".join(_table(table, above, path)),
        notes="\n".join(f"<li>{note}</li>" for note in _notes(whole, tree, above)),
    )


def _table(table: pd.DataFrame, above: Path, path: Path) -> Iterator[str]:
    """Yield head and rows; each cell carries its heading for narrow screens."""
    headings = {**_COLUMNS, "score": metric(table)}
    heads = {"run": "run", **headings}.items()
    yield "<thead><tr>"
    for name, heading in heads:
        kind = ' class="text"' if name in (*_TEXTS, "run") else ""
        yield f'<th scope="col"{kind}><button>{escape(heading)}</button></th>'
    yield "</tr></thead><tbody>"
    for row, run, written in zip(shown(table, above), table["run"], table["written"], strict=True):
        yield f'<tr class="{row.verdict.replace(" ", "-")} {row.severity or ""}">'
        yield _run_cell(row, Path(run), path, written.isoformat(timespec="minutes"))
        yield from (_cell(row, name, heading) for name, heading in headings.items())
        yield "</tr>"
    yield "</tbody>"


def _run_cell(row: Shown, run: Path, path: Path, written: str) -> str:
    """Render the name of a run, with links to its page or folder, and to its picture."""
    picture = run / PICTURE_FILE
    link = f' <a class="picture" href="{_link(picture, path)}">picture</a>'
    title = f"last window written {written}"
    return (
        f'<th scope="row"><a href="{_link(_home(run), path)}" title="{escape(title)}">'
        f"{escape(row.name)}</a>{link if picture.is_file() else ''}</th>"
    )


def _home(run: Path) -> Path:
    """Return the page in a run's folder; the folder if there is none."""
    try:
        pages = sorted(run.glob("*.html"))
    except OSError:
        return run
    return pages[0] if pages else run


def _link(target: Path, path: Path) -> str:
    """Return a relative link from the page at ``path``."""
    goal, here = os.path.abspath(target), os.path.dirname(os.path.abspath(path))  # noqa: PTH100, PTH120  # as a browser resolves it
    try:
        relative = Path(os.path.relpath(goal, here)).as_posix()
    except ValueError:  # on another drive of Windows
        return escape(Path(goal).as_uri())
    return escape(PurePosixPath("/", relative).as_uri().removeprefix("file:///"))


def _cell(row: Shown, name: str, heading: str) -> str:
    text = getattr(row, name)
    kind = f"{name} text" if name in _TEXTS else name
    label = f' data-label="{escape(heading)}"' if text else ""
    return f'<td class="{kind}"{label}>{escape(text)}</td>'


def _notes(table: pd.DataFrame, tree: Tree, above: Path) -> Iterator[str]:
    """Yield remarks on single runs, unwatched trainings, and folders that cannot be read."""
    for said, names in remarks(table, above):
        yield f"{_names(names)}: {escape(said)}"
    for what, folders in {"Not watched": tree.unwatched, "Cannot be read": tree.closed}.items():
        if folders:
            yield f"{what}: {_names([name_of(one, above) for one in folders])}"


def _names(names: Sequence[str]) -> str:
    """List names; more than three are folded."""
    listed = ", ".join(f"<b>{escape(name)}</b>" for name in names)
    if len(names) <= 3:
        return listed
    return f"<details><summary>{len(names):,} runs</summary>{listed}</details>"
