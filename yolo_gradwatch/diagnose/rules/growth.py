"""The rule about weights that grow too fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.reading import medians
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules.history import Hit, begin, finite
from yolo_gradwatch.diagnose.rules.rates import rate_of_code, rate_words
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.arrays import Counts, Floats
    from yolo_gradwatch.measure.windows import Window

GROWTH_WINDOWS = 20
"""Windows in which the weights of a healthy training do not double."""

UPPER_LEAST = 10
"""Minimum number of layers for a tenth of them to be judged alone."""

STILL_SHARE = 0.1
"""Share of a growth up to which it has not begun yet."""


def weight_growth(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield the whole model if the weights of its trunk grew too much within a few windows.

    Value: decades, as the median over the weights, or half of those of their quickest tenth.
    """
    trunk = history.graph.trunk_weights
    weighed = [reading for reading in history.readings if reading.is_weighed]
    recent = [r for r in history.readings[-GROWTH_WINDOWS - 1 :] if r.is_weighed]
    taken = [r.window for r in (recent if len(recent) > 1 else weighed[-2:])]
    if len(taken) < 2 or not len(trunk):
        return
    if not (_grown(taken[:: len(taken) - 1], trunk)[-1] > limits.weight_growth).any():
        return
    grown = _grown(taken, trunk)
    norms = taken[-1].weight_norm[trunk].astype(np.float64)
    large = np.where(
        norms > history.graph.elements[trunk] ** 0.25, grown, np.nan
    )  # smaller ones may have begun near 0
    upper = np.nan_to_num(_upper(large), nan=0.0) / 2 if len(trunk) >= UPPER_LEAST else 0.0
    course = np.fmax(medians(grown.T, 1), upper)
    if course[-1] > limits.weight_growth:
        still = np.flatnonzero(course <= STILL_SHARE * course[-1])
        since = taken[still[-1] if len(still) else 0]
        reason = rate_of_code(history, taken[-1])
        yield Hit(WHOLE, float(course[-1]), limits.weight_growth, begin(since), reason=reason)


def _grown(windows: Sequence[Window], rows: Counts) -> Floats:
    """Return (W, K) decades by which the norms of weights exceed those of the first window."""
    norms = np.array([window.weight_norm[rows] for window in windows], np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):  # weights of 0 or NaN say nothing
        return finite(np.log10(norms) - np.log10(norms[0]))


def _upper(values: Floats) -> Floats:
    """Return (W,) what the top tenth of all layers reach at least; unknown values rank lowest."""
    known = np.where(np.isnan(values), -np.inf, values)
    return np.sort(known, axis=1)[:, -max(round(values.shape[1] / 10), 1)]


def weight_growth_words(case: Case) -> Message:
    """Describe weights that grow too fast."""
    reason = case.finding.reason
    remedy = f"Try {case.lower_rate} and more warmup_epochs."
    if reason:
        remedy = rate_words(reason)
    return Message(
        what=f"the whole model: the weights have grown {10**case.finding.value:.1f}-fold within a "
        "few windows",
        since=case.since,
        likely=f"the learning rate is far too high{case.moment}. Most such runs end with a "
        "gradient near zero.",
        remedy=remedy,
    )


WEIGHT_GROWTH = Rule(
    name="weight_growth",
    kind="exploding",
    severity="warning",
    threshold="weight_growth",
    unit="decades",
    judge=weight_growth,
    needs=lambda _: 2,
    words=weight_growth_words,
    meaning="the weights doubled within 20 windows",
    not_meaning="weights that grow over a whole training",
    remedy="a lower `lr0`, longer `warmup_epochs`; most such runs end with no gradient",
    state="weights up",
    explains=("dead", "partly_dead", "dead_branch", "collapse", "total_low"),
)
