"""Output of the commands, and their exit codes."""

from __future__ import annotations

import json
import math
import os
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, NoReturn, TextIO, cast

import typer
from rich.text import Text

from yolo_gradwatch.diagnose.vocabulary import is_named, matches
from yolo_gradwatch.plain import printable
from yolo_gradwatch.views.terminal import console

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    import pandas as pd

    from yolo_gradwatch.diagnose.report import Report

FINE, FOUND, UNUSABLE, STOPPED, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit codes: success; a finding or a failed training; unusable input; --stop-on; Ctrl+C."""

EPILOG = (
    "Exit codes: 0 success; 1 a finding or no verdict under --fail-on, or a training run that "
    "ended with an exception; 2 unusable arguments or input; 3 stopped by --stop-on; 130 Ctrl+C."
)

EPILOG_WITHOUT_STOP = EPILOG.replace(" 3 stopped by --stop-on;", "")
"""For commands without ``--stop-on``."""


def refuse(message: object) -> NoReturn:
    """Print a one-line error and exit with `UNUSABLE`."""
    line = str(message).strip().split("\n", maxsplit=1)[0] or type(message).__name__
    line = printable(Text.from_ansi(line).plain)  # Ultralytics 8.4.0 colours a part
    try:
        out = console.plain_console(on_stderr=True)
        out.print(Text.assemble(("Error: ", "bold red"), line), soft_wrap=True)
    except OSError:
        _let_go()
    raise typer.Exit(UNUSABLE)


def tell(line: str) -> None:
    """Print a line on standard error."""
    with printing():
        typer.echo(printable(line), err=True)


@contextmanager
def printing() -> Iterator[None]:
    """Flush standard output at the end of the block; a closed pipe, as by ``| head -1``, is fine.

    Raises:
        typer.Exit: The output cannot be written, for example because the disk is full.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _let_go()
    except OSError as error:
        _let_go()
        refuse(f"cannot write the output: {error.strerror}")


def _let_go() -> None:
    """Redirect broken standard streams to the null device, or they would fail again at exit."""
    for stream in (sys.stdout, sys.stderr):
        if not _takes(stream):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _takes(stream: TextIO) -> bool:
    try:
        stream.flush()
    except OSError:
        return False
    return True


def why_failed(report: Report, words: Collection[str]) -> str:
    """Explain why a run fails ``--fail-on``; "" if it passes.

    A run without a verdict fails, because too little is known about it.

    Args:
        report: Report of the run.
        words: Rules and kinds of rules; without any, every run passes.
    """
    if words and not (report.steps and (report.alarms or report.is_judged)):
        facts = () if report.steps else map(str.strip, report.facts())
        return "; ".join([report.verdict, *facts])
    failed = [finding for finding in report.alarms if matches(finding, words)]
    return ", ".join(f"{one.rule} in {one.module} at step {one.step:,}" for one in failed)


def tell_unjudged(report: Report, words: Collection[str]) -> None:
    """Print which rules of ``--fail-on`` could not be judged because the run was too short."""
    rules = [rule for rule in report.unjudged if is_named(rule, words)]
    if rules and report.steps:
        named = ", ".join(rules)
        tell(f"{report.path}: --fail-on passed, but the run is too short to judge {named}")


def leave(report: Report, words: Collection[str]) -> NoReturn:
    """Exit a command that has shown a run: with `FOUND` and the reason if it fails --fail-on."""
    why = why_failed(report, words)
    if why:
        tell(f"--fail-on failed: {report.path}: {why}")
        raise typer.Exit(FOUND)
    tell_unjudged(report, words)
    raise typer.Exit(FINE)


def width() -> int | None:
    """Return the width of the terminal in cells; None if there is no terminal."""
    out = console.plain_console()
    return out.width if out.is_terminal else None


def show(parts: Sequence[Text]) -> None:
    """Print paragraphs, separated by empty lines."""
    out = console.plain_console()
    shown = [part for part in parts if part]
    with printing():
        for i, part in enumerate(shown):
            space = Text("\n") if i + 1 < len(shown) else Text()
            out.print(console.fitted(part, out).append_text(space), soft_wrap=True)


def outcome(report: Report) -> dict[str, object]:
    """Return a report for JSON, without its findings and epochs."""
    return {k: v for k, v in report.to_dict().items() if k not in {"findings", "epochs"}}


def records(table: pd.DataFrame) -> list[dict[str, object]]:
    """Return the rows for JSON: null where there is no finite number."""
    finite = table.replace([math.inf, -math.inf], math.nan).astype("object")
    return cast("list[dict[str, object]]", finite.where(finite.notna(), None).to_dict("records"))


def write_csv(table: pd.DataFrame, reports: Sequence[Report]) -> None:
    """Write a table to standard output, and the remarks of reports to standard error."""
    for report in reports:
        for remark in report.remarks:
            tell(remark)
    # By default, pandas writes the system's line ends, which the stream would translate again.
    _write(table.to_csv(index=False, lineterminator="\n"))


def write_json(content: dict[str, object]) -> None:
    """Write an object to standard output as JSON."""
    _write(json.dumps(content, indent=1, allow_nan=False) + "\n")


def _write(text: str) -> None:
    with printing():
        sys.stdout.write(text)


def check_format(*, csv: bool, json: bool) -> None:
    """Refuse two formats at once."""
    if csv and json:
        refuse("--csv and --json cannot be combined")


def check_plotly() -> None:
    """Refuse a page if the library that draws it is not installed."""
    if find_spec("plotly") is None:
        refuse("--html needs plotly: pip install 'yolo-gradwatch[html]'")


def check_target(option: str, path: Path, *, example: str) -> None:
    """Refuse a path that cannot be written as a regular file."""
    try:
        is_folder, is_other = path.is_dir(), path.exists() and not path.is_file()
    except OSError as error:  # too long a name
        refuse(f"{option}: {path}: {error.strerror}")
    if not path.name or is_folder:
        refuse(f"{option}: {path} is a folder; pass a file, as in {example}")
    if is_other:  # a device or a pipe, which the file would replace
        refuse(f"{option}: {path} is not a regular file; pass a file, as in {example}")


def write_file(path: Path, write: Callable[[], object]) -> None:
    """Write a file, and say so on standard error."""
    try:
        write()
    except OSError as error:
        refuse(f"{path}: {error.strerror}; choose another folder, or copy the run to one")
    tell(f"Wrote {path}")
