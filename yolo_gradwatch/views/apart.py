"""Sentences on where two runs are farthest apart, and over which share of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose import phrases
from yolo_gradwatch.diagnose.phrases import counted, joined, significant
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.views.beside import APART
from yolo_gradwatch.views.heatmap import FINE, STATES, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from yolo_gradwatch.views.beside import Beside, Farthest, Side

_MOST = 3
"""Most stretches of blocks, and most names of one list, that the text shows."""

_TIMES = "\u00d7"

_WHOLE_SHARE = 0.9995
"""Share of its training from which a run counts as complete."""

_ENDED = {
    "failed": "failed",
    "interrupted": "was interrupted",
    "killed": "was killed",
    "running": "is still running",
}
"""Status -> verb phrase for how the recording of a run ends."""


def sentences(picture: Beside) -> list[str]:
    """Return where the runs are farthest apart, then what limits the comparison."""
    return [*differences(picture), *limits(picture)]


def differences(picture: Beside) -> list[str]:
    """Name the stretches of blocks farthest apart, and the blocks with a norm in one run only."""
    if not picture.both.any():
        return []
    found = sorted(_stretches(picture), key=lambda one: -abs(_decades(one)))
    said = [_sentence(picture, one) for one in found[:_MOST]]
    hidden = sum(map(len, found[_MOST:]))
    if hidden:
        said.append(f"{hidden} more differ by a factor of {10**APART:g} or more.")
    if not found and picture.farthest:
        said.append(_near(picture))
    return [*said, *_without_norm(picture)]


def limits(picture: Beside) -> list[str]:
    """State the compared share of the training, and the blocks that only one run has."""
    return [*_shared(picture), *_lacking(picture)]


def times(decades: float) -> str:
    """Express a difference as a factor: ``11,000 times weaker``."""
    return f"{phrases.factor(abs(decades))} {'stronger' if decades > 0 else 'weaker'}"


def factor(decades: float) -> str:
    """Express a difference in short form: ``÷ 11,000``, or ``same``."""
    if not decades:
        return "same"
    return f"{_TIMES if decades > 0 else '÷'} {significant(10 ** min(abs(decades), 99.0), 2)}"


def ticks(span: float) -> list[int]:
    """Return the decades to label on the colour bar, none so near its ends that it is cut off."""
    most = int(max(0.9 * span, 1))
    return [tick for tick in range(-most, most + 1) if tick % (2 if most > 2 else 1) == 0]


def epochs(side: Side) -> str:
    """Return the planned number of epochs of a run, as text."""
    return counted(side.share.planned, "epoch")


def percent(share: float) -> str:
    """Format a share with two digits; nothing below 1 is rounded up to 100%."""
    return f"{significant(100 * share, 2 if share < 0.99 else 3)}%"


def ending(side: Side) -> str:
    """Say at which share of its training, and in which epoch, a run ends; "" if it is complete."""
    share = side.share
    if not share.planned or share.end >= _WHOLE_SHARE:
        return ""
    epoch = int(np.ceil(share.end * share.planned - 1e-6))
    what = _ENDED.get(side.report.status, "ended")
    return f"{what} at {percent(share.end)} of its training, in epoch {epoch} of {share.planned}"


def _stretches(picture: Beside) -> list[list[Farthest]]:
    """Group neighbouring rows that are far apart in the same direction; skip the whole model."""
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
    """Say how far apart a stretch of rows is, and when its farthest row is farthest."""
    far = max(rows, key=lambda one: abs(one.decades))
    names = _between([picture.names[one.row] for one in rows])
    letter = picture.sides[1].letter
    when = f"most clearly {_when(far)}"
    return f"{names}: the gradient is {times(_decades(rows))} in {letter} than in A, {when}."


def _near(picture: Beside) -> str:
    """Name the farthest row of runs that are nowhere far apart."""
    far = max(picture.farthest.values(), key=lambda one: abs(one.decades))
    where = f"{picture.names[far.row]}, {times(far.decades)} in {picture.sides[1].letter}"
    most = f"the largest difference is in {where}, {_when(far)}"
    return f"No block differs by a factor of {10**APART:g}: {most}."


def _when(one: Farthest) -> str:
    return f"at {one.begin:.0%} to {one.end:.0%} of the training"


def _between(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _without_norm(picture: Beside) -> list[str]:
    """Name the rows in which one run has no finite norm above 0 while the other has one."""
    said = []
    for own, other in (picture.sides, picture.sides[::-1]):
        for state, (word, _) in STATES.items():
            if state == UNKNOWN:
                continue
            cells = (own.states == state) & (other.states == FINE)
            # Skip rows that both runs have in this state, such as a scale without objects.
            cells[(other.states == state).any(axis=1)] = False
            names = [picture.names[row] for row in np.flatnonzero(cells.any(axis=1))]
            if names:
                when = percent(float(np.flatnonzero(cells.any(axis=0))[0]) / cells.shape[1])
                which = f"{word} in {own.letter} but not in {other.letter}"
                said.append(f"{_some(names)}: {which}, first at {when} of the training.")
    return said


def _some(names: Sequence[str]) -> str:
    few = list(names[:_MOST])
    return (
        joined(few) if len(names) == len(few) else f"{', '.join(few)} and {len(names) - _MOST} more"
    )


def _shared(picture: Beside) -> Iterable[str]:
    """Say which runs cover only a part of their training, or have no known plan."""
    begin, end = picture.shared
    unknown = [one for one in picture.sides if one.there.any() and not one.share.planned]
    for side in unknown:
        yield (
            f"{side.letter}'s files lack its planned number of epochs, so the watched part is "
            "taken as the whole training."
        )
    endings = [(side.letter, ending(side)) for side in picture.sides]
    why = joined([f"{letter} {how}" for letter, how in endings if how])
    if not picture.both.any():
        yield f"The runs have no part of the training in common{f': {why}' if why else ''}."
        return
    if why or begin > 1 - _WHOLE_SHARE:
        part = f"the first {percent(end)}" if not begin else f"{percent(begin)} to {percent(end)}"
        yield f"Compared over {part} of the training, common to both{f': {why}' if why else ''}."


def _lacking(picture: Beside) -> Iterable[str]:
    """Name the rows that only one run has."""
    for side, other in (picture.sides, picture.sides[::-1]):
        names = [picture.names[row] for row in np.flatnonzero(side.has & ~other.has)]
        if names:
            yield f"Only in {side.letter}: {_some(names)}."
