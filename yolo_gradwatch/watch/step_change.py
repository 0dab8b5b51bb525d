"""When the change that an optimizer step makes is measured, and what happens if that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.measure.updates import Updates

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn

    from yolo_gradwatch.measure.capture import Capture
    from yolo_gradwatch.measure.sample import Sample


class StepChange:
    """Measures the first step of a window that is not skipped, where the weights are due.

    Args:
        capture: Takes what is measured.
        parameters: P that are watched.
        remarks: Of the report, to which a reason for an end is added.
    """

    def __init__(
        self, capture: Capture, parameters: Sequence[nn.Parameter], remarks: list[str]
    ) -> None:
        self._capture = capture
        self._remarks = remarks
        self._updates: Updates | None = Updates(parameters)
        self._is_due = False
        self._is_captured = False
        self._measured = 0
        self._error: Exception | None = None

    def read(self, *, opens: bool, weighs: bool) -> None:
        """The gradients of a captured step were read; it may begin a window."""
        self._is_captured = True
        if opens:
            self._is_due, self._measured = weighs, 0

    def begin(self) -> None:
        """The optimizer is about to step: unless AMP skips it, as a rule."""
        if self._updates and self._is_due and self._is_captured:
            try:
                self._updates.begin()
            except Exception as error:  # noqa: BLE001  # inside a step nothing can be undone
                self._fail(error)

    def end(self, step: int) -> None:
        """The optimizer has taken the step of this number."""
        try:
            norms = self._updates.end() if self._updates else None
            if norms:
                self._capture.add_change(*norms)
                self._is_due, self._measured = False, step
        except Exception as error:  # noqa: BLE001  # see above
            self._fail(error)

    def landed(self, samples: Iterable[Sample]) -> None:
        """Measure another step if the one measured was skipped after all.

        A fused optimizer is called in a step that AMP skips, and changes nothing.
        """
        self._is_due |= any(one.skipped and one.step == self._measured for one in samples)

    def end_batch(self) -> None:
        """Forget a step that did not come to its end.

        Raises:
            Exception: What went wrong in the step, unless the device had no memory left.
        """
        self._is_captured = False
        error, self._error = self._error, None
        if self._updates:
            self._updates.forget()
        if error is not None:
            raise error

    def _fail(self, error: Exception) -> None:
        self._updates = None
        if isinstance(error, MemoryError):
            self._remarks.append("no more update ratios: not enough memory on the device")
        else:
            self._error = error
