"""Divergence of two runs: the first step at which weights, losses, gradients or rates differ.

A training repeated on the same machine is bit-identical. On another machine the last digits differ,
and the difference grows.
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

In the first step of five trainings (YOLOv8n, YOLO11n, YOLO26n), changing the weights by 1e-7 of
their values, as rounding does, moved losses and total norm by 9e-7 to 9e-6; another gain,
optimizer, seed or hook moved one of them by 0.04 to 1. Weights and rates do not come from a forward
pass: until the gradients differed visibly, rounding moved the norm of the weights by at most 1e-7,
another seed by 6e-6 and 9e-5; the rates of a schedule are bit-identical.
"""

JUMP = 1000.0
"""Factor over the largest difference so far above which growth is not due to rounding.

In the same five trainings, rounding grew by a factor of 10 to 292 in the steepest step. Doubling a
gain in a training with other rounding gave a factor of more than 5,000.
"""

_ALONE = 100.0
"""Factor by which rounding may affect one number more than another."""


@dataclass(frozen=True, slots=True)
class Parting:
    """Step-by-step comparison of two runs at their common windows.

    Attributes:
        outcome: ``same``; ``losses``, if only losses differ; ``drift``, if rounding differences
            have grown; ``parted``, if they differ for another reason; ``unknown``, if they cannot
            be compared.
        why: Why they cannot be compared; "" otherwise.
        windows: Number of common windows.
        last: Last step of the common windows; 0 if there are none.
        exact: Last step up to which every number is bit-identical; 0 if the first one is not.
        same: Last step up to which runs differ by rounding only, losses aside in ``losses``.
        since: First and last step of the window in which they diverge; (0, 0) if they do not.
        apart: Numbers that differ in that window, by `KINDS`, the farthest first.
        silent: Loss items that differed earlier without effect on any other number.
        silent_since: First step at which these differ; 0 if there are none.
        items: Loss items that both runs have.
        blocks: Number of blocks that are compared.
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
        """Return the numbers of one kind that differ, the farthest first."""
        return [one for one in self.apart if one.kind == kind]

    @property
    def first(self) -> Kind | None:
        """The kind that differs first, from which the others follow; None if nothing differs."""
        return next((kind for kind in KINDS if self.of(kind)), None)


def parting(one: Run, other: Run) -> Parting:
    """Find where a run diverges from another one.

    Runs of any lengths are compared at the windows with the same steps. Models with different
    modules are not compared: their numbers are not comparable from the first step on.
    """
    if one.layout.modules != other.layout.modules:
        sizes = " and ".join(f"{len(run.layout.modules):,}" for run in (one, other))
        return Parting("unknown", f"the models have different modules ({sizes})")
    places = common(one, other)
    if not len(places[0]):
        return Parting("unknown", "the runs have no steps in common")
    return _judged(series_of(one, other, places), one, places[0])


def _judged(series: Sequence[Series], run: Run, places: Counts) -> Parting:
    """Classify the divergence from (W,) values and differences."""
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
    """Return whether differences in a window may be grown rounding errors of earlier windows."""
    if any(one.difference[window] > VISIBLE["rate"] for one in series if one.kind == "rate"):
        return False
    before = _largest(series, window)
    now = max(one.difference[window] for one in _central(series))
    return bool(before and now <= JUMP * before)


def _central(series: Sequence[Series]) -> list[Series]:
    """Select losses, and gradient and update of the whole model: rounding affects them alike."""
    alike = {"loss", "gradient", "update"}
    return [one for one in series if one.kind in alike and not one.is_block]


def _largest(series: Sequence[Series], until: int) -> float:
    """Return the largest difference of losses and the whole model before a window."""
    found = (one.difference[:until].max(initial=0.0) for one in _central(series))
    return float(max(found, default=0.0))


def _first_visible(series: Sequence[Series], windows: int) -> int:
    """Return the first window with more than rounding differences; ``windows`` if there is none."""
    firsts = (
        _first_beyond(one, VISIBLE[one.kind] * (_ALONE if one.is_block else 1), windows)
        for one in series
    )
    return min(firsts, default=windows)


def _first_beyond(one: Series, limit: float, windows: int) -> int:
    """Return the first window whose difference exceeds a limit; ``windows`` if there is none."""
    found = one.difference > limit
    return int(np.argmax(found)) if found.any() else windows


def _before(last: Counts, window: int) -> int:
    """Return the last step of the previous window; 0 if there is none."""
    return int(last[window - 1]) if window else 0


def _at(series: Sequence[Series], window: int) -> list[Apart]:
    """Return the numbers that differ by more than rounding in a window, by kind, farthest first.

    A number that differs a hundred times less than the farthest of its kind is left out: it may
    differ by rounding only.
    """
    found = [one.at(window) for one in series if one.difference[window] > VISIBLE[one.kind]]
    most = {kind: max((f.difference for f in found if f.kind == kind), default=0) for kind in KINDS}
    found = [one for one in found if one.difference >= most[one.kind] / _ALONE]
    return sorted(found, key=lambda one: (KINDS.index(one.kind), -one.difference))
