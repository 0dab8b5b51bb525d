"""Keeps the contents of recent optimizer steps, and writes those that a finding asks for."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from yolo_gradwatch.diagnose.diagnosis import first_within
from yolo_gradwatch.runs.outputs import OutputBase

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from yolo_gradwatch.diagnose.finding import FindingChange
    from yolo_gradwatch.measure.arrays import Floats
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.sample import Sample
    from yolo_gradwatch.measure.windows import Window
    from yolo_gradwatch.runs.files import Files
    from yolo_gradwatch.runs.outputs import RunInfo

OWN_FOLDER = "gradwatch"
"""Subfolder of a run's folder for files that are not its main tables."""

FOLDER = f"{OWN_FOLDER}/evidence"

OLD_FOLDER = "gradwatch_evidence"
"""Location of the files in format version 1."""

MOST_FILES = 20
"""Maximum number of evidence files in a run."""

KEPT_STEPS = 64
"""Newest steps kept in full: more than a finding looks back."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Contents of a batch.

    Attributes:
        images: Its image files; of a mosaic, the first one.
        objects: Number of objects in it; None if unknown.
    """

    images: Sequence[str]
    objects: int | None = None


class _Landed(NamedTuple):
    """A step whose numbers have landed: its norms by module, and its batches."""

    sample: Sample
    norms: Floats
    layout: Layout
    batches: Sequence[Batch]


def _total(landed: _Landed) -> float:
    return float(landed.norms[0])


class Evidence(OutputBase):
    """Keeps the newest steps and the highest of a window, and writes those that a finding names.

    Args:
        run: The run's folder.
        files: The tables of the run.
    """

    def __init__(self, run: Path, files: Files) -> None:
        self._run = run
        self._files = files
        self._notes: OrderedDict[int, Sequence[Batch]] = OrderedDict()
        self._landed: OrderedDict[int, _Landed] = OrderedDict()
        self._highest: _Landed | None = None
        self._closed = 0
        self._error: OSError | None = None

    def start(self, run: RunInfo) -> None:
        """Note the modules of the model."""
        self._layout = run.layout

    def note(self, step: int, batches: Sequence[Batch]) -> None:
        """Keep the batches accumulated in a step, before its numbers have landed."""
        self._notes[step] = batches
        _shorten(self._notes)

    def steps(self, samples: Sequence[Sample], norms: Floats) -> None:
        """Keep the numbers of steps as they land."""
        for sample, own in zip(samples, norms, strict=True):
            batches = self._notes.get(sample.step, ())
            self._landed[sample.step] = _Landed(sample, own, self._layout, batches)
        _shorten(self._landed)
        self._highest = max(filter(self._may_be_highest, self._kept()), key=_total, default=None)

    def window(self, window: Window) -> None:
        """Note that a window has closed."""
        self._closed = window.step_last

    def regroup(self, layout: Layout) -> None:
        """Continue with the modules of another layout."""
        self._layout = layout

    def file(self, first: int, last: int) -> str:
        """Return the file on the worst step in a range, within the run's folder; "" if none.

        The file is written if it does not exist yet. There is none if the tables cannot be written
        or have been set aside. `findings` raises any disk error.

        Args:
            first: First step of the range.
            last: Last step of the range.
        """
        if not self._files.is_whole:
            return ""
        if self._error is None and not existing(self._run, first, last):
            try:
                self._write(first, last)
            except OSError as error:
                self._error = error
        return existing(self._run, first, last)

    def findings(self, changes: Sequence[FindingChange]) -> None:
        """See `Output`.

        Raises:
            OSError: A file could not be written while the tables still can; an error that ended
                these too, such as a full disk, is reported once.
        """
        del changes
        if self._error and self._files.is_whole:
            raise self._error

    def _write(self, first: int, last: int) -> None:
        worst = self._worst(first, last)
        if worst is not None and len(_files(self._run)) < MOST_FILES:
            path = self._run / f"{FOLDER}/step-{worst:05}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self._content(worst), indent=1), encoding="utf-8")

    def _worst(self, first: int, last: int) -> int | None:
        """Return the first kept step in a range that is not finite, or else the highest one.

        This is ``first`` itself, unless a window of many steps was found to be unhealthy. Steps
        that AMP skipped count only if it skipped all of them.
        """
        kept = {one.sample.step: one for one in self._kept() if first <= one.sample.step <= last}
        applied = {step: one for step, one in kept.items() if not one.sample.skipped} or kept
        totals = {step: _total(one) for step, one in applied.items()}
        bad = (step for step, total in totals.items() if not math.isfinite(total))
        is_whole = first in kept or (self._highest and self._highest.sample.step in kept)
        highest = max(totals, key=lambda step: totals[step]) if is_whole else None
        return next(bad, highest)

    def _kept(self) -> Iterator[_Landed]:
        """Yield the known steps, in order."""
        yield from [self._highest] if self._highest else []
        yield from self._landed.values()

    def _may_be_highest(self, landed: _Landed) -> bool:
        """Return whether a step belongs to an open window and has an applied, finite gradient."""
        is_open = landed.sample.step > self._closed
        return is_open and not landed.sample.skipped and math.isfinite(_total(landed))

    def _content(self, step: int) -> dict[str, Any]:
        sample, norms, layout, batches = next(
            one for one in self._kept() if one.sample.step == step
        )
        losses = sample.losses[-1].newest if sample.losses else {}
        modules = zip(layout.modules, norms.tolist(), strict=True)
        return {
            "step": step,
            "epoch": sample.epoch,
            "skipped": sample.skipped,
            "scale": sample.scale,
            "learning_rates": list(sample.rates),
            "losses": {name: _plain(value) for name, value in losses.items()},
            "images": [list(batch.images) for batch in batches],
            "objects": [batch.objects for batch in batches],
            "norms": {name: _plain(value) for name, value in modules},
        }


def existing(run: Path, first: int, last: int) -> str:
    """Return the first evidence file on a range of steps, within the run's folder; "" if none.

    A finding begins with a window; its file is named after the worst step of that window.
    """
    return first_within(by_step(run), first, last)


def by_step(run: Path) -> dict[int, str]:
    """Return the evidence files of a run by step, as names within its folder."""
    numbers = {path: path.stem.removeprefix("step-") for path in reversed(_files(run))}
    return {
        int(number): path.relative_to(run).as_posix()
        for path, number in numbers.items()
        if number.isdecimal()
    }


def clear(run: Path) -> None:
    """Remove the files of an earlier run in the same folder, without following links.

    Raises:
        OSError: A file cannot be removed.
    """
    for name in (OWN_FOLDER, FOLDER, OLD_FOLDER):
        if (run / name).is_symlink():
            (run / name).unlink()
    for path in _files(run):
        path.unlink()


def _files(run: Path) -> list[Path]:
    return [file for folder in (FOLDER, OLD_FOLDER) for file in (run / folder).glob("step-*.json")]


def _plain(value: float) -> float | str:
    """Return a number for JSON, with NaN and Inf as text."""
    return value if math.isfinite(value) else str(value)


def _shorten(kept: OrderedDict[int, Any]) -> None:
    while len(kept) > KEPT_STEPS:
        kept.popitem(last=False)
