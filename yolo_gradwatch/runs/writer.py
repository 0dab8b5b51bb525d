"""Writes a run's files such that reading restores the values exactly."""

from __future__ import annotations

import csv
import io
from contextlib import closing, suppress
from typing import IO, TYPE_CHECKING

import numpy as np

from yolo_gradwatch.measure.quantities import QUANTITIES
from yolo_gradwatch.runs import evidence, losses, traces
from yolo_gradwatch.runs.atomic import replacing
from yolo_gradwatch.runs.meta import encoded, writer_of
from yolo_gradwatch.runs.schema import (
    ALERT_COLUMNS,
    ALERTS_FILE,
    DEPTH_FILE,
    FLOW_COLUMNS,
    FLOW_FILE,
    LOSS_COLUMNS,
    LOSSES_FILE,
    META_FILE,
    PICTURE_FILE,
    WINDOW_COLUMNS,
    WINDOWS_FILE,
    header_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from yolo_gradwatch.diagnose.finding import FindingChange
    from yolo_gradwatch.measure.arrays import Values
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.trace import Flow
    from yolo_gradwatch.measure.windows import Window
    from yolo_gradwatch.runs.meta import Meta
    from yolo_gradwatch.runs.process import Process


class _Table:
    """A CSV file, opened when the first rows arrive and flushed after each block.

    Ultralytics empties the run's folder before it launches the processes of a multi-GPU run, so
    nothing is opened earlier.

    Attributes:
        others: Number of columns that the file has after ours, from a later version.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, append: bool) -> None:
        self._path = path
        self._columns = columns
        self._append = append
        self._file: IO[str] | None = None
        found = header_of(path) if append else ()
        self.others = max(len(found) - len(columns), 0)

    def write(self, rows: Iterable[Sequence[object]]) -> None:
        """Append rows and flush, so that a killed run keeps them."""
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
        self._path.parent.mkdir(exist_ok=True)
        new = not (self._append and self._path.exists() and self._path.stat().st_size)
        file = self._path.open("w" if new else "a", newline="", encoding="utf-8")
        if new:
            file.write(_lines([self._columns]))
        return file


class RunLog:
    """Writes the files of one training into its folder.

    Args:
        folder: The run's folder.
        layout: Layout of the watched model.
        resume: Whether to continue existing files instead of replacing them.
    """

    def __init__(self, folder: Path, layout: Layout, *, resume: bool) -> None:
        self._folder = folder
        self._is_new = not resume
        self._is_described = False
        self._windows = _Table(folder / WINDOWS_FILE, WINDOW_COLUMNS, append=resume)
        self.regroup(layout)
        self._alerts = _Table(folder / ALERTS_FILE, ALERT_COLUMNS, append=resume)
        self._losses = _Table(folder / LOSSES_FILE, LOSS_COLUMNS, append=resume)
        self._flow = _Table(folder / FLOW_FILE, FLOW_COLUMNS, append=resume)

    def start(self) -> None:
        """Create the tables, with their header only."""
        self._windows.write([])
        self._alerts.write([])
        if self._is_new:
            evidence.clear(self._folder)
            for name in (PICTURE_FILE, DEPTH_FILE, LOSSES_FILE, FLOW_FILE):
                with suppress(NotADirectoryError):
                    (self._folder / name).unlink(missing_ok=True)

    def regroup(self, layout: Layout) -> None:
        """Continue with the modules of another layout."""
        fixed = zip(layout.modules, layout.types, layout.parameters, strict=True)
        self._modules = [_lines([cells])[:-1] for cells in fixed]

    def write_window(self, window: Window) -> None:
        """Append one row per module, and one per loss item to their own table.

        Loss items come first, so that a killed training leaves no window without its items.
        """
        if window.losses:
            self._losses.write(losses.rows_of(window))
        clipped = window.clipped if window.clipped >= 0 else ""
        steps = f"{window.epoch},{window.step_first},{window.step_last}"
        counts = f"{window.steps},{window.skipped},{clipped}"
        size = len(self._modules)
        columns = [[steps] * size, self._modules, [counts] * size, *_measured(window)]
        columns += [[""] * size] * self._windows.others
        lines = map(",".join, zip(*columns, strict=True))
        self._windows.write_text("\n".join([*lines, ""]))

    def write_changes(self, changes: Iterable[FindingChange]) -> None:
        """Append one row per change of a finding."""
        self._alerts.write([_alert_row(one) for one in changes])

    def write_flow(self, flow: Flow) -> None:
        """Append one row per call; the first trace creates the file."""
        self._flow.write(traces.rows(flow))

    def write_meta(self, meta: Meta) -> None:
        """Replace ``gradwatch.json`` atomically, so that a reader never sees half of it.

        If a training on another machine has set it aside since, it is replaced where it is now.
        """
        path = self._folder / META_FILE
        if not self.is_in_place(meta.process):
            aside = sorted(self._folder.glob(f"{META_FILE}.old*"))
            path = next((one for one in aside if writer_of(one) == meta.process), path)
        with replacing(path) as draft:
            draft.write_text(encoded(meta), encoding="utf-8")
        self._is_described = True

    def is_in_place(self, process: Process | None) -> bool:
        """Return whether nobody has set the files of this process aside."""
        return not self._is_described or writer_of(self._folder / META_FILE) == process

    def close(self) -> None:
        """Close all tables, even if one fails because the disk is full."""
        with (
            closing(self._flow),
            closing(self._alerts),
            closing(self._losses),
            closing(self._windows),
        ):
            pass


def _lines(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as lines of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _measured(window: Window) -> Iterator[list[str]]:
    """Yield the cells of each quantity; in a window of one step, several are equal."""
    known: dict[bytes, list[str]] = {}
    for row in QUANTITIES:
        values: Values = getattr(window, row.name)
        key = values.tobytes()
        if key not in known:
            known[key] = _cells(values, row.format)
        yield known[key]


def _cells(values: Values, form: str) -> list[str]:
    """Return numbers as text, NaN as an empty cell; nine digits restore a float32 exactly."""
    unknown = np.isnan(values)
    if unknown.all():
        return [""] * len(values)
    cells = [form % value for value in values.tolist()]
    return ["" if cell == "nan" else cell for cell in cells] if unknown.any() else cells


def _alert_row(change: FindingChange) -> tuple[object, ...]:
    finding = change.finding
    return (
        finding.number,
        change.change,
        change.step,
        change.reported,
        change.epoch,
        finding.severity,
        finding.rule,
        finding.module,
        f"{finding.value:.9g}",
        f"{finding.limit:.9g}",
        finding.message,
        finding.episodes[-1].step,
    )
