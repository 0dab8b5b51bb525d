"""How well the rules separate healthy from faulty trainings, compared with other tools.

    python benchmarks/detection.py FOLDER [--runs] [--no-peers] >> benchmarks/RESULTS.md

FOLDER holds recordings (``*.npz``). Each is replayed through the real roll-up and diagnosis.

- *healthy flagged*: healthy recordings with an alarm (a finding above a notice)
- *early*: faulty recordings with an alarm before the fault
- *found*: faulty recordings with a finding of an accepted kind, from the fault's first step on
- *delay*: steps from the fault to the newest step seen when that finding was reported
- *right layer*: of those found, the share whose module contains a parameter that the fault changes
  or reaches; for a fault of the whole net, the finding must name the whole model

Ambiguous recordings do not count. With windows of 2, 5 and 20 steps, a recording is replayed as
part of a long run: its steps are numbered so that the roll-up makes windows of at least that
length, in one epoch. *Rules over parameters* treats each parameter as a module, to show that the
norms per module in the CSV are enough.
"""

from __future__ import annotations

import argparse
import platform
import re
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import recordings
from other_rules import PEERS

from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.diagnose.diagnosis import Diagnosis
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.rollup import WINDOW_SHARE, Rollup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from recordings import Recording

    from yolo_gradwatch.measure.windows import Window

KINDS = ("vanishing", "exploding", "nonfinite", "dead")


class Alarm(NamedTuple):
    """An alarm of a tool.

    Attributes:
        step: Step, counted from 0 as in the labels.
        kind: One of ``KINDS``.
        module: The module it names.
    """

    step: int
    kind: str
    module: str


@dataclass(frozen=True)
class Outcome:
    """Result of a tool on one recording.

    Attributes:
        recording: The recording with its label.
        alarms: Alarms, ordered by step.
    """

    recording: Recording
    alarms: tuple[Alarm, ...]

    @property
    def early(self) -> bool:
        """Whether there is an alarm before the fault."""
        return any(alarm.step < self.recording.meta["onset"] for alarm in self.alarms)

    @property
    def hit(self) -> Alarm | None:
        """The first alarm of an accepted kind from the fault's first step on."""
        meta = self.recording.meta
        found = (a for a in self.alarms if a.step >= meta["onset"] and a.kind in meta["accept"])
        return next(found, None)

    @property
    def is_right(self) -> bool:
        """Whether the hit names a layer that the fault changes or reaches."""
        meta = self.recording.meta
        if self.hit is None:
            return False
        if self.hit.module == WHOLE:
            return not meta["affected"]
        below = [p for p in meta["params"] if f"{p['module']}.".startswith(f"{self.hit.module}.")]
        patterns = [*meta["cause"], *(meta["affected"] or ["."])]
        return any(re.search(pattern, p["name"]) for pattern in patterns for p in below)


def ours(recording: Recording, window: int = 1) -> Iterator[Alarm]:
    """Yield this package's alarms, from its real roll-up and diagnosis.

    Args:
        recording: The recording to replay.
        window: Minimum length of a window in steps.
    """
    offset = 0 if window == 1 else round(window / WINDOW_SHARE)
    rollup = Rollup(recording.members)
    training = {"amp": bool(recording.meta["scaler"])}
    diagnosis = Diagnosis(recording.layout, Thresholds(), training)
    windows: list[tuple[Window, int]] = []
    for sample in recording.samples(offset):
        moved = replace(sample, epoch=1) if offset else sample
        windows += [(one, moved.step) for one in rollup.add([moved])]
    windows += [(one, one.step_last) for one in rollup.close()]
    for one, seen in windows:
        for change in diagnosis.update(one, seen):
            if change.change == "start" and change.finding.severity != "notice":
                kind = RULES[change.finding.rule].kind
                yield Alarm(change.reported - 1 - offset, kind, change.finding.module)


def peer(name: str) -> Callable[[Recording], Iterator[Alarm]]:
    """Return a judge that applies the rules of another tool."""

    def judge(recording: Recording) -> Iterator[Alarm]:
        for alarm in sorted(PEERS[name](recording.meta, recording.arrays)):
            yield Alarm(*alarm)

    return judge


def judged(
    runs: Iterable[Recording], judge: Callable[[Recording], Iterator[Alarm]]
) -> list[Outcome]:
    """Apply a tool to each recording that is not ambiguous."""
    return [Outcome(run, tuple(judge(run))) for run in runs if run.meta["kind"] != "ambiguous"]


def summary(outcomes: list[Outcome]) -> dict[str, str]:
    """Return the figures of a tool as text."""
    healthy = [o for o in outcomes if o.recording.meta["kind"] == "healthy"]
    faulty = [o for o in outcomes if o.recording.meta["kind"] != "healthy"]
    hits = [o for o in faulty if o.hit]
    delays = [o.hit.step - o.recording.meta["onset"] for o in hits if o.hit]
    figures = {
        "healthy flagged": _share(sum(bool(o.alarms) for o in healthy), len(healthy)),
        "early": str(sum(o.early for o in faulty)),
        "found": _share(len(hits), len(faulty)),
        "right layer": _share(sum(o.is_right for o in hits), len(hits)),
        "delay": f"{median(delays):.0f}, max {max(delays)}" if delays else "-",
    }
    for kind in KINDS:
        own = [o for o in faulty if o.recording.meta["kind"] == kind]
        figures[kind] = f"{sum(o.hit is not None for o in own)}/{len(own)}"
    return figures


def _share(part: int, whole: int) -> str:
    return f"{part}/{whole} ({part / whole:.0%})" if whole else "-"


def print_table(rows: dict[str, dict[str, str]]) -> None:
    """Print a Markdown table with a row per tool and a column per figure."""
    names = list(next(iter(rows.values())))
    print(f"| rules | {' | '.join(names)} |")
    print("| --- " * (len(names) + 1) + "|")
    for title, row in rows.items():
        print(f"| {title} | {' | '.join(row.values())} |")


def print_runs(outcomes: list[Outcome]) -> None:
    """Print a line per recording: what was found, when and where; mistakes in capitals."""
    for outcome in outcomes:
        meta, hit = outcome.recording.meta, outcome.hit
        if meta["kind"] == "healthy":
            verdict = "ALARM" if outcome.alarms else "silent"
        elif hit is None:
            verdict = "MISSED"
        else:
            named = "" if outcome.is_right else " WRONG LAYER"
            verdict = f"{hit.kind} in {hit.module} after {hit.step - meta['onset']} steps{named}"
        early = "  EARLY" if outcome.early else ""
        print(f"  {outcome.recording.name:32} {meta['kind']:10} {verdict}{early}")


def main() -> None:
    """Print the figures of a folder of recordings."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="folder of *.npz recordings")
    parser.add_argument("--runs", action="store_true", help="also one line a recording")
    parser.add_argument("--no-peers", action="store_true", help="only the rules of this package")
    options = parser.parse_args()
    paths = sorted(options.folder.glob("*.npz"))
    runs = [recordings.load(path) for path in paths]
    if not runs:
        parser.error(f"{options.folder}: no *.npz recordings")
    ambiguous = sum(run.meta["kind"] == "ambiguous" for run in runs)
    print(
        f"{len(runs)} recordings, {ambiguous} of them ambiguous; Python {platform.python_version()}"
    )
    outcomes = judged(runs, ours)
    rows = {"yolo_gradwatch": summary(outcomes)}
    by_parameter = [recordings.load(path, by_parameter=True) for path in paths]
    rows["rules over parameters"] = summary(judged(by_parameter, ours))
    for window in (2, 5, 20):
        longer = judged(runs, lambda run, window=window: ours(run, window))
        rows[f"windows of {window} steps"] = summary(longer)
    for name in [] if options.no_peers else PEERS:
        rows[name] = summary(judged(runs, peer(name)))
    print_table(rows)
    if options.runs:
        print_runs(outcomes)


if __name__ == "__main__":
    main()
