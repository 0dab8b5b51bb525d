"""Names and columns of a run's files, and the error for a file that cannot be read."""

from __future__ import annotations

import csv
from codecs import BOM_UTF8
from typing import TYPE_CHECKING

from yolo_gradwatch.measure.quantities import QUANTITIES
from yolo_gradwatch.measure.windows import SHARED

if TYPE_CHECKING:
    from pathlib import Path

FORMAT_VERSION = 2
"""The version written; every version up to it is read."""

WINDOWS_FILE = "gradwatch.csv"
ALERTS_FILE = "gradwatch_alerts.csv"
META_FILE = "gradwatch.json"
CLAIM_FILE = ".gradwatch.claim"
"""Exists while a training begins."""

RUN_FILES = (WINDOWS_FILE, ALERTS_FILE, META_FILE)
"""The files that a run is read from."""

FLOW_FILE = "gradwatch/flow.csv"
"""In a folder of its own, with all the other files that reading a run does not need."""

PICTURE_FILE = "gradwatch.png"

DEPTH_FILE = "gradwatch/flow.png"

COMPARED_FILE, COMPARED_PAGE = "gradwatch-compare.png", "gradwatch-compare.html"
"""Default files of a comparison, in the folder of the other run."""

LOSSES_FILE = "gradwatch/losses.csv"
"""Optional."""

RESTORE = "restore the file from a backup"
"""What to do about a damaged file."""

WINDOW_COLUMNS = (
    *("epoch", "step_first", "step_last", "module", "type", "parameters"),
    *("steps", "skipped", "clipped", *(row.name for row in QUANTITIES)),
)

WINDOW_NEEDED = ("epoch", "step_first", "step_last", "module", "steps", "norm_mean")
"""Required columns of a table of windows; any other may be missing."""

ALERT_NEEDED = ("finding", "event", "step")
"""Required columns of a table of alerts."""

ALERT_COLUMNS = (
    *("finding", "event", "step", "reported", "epoch", "severity", "rule", "module"),
    *("value", "limit", "message", "since"),
)

LOSS_COLUMNS = (
    *("epoch", "step_first", "step_last", "item", "steps", "nonfinite", "zero"),
    *("min", "mean", "max"),
)

LOSS_NEEDED = ("epoch", "step_first", "step_last", "item", "steps", "mean")
"""Required columns of a table of loss items."""

FLOW_COLUMNS = (
    *("epoch", "step", "order", "module", "call", "type", "elements"),
    *("output_rms", "output_max", "output_zero", "output_saturated", "gradient_norm"),
)

FLOW_NEEDED = ("epoch", "step", "order", "module", "call")
"""Required columns of a table of traces."""

FLOW_NUMBERS = FLOW_COLUMNS[-5:]
"""Empty if nothing was measured; ``nan`` if NaN was measured."""

LATER = ("clipped", "reported", "since", *(row.name for row in QUANTITIES if row.since > 1))
"""Columns that format version 1 files lack: their rows have an empty cell there."""

_COUNTED = (
    *(*SHARED, "clipped", *(row.name for row in QUANTITIES if row.is_count)),
    *("parameters", "finding", "step", "reported", "since", "order", "call", "elements"),
)
COUNTS = tuple(name for name in _COUNTED if name not in LATER)
LATER_COUNTS = tuple(name for name in _COUNTED if name in LATER)
TYPES = {
    **dict.fromkeys(("module", "type", "rule", "severity", "event", "item"), "category"),
    **dict.fromkeys(COUNTS, "int64"),
    **dict.fromkeys(LATER_COUNTS, "float64"),  # until they are checked
    **dict.fromkeys((row.name for row in QUANTITIES if not row.is_count), "float32"),
    **dict.fromkeys(("min", "mean", "max", *FLOW_NUMBERS), "float32"),
    **dict.fromkeys(("value", "limit"), "float64"),
}
"""Pandas type of each column."""

ORDINALS = ("epoch", "step_first", "step_last", "steps", "reported", "since", "order", "call")
"""Columns that count from 1."""


class FormatError(ValueError):
    """A file of a run that cannot be read: which, where, and what to do.

    Attributes:
        path: The file, or the folder if it has none.
        line: The first unusable line, from 1; None if the error is not about one line.
        column: The missing column or the one with a wrong cell; "" if it is about none.
        place: The wrong part of a JSON file, such as ``$.layout.modules[3]``; "" elsewhere.
    """

    def __init__(
        self,
        path: str | Path,
        what: str,
        *,
        line: int | None = None,
        column: str = "",
        place: str = "",
    ) -> None:
        super().__init__(path, what)
        self.path = path
        self.line = line
        self.column = column
        self.place = place

    def __str__(self) -> str:
        """Return path and explanation in one sentence."""
        return "{}: {}".format(*self.args)


def header_of(path: Path) -> tuple[str, ...]:
    """Return the column names of a CSV file; empty without a whole header."""
    try:
        with path.open("rb") as file:
            line = file.readline()
    except OSError:
        return ()
    return column_names(line) if line.endswith(b"\n") else ()


def column_names(line: bytes) -> tuple[str, ...]:
    """Return the column names in the first line of a CSV file."""
    return tuple(cells(line.removeprefix(BOM_UTF8).rstrip(b"\r\n")))


def cells(line: bytes) -> list[str]:
    """Return the cells of one line of a CSV file whose cells span no line breaks."""
    text = line.decode("utf-8", "replace")
    try:
        return next(csv.reader([text]), [])
    except csv.Error:  # a character or a length that csv does not accept
        return text.split(",")
