"""In sentences: where two runs are farthest apart, and over which share of training that holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose.phrases import joined, significant
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.views.beside import APART
from yolo_gradwatch.views.heatmap import FINE, STATES, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from yolo_gradwatch.views.beside import Beside, Farthest, Side

_MOST = 3
"""Stretches of blocks that are named."""

_TIMES = "\u00d7"

_WHOLE_SHARE = 0.9995
"""Of a training, from which on it is shown as complete."""

_ENDED = {
    "failed": "failed",
    "interrupted": "was interrupted",
    "killed": "was killed",
    "running": "has come as far as this and is still running",
}
"""By status, what a run did at the share at which it ends."""


def sentences(picture: Beside) -> list[str]:
    """Where the runs are farthest apart, then what limits the comparison."""
    return [*differences(picture), *limits(picture)]


def differences(picture: Beside) -> list[str]:
    """The stretches of blocks that are farthest apart, and those with a norm in one run only."""
    if not picture.both.any():
        return []
    found = sorted(_stretches(picture), key=lambda one: -abs(_decades(one)))
    said = [_sentence(picture, one) for one in found[:_MOST]]
    hidden = sum(map(len, found[_MOST:]))
    if hidden:
        said.append(f"{hidden} more are {10**APART:g} times apart or farther.")
    if not found and picture.farthest:
        said.append(_near(picture))
    return [*said, *_without_norm(picture)]


def limits(picture: Beside) -> list[str]:
    """Over which share of the training the runs are compared, and what only one of them has."""
    return [*_shared(picture), *_lacking(picture)]


def times(decades: float) -> str:
    """A difference as a factor: ``11,000 times weaker``."""
    many = significant(10 ** min(abs(decades), 99.0), 2)
    return f"{many} times {'stronger' if decades > 0 else 'weaker'}"


def factor(decades: float) -> str:
    """A difference where there is little room: ``÷ 11,000``, or ``same``."""
    if not decades:
        return "same"
    return f"{_TIMES if decades > 0 else '÷'} {significant(10 ** min(abs(decades), 99.0), 2)}"


def ticks(span: float) -> list[int]:
    """Decades to name beside the colours of a difference, none so far out that it is cut off."""
    most = int(max(0.9 * span, 1))
    return [tick for tick in range(-most, most + 1) if tick % (2 if most > 2 else 1) == 0]


def epochs(side: Side) -> str:
    """How many epochs a run should have had."""
    count = side.share.planned
    return f"{count:,} epoch{'' if count == 1 else 's'}"


def percent(share: float) -> str:
    """A share in two digits, and never 100% of what is not whole."""
    return f"{significant(100 * share, 2 if share < 0.99 else 3)}%"


def ending(side: Side) -> str:
    """Where a run ends in its training, and in which epoch; "" if it has all of it."""
    share = side.share
    if not share.planned or share.end >= _WHOLE_SHARE:
        return ""
    epoch = int(np.ceil(share.end * share.planned - 1e-6))
    what = _ENDED.get(side.report.status, "ended")
    return f"{what} at {percent(share.end)} of its training, in epoch {epoch} of {share.planned}"


def _stretches(picture: Beside) -> list[list[Farthest]]:
    """Neighbouring rows that are far apart in the same direction, without the whole model."""
    found: list[list[Farthest]] = []
    for row in range(len(picture.names)):
        one = picture.farthest.get(row)
        if picture.names[row] == WHOLE or one is None or abs(one.decades) < APART:
            continue
        last = found[-1][-1] if found else None
        if last and last.row == row - 1 and last.decades * one.decades > 0:
            found[-1].append(one)
        else:
            found.append([one])
    return found


def _decades(rows: Sequence[Farthest]) -> float:
    return float(np.median([one.decades for one in rows]))


def _sentence(picture: Beside, rows: Sequence[Farthest]) -> str:
    """How far a stretch of rows is apart, and when the farthest of them is."""
    far = max(rows, key=lambda one: abs(one.decades))
    names = _between([picture.names[one.row] for one in rows])
    letter = picture.sides[1].letter
    return f"{names}: the gradient is {times(_decades(rows))} in {letter} than in A, {_when(far)}."


def _near(picture: Beside) -> str:
    """The row that is farthest apart where none is far."""
    far = max(picture.farthest.values(), key=lambda one: abs(one.decades))
    where = f"{picture.names[far.row]}, {times(far.decades)} in {picture.sides[1].letter}"
    most = f"the farthest is {where}, {_when(far)}"
    return f"No block is {10**APART:g} times apart: {most}."


def _when(one: Farthest) -> str:
    return f"most at {one.begin:.0%} to {one.end:.0%} of the training"


def _between(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _without_norm(picture: Beside) -> list[str]:
    """The rows in which a run has no finite norm above 0 where the other one has."""
    said = []
    for own, other in (picture.sides, picture.sides[::-1]):
        for state, (word, _) in STATES.items():
            if state == UNKNOWN:
                continue
            cells = (own.states == state) & (other.states == FINE)
            cells[(other.states == state).any(axis=1)] = False  # as a scale without objects in both
            names = [picture.names[row] for row in np.flatnonzero(cells.any(axis=1))]
            if names:
                when = percent(float(np.flatnonzero(cells.any(axis=0))[0]) / cells.shape[1])
                which = f"{word} in {own.letter} and not in {other.letter}"
                said.append(f"{_some(names)}: {which}, first at {when} of the training.")
    return said


def _some(names: Sequence[str]) -> str:
    few = list(names[:_MOST])
    return (
        joined(few) if len(names) == len(few) else f"{', '.join(few)} and {len(names) - _MOST} more"
    )


def _shared(picture: Beside) -> Iterable[str]:
    """That a run covers a part of its training only, or that its plan is not known."""
    begin, end = picture.shared
    unknown = [one for one in picture.sides if one.there.any() and not one.share.planned]
    for side in unknown:
        yield (
            f"How many epochs {side.letter} should have had is not in its files: what was watched "
            "counts as all of its training."
        )
    endings = [(side.letter, ending(side)) for side in picture.sides]
    why = joined([f"{letter} {how}" for letter, how in endings if how])
    if not picture.both.any():
        yield f"The runs have no share of the training in common{f': {why}' if why else ''}."
        return
    if why or begin > 1 - _WHOLE_SHARE:
        part = f"the first {percent(end)}" if not begin else f"{percent(begin)} to {percent(end)}"
        yield f"Compared over {part} of the training, which both have{f': {why}' if why else ''}."


def _lacking(picture: Beside) -> Iterable[str]:
    """The rows that one run has."""
    for side, other in (picture.sides, picture.sides[::-1]):
        names = [picture.names[row] for row in np.flatnonzero(side.has & ~other.has)]
        if names:
            yield f"Only in {side.letter}: {_some(names)}."
