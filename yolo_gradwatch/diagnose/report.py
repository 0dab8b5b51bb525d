"""The outcome of a run as one value, and its text."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from yolo_gradwatch.diagnose.html import report_html
from yolo_gradwatch.diagnose.phrases import counted, significant
from yolo_gradwatch.diagnose.record import finding_record, plain
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.clipping import CLIP_NORM
from yolo_gradwatch.plain import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from yolo_gradwatch.diagnose.finding import Finding, Severity
    from yolo_gradwatch.measure.clipping import EpochClipping

Status = Literal["running", "finished", "stopped", "failed", "interrupted"]
"""How a training ended, as its file records."""

ELSEWHERE = "elsewhere"
"""Status of a report in a process other than rank 0 of its training."""

_FEW_STEPS = (
    "train longer, or lower nbs if it is above the batch size: an optimizer step takes nbs images, "
    "64 unless set"
)
"""Why a finished training had few steps or none, and what to do."""

_STEPLESS = {
    ELSEWHERE: "every rank has the same gradients, so only rank 0 watches them and writes files",
    "running": "the training has not reached its first optimizer step yet",
    "finished": _FEW_STEPS,
}
"""Why a run with this status has no optimizer step, and what to do."""

LEAST_STEPS = 5
"""Applied steps below which no finding does not mean healthy: `vanishing` needs as many.

It is the slowest of the rules on single blocks; dead and exploding blocks need 3.
"""

_ENDED_EARLY = "the training or GradWatch ended before the first optimizer step"

USUAL_CLIPPING = 300.0
"""Maximum factor by which clipping shrinks the gradient in the median epoch of a healthy training.
Recorded: 143; 4,370 in the first ten steps of a pose model. Drowned by one loss item: 25,000."""

_STATUS = {"running": "still running", "failed": "training or GradWatch failed"}

_CUT_OFF = {"failed": "the training or GradWatch failed", "killed": "the training was killed"}
"""Why no finding does not mean healthy, for a run with this status."""


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """What was found in a run, so far or to its end.

    Attributes:
        run: The run's folder; ``.`` if the status is ``elsewhere``.
        status: ``running``, ``finished``, ``stopped`` (by a scheduler, with ``SystemExit(0)``),
            ``failed`` or ``interrupted``; ``killed`` in a review of files without an end whose
            process is gone; ``elsewhere`` in a process that only trains, because rank 0 has the
            report.
        steps: Number of captured optimizer steps.
        modules: Number of watched modules.
        findings: Findings in the order in which they began, including notices.
        epochs: Clipping and AMP of each epoch.
        clip: Total norm above which the trainer clips.
        unjudged: Rules that need more windows than there were.
        thresholds: Limits under which the run was judged.
        remarks: What was not measured, or is missing from the run's files, in sentences.
        interval: Optimizer steps from one captured step to the next.
    """

    run: Path
    status: str
    steps: int
    modules: int
    findings: tuple[Finding, ...]
    epochs: tuple[EpochClipping, ...]
    clip: float = CLIP_NORM
    unjudged: tuple[str, ...] = ()
    thresholds: Thresholds = field(default_factory=Thresholds)
    remarks: tuple[str, ...] = ()
    interval: int = 1

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """The findings that are more than notices."""
        return tuple(f for f in self.findings if f.severity != "notice")

    @property
    def healthy(self) -> bool:
        """Whether nothing but notices was found, which is also true if nothing was watched.

        So a script that torchrun starts on every rank can exit with an error if it is False: only
        rank 0 has findings.
        """
        return not self.alarms

    @property
    def is_too_short(self) -> bool:
        """Whether there is no alarm only because hardly anything was watched."""
        return self.healthy and self.applied < LEAST_STEPS

    @property
    def is_judged(self) -> bool:
        """Whether no alarm means healthy: enough was watched, and the training did not fail."""
        return self.applied > 0 and not self.is_too_short and self.status not in _CUT_OFF

    @property
    def severity(self) -> Severity | None:
        """``critical`` if unhealthy, ``warning`` without a verdict, None if healthy."""
        if self.alarms:
            return "critical"
        return None if self.is_judged else "warning"

    @property
    def applied(self) -> int:
        """Captured optimizer steps that AMP did not skip."""
        return self.steps - sum(epoch.skipped for epoch in self.epochs)

    @property
    def path(self) -> str:
        """The run's folder, printable in a terminal."""
        return str(printable(str(self.run)))

    @property
    def name(self) -> str:
        """The last two parts of the run's folder, for titles."""
        return str(printable("/".join(self.run.resolve().parts[-2:])))

    @property
    def verdict(self) -> str:
        """The outcome in one line."""
        if self.status == ELSEWHERE:
            return "no verdict in this process, because rank 0 of the training reports"
        if not self.steps:
            return "no verdict, because no optimizer step was watched"
        status = "" if self.status == "finished" else _STATUS.get(self.status, self.status)
        ended = f"; {status}" if status else ""
        if self.is_too_short:
            return f"no verdict, because only {_few(self)}{ended}"
        steps, modules = counted(self.steps, _step(self.interval)), counted(self.modules, "module")
        if self.healthy:
            found = "no alarm" if self.findings else "nothing found"
            if self.status in _CUT_OFF:
                why = _CUT_OFF[self.status]
                return f"no verdict, because {why}; {found} in {steps} ({modules})"
            rules = counted(len(self.unjudged), "rule")
            short = f"; too short to judge {rules}" if self.unjudged else ""
            loose = " under looser limits than the defaults" if self.thresholds.laxer() else ""
            return f"healthy{loose}, {found} in {steps} ({modules}){ended}{short}"
        by_severity = Counter(f.severity for f in self.alarms)
        counts = ", ".join(
            f"{by_severity[s]} {s}" for s in ("critical", "warning") if by_severity[s]
        )
        first = self.alarms[0]
        return (
            f"unhealthy, {counts}; "
            f"first finding: {first.rule} in {first.module} at step {first.step:,} "
            f"({steps}, {modules}{ended})"
        )

    def __repr__(self) -> str:
        return f"<Report {self.run}: {self.verdict}>"

    def __str__(self) -> str:
        return "\n".join(
            [f"GradWatch: {self.verdict}", *map(finding_line, self.findings), *self.facts()]
        )

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook cell shows."""
        return report_html(self)

    def facts(self) -> list[str]:
        """Return lines on what could not be judged, and on clipping and AMP."""
        remarks = [f"  {remark}" for remark in self.remarks]
        if not self.steps:
            return [*remarks, f"  {_STEPLESS.get(self.status, _ENDED_EARLY)}"]
        short = [f"  too short to judge: {', '.join(self.unjudged)}"] if self.unjudged else []
        is_all = self.interval == 1 and self.applied == self.steps
        if self.is_too_short and is_all and self.status == "finished":
            short = [f"  {_FEW_STEPS}", *short]
        looser = _looser(self.thresholds)
        return [*remarks, *_captured(self.interval), *short, *looser, *_gradient(self)]

    def to_dict(self) -> dict[str, object]:
        """Return the outcome for JSON: plain types, and None for non-finite numbers."""
        return {
            "run": str(self.run),
            "status": self.status,
            "verdict": self.verdict,
            "healthy": self.healthy,
            "judged": self.is_judged,
            "steps": self.steps,
            "unjudged": list(self.unjudged),
            "remarks": list(self.remarks),
            "findings": [finding_record(finding) for finding in self.findings],
            "epochs": [plain(asdict(epoch)) for epoch in self.epochs],
        }


def finding_line(finding: Finding) -> str:
    """Return a finding in full, with when its newest episode was reported and ended."""
    return f"  {finding.severity} {finding.rule}: {finding.account}"


def _step(interval: int, noun: str = "step") -> str:
    """Return the noun for what is counted, which says if only some steps are captured."""
    return noun if interval == 1 else "captured step"


def _few(report: Report) -> str:
    """Say that there were too few steps to judge."""
    are = "was" if report.steps == 1 else "were"
    watched = f"{counted(report.steps, _step(report.interval, 'optimizer step'))} {are} watched"
    skipped = report.steps - report.applied
    return f"{watched}, {skipped:,} of them skipped by AMP" if skipped else watched


def _captured(interval: int) -> list[str]:
    """Say that step counts cover only captured steps, if that is so."""
    if interval == 1:
        return []
    few = f"1 in {interval:,} optimizer steps was captured"
    return [f"  {few}; counts and shares refer to those"]


def _looser(thresholds: Thresholds) -> list[str]:
    """List the limits that find less than the defaults."""
    looser = thresholds.laxer().items()
    limits = ", ".join(f"{name} {own:g} (default {usual:g})" for name, (own, usual) in looser)
    return [f"  judged with looser limits: {limits}"] if limits else []


def _gradient(report: Report) -> list[str]:
    """Return the total gradient norm, how it was clipped, and which blocks own it."""
    epochs, noun = report.epochs, _step(report.interval)
    steps = sum(epoch.steps for epoch in epochs)
    if not steps:  # killed in its first epoch
        return []
    clipped = sum(epoch.clipped for epoch in epochs)
    skipped = sum(epoch.skipped for epoch in epochs)
    medians = [e.norm_median for e in epochs if e.norm_median is not None]
    ratios = [e.clip_ratio for e in epochs if e.clip_ratio is not None]
    norm = f"norm {significant(np.median(medians), 3)} in the median epoch, " if medians else ""
    factor = f"a factor of {significant(np.median(ratios), 2)}" if ratios else ""
    by = f", by {factor} in the median epoch" if ratios else ""
    normal = _usual(ratios) if report.healthy else ""
    line = (
        f"  gradient of the whole model: {norm}clipped at {report.clip:g} on "
        f"{clipped / steps:.0%} of the {noun}s{by}{normal}, AMP skipped {counted(skipped, noun)}"
    )
    owners = ", ".join(f"{name} {share:.0%}" for name, share in _owners(epochs).items())
    return [line, f"  largest shares of the gradient: {owners}"] if owners else [line]


def _usual(ratios: Sequence[float]) -> str:
    """Say in brackets whether healthy trainings show the median epoch's factor."""
    if ratios and np.median(ratios) > USUAL_CLIPPING:
        return f" (healthy runs: at most {USUAL_CLIPPING:g})"
    return " (normal for YOLO)"


def _owners(epochs: Sequence[EpochClipping]) -> dict[str, float]:
    """Return the blocks that own most of the squared norm, averaged over the epochs' steps."""
    shares: dict[str, float] = defaultdict(float)
    for epoch in epochs:
        for name, share in epoch.owners.items():
            shares[name] += share * epoch.steps
    steps = sum(epoch.steps for epoch in epochs if epoch.owners)
    largest = sorted(shares.items(), key=lambda item: -item[1])[:3]
    return {name: share / steps for name, share in largest}
