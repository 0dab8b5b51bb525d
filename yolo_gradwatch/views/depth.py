"""Numbers by depth of the network, at a few traces of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.views.heatmap import COLOURS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.measure.arrays import Floats
    from yolo_gradwatch.runs.run import Run

PANELS = {
    "gradient": "gradient norm that arrives at the output",
    "rms": "RMS of the output",
    "update": "update of the weights, relative to their norm",
}
"""Quantity -> title of its panel, in the order of the panels."""

AFTER = "after"

_FADED = ("#9ecae1", "#4292c6", "#08519c")  # from the first trace to the last


@dataclass(frozen=True, slots=True)
class Curve:
    """Numbers of all B blocks at one trace.

    Attributes:
        step: Optimizer step of the trace.
        role: ``first``, ``middle`` or ``last``, or ``after`` and the rule of the finding before.
        levels: (B,) values of each of `PANELS`: NaN where nothing was measured, Inf for a value
            that is not finite. ``update`` is that of the window around the step, if it has one.
    """

    step: int
    role: str
    levels: Mapping[str, Floats]

    @property
    def is_finding(self) -> bool:
        """Whether the trace followed a finding."""
        return self.role.startswith(AFTER)

    @property
    def label(self) -> str:
        """Step and role, for the legend."""
        return f"step {self.step:,} ({self.role})"


@dataclass(frozen=True, slots=True)
class Depth:
    """The blocks of a model at some traces of a run.

    Attributes:
        blocks: (B,) names, in forward order.
        types: (B,) classes.
        found: Indices of the blocks with an alarm.
        curves: One curve for each trace, by step; none if nothing was traced.
    """

    blocks: tuple[str, ...]
    types: tuple[str, ...]
    found: tuple[int, ...]
    curves: tuple[Curve, ...]

    @property
    def colours(self) -> list[str]:
        """Colour of each curve: the later, the darker; red after a finding."""
        faded = iter(_FADED[-sum(not curve.is_finding for curve in self.curves) :])
        return [COLOURS["critical"] if c.is_finding else next(faded) for c in self.curves]

    @property
    def labels(self) -> list[str]:
        """Name and class of each block."""
        return [f"{name} {kind}" for name, kind in zip(self.blocks, self.types, strict=True)]


def depth(run: Run, report: Report) -> Depth:
    """Return the first, a middle and the last trace of a run, and the one after its worst finding.

    Raises:
        FormatError: A file of the run cannot be read.
    """
    layout = run.layout
    blocks = [name for name, _ in layout.blocks]
    alarms = [f for f in report.findings if f.severity != "notice"]
    block_of = dict(zip(layout.modules, layout.block_of, strict=True))
    concerned = {block_of.get(f.module, "") for f in alarms}
    chosen = sorted(_chosen(run.flow, alarms).items())
    return Depth(
        blocks=tuple(blocks),
        types=tuple(kind for _, kind in layout.blocks),
        found=tuple(b for b, name in enumerate(blocks) if name in concerned),
        curves=tuple(_with_lost([_curve(run, blocks, *one) for one in chosen])),
    )


def _chosen(flow: pd.DataFrame, alarms: Sequence[Finding]) -> dict[int, str]:
    """Choose the traces to show: step -> role."""
    steps = np.unique(flow["step"]).tolist()
    worst = min(alarms, key=lambda f: (f.severity != "critical", f.number), default=None)
    after = [step for step in steps if worst and step > worst.episodes[0].reported][:1]
    others = [step for step in steps if step not in after]
    chosen = dict.fromkeys(after, f"{AFTER} {worst.rule}" if worst else "")
    if others:
        chosen |= {others[len(others) // 2]: "middle", others[-1]: "last", others[0]: "first"}
    return chosen


def _curve(run: Run, blocks: Sequence[str], step: int, role: str) -> Curve:
    calls = run.flow[(run.flow["step"] == step) & (run.flow["call"] == 1)]
    found = calls.set_index("module").reindex(list(blocks))
    rms = found["output_rms"].to_numpy(np.float64)
    is_spoiled = np.isnan(rms) & (found["elements"].to_numpy(np.float64) > 0)
    return Curve(
        step=step,
        role=role,
        levels={
            "gradient": found["gradient_norm"].to_numpy(np.float64),
            "rms": np.where(is_spoiled, np.inf, rms),
            "update": _updates(run, blocks, step),
        },
    )


def _with_lost(curves: list[Curve]) -> Iterator[Curve]:
    """Yield the curves, with Inf for gradients that were not finite.

    The table of traces has NaN both for those and for blocks without a gradient. A block that has a
    gradient in another trace must have had one that was not finite.
    """
    if not curves:
        return
    gradients = np.array([curve.levels["gradient"] for curve in curves])
    is_lost = np.isnan(gradients) & ~np.isnan(gradients).all(axis=0)
    for curve, row, lost in zip(curves, gradients, is_lost, strict=True):
        shown = np.where(lost, np.inf, row)
        yield replace(curve, levels={**curve.levels, "gradient": shown})


def _updates(run: Run, blocks: Sequence[str], step: int) -> Floats:
    """(B,) update ratios in the window that contains a step; NaN where none was measured."""
    grid = run.grid
    inside = (grid.step_first <= step) & (step <= grid.step_last)
    place = {name: m for m, name in enumerate(run.layout.modules)}
    found = np.full(len(blocks), np.nan)
    for b, name in enumerate(blocks):
        if name in place and inside.any():
            found[b] = grid.update_ratio[inside][0, place[name]]
    return found
