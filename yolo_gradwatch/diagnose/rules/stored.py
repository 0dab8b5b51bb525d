"""The rule about weights and buffers that are non-finite, or too large for a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.graph import is_in
from yolo_gradwatch.diagnose.messages import Message
from yolo_gradwatch.diagnose.phrases import significant
from yolo_gradwatch.diagnose.rule import Rule
from yolo_gradwatch.diagnose.rules.history import Hit, begin, names
from yolo_gradwatch.diagnose.rules.loss import has_bad_loss
from yolo_gradwatch.diagnose.rules.origin import has_read_weights, statistics
from yolo_gradwatch.diagnose.rules.rates import rate_of_code, rate_words
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from yolo_gradwatch.diagnose.messages import Case
    from yolo_gradwatch.diagnose.rules.history import History
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.arrays import Flags
    from yolo_gradwatch.measure.windows import Window


def weight_overflow(history: History, limits: Thresholds) -> Iterator[Hit]:
    """Yield modules with a parameter or buffer that is non-finite, or too large for float16.

    The weights are those read before the newest step that was finite itself: `nonfinite` reports
    what a NaN step did to them. A buffer outside BatchNorm counts only if it was smaller before: a
    mask of -Inf is intentional. Value: the largest, limit: the largest that can be stored.
    """
    newest = reversed(history.recent)
    known = next((w for w in newest if has_read_weights(w) and _is_sound(w)), None)
    if known is None or not (beyond := _beyond(known, limits)).any():
        return
    sound = [window for window in history.recent if _is_sound(window)]
    is_buffer = beyond & _in_buffer(known)
    beyond &= ~is_buffer | statistics(history.layout) | _was_smaller(sound, known, limits)
    found = _innermost(names(history.layout, beyond))
    if not found:
        return
    rows = [history.graph.rows[name] for name in found]
    largest = float(known.weight_max[rows].max())
    kind = "buffers" if is_buffer[rows].all() else "weights"
    own = [n for n, m in zip(found, rows, strict=True) if is_buffer[m] == (kind == "buffers")]
    rate = rate_of_code(history, known)
    reason = Reason(kind, tuple(own), rate.values if rate else ())
    place = own[0] if len(own) == 1 else WHOLE
    others = tuple(name for name in found if name != place)
    since = next(window for window in history.recent if _shows(window, known, rows, limits))
    yield Hit(place, largest, limits.weight_overflow, begin(since), others, reason)


def weight_overflow_words(case: Case) -> Message:
    """Describe a value that breaks validation and the checkpoint."""
    finding = case.finding
    is_finite = np.isfinite(finding.value)
    found = finding.reason.names if finding.reason else (finding.module,)
    is_buffer = bool(finding.reason and finding.reason.kind == "buffers")
    said = "weights"
    if is_buffer:
        are_statistics = all(_is_statistics(case, name) for name in found)
        said = "running statistics" if are_statistics else "buffers"
    many = finding.module == WHOLE
    where = f"{len(found)} layers, the first {found[0]}" if many else case.where
    how = f"been as large as {significant(finding.value, 2)}" if is_finite else "not been finite"
    harm = (
        "The training loss does not show it, but validation uses them: its losses can become NaN "
        "or huge, and mAP can drop to 0."
        if is_buffer
        else "Validation and every later step use them."
    )
    stored = (
        f"Checkpoints store float16, at most {finding.limit:,.0f}: such values are saved as "
        "Inf or silently replaced (nan_to_num: NaN by 0, Inf by that limit)."
    )
    return Message(
        what=f"{where}: {said} have {how}",
        since=case.since,
        why=f"{harm} {stored}",
        remedy=_remedy(case, is_buffer=is_buffer),
    )


def _remedy(case: Case, *, is_buffer: bool) -> str:
    reason, back = case.finding.reason, case.way_back("an earlier checkpoint")
    if reason and reason.values:
        return f"{rate_words(reason)} Resume from {back}."
    if not is_buffer:
        return f"Resume from {back} with {case.lower_rate}."
    return (
        "Look for a batch of very large or infinite values (images, or a forward pass whose step "
        f"AMP skipped). Resume from {back}, or reset the statistics of these layers."
    )


def _is_statistics(case: Case, name: str) -> bool:
    return bool(statistics(case.layout)[case.layout.modules.index(name)])


def _is_sound(window: Window) -> bool:
    """Return whether the step right after the weights were read was finite itself."""
    return not (window.nonfinite.any() or window.skipped == window.steps or has_bad_loss(window))


def _beyond(window: Window, limits: Thresholds) -> Flags:
    beyond: Flags = window.weight_max.astype(np.float64) > limits.weight_overflow
    return beyond


def _shows(window: Window, known: Window, rows: list[int], limits: Thresholds) -> bool:
    """Return whether a module exceeds the limit in a window, with parameters that are not NaN."""
    found = _beyond(window, limits) & ~np.isnan(window.weight_norm)
    return window is known or bool(found[rows].any())


def _in_buffer(window: Window) -> Flags:
    """Return (M,) whether the largest value is a buffer's: no parameter exceeds their norm."""
    found: Flags = window.weight_max > window.weight_norm
    return found


def _was_smaller(windows: Sequence[Window], known: Window, limits: Thresholds) -> Flags:
    """Return (M,) whether the largest value was within the limit in an earlier window."""
    earlier = [w for w in windows if w is not known and has_read_weights(w)]
    smaller = [w.weight_max.astype(np.float64) <= limits.weight_overflow for w in earlier]
    return np.logical_or.reduce(smaller) if smaller else np.zeros(len(known.weight_max), np.bool_)


def _innermost(found: Sequence[str]) -> list[str]:
    """Return the modules that contain none of the others."""
    return [n for n in found if not any(o != n and is_in(n, o) for o in found)]


WEIGHT_OVERFLOW = Rule(
    name="weight_overflow",
    kind="nonfinite",
    severity="critical",
    threshold="weight_overflow",
    unit="value",
    judge=weight_overflow,
    needs=lambda _: 1,
    words=weight_overflow_words,
    meaning="a parameter or buffer (BatchNorm's running statistics) is not finite, or too large "
    "for float16, in which checkpoints are stored",
    not_meaning="a NaN in the gradient: the training loss may look fine",
    remedy="check the images or the forward pass of the steps before; an earlier checkpoint",
    state="overflow",
    is_beside=True,
)
