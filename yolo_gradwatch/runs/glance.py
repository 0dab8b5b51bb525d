"""A run at a glance, from its small files and without its table of windows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.report import Report
from yolo_gradwatch.runs import alerts, results
from yolo_gradwatch.runs.meta import MOST_STEPS, read_meta
from yolo_gradwatch.runs.run import SILENT_MINUTES, last_said
from yolo_gradwatch.runs.schema import (
    ALERTS_FILE,
    FORMAT_VERSION,
    META_FILE,
    RUN_FILES,
    WINDOWS_FILE,
    FormatError,
)
from yolo_gradwatch.runs.unfinished import epochs_since

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from yolo_gradwatch.measure.clipping import EpochClipping
    from yolo_gradwatch.runs.meta import Meta
    from yolo_gradwatch.runs.results import Final

Verdict = Literal["unhealthy", "no verdict", "healthy"]

UNKNOWN = "unknown"
"""Status of a run whose ``gradwatch.json`` cannot be read."""


@dataclass(frozen=True, slots=True)
class Glance:
    """Facts about a watched run, whatever state its files are in.

    Attributes:
        report: The report of its training, with findings as last reported; its ``remarks`` say
            which parts of the files cannot be used.
        is_whole: Whether everything needed for a verdict was read, under the current rules.
        epochs_planned: Planned epochs; 0 if unknown.
        optimizer: Its name; "" if unknown.
        lr0: The learning rate at which the schedule starts; None if unknown.
        final: What Ultralytics reports about the newest epoch.
        written: When its newest window was written, in seconds since 1970.
    """

    report: Report
    is_whole: bool
    epochs_planned: int
    optimizer: str
    lr0: float | None
    final: Final
    written: float

    @property
    def verdict(self) -> Verdict:
        """The outcome; ``healthy`` only if enough was watched and read."""
        if self.report.alarms:
            return "unhealthy"
        return "healthy" if self.is_whole and self.report.is_judged else "no verdict"

    @property
    def remarks(self) -> tuple[str, ...]:
        """Parts of the files that cannot be used, and why there is no verdict."""
        is_open = self.report.modules and self.report.healthy and not self.report.is_judged
        why = self.report.verdict.partition(", because ")[2] if is_open else ""
        return (*self.report.remarks, *filter(None, [why]))

    @property
    def clipped(self) -> float | None:
        """Share of the captured steps with a total norm above the clip; None without a step."""
        epochs, steps = self.report.epochs, self.report.steps
        return sum(epoch.clipped for epoch in epochs) / steps if steps else None


def glance(folder: Path) -> Glance:
    """Return what is known about a run; an unreadable file costs a remark, never an error."""
    written = _written(folder)
    meta: Meta | None = None
    try:
        meta, is_killed = known = last_said(partial(_read, folder))
    except (FormatError, OSError) as error:
        is_killed, problems = False, [_problem(error)]
    else:
        problems = [*_remarks(known[0], time.time() - written, is_killed=is_killed)]
    reported = alerts.read(folder / ALERTS_FILE)
    remarks = (*problems, *reported.remarks)
    optimizer, lr0 = _optimizer(meta) if meta else ("", None)
    return Glance(
        report=_report(folder, meta, reported, remarks, is_killed=is_killed),
        is_whole=bool(meta and meta.format_version == FORMAT_VERSION) and reported.is_whole,
        epochs_planned=meta.options.epochs if meta else 0,
        optimizer=optimizer,
        lr0=lr0,
        final=results.final(folder),
        written=written,
    )


def _read(folder: Path) -> Meta:
    """Read the description of a run, and check the counts of its epochs."""
    meta = read_meta(folder)
    names = ("epoch", "steps", "clipped", "skipped", "step_last")
    for number, epoch in enumerate(meta.epochs):
        for name in names:
            if not 0 <= getattr(epoch, name) <= MOST_STEPS:
                place = f"$.epochs[{number}].{name}"
                raise FormatError(folder / META_FILE, f"{place}: impossible", place=place)
    return meta


def _problem(error: FormatError | OSError) -> str:
    """Return why ``gradwatch.json`` cannot be used, without its path."""
    what = error.args[1] if isinstance(error, FormatError) else error.strerror
    return f"{META_FILE}: {what}"


def _written(folder: Path) -> float:
    """Return when the table of windows, or else another file of the run, was written; 0 if none."""
    there = (when for name in (WINDOWS_FILE, *RUN_FILES) if (when := _changed(folder / name)))
    return next(there, 0.0)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _remarks(meta: Meta, seconds: float, *, is_killed: bool) -> Iterator[str]:
    """Yield remarks needed to read the row of a run, with the same words for every run."""
    if meta.status == "running" and not is_killed and seconds >= 60 * SILENT_MINUTES:
        yield (
            f"the run has no end record, and nothing was written for {SILENT_MINUTES} min or more: "
            "was the training killed?"
        )
    if meta.format_version < FORMAT_VERSION:
        yield "watched by an older version: review judges it by the rules of today"
    if looser := ", ".join(meta.thresholds.laxer()):
        yield f"judged under looser limits than the defaults: {looser}"


def _report(
    folder: Path,
    meta: Meta | None,
    reported: alerts.Reported,
    remarks: tuple[str, ...],
    *,
    is_killed: bool,
) -> Report:
    if meta is None:
        return Report(folder, UNKNOWN, 0, 0, reported.findings, (), remarks=remarks)
    epochs = (*meta.epochs, *_unfinished(folder, meta))
    steps, skipped = (sum(getattr(one, name) for one in epochs) for name in ("steps", "skipped"))
    needs = {name: rule.needs(meta.thresholds) for name, rule in RULES.items()}
    return Report(
        run=folder,
        status="killed" if is_killed else meta.status,
        steps=steps,
        modules=len(meta.layout.modules),
        findings=reported.findings,
        epochs=epochs,
        clip=meta.options.clip,
        unjudged=tuple(name for name, windows in needs.items() if windows > steps - skipped),
        thresholds=meta.thresholds,
        remarks=remarks,
        interval=meta.options.interval,
    )


def _unfinished(folder: Path, meta: Meta) -> list[EpochClipping]:
    """Return the epochs in the table of windows that follow the last one noted."""
    known = max((epoch.step_last for epoch in meta.epochs), default=0)
    if meta.epochs and not known:  # older files lack the last step of each epoch
        return []
    return epochs_since(folder / WINDOWS_FILE, meta.layout.modules[-1], known)


def _optimizer(meta: Meta) -> tuple[str, float | None]:
    """Return the optimizer's name, and the learning rate at which its schedule starts."""
    training = {**meta.options.training, **meta.options.fitted}
    known = meta.optimizer
    asked = training.get("optimizer")
    name = known.name if known else str(asked or "")
    rates = [group.lr for group in known.groups if group.lr is not None] if known else []
    if asked == "auto":  # it ignores lr0
        return name, min(rates, default=None)
    rate = training.get("lr0")
    is_rate = isinstance(rate, (int, float)) and not isinstance(rate, bool) and abs(rate) < 1e9
    return name, float(rate) if is_rate else min(rates, default=None)  # type: ignore[arg-type]
