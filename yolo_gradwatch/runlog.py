"""The files of a run, both directions; what is read back equals what was written bit for bit."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import time
from codecs import BOM_UTF8
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from itertools import chain
from typing import IO, TYPE_CHECKING, Any, get_args

from yolo_gradwatch import evidence
from yolo_gradwatch.clipping import EpochClipping
from yolo_gradwatch.event import Event
from yolo_gradwatch.layout import WHOLE, Layout
from yolo_gradwatch.quantities import NAMES, QUANTITIES
from yolo_gradwatch.report import Status
from yolo_gradwatch.typed import built, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from yolo_gradwatch.finding import News
    from yolo_gradwatch.quantities import Quantity
    from yolo_gradwatch.windows import Window

FORMAT_VERSION = 2
"""What is written; every version up to it is read."""

WINDOWS_FILE = "gradwatch.csv"
ALERTS_FILE = "gradwatch_alerts.csv"
META_FILE = "gradwatch.json"
RUN_FILES = (WINDOWS_FILE, ALERTS_FILE, META_FILE)
"""What a run is read from."""

PICTURE_FILE = "gradwatch.png"

WINDOW_COLUMNS = (
    "epoch",
    "step_first",
    "step_last",
    "module",
    "type",
    "parameters",
    "steps",
    "skipped",
    "clipped",
    *(row.name for row in QUANTITIES),
)
WINDOW_NEEDED = ("epoch", "step_first", "step_last", "module", "steps", "norm_mean")
"""Columns without which a table of windows says nothing; any other may be missing."""

ALERT_NEEDED = ("finding", "event", "step")
"""The same of a table of alerts."""

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


ARGUMENTS_FILE = "args.yaml"
_ARGUMENT = re.compile(r"(\w+): (\S.*)")
_MOST_ARGUMENTS = 65_536  # characters

_NUMBER = "\1"  # in front of each float of a row that is being made; no name has it
_META_DEFAULTS: dict[str, Any] = {
    "status": "running",
    "versions": {},
    "options": {"interval": 1, "stop_on": [], "training": {}},
    "thresholds": {},
    "events": [],
    "epochs": [],
}
"""Parts of ``gradwatch.json`` that may be missing."""


class FormatError(ValueError):
    """A file of a run that cannot be read: which, where, and what to do."""


class _Table:
    """A CSV file that is opened by its first rows and flushed after each block of them.

    Ultralytics empties the run's folder before it starts the processes of a multi-GPU run, so
    nothing is opened earlier.

    Attributes:
        others: Columns behind ours that the file has already, from a later version.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, append: bool) -> None:
        self._path = path
        self._columns = columns
        self._append = append
        self._file: IO[str] | None = None
        found = header_of(path) if append else ()
        self.others = max(len(found) - len(columns), 0)

    def write(self, rows: Iterable[Sequence[object]]) -> None:
        """Append rows, so that a killed run keeps them."""
        self.write_text(_lines([*row, *[""] * self.others] for row in rows))

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
        self._windows = _Table(folder / WINDOWS_FILE, WINDOW_COLUMNS, append=resume)
        self.regroup(layout)
        self._alerts = _Table(folder / ALERTS_FILE, ALERT_COLUMNS, append=resume)

    def start(self) -> None:
        """Create the tables, with their header only."""
        self._windows.write([])
        self._alerts.write([])
        if self._is_new:
            evidence.clear(self._folder)
            (self._folder / PICTURE_FILE).unlink(missing_ok=True)

    def regroup(self, layout: Layout) -> None:
        """Go on with the modules of another layout."""
        self._pattern = _pattern(layout, self._windows.others)

    def write_window(self, window: Window) -> None:
        """Append one row a module."""
        clipped = window.clipped if window.clipped >= 0 else ""
        steps = (window.epoch, window.step_first, window.step_last)
        shared = (*steps, window.steps, window.skipped, clipped)
        numbers = [[value] * len(window.zero) for value in shared]
        numbers += [getattr(window, name).tolist() for name in NAMES]
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
    if layout.since and len(layout.since) != len(layout.modules):
        raise ValueError("the columns of 'layout' differ in length")
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


def epochs_of_meta(meta: dict[str, Any]) -> list[EpochClipping]:
    """Clipping and AMP of each epoch."""
    return [built(EpochClipping, raw) for raw in meta["epochs"]]


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
    _check_version(path, meta.get("format_version"))
    if "layout" not in meta:
        raise FormatError(f"{path}: 'layout' is missing; restore it from a copy")
    whole = {**_META_DEFAULTS, **{name: part for name, part in meta.items() if part is not None}}
    if isinstance(whole["options"], dict):
        whole["options"] = {**_META_DEFAULTS["options"], **whole["options"]}
        if meta["format_version"] == 1:
            whole["options"]["training"] = _as_given(folder, whole["options"]["training"])
    return {name: part if name == "layout" else printable(part) for name, part in whole.items()}


def _as_given(folder: Path, training: Any) -> Any:
    """Options of format version 1, which has some as Ultralytics made them, as they are now.

    What the user gave is in Ultralytics' own ``args.yaml`` beside it.
    """
    given = arguments_of(folder)
    if not given or not isinstance(training, dict):
        return training
    fitted = {n: v for n, v in training.items() if n in given and given[n] != v}
    return {**training, **given, "fitted": fitted}


def arguments_of(folder: Path) -> dict[str, Any]:
    """Arguments in Ultralytics' ``args.yaml``, those with a single value; none without the file.

    It is written as a trainer is built, with a line for each name.
    """
    try:
        with (folder / ARGUMENTS_FILE).open(encoding="utf-8", errors="replace") as file:
            lines = file.read(_MOST_ARGUMENTS).splitlines()
    except OSError:
        return {}
    pairs = (_ARGUMENT.fullmatch(line) for line in lines)
    return {found[1]: _scalar(found[2]) for found in pairs if found}


def _scalar(text: str) -> Any:
    """A single value of a YAML file."""
    words = {"null": None, "true": True, "false": False}
    if text in words:
        return words[text]
    for kind in (int, float):
        with suppress(ValueError, OverflowError):
            number = kind(text)
            return number if abs(number) < math.inf else text
    return text.strip("'\"")


def _check_version(path: Path, version: object) -> None:
    """Raise if this package cannot read files of this format version.

    Raises:
        FormatError: It cannot.
    """
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise FormatError(f"{path}: no format version ({version!r}); restore it from a copy")
    if version > FORMAT_VERSION:
        raise FormatError(
            f"{path}: written by a newer yolo_gradwatch (format version {version}, this one reads "
            f"1 to {FORMAT_VERSION}), update: pip install -U yolo-gradwatch"
        )


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


def whole_windows(content: bytes, last_module: str, names: Sequence[str] = ()) -> int:
    """Bytes of a ``gradwatch.csv`` up to the end of its last whole window.

    A killed training may leave a torn line, or a window without all of its rows. A window is whole
    if it ends with the last module of the layout, or as the window before it does: a resumed
    training may watch other modules than its first part.

    Args:
        content: Of the file.
        last_module: Of the layout.
        names: Of the columns; by default those in the first line.
    """
    end = whole_lines(content)
    names = names or column_names(content[: content.find(b"\n") + 1])
    if not {"step_first", "module"} <= set(names):
        return end
    places = names.index("step_first"), names.index("module")
    begin, step, ends_with = end, None, ""
    for line in _lines_backwards(content, end):
        row = cells(line)
        first, module = (row[i] if i < len(row) else "" for i in places)
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
    """Prepare the tables of a run for a resumed training, which appends to them.

    A torn end is cut off, and a table of an earlier version gets the columns that it lacks.
    """
    windows, alerts = folder / WINDOWS_FILE, folder / ALERTS_FILE
    _cut(windows, lambda content: whole_windows(content, last_module))
    _cut(alerts, whole_lines)
    _complete(windows, WINDOW_COLUMNS)
    _complete(alerts, ALERT_COLUMNS)


def _cut(path: Path, end: Callable[[bytes], int]) -> None:
    if path.exists():
        os.truncate(path, end(path.read_bytes()))


def _complete(path: Path, columns: Sequence[str]) -> None:
    """Put these columns first, empty where the table lacks them, and others behind."""
    found = header_of(path)
    wanted = [*columns, *(name for name in found if name not in columns)]
    if not found or list(found) == wanted:
        return
    with (
        path.open(newline="", encoding="utf-8-sig") as old,
        replacing(path) as draft,
        draft.open("w", newline="", encoding="utf-8") as new,
    ):
        table = csv.DictWriter(new, wanted, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(csv.DictReader(old))


def _lines(rows: Iterable[Sequence[object]]) -> str:
    """Rows as lines of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _pattern(layout: Layout, others: int) -> str:
    """The rows of a window as a pattern that its numbers are put into, all of them in one call.

    float32 with nine digits reads back bit for bit. Their mark tells a NaN, which becomes an empty
    cell, from a name that contains the word.

    Args:
        layout: Of the model.
        others: Columns behind ours that the file has already.
    """
    measured = [_cell(row) for row in QUANTITIES]
    empty = [""] * others
    fixed = zip(layout.modules, layout.types, layout.parameters, strict=True)
    escaped = ([str(cell).replace("%", "%%") for cell in cells] for cells in fixed)
    rows = [[*["%d"] * 3, *cells, "%d", "%d", "%s", *measured, *empty] for cells in escaped]
    return _lines(rows)


def _cell(row: Quantity) -> str:
    """The cell of a quantity in such a pattern; empty if nothing measures it."""
    if row.fold is None:
        return ""
    return row.format if row.is_count else f"{_NUMBER}{row.format}"


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
