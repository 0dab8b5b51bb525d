"""The rule about weights in which many elements get a gradient of exactly zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose.causes import RECTIFYING, first_of
from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules.history import Hit, begin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.arrays import Flags, Singles
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.windows import Window

WINDOWS = 6
"""Minimum number of counted windows in a row with many zeros for a weight to be partly dead."""

STEPS = 20
"""Minimum number of steps that these windows span: the first windows have one step each."""

PADDING_TOLERANCE = 5e-4
"""Maximum difference between a share of zeros and that of kernel positions that see padding."""


def partly_dead(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield weights of the trunk with many elements of exactly zero gradient, for long.

    Attentions are left out, because over a single position, queries and keys have a zero gradient.
    So are gates: of their few units after a global pooling, half may be zero for every image of a
    batch, throughout a healthy training. Value and limit: share of the elements, the lowest of
    these windows.
    """
    counted = [reading.window for reading in history.readings if reading.is_counted]
    judged = history.graph.trunk & ~history.graph.attention & ~history.graph.small
    if not any((one.zero_fraction[judged] >= limits.zero_fraction).any() for one in counted[-1:]):
        return
    counted = _stretch(counted)
    if not counted:
        return
    shares = np.stack([window.zero_fraction for window in counted])
    is_dead = judged & (shares < 1).all(axis=0) & ~_only_padding(shares, history.layout)
    lowest = np.where(is_dead, shares.min(axis=0), np.nan)
    for m in np.flatnonzero(lowest >= limits.zero_fraction):
        value = float(lowest[m])
        yield Hit(history.layout.modules[m], value, limits.zero_fraction, begin(counted[0]))


def partly_dead_words(case: Case) -> Message:
    """Describe a weight with many elements of exactly zero gradient."""
    relu = first_of(case.layout, case.finding.module, RECTIFYING)
    why = f"units of its {relu} have" if relu else "units after it have"
    return Message(
        what=f"{case.where}: {case.finding.value:.0%} of its weight elements have had a gradient "
        "of exactly zero",
        since=f"{case.since}{case.others()}",
        likely=f"{why} died{case.moment}.",
        remedy=f"Try SiLU or LeakyReLU with BatchNorm, and {case.lower_rate}.",
    )


def _stretch(windows: list[Window]) -> list[Window]:
    """Return the shortest stretch of newest windows that is long enough and spans enough steps."""
    for count in range(WINDOWS, len(windows) + 1):
        found = windows[-count:]
        if found[-1].step_last - found[0].step_first + 1 >= STEPS:
            return found
    return []


def _only_padding(shares: Singles, layout: Layout) -> Flags:
    """Return (M,) whether all zeros are those of kernel positions that only ever see padding.

    A kernel larger than its input has them: a 3x3 kernel on a single pixel, 8 of 9. Dead units
    seldom make up such a multiple (32 of 48 would be one).
    """
    kernels = np.array(layout.kernels)
    off = np.abs(shares * kernels - np.rint(shares * kernels)) / kernels
    found: Flags = (kernels > 1) & (off < PADDING_TOLERANCE).all(axis=0)
    return found


PARTLY_DEAD = Rule(
    name="partly_dead",
    kind="dead",
    severity="warning",
    threshold="zero_fraction",
    unit="share",
    judge=partly_dead,
    needs=lambda _: WINDOWS,
    words=partly_dead_words,
    meaning="that share of a weight's elements gets exactly zero for long: units have died",
    not_meaning="zeros at kernel positions that only see padding, or units of a small gate",
    remedy="SiLU or LeakyReLU, lower `lr0`",
    begins_upstream=True,
)
