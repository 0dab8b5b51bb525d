"""Decides when to measure the change made by an optimizer step, and handles failures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.measure.updates import Updates

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn

    from yolo_gradwatch.measure.capture import Capture
    from yolo_gradwatch.measure.sample import Sample


class StepChange:
    """Measures the first step of a window that AMP does not skip, when the weights are due.

    Args:
        capture: Receives the measured norms.
        parameters: The P watched parameters.
        remarks: Remarks of the report; gets the reason if measuring ends.
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
        """Note that the gradients of a captured step were read; it may begin a window."""
        self._is_captured = True
        if opens:
            self._is_due, self._measured = weighs, 0

    def begin(self) -> None:
        """Start measuring an optimizer step; usually not called if AMP skips the step."""
        if self._updates and self._is_due and self._is_captured:
            try:
                self._updates.begin()
            except Exception as error:  # noqa: BLE001  # hooks cannot be removed during a step
                self._fail(error)

    def end(self, step: int) -> None:
        """Finish measuring the optimizer step of this number."""
        try:
            is_weighed = self._capture.is_weighed
            norms = self._updates.end(is_weighed=is_weighed) if self._updates else None
            if norms:
                self._capture.add_change(*norms)
                self._is_due, self._measured = False, step
        except Exception as error:  # noqa: BLE001  # see above
            self._fail(error)

    def landed(self, samples: Iterable[Sample]) -> None:
        """Measure another step if AMP turned out to have skipped the measured one.

        AMP calls a fused optimizer even for a step that it skips; nothing changes then.
        """
        self._is_due |= any(one.skipped and one.step == self._measured for one in samples)

    def end_batch(self) -> None:
        """Drop the measurement of a step that did not complete.

        Raises:
            Exception: The error from the step, unless the device was out of memory.
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
