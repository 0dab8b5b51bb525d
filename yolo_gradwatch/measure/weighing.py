"""When to read the weights, and whether a reading shows a change that the gradient may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.measure.allowance import Allowance
from yolo_gradwatch.measure.arrays import FLOAT16_MAX
from yolo_gradwatch.measure.doubling import Doubling

if TYPE_CHECKING:
    from yolo_gradwatch.measure.arrays import Counts, Flags
    from yolo_gradwatch.measure.layout import Members
    from yolo_gradwatch.measure.sample import Sample, Weights

RARELY = 50
"""Steps up to which the weights are read only at powers of two, not in every window."""

EPOCH_APART = 8
"""Minimum steps since the last reading before the weights are read because an epoch begins."""

OPEN_APART = 5
"""Minimum captured steps since the last reading before a window that begins has the weights read.

From 250 steps on, windows are longer. Before, a reading at each would double what watching costs.
"""

LOOK_APART, LOOK_SHARE = 10, 0.001
"""Captured steps, and share of the steps so far, after which the weights are read within a window.

A reading of the weights costs about as much as one of the gradients, so this adds at most a
tenth of that, and next to nothing late in a run.
"""

MOVED = 0.03
"""Decades by which at least a tenth of the layers have changed if it is not noise.

Within a window of a healthy long training, after step 250: at most 0.006; within one at 50 times
the learning rate: 0.1.
"""


class Weighing:
    """Decides when to read the weights, and compares them with those that began a window.

    A reading within a window is in no file unless it shows a change, which then begins a window.
    Its own `Allowance` limits how often.

    Args:
        members: Parameters that make up each block of the trunk.
        interval: Optimizer steps from one captured step to the next.

    Attributes:
        also: A further step at which to read the weights; 0 for none.
    """

    def __init__(self, members: Members, interval: int) -> None:
        self._trunk = _trunk(members)
        self._interval = interval
        self._doubling = Doubling()
        self._allowance = Allowance(RARELY)
        self._is_asked = False
        self._wary_until = 0
        self._newest = 0
        self._before: Weights | None = None
        self.also = 0

    def ask(self) -> None:
        """Request a reading in the next window, unless the last one was a few steps before."""
        self._is_asked = True

    def beware(self, until: int) -> None:
        """Read the weights in every window that begins up to step ``until``."""
        self._wary_until = until

    def is_due(self, step: int, *, opens: bool) -> bool:
        """Whether to read the weights at ``step``; ask once for each step, in order.

        They are also read after a step whose gradient or loss is not finite: by then a GPU has
        delivered it. What is still finite shows where the trouble began, the rest what it damaged.

        Args:
            step: Counts from 1.
            opens: Whether the step begins a window, as far as is known.
        """
        apart = step - self._newest
        is_due = step == self.also
        is_due |= step > RARELY and apart >= max(LOOK_APART * self._interval, LOOK_SHARE * step)
        if opens:
            is_asked, self._is_asked = self._is_asked, False
            is_due |= self._doubling.is_due(step) or step <= self._wary_until
            is_due |= step > RARELY and apart >= OPEN_APART * self._interval
            is_due |= is_asked and apart >= EPOCH_APART
        self._newest = step if is_due else self._newest
        return is_due

    def shows_change(self, sample: Sample) -> bool:
        """Whether the weights before a step differ by more than noise; if so, charge the allowance.

        That is, they overflow, or a tenth of the layers have moved too far since a window began.
        """
        found = _weights(sample)
        if found is None or self._before is None:
            return False
        overflows = bool((_beyond_half(found) & ~_beyond_half(self._before)).any())
        is_changed = overflows or self._has_moved(found, self._before)
        return is_changed and self._allowance.allows(sample.step, is_shift=True)

    def begin(self, sample: Sample) -> None:
        """Note a step that begins a window."""
        self._before = _weights(sample) or self._before

    def regroup(self, members: Members) -> None:
        """Continue with other parameters."""
        self._trunk = _trunk(members)
        self._before = None

    def restart(self) -> None:
        """Note that the weights may be those of another step from now on."""
        self._before = None

    def _has_moved(self, found: Weights, before: Weights) -> bool:
        if not len(self._trunk):
            return False
        with np.errstate(divide="ignore", invalid="ignore"):  # weights of 0 or NaN do not count
            moved = np.abs(np.log10(found.norms[self._trunk]) - np.log10(before.norms[self._trunk]))
        known = np.sort(np.where(np.isfinite(moved), moved, 0.0))
        return bool(known[-max(round(len(known) / 10), 1)] > MOVED)


def _trunk(members: Members) -> Counts:
    """Return the parameter indices of the weights of all blocks except the head."""
    found: Counts = np.concatenate([np.empty(0, np.int64), *members.trunk])
    return found


def _weights(sample: Sample) -> Weights | None:
    return sample.detail.weights if sample.detail else None


def _beyond_half(weights: Weights) -> Flags:
    """(T,) which tensors hold a value beyond half precision."""
    beyond: Flags = ~(weights.largest <= FLOAT16_MAX)  # NaN counts
    return beyond
