"""The catalog of all rules, one row each.

Each row is next to its judge and its words, in a module of `rules`. To add a rule, write these,
list it here, give it a limit in ``Thresholds``, and test it just below, at and just above that
limit.
"""

from __future__ import annotations

from yolo_gradwatch.diagnose.rules import (
    amp,
    beside,
    dead,
    growth,
    head,
    hop,
    loss,
    losses,
    low,
    nonfinite,
    partly,
    rates,
    scales,
    spike,
    stored,
    stray,
    updates,
    weights,
    whole,
)

_ROWS = (
    nonfinite.NONFINITE,
    amp.AMP_OVERFLOW,
    loss.LOSS_NONFINITE,
    stored.WEIGHT_OVERFLOW,
    dead.DEAD,
    dead.NO_GRADIENT,
    updates.NOT_UPDATED,
    head.DEAD_BRANCH,
    head.FEW_OBJECTS,
    scales.STARVED_SCALE,
    partly.PARTLY_DEAD,
    head.ZERO_LOSS,
    updates.ZERO_RATE,
    dead.FROZEN,
    weights.SMALL_WEIGHTS,
    hop.VANISHING,
    beside.SLOW_BRANCH,
    hop.EXPLODING,
    hop.LEAF_VANISHING,
    hop.LEAF_EXPLODING,
    losses.LOSS_IMBALANCE,
    weights.LARGE_WEIGHTS,
    losses.INITIAL_LOSS,
    rates.RATE_JUMP,
    rates.WEIGHT_JUMP,
    stray.STRAY_STEP,
    spike.SPIKE,
    whole.COLLAPSE,
    whole.TOTAL_HIGH,
    low.TOTAL_LOW,
    low.CONVERGED,
    growth.WEIGHT_GROWTH,
)

RULES = {rule.name: rule for rule in _ROWS}
"""Every rule by identifier; if two hold for one cause, the first is the finding."""
