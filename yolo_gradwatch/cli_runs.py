"""What the commands that read runs share: which run, how judged, in which form it is shown."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.text import Text

from yolo_gradwatch import console
from yolo_gradwatch.usage import printing, refuse, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pandas as pd

    from yolo_gradwatch.report import Report
    from yolo_gradwatch.run import Run
    from yolo_gradwatch.thresholds import Thresholds

Pattern = Annotated[
    str, typer.Option(metavar="PATTERN", help="Single modules, as in 'model.2.*' or '*.conv'.")
]
Csv = Annotated[bool, typer.Option("--csv", help="The modules as CSV on standard output.")]
Json = Annotated[bool, typer.Option("--json", help="Everything as JSON on standard output.")]


def found(path: Path) -> Path:
    """The folder of a run; one that was chosen is told."""
    from yolo_gradwatch.find import find_run

    folder = find_run(path)
    if folder not in {path, path.parent}:
        tell(f"newest watched run in {path}: {folder}")
    return folder


def judged(folder: Path, choose: Callable[[Thresholds], Thresholds]) -> tuple[Run, Report]:
    """A run and its findings, under its own limits or those that ``choose`` makes of them."""
    from yolo_gradwatch.run import load_run

    run = load_run(folder)
    limits = choose(run.thresholds)
    changed = [
        f"{name} {value:g} (in the training {getattr(run.thresholds, name):g})"
        for name, value in asdict(limits).items()
        if value != getattr(run.thresholds, name)
    ]
    if changed:
        tell(f"re-evaluated with {', '.join(changed)}")
    return run, run.report(limits)


def matching(table: pd.DataFrame, pattern: str) -> pd.DataFrame:
    """The rows of the modules that match, if there are any."""
    from yolo_gradwatch import summary

    found = summary.matching(table, pattern)
    if found.empty:
        refuse(f"--module: no module matches {pattern!r}; names are as in model.4.cv1.conv")
    return found


def width() -> int | None:
    """Cells of a line of the terminal; None where there is no terminal."""
    out = console.plain_console()
    return out.width if out.is_terminal else None


def show(parts: Sequence[Text]) -> None:
    """Print paragraphs with an empty line between them."""
    out = console.plain_console()
    shown = [part for part in parts if part]
    with printing():
        for i, part in enumerate(shown):
            space = Text("\n") if i + 1 < len(shown) else Text()
            out.print(console.fitted(part, out).append_text(space), soft_wrap=True)


def outcome(report: Report) -> dict[str, object]:
    """A report as JSON has it, without its findings."""
    return {
        "run": str(report.run),
        "status": report.status,
        "verdict": report.verdict,
        "healthy": report.healthy,
        "steps": report.steps,
        "unjudged": report.unjudged,
        "remarks": report.remarks,
    }


def records(table: pd.DataFrame) -> list[dict[str, object]]:
    """The rows as JSON has them: null where there is no finite number."""
    finite = table.replace([math.inf, -math.inf], math.nan).astype("object")
    return cast("list[dict[str, object]]", finite.where(finite.notna(), None).to_dict("records"))


def write_csv(table: pd.DataFrame, reports: Sequence[Report]) -> None:
    """The table alone on standard output; what was left out of it is told elsewhere."""
    for report in reports:
        for remark in report.remarks:
            tell(remark)
    # By default pandas ends lines as the system does, and so does the stream once more.
    _write(table.to_csv(index=False, lineterminator="\n"))


def write_json(content: dict[str, object]) -> None:
    """A table of names and values alone on standard output."""
    _write(json.dumps(content, indent=1, allow_nan=False) + "\n")


def _write(text: str) -> None:
    with printing():
        sys.stdout.write(text)
