"""Base class of the loggers: when they are called, with what, and what they must not do."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, ClassVar

from yolo_gradwatch.loggers.ending import Privacy
from yolo_gradwatch.loggers.randomness import same_random_numbers
from yolo_gradwatch.loggers.scalars import scalars
from yolo_gradwatch.runs.outputs import OutputBase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from yolo_gradwatch.diagnose.finding import FindingChange
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.loggers.ending import Drawn, Ending
    from yolo_gradwatch.measure.clipping import EpochClipping
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.windows import Window
    from yolo_gradwatch.runs.outputs import RunInfo

_LOG = logging.getLogger(__name__)


def loaded(module: str, name: str) -> Any:
    """Return an attribute of a module that other code has imported; None if there is none."""
    return getattr(sys.modules.get(module), name, None)


class Logger(OutputBase):
    """Sends a run to the logger that Ultralytics has opened for it, and to no other.

    It imports nothing and opens nothing: the logger's own run is looked up when the training
    starts, and again before every call, so that nothing is sent once it is closed.

    Args:
        drawn: Pictures and page of the run.
        is_asked: Whether the user named this logger; if so, we warn when it is missing.
        share_names: Whether absolute paths and image names may be sent.
        relay: The TensorBoard logger, if it gets the run too.

    Attributes:
        name: Name that users write.
        title: Name as its makers write it.
        integration: Module of Ultralytics' callbacks.
        axis: When it gets numbers and by what, for the docs, like the fields that end in ``_as``.
        records_tensorboard: Whether it records by itself what TensorBoard is sent.
        by_epoch: Whether it gets numbers once an epoch instead of once a window.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    integration: ClassVar[str]
    axis: ClassVar[str]
    findings_as: ClassVar[str]
    verdict_as: ClassVar[str]
    pictures_as: ClassVar[str]
    page_as: ClassVar[str]
    table_as: ClassVar[str]
    records_tensorboard: ClassVar[bool] = False

    def __init__(
        self, drawn: Drawn, *, is_asked: bool, share_names: bool, relay: Logger | None = None
    ) -> None:
        self._drawn = drawn
        self._is_asked = is_asked
        self._share_names = share_names
        self._relay = relay if self.records_tensorboard else None
        self._live: Any = None
        self._numbers: dict[str, float] = {}
        self._step = 0
        self.by_epoch = False

    @property
    def is_open(self) -> bool:
        """Whether the logger was open when the training started."""
        return self._live is not None

    @property
    def is_relayed(self) -> bool:
        """Whether it already gets numbers and pictures through TensorBoard."""
        return self._relay is not None and self._relay.is_open

    # --- what each logger does in its own way, with the live object that `find` returns -----------

    def find(self) -> Any:
        """Return the logger's live object; None if there is none."""
        raise NotImplementedError

    def begin(self, live: Any) -> None:
        """Prepare for a training that starts."""

    def send(self, live: Any, numbers: dict[str, float], step: int) -> None:
        """Send numbers by name, as of an optimizer step."""

    def tell(self, live: Any, change: FindingChange, text: str) -> None:
        """Send a finding that has begun, come back, grown worse or ended."""

    def finish(self, live: Any, ending: Ending) -> None:
        """Send the outcome of a training that is over; the logger is still open."""

    # --- the calls of an output -------------------------------------------------------------------

    def start(self, run: RunInfo) -> None:
        """Look the logger up."""
        self._layout, self._clip, self._folder = run.layout, run.clip, run.folder
        self._private = Privacy(run, share_names=self._share_names)
        is_fed = loaded(f"ultralytics.utils.callbacks.{self.integration}", "callbacks")
        with same_random_numbers():
            if self._is_asked or is_fed:
                self._live = self.find()
            if self._live is not None:
                self.begin(self._live)
        if self._live is None and self._is_asked:
            _LOG.warning(
                "GradWatch: %s has no open run, so nothing is logged to it; is it enabled in "
                "yolo settings?",
                self.title,
            )

    def regroup(self, layout: Layout) -> None:
        """See `Output`."""
        self._layout = layout

    def window(self, window: Window) -> None:
        """Send the numbers of a window, or keep them until the epoch is over."""
        if self._live is None:
            return
        numbers, self._step = scalars(self._layout, window, self._clip), window.step_last
        self._numbers |= numbers
        if not self.by_epoch:
            self._call(self.send, numbers, self._step)

    def epoch(self, clipping: EpochClipping) -> None:
        """Send the newest numbers to a logger that takes them once an epoch."""
        del clipping
        if self.by_epoch and self._numbers:
            self._call(self.send, self._numbers, self._step)
        self._numbers = {}

    def findings(self, changes: Sequence[FindingChange]) -> None:
        """Send the changes of findings."""
        for change in changes if self.is_open else ():
            self._call(self.tell, change, self._private.finding(change.finding))

    def end(self, report: Report) -> None:
        """Send the outcome."""
        if self.is_open:
            self._call(self.finish, self._private.ending(report, self._drawn, self._step))

    def close(self) -> None:
        """Drop the live object."""
        self._live = None

    def _call(self, method: Callable[..., None], *args: Any) -> None:
        """Call a method with the live object, if the logger is still open."""
        with same_random_numbers():
            if self.find() is self._live:
                method(self._live, *args)
