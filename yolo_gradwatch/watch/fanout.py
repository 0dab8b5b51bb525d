"""Forwards the events of a training to its outputs, with one policy for outputs that raise."""

from __future__ import annotations

import logging
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.diagnose.finding import FindingChange
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.measure.arrays import Floats
    from yolo_gradwatch.measure.clipping import EpochClipping
    from yolo_gradwatch.measure.event import Event
    from yolo_gradwatch.measure.kept import Kept
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.optimizer import Optimizer
    from yolo_gradwatch.measure.sample import Sample
    from yolo_gradwatch.measure.trace import Flow
    from yolo_gradwatch.measure.windows import Window
    from yolo_gradwatch.runs.outputs import RunInfo

_LOG = logging.getLogger(__name__)


class Fanout:
    """The outputs of one training as a single output.

    An output that raises an `Exception` gets one warning, one ``close()`` and no more calls; the
    others continue. Other exceptions, such as Ctrl+C, propagate.

    Args:
        outputs: Objects with any of the methods of `Output`, in the order of the calls.
    """

    def __init__(self, outputs: Sequence[Any]) -> None:
        self._outputs = list(outputs)

    def start(self, run: RunInfo) -> None:
        """See `Output`."""
        self._call("start", run)

    def epoch_start(self, epoch: int, epochs: int) -> None:
        """See `Output`."""
        self._call("epoch_start", epoch, epochs)

    def steps(self, samples: Sequence[Sample], norms: Floats) -> None:
        """See `Output`."""
        self._call("steps", samples, norms)

    def window(self, window: Window) -> None:
        """See `Output`."""
        self._call("window", window)

    def findings(self, changes: Sequence[FindingChange]) -> None:
        """See `Output`."""
        self._call("findings", changes)

    def epoch(self, clipping: EpochClipping) -> None:
        """See `Output`."""
        self._call("epoch", clipping)

    def flow(self, flow: Flow) -> None:
        """See `Output`."""
        self._call("flow", flow)

    def regroup(self, layout: Layout) -> None:
        """See `Output`."""
        self._call("regroup", layout)

    def membership(self, optimizer: Optimizer) -> None:
        """See `Output`."""
        self._call("membership", optimizer)

    def restart(self, event: Event) -> None:
        """See `Output`."""
        self._call("restart", event)

    def kept(self, kept: Kept) -> None:
        """See `Output`."""
        self._call("kept", kept)

    def end(self, report: Report) -> None:
        """See `Output`."""
        self._call("end", report)

    def close(self) -> None:
        """Close all outputs, the last one first; a second call does nothing."""
        outputs, self._outputs = self._outputs, []
        with ExitStack() as stack:  # Ctrl+C in one still closes the others
            for output in outputs:
                stack.callback(_close, output)

    def _call(self, method: str, *args: object) -> None:
        for output in self._outputs[:]:
            if not _succeeds(output, method, args):
                self._outputs = [one for one in self._outputs if one is not output]


def _succeeds(output: object, method: str, args: tuple[object, ...]) -> bool:
    """Call a method of an output; return whether it did not raise."""
    try:
        _call(output, method, *args)
    except Exception as error:  # noqa: BLE001  # an output is not worth the training
        _warn(output, method, error)
        with suppress(Exception):  # the user has already been warned about it
            _call(output, "close")
        return False
    return True


def _close(output: object) -> None:
    try:
        _call(output, "close")
    except Exception as error:  # noqa: BLE001  # an output is not worth the training
        _warn(output, "close", error)


def _call(output: object, method: str, *args: object) -> None:
    """Call a method if the output has it; a custom output may have an attribute of that name."""
    call = getattr(output, method, None)
    if callable(call):
        call(*args)


def _warn(output: object, method: str, error: Exception) -> None:
    _LOG.warning(
        "GradWatch: %s.%s raised %s: %s; it is off from now on; everything else continues",
        getattr(output, "name", type(output).__qualname__),
        method,
        type(error).__name__,
        error,
        exc_info=_LOG.isEnabledFor(logging.DEBUG),
    )
