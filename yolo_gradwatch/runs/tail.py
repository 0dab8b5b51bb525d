"""Follows a run's files as they grow, up to the last whole window."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from yolo_gradwatch.measure.windows import windows_of
from yolo_gradwatch.runs import checks, tables, traces
from yolo_gradwatch.runs.losses import with_losses
from yolo_gradwatch.runs.meta import read_meta
from yolo_gradwatch.runs.repair import whole_windows
from yolo_gradwatch.runs.run import last_said
from yolo_gradwatch.runs.schema import (
    FLOW_FILE,
    LOSSES_FILE,
    META_FILE,
    WINDOW_NEEDED,
    WINDOWS_FILE,
    FormatError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.trace import Flow
    from yolo_gradwatch.measure.windows import Window
    from yolo_gradwatch.runs.meta import Meta, RunOptions


@dataclass(frozen=True, slots=True)
class Look:
    """Result of one look at the files.

    Attributes:
        is_new: Whether a run begins here: the first look, or other files than before.
        meta: The content of ``gradwatch.json``.
        windows: Windows added since the last look, with their loss items.
        flows: Batches traced since the last look, up to the last of these windows.
        is_killed: Whether the process of the training is gone, without an end in the files.
    """

    is_new: bool
    meta: Meta
    windows: tuple[Window, ...]
    flows: tuple[Flow, ...] = ()
    is_killed: bool = False

    @property
    def is_over(self) -> bool:
        """Whether the training has ended."""
        return self.is_killed or self.meta.status != "running"

    def by_epoch(self) -> list[Look]:
        """Split this look by the epochs of its windows; return it as one part if there are none."""
        groups = [tuple(group) for _, group in groupby(self.windows, lambda window: window.epoch)]
        parts, flows = [], list(self.flows)
        for windows in groups or [()]:
            last = windows[-1].step_last if windows else 0
            own = tuple(flow for flow in flows if flow.step <= last)
            flows = flows[len(own) :]
            parts.append(replace(self, windows=windows, flows=own))
        return parts


class _Known(NamedTuple):
    """What identifies the run being followed."""

    layout: Layout
    thresholds: Thresholds
    options: RunOptions

    def continues(self, before: _Known) -> bool:
        """Return whether this is the same run, which may have gained thawed layers."""
        is_same = (self.thresholds, self.options) == (before.thresholds, before.options)
        has_all = set(before.layout.modules) <= set(self.layout.modules)
        return is_same and has_all and self.layout.blocks == before.layout.blocks


class Tail:
    """Reads what a training has added to its files.

    It reads new bytes up to the end of the last whole window. The line before them is read
    again: if it has changed, another run has been started in the folder.

    Args:
        folder: The run's folder; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / WINDOWS_FILE
        self._run: _Known | None = None
        self._end = 0
        self._line = b""
        self._names: tuple[str, ...] = ()
        self._traced = 0
        self._meta_state: tuple[int, ...] = ()
        self._meta_read: Meta

    def look(self) -> Look | None:
        """Return what is new; None if there is no run yet.

        Raises:
            FormatError: The files cannot be read, by this version or at all.
        """
        fresh = self._fresh()
        if fresh is None:
            return None
        # Read after the table: a training notes an event before the windows that follow it.
        try:
            meta, is_gone = last_said(self._meta)
        except FileNotFoundError:
            return None
        run = _Known(meta.layout, meta.thresholds, meta.options)
        is_new = self._run is None or not run.continues(self._run)
        self._run = run
        if is_new:
            self._end, self._line, self._traced = 0, b"", 0
        look = Look(is_new, meta, (), is_killed=is_gone)
        if is_new or look.is_over:  # it may have grown up to its end
            fresh = self._fresh() or b""
        windows = self._windows(fresh, meta.layout)
        if not windows:
            return look
        last = windows[-1]
        with suppress(FormatError):  # review names what is damaged
            losses, _ = tables.read_losses(self._folder / LOSSES_FILE, last.step_first)
            windows = tuple(with_losses(windows, losses))
        return replace(look, windows=windows, flows=self._flows(last.step_last))

    def _flows(self, last: int) -> tuple[Flow, ...]:
        """Return batches up to a step that were traced since the last look."""
        path = self._folder / FLOW_FILE
        with suppress(FormatError):  # as above
            tables.read_flow(path)
            flows = traces.all_of(path)[self._traced :]
            flows = [flow for flow in flows if flow.step <= last]
            self._traced += len(flows)
            return tuple(flows)
        return ()

    def _meta(self) -> Meta:
        """Return the content of ``gradwatch.json``, parsed again only if it has changed."""
        file = (self._folder / META_FILE).stat()
        state = (file.st_mtime_ns, file.st_size, file.st_ino)
        if state != self._meta_state:
            self._meta_read, self._meta_state = read_meta(self._folder), state
        return self._meta_read

    def _fresh(self) -> bytes | None:
        """Return what follows the last whole window read; None if there is no file."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._end - len(self._line))
                if file.read(len(self._line)) != self._line:
                    self._run, self._end, self._line = None, 0, b""
                    file.seek(0)
                return file.read()
        except FileNotFoundError:
            self._run, self._end, self._line = None, 0, b""
            return None
        except OSError as error:
            what = f"{error.strerror}; is the folder still there?"
            raise FormatError(self._path, what) from None

    def _windows(self, fresh: bytes, layout: Layout) -> tuple[Window, ...]:
        """Return the whole windows at the start of what was read."""
        content = self._line + fresh
        begin = 0 if self._line else content.find(b"\n") + 1
        if begin:
            header = content[: begin - 1]
            self._names = checks.checked_header(self._path, header, WINDOW_NEEDED)
        end = whole_windows(content, layout.modules[-1], self._names)
        if end <= max(begin, len(self._line)):
            return ()
        try:
            table = tables.parse(content[begin:end], self._names)
        except ValueError:
            what = "a line cannot be read; yolo-gradwatch review says which"
            raise FormatError(self._path, what) from None
        known = 1 if self._line else 0
        self._end += end - len(self._line)
        self._line = content[content.rfind(b"\n", 0, end - 1) + 1 : end]
        return tuple(windows_of(tables.grid_of(table[known:], layout)))
