"""What all loggers share: when they are called, with what, and what they must not do."""

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
    """A name of a module that somebody else has imported; None if it is not there."""
    return getattr(sys.modules.get(module), name, None)


class Logger(OutputBase):
    """Sends a run to the logger that Ultralytics has opened for it, and to no other.

    It imports nothing and opens nothing: the logger's own run is looked up when the training
    starts, and again before every call, so that nothing is sent once it is closed.

    Args:
        drawn: What is drawn of the run.
        is_asked: Whether the user has named this logger; if so, a missing one is a warning.
        share_names: Whether absolute paths and names of images may be sent.
        relay: TensorBoard, if it gets the run too.

    Attributes:
        name: As the user writes it.
        title: As its makers write it.
        integration: Module of Ultralytics' callbacks.
        axis: When it gets numbers and by what, for the docs, like the fields that end in ``_as``.
        records_tensorboard: Whether it has what TensorBoard is sent, without our doing.
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
        """Whether it was there when the training started."""
        return self._live is not None

    @property
    def is_relayed(self) -> bool:
        """Whether it has numbers and pictures from TensorBoard already."""
        return self._relay is not None and self._relay.is_open

    # --- what each logger does its own way, all with the live object that `find` gives ------------

    def find(self) -> Any:
        """The logger's live object; None if there is none."""
        raise NotImplementedError

    def begin(self, live: Any) -> None:
        """The training starts."""

    def send(self, live: Any, numbers: dict[str, float], step: int) -> None:
        """Numbers by name, as of an optimizer step."""

    def tell(self, live: Any, change: FindingChange, text: str) -> None:
        """A finding has begun, come back, grown worse or ended."""

    def finish(self, live: Any, ending: Ending) -> None:
        """The training is over; the logger is still open."""

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
        """Send what has happened to findings."""
        for change in changes if self.is_open else ():
            self._call(self.tell, change, self._private.finding(change.finding))

    def end(self, report: Report) -> None:
        """Send the outcome."""
        if self.is_open:
            self._call(self.finish, self._private.ending(report, self._drawn, self._step))

    def close(self) -> None:
        """Let go of the logger."""
        self._live = None

    def _call(self, method: Callable[..., None], *args: Any) -> None:
        """Call a method with the live object, if the logger is still open."""
        with same_random_numbers():
            if self.find() is self._live:
                method(self._live, *args)
