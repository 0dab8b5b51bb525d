"""Reads the findings that a training reported from its table of alerts alone."""

from __future__ import annotations

import math
import re
from codecs import BOM_UTF8
from typing import TYPE_CHECKING, Literal, NamedTuple, cast, get_args

from yolo_gradwatch.diagnose.finding import Episode, Finding, Severity
from yolo_gradwatch.runs.checks import checked_header, wrong_cell, wrong_length
from yolo_gradwatch.runs.repair import whole_lines
from yolo_gradwatch.runs.schema import FormatError, cells

if TYPE_CHECKING:
    from pathlib import Path

_NEEDED = ("finding", "event", "step", "severity", "rule", "module")
_COUNT = re.compile("[1-9][0-9]{0,17}")

Row = dict[str, str]
Lack = Literal["", "torn", "damaged"]


class Reported(NamedTuple):
    """Contents of a table of alerts.

    Attributes:
        findings: Their last reported state, in the order in which they began.
        remarks: Sentences on the parts of the table that cannot be used.
        is_whole: Whether the whole table was usable; if not, findings may be missing.
    """

    findings: tuple[Finding, ...] = ()
    remarks: tuple[str, ...] = ()
    is_whole: bool = True


def read(path: Path) -> Reported:
    """Return the findings in a table of alerts, up to its first unusable line."""
    rows: list[Row] = []
    try:
        content = path.read_bytes().removeprefix(BOM_UTF8)
        end = whole_lines(content)
        header, *lines = content[:end].split(b"\n")[:-1] or [b""]
        names = checked_header(path, header, _NEEDED)
        for number, line in enumerate(lines, 2):
            rows.append(_row(path, number, names, line))
    except OSError as error:
        return Reported(remarks=(f"{path.name}: {error.strerror}",), is_whole=False)
    except FormatError as error:
        return Reported(_findings(rows), (f"{path.name}: {error.args[1]}",), is_whole=False)
    torn = (f"{path.name} ends in an incomplete line",) if content[end:] else ()
    return Reported(_findings(rows), torn, is_whole=not torn)


def _row(path: Path, number: int, names: tuple[str, ...], line: bytes) -> Row:
    """Return the cells of a line by column name."""
    row = cells(line)
    if len(row) != len(names):
        raise wrong_length(path, number, len(row), len(names))
    found = dict(zip(names, row, strict=True))
    known = {"severity": get_args(Severity), "event": ("start", "worse", "cause", "end")}
    for name in ("finding", "step", *known):
        text = found[name]
        if text not in known[name] if name in known else not _COUNT.fullmatch(text):
            raise wrong_cell(path, number, name, text)
    return found


def _findings(rows: list[Row]) -> tuple[Finding, ...]:
    """Return the findings in order: beginning from each one's first row, the rest from the last."""
    first: dict[int, Row] = {}
    newest: dict[int, Row] = {}
    for row in rows:
        first.setdefault(int(row["finding"]), row)
        newest[int(row["finding"])] = row
    return tuple(_finding(number, first[number], newest[number]) for number in sorted(first))


def _finding(number: int, first: Row, newest: Row) -> Finding:
    since, reported = first.get("since", ""), first.get("reported", "")
    return Finding(
        number=number,
        rule=newest["rule"],
        severity=cast("Severity", newest["severity"]),
        module=newest["module"],
        modules=(newest["module"],),
        episodes=(
            Episode(
                epoch=int(epoch) if _COUNT.fullmatch(epoch := first.get("epoch", "")) else 0,
                step=int(since) if _COUNT.fullmatch(since) else int(first["step"]),
                step_end=int(newest["step"]) if newest["event"] == "end" else None,
                reported=int(reported) if _COUNT.fullmatch(reported) else int(first["step"]),
                value=_number(newest.get("value", "")),
            ),
        ),
        limit=_number(newest.get("limit", "")),
        message=newest.get("message", ""),
    )


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
