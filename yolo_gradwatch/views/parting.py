"""Where two runs part: the first step at which weights, losses, gradients or rates differ.

Repeated on one machine, a training gives the same numbers bit for bit. On another machine the last
digits differ, and the difference grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from yolo_gradwatch.measure.loss_items import TOTAL
from yolo_gradwatch.views.paired import KINDS, common, series_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.measure.arrays import Counts
    from yolo_gradwatch.runs.run import Run
    from yolo_gradwatch.views.paired import Apart, Kind, Series

Outcome = Literal["same", "losses", "drift", "parted", "unknown"]

VISIBLE: dict[Kind, float] = {
    "weights": 1e-6,
    "loss": 1e-3,
    "gradient": 1e-3,
    "rate": 1e-6,
    "update": 1e-3,
}
"""Relative difference beyond which runs differ by more than rounding.

Weights changed by 1e-7 of their values, as by rounding, moved losses and total norm by 9e-7 to 9e-6
in the first step of five trainings (YOLOv8n, YOLO11n, YOLO26n); another gain, optimizer, seed or
hook moved one of them by 0.04 to 1. Weights and rates come of no forward pass: rounding moved the
norm of the weights by at most 1e-7 until the gradients differed visibly, another seed by 6e-6 and
9e-5; the rates of a schedule are the same bit for bit.
"""

JUMP = 1000.0
"""Times the largest difference so far by which a difference grows that does not come of rounding.

In the same five trainings rounding grew by 10 to 292 times in the steepest step. A gain that was
doubled in a training with other rounding grew by more than 5,000 times.
"""

_ALONE = 100.0
"""Times as much as another number by which one may feel rounding."""


@dataclass(frozen=True, slots=True)
class Parting:
    """Two runs step by step, at the windows that both have.

    Attributes:
        outcome: ``same``; ``losses``, where nothing but losses differ; ``drift``, where rounding
            has grown; ``parted``, where something else made them differ; ``unknown``, where they
            cannot be compared.
        why: Why they cannot be compared; "" otherwise.
        windows: How many both have.
        last: Last step of these; 0 if there is none.
        exact: Last step up to which every number is equal bit for bit; 0 if not even in the first.
        same: Last step up to which there is no more than rounding, losses aside in ``losses``.
        since: First and last step between which they part; (0, 0) if they do not.
        apart: What differs there: of each of `KINDS` the numbers, the farthest first.
        silent: Loss items that differed before without any other trace.
        silent_since: First step of these; 0 if there are none.
        items: Loss items that both runs have.
        blocks: How many blocks are compared.
        rounding: Largest relative difference of losses and total norm up to ``same``.
    """

    outcome: Outcome
    why: str = ""
    windows: int = 0
    last: int = 0
    exact: int = 0
    same: int = 0
    since: tuple[int, int] = (0, 0)
    apart: tuple[Apart, ...] = ()
    silent: tuple[Apart, ...] = ()
    silent_since: int = 0
    items: tuple[str, ...] = ()
    blocks: int = 0
    rounding: float = 0.0

    def of(self, kind: Kind) -> list[Apart]:
        """What differs of one kind, the farthest first."""
        return [one for one in self.apart if one.kind == kind]

    @property
    def first(self) -> Kind | None:
        """The kind that differs first, of which the others follow; None if nothing does."""
        return next((kind for kind in KINDS if self.of(kind)), None)


def parting(one: Run, other: Run) -> Parting:
    """Where a run parts from another one.

    Runs of any lengths are compared at the windows with the same steps. Models with other modules
    are not compared: their numbers mean something else from the first step on.
    """
    if one.layout.modules != other.layout.modules:
        sizes = " and ".join(f"{len(run.layout.modules):,}" for run in (one, other))
        return Parting("unknown", f"the models have other modules ({sizes})")
    places = common(one, other)
    if not len(places[0]):
        return Parting("unknown", "no stretch of steps is in both runs")
    return _judged(series_of(one, other, places), one, places[0])


def _judged(series: Sequence[Series], run: Run, places: Counts) -> Parting:
    """The outcome, from (W,) values and differences."""
    first, last = run.grid.step_first[places], run.grid.step_last[places]
    losses = [one for one in series if one.kind == "loss"]
    others = [one for one in series if one.kind != "loss"]
    loss, rest = _first_visible(losses, len(places)), _first_visible(others, len(places))
    begin = min(loss, rest)
    facts: dict[str, Any] = {
        "windows": len(places),
        "last": int(last[-1]),
        "exact": _before(last, min(_first_beyond(one, 0, len(places)) for one in series)),
        "items": tuple(one.name for one in losses if one.name != TOTAL),
        "blocks": sum(one.kind == "gradient" for one in series) - 1,
        "rounding": _largest(series, begin),
    }
    if loss < rest and not _has_grown(series, loss):
        silent = _at(losses, loss)
        facts |= {"silent": tuple(silent), "silent_since": int(first[loss])}
        known = {one.name for one in silent} | {TOTAL}
        series = [*others, *(one for one in losses if one.name not in known)]
        begin = rest
    if begin == len(places):
        outcome: Outcome = "losses" if "silent" in facts else "same"
        return Parting(outcome, same=int(last[-1]), **facts)
    same = _before(last, begin)
    return Parting(
        "drift" if _has_grown(series, begin) else "parted",
        same=same,
        since=(same + 1 if begin else int(first[0]), int(last[begin])),
        apart=tuple(_at(series, begin)),
        **facts,
    )


def _has_grown(series: Sequence[Series], window: int) -> bool:
    """Whether what differs in a window may be the rounding of those before, which has grown."""
    if any(one.difference[window] > VISIBLE["rate"] for one in series if one.kind == "rate"):
        return False
    before = _largest(series, window)
    now = max(one.difference[window] for one in _central(series))
    return bool(before and now <= JUMP * before)


def _central(series: Sequence[Series]) -> list[Series]:
    """Losses, and gradient and update of the whole model, which feel rounding alike."""
    alike = {"loss", "gradient", "update"}
    return [one for one in series if one.kind in alike and not one.is_block]


def _largest(series: Sequence[Series], until: int) -> float:
    """The largest difference of losses and the whole model before a window."""
    found = (one.difference[:until].max(initial=0.0) for one in _central(series))
    return float(max(found, default=0.0))


def _first_visible(series: Sequence[Series], windows: int) -> int:
    """The first window in which one differs by more than rounding; ``windows`` if none does."""
    firsts = (
        _first_beyond(one, VISIBLE[one.kind] * (_ALONE if one.is_block else 1), windows)
        for one in series
    )
    return min(firsts, default=windows)


def _first_beyond(one: Series, limit: float, windows: int) -> int:
    """The first window in which the difference is larger; ``windows`` if there is none."""
    found = one.difference > limit
    return int(np.argmax(found)) if found.any() else windows


def _before(last: Counts, window: int) -> int:
    """Last step of the window before one; 0 without one."""
    return int(last[window - 1]) if window else 0


def _at(series: Sequence[Series], window: int) -> list[Apart]:
    """What differs by more than rounding in a window, by kind, the farthest first.

    What is a hundred times nearer than the farthest of its kind may be rounding beside it.
    """
    found = [one.at(window) for one in series if one.difference[window] > VISIBLE[one.kind]]
    most = {kind: max((f.difference for f in found if f.kind == kind), default=0) for kind in KINDS}
    found = [one for one in found if one.difference >= most[one.kind] / _ALONE]
    return sorted(found, key=lambda one: (KINDS.index(one.kind), -one.difference))
