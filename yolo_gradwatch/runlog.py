"""The files of a run, both directions; what is read back equals what was written bit for bit."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from itertools import chain
from typing import IO, TYPE_CHECKING, Any, get_args

from yolo_gradwatch import evidence
from yolo_gradwatch.records import WHOLE, EpochTelemetry, Event, Layout, News, Status, Window
from yolo_gradwatch.typed import built, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

FORMAT_VERSION = 1

WINDOWS_FILE = "gradwatch.csv"
ALERTS_FILE = "gradwatch_alerts.csv"
META_FILE = "gradwatch.json"
RUN_FILES = (WINDOWS_FILE, ALERTS_FILE, META_FILE)
"""What a run is read from."""

PICTURE_FILE = "gradwatch.png"

COUNT_COLUMNS = ("nonfinite", "zero", "none")
FLOAT_COLUMNS = ("zero_fraction", "norm_min", "norm_mean", "norm_max", "weight_norm")
WINDOW_COLUMNS = (
    "epoch",
    "step_first",
    "step_last",
    "module",
    "type",
    "parameters",
    "steps",
    "skipped",
    *COUNT_COLUMNS,
    *FLOAT_COLUMNS,
)
ALERT_COLUMNS = (
    "finding",
    "event",
    "step",
    "reported",
    "epoch",
    "severity",
    "rule",
    "module",
    "value",
    "limit",
    "message",
)


_NUMBER = "\1"  # in front of each float of a row that is being made; no name has it
_META_PARTS = ("status", "versions", "options", "thresholds", "layout", "events", "epochs")


class FormatError(ValueError):
    """A file of a run that cannot be read: which, where, and what to do."""


class _Table:
    """A CSV file that is opened by its first rows and flushed after each block of them.

    Ultralytics empties the run's folder before it starts the processes of a multi-GPU run, so
    nothing is opened earlier.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, append: bool) -> None:
        self._path = path
        self._columns = columns
        self._append = append
        self._file: IO[str] | None = None

    def write(self, rows: Iterable[Sequence[object]]) -> None:
        """Append rows, so that a killed run keeps them."""
        self.write_text(_lines(rows))

    def write_text(self, text: str) -> None:
        """Append whole lines."""
        if self._file is None:
            self._file = self._open()
        self._file.write(text)
        self._file.flush()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _open(self) -> IO[str]:
        new = not (self._append and self._path.exists() and self._path.stat().st_size)
        file = self._path.open("w" if new else "a", newline="", encoding="utf-8")
        if new:
            file.write(_lines([self._columns]))
        return file


class RunLog:
    """Writes the files of one training into its folder.

    Args:
        folder: The run's folder.
        layout: Of the model that is watched.
        resume: Continue the files that are there instead of replacing them.
    """

    def __init__(self, folder: Path, layout: Layout, *, resume: bool) -> None:
        self._folder = folder
        self._is_new = not resume
        self._pattern = _pattern(layout)
        self._windows = _Table(folder / WINDOWS_FILE, WINDOW_COLUMNS, append=resume)
        self._alerts = _Table(folder / ALERTS_FILE, ALERT_COLUMNS, append=resume)

    def start(self) -> None:
        """Create the tables, with their header only."""
        self._windows.write([])
        self._alerts.write([])
        if self._is_new:
            evidence.clear(self._folder)
            (self._folder / PICTURE_FILE).unlink(missing_ok=True)

    def write_window(self, window: Window) -> None:
        """Append one row a module."""
        shared = (window.epoch, window.step_first, window.step_last, window.steps, window.skipped)
        numbers = [[value] * len(window.zero) for value in shared]
        numbers += [getattr(window, name).tolist() for name in (*COUNT_COLUMNS, *FLOAT_COLUMNS)]
        text = self._pattern % tuple(chain.from_iterable(zip(*numbers, strict=True)))
        self._windows.write_text(text.replace(f"{_NUMBER}nan", "").replace(_NUMBER, ""))

    def write_news(self, news: Iterable[News]) -> None:
        """Append one row for each finding that began, came back, grew worse or ended."""
        self._alerts.write([_alert_row(one) for one in news])

    def write_meta(self, meta: dict[str, Any]) -> None:
        """Replace ``gradwatch.json`` whole, so that a reader never sees half of it."""
        with replacing(self._folder / META_FILE) as draft:
            draft.write_text(json.dumps(meta, indent=1, allow_nan=False), encoding="utf-8")

    def close(self) -> None:
        """Close the tables, each even if a full disk lets the other one fail."""
        with closing(self._alerts), closing(self._windows):
            pass


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft beside a file, which takes its place once it is whole."""
    draft = path.with_name(f".{path.name}.tmp")
    draft.unlink(missing_ok=True)  # a link there would be written through
    try:
        yield draft
        for seconds in (0.01, 0.05, 0.1):
            with suppress(PermissionError):  # Windows: somebody is reading the old one
                draft.replace(path)
                return
            time.sleep(seconds)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def meta_of_layout(layout: Layout) -> dict[str, Any]:
    """The layout as it stands in ``gradwatch.json``."""
    return asdict(layout)


def layout_of_meta(meta: dict[str, Any]) -> Layout:
    """The layout from ``gradwatch.json``.

    Raises:
        ValueError: A part is missing or of another type, the parts do not fit each other, or a name
            would spoil a terminal.
    """
    layout = built(Layout, meta["layout"])
    columns = (layout.modules, layout.types, layout.parameters, layout.block_of)
    if len({len(column) for column in (*columns, layout.roles, layout.kernels)}) > 1:
        raise ValueError("the columns of 'layout' differ in length")
    if len(set(layout.modules)) < len(layout.modules) or WHOLE not in layout.modules[:1]:
        raise ValueError(f"the modules of 'layout' are not {WHOLE!r} and others, each once")
    blocks = {name for name, _ in layout.blocks} or {""}  # a model may be a single layer
    edges = {name for edge in layout.edges for name in edge}
    if len(layout.inside) != len(layout.blocks) or not {layout.head, *edges} <= blocks:
        raise ValueError("the blocks of 'layout' do not fit each other")
    if not {name.rpartition(".")[0] for name in layout.modules} <= {"", *layout.modules}:
        raise ValueError("a module of 'layout' lies in one that is missing")
    for name, block in zip(layout.modules, layout.block_of, strict=True):
        if block and not f"{name}.".startswith(f"{block}."):
            raise ValueError(f"{name!r} of 'layout' does not lie in its block {block!r}")
    names = (*layout.modules, *layout.types, *(text for pair in layout.blocks for text in pair))
    if not all(name.isprintable() for name in names):
        raise ValueError("a name in 'layout' has a character that cannot be printed")
    return layout


def check_outcome(meta: dict[str, Any]) -> None:
    """Raise if the status or the versions are not what a run has.

    Raises:
        ValueError: They are not.
    """
    if meta["status"] not in get_args(Status):
        raise ValueError(f"'status' is {meta['status']!r}")
    if not isinstance(meta["versions"], dict):
        raise ValueError("'versions' is no table of names and values")  # noqa: TRY004


def events_of_meta(meta: dict[str, Any]) -> list[Event]:
    """The points at which the run began anew, by step."""
    return [built(Event, raw) for raw in meta["events"]]


def epochs_of_meta(meta: dict[str, Any]) -> list[EpochTelemetry]:
    """Clipping and AMP of each epoch."""
    return [built(EpochTelemetry, raw) for raw in meta["epochs"]]


def read_meta(folder: Path) -> dict[str, Any]:
    """The content of ``gradwatch.json``.

    Raises:
        FormatError: It is missing, not JSON, or of a later version of this package.
    """
    path = folder / META_FILE
    try:
        meta: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror}; was this training watched?") from None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not JSON ({error}); restore it from a copy") from None
    if not isinstance(meta, dict):
        raise FormatError(f"{path}: not a table of names and values; restore it from a copy")
    version = meta.get("format_version")
    if version != FORMAT_VERSION:
        raise FormatError(
            f"{path}: format version {version!r}, this yolo_gradwatch reads {FORMAT_VERSION}; "
            "update it with pip install -U yolo-gradwatch"
        )
    missing = [name for name in _META_PARTS if name not in meta]
    if missing:
        raise FormatError(f"{path}: {missing[0]!r} is missing; restore it from a copy")
    return {name: part if name == "layout" else printable(part) for name, part in meta.items()}


def whole_windows(content: bytes, last_module: str) -> int:
    """Bytes of a ``gradwatch.csv`` up to the end of its last whole window.

    A killed training may leave a torn line, or a window without all of its rows. A window is whole
    if it ends with the last module of the layout, or as the window before it does: a resumed
    training may watch other modules than its first part.

    Args:
        content: Of the file.
        last_module: Of the layout.
    """
    end = whole_lines(content)
    begin, step, ends_with = end, None, ""
    for line in _lines_backwards(content, end):
        _, first, _, module, *_ = (*cells(line), "", "", "", "")
        if step is None:
            step, ends_with = first, module
        elif first != step:
            return end if ends_with in (module, last_module) else begin
        begin -= len(line)
    return end


def cells(line: bytes) -> list[str]:
    """The cells of a line of a CSV file in which no cell goes on in the next line."""
    text = line.decode("utf-8", "replace")
    try:
        return next(csv.reader([text]), [])
    except csv.Error:  # a character or a length that csv does not take
        return text.split(",")


def whole_lines(content: bytes) -> int:
    """Bytes of a file up to the end of its last whole line."""
    return content.rfind(b"\n") + 1


def _lines_backwards(content: bytes, end: int) -> Iterator[bytes]:
    while end:
        begin = content.rfind(b"\n", 0, end - 1) + 1
        yield content[begin:end]
        end = begin


def set_aside(folder: Path) -> None:
    """Rename the files of a run, so that new ones do not replace them."""
    for name in RUN_FILES:
        if (folder / name).exists():
            (folder / name).replace(folder / f"{name}.old")


def mend(folder: Path, last_module: str) -> None:
    """Cut a torn end off the tables of a run, so that a resumed training can append."""
    ends = {
        WINDOWS_FILE: lambda content: whole_windows(content, last_module),
        ALERTS_FILE: whole_lines,
    }
    for name, end in ends.items():
        path = folder / name
        if path.exists():
            os.truncate(path, end(path.read_bytes()))


def _lines(rows: Iterable[Sequence[object]]) -> str:
    """Rows as lines of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _pattern(layout: Layout) -> str:
    """The rows of a window as a pattern that its numbers are put into, all of them in one call.

    float32 with nine digits reads back bit for bit. Their mark tells a NaN, which becomes an empty
    cell, from a name that contains the word.
    """
    floats = [f"{_NUMBER}%.9g"] * len(FLOAT_COLUMNS)
    fixed = zip(layout.modules, layout.types, layout.parameters, strict=True)
    escaped = ([str(cell).replace("%", "%%") for cell in cells] for cells in fixed)
    rows = [[*["%d"] * 3, *cells, *["%d"] * (2 + len(COUNT_COLUMNS)), *floats] for cells in escaped]
    return _lines(rows)


def _alert_row(news: News) -> tuple[object, ...]:
    finding = news.finding
    return (
        finding.number,
        news.change,
        news.step,
        news.reported,
        news.epoch,
        finding.severity,
        finding.rule,
        finding.module,
        f"{finding.value:.9g}",
        f"{finding.limit:.9g}",
        finding.message,
    )
