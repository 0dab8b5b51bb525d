"""The files of a run: their names, their columns, and the error for one that cannot be read."""

from __future__ import annotations

import csv
from codecs import BOM_UTF8
from typing import TYPE_CHECKING

from yolo_gradwatch.measure.quantities import QUANTITIES
from yolo_gradwatch.measure.windows import SHARED

if TYPE_CHECKING:
    from pathlib import Path

FORMAT_VERSION = 2
"""What is written; every version up to it is read."""

WINDOWS_FILE = "gradwatch.csv"
ALERTS_FILE = "gradwatch_alerts.csv"
META_FILE = "gradwatch.json"
CLAIM_FILE = ".gradwatch.claim"
"""There while a training begins."""

RUN_FILES = (WINDOWS_FILE, ALERTS_FILE, META_FILE)
"""What a run is read from."""

FLOW_FILE = "gradwatch/flow.csv"
"""In a folder of its own, with everything else that a run can be read without."""

PICTURE_FILE = "gradwatch.png"

DEPTH_FILE = "gradwatch/flow.png"

COMPARED_FILE, COMPARED_PAGE = "gradwatch-compare.png", "gradwatch-compare.html"
"""A comparison, in the folder of the other run, if no file is named."""

LOSSES_FILE = "gradwatch/losses.csv"
"""A run may lack it."""

WINDOW_COLUMNS = (
    *("epoch", "step_first", "step_last", "module", "type", "parameters"),
    *("steps", "skipped", "clipped", *(row.name for row in QUANTITIES)),
)

WINDOW_NEEDED = ("epoch", "step_first", "step_last", "module", "steps", "norm_mean")
"""Columns without which a table of windows says nothing; any other may be missing."""

ALERT_NEEDED = ("finding", "event", "step")
"""The same of a table of alerts."""

ALERT_COLUMNS = (
    *("finding", "event", "step", "reported", "epoch", "severity", "rule", "module"),
    *("value", "limit", "message", "since"),
)

LOSS_COLUMNS = (
    *("epoch", "step_first", "step_last", "item", "steps", "nonfinite", "zero"),
    *("min", "mean", "max"),
)

LOSS_NEEDED = ("epoch", "step_first", "step_last", "item", "steps", "mean")
"""As of a table of windows."""

FLOW_COLUMNS = (
    *("epoch", "step", "order", "module", "call", "type", "elements"),
    *("output_rms", "output_max", "output_zero", "output_saturated", "gradient_norm"),
)

FLOW_NEEDED = ("epoch", "step", "order", "module", "call")
"""The same of a table of traces."""

FLOW_NUMBERS = FLOW_COLUMNS[-5:]
"""Empty where nothing was measured; ``nan`` is the number that was."""

LATER = ("clipped", "reported", "since", *(row.name for row in QUANTITIES if row.since > 1))
"""Columns that files of format version 1 lack: their rows have an empty cell there."""

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
"""What each column holds, as pandas names it."""

ORDINALS = ("epoch", "step_first", "step_last", "steps", "reported", "since", "order", "call")
"""Columns that count from 1."""


class FormatError(ValueError):
    """A file of a run that cannot be read: which, where, and what to do.

    Attributes:
        path: The file, or the folder without one.
        line: The first line that cannot be used, from 1; None if it is not about one line.
        column: Of a table, the one that is missing or whose cell is wrong; "" if it is about none.
        place: In JSON, the part that is wrong, such as ``$.layout.modules[3]``; "" elsewhere.
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
        """All of it in one sentence."""
        return "{}: {}".format(*self.args)


def header_of(path: Path) -> tuple[str, ...]:
    """The names of the columns in a CSV file; none where there is no whole header."""
    try:
        with path.open("rb") as file:
            line = file.readline()
    except OSError:
        return ()
    return column_names(line) if line.endswith(b"\n") else ()


def column_names(line: bytes) -> tuple[str, ...]:
    """The names of the columns in the first line of a CSV file."""
    return tuple(cells(line.removeprefix(BOM_UTF8).rstrip(b"\r\n")))


def cells(line: bytes) -> list[str]:
    """The cells of a line of a CSV file in which no cell goes on in the next line."""
    text = line.decode("utf-8", "replace")
    try:
        return next(csv.reader([text]), [])
    except csv.Error:  # a character or a length that csv does not take
        return text.split(",")
