"""The calls that an output of a watched training gets, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from yolo_gradwatch.diagnose.finding import FindingChange
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.diagnose.thresholds import Thresholds
    from yolo_gradwatch.measure.arrays import Floats
    from yolo_gradwatch.measure.clipping import EpochClipping
    from yolo_gradwatch.measure.event import Event
    from yolo_gradwatch.measure.kept import Kept
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.optimizer import Optimizer
    from yolo_gradwatch.measure.sample import Sample
    from yolo_gradwatch.measure.trace import Flow
    from yolo_gradwatch.measure.windows import Window


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A training as it begins to be watched.

    Attributes:
        folder: The run's folder.
        layout: Of the model that is watched.
        thresholds: Limits of the rules.
        begin: Its first optimizer step in this process; kind ``start`` or ``resume``.
        interval: Optimizer steps from one captured step to the next.
        stop_on: Rules or kinds of rules that end the training.
        training: Its arguments, as findings refer to them.
        epochs: How many it is to have.
        clip: Total norm above which the trainer clips.
        versions: Of the packages at work.
    """

    folder: Path
    layout: Layout
    thresholds: Thresholds
    begin: Event
    interval: int
    stop_on: tuple[str, ...]
    training: Mapping[str, object]
    epochs: int
    clip: float
    versions: Mapping[str, str]


class Output(Protocol):
    """Anything that the steps, windows and findings of a training go to.

    Every method may be missing. One that raises costs a warning, one ``close()`` and all later
    calls of this output; the training and the other outputs go on.
    """

    def start(self, run: RunInfo) -> None:
        """The training begins."""

    def epoch_start(self, epoch: int, epochs: int) -> None:
        """A pass over an epoch begins, of as many as are planned by now."""

    def steps(self, samples: Sequence[Sample], norms: Floats) -> None:
        """Some optimizer steps, at least one, with their (S, M) module norms in float64.

        Called up to four times a second while the training waits; for live views.
        """

    def window(self, window: Window) -> None:
        """A window is complete."""

    def findings(self, changes: Sequence[FindingChange]) -> None:
        """Findings, at least one, have begun, come back, grown worse, ended, or got a cause."""

    def epoch(self, clipping: EpochClipping) -> None:
        """A pass over an epoch with at least one captured step is over."""

    def flow(self, flow: Flow) -> None:
        """One batch was traced through the modules, before `steps` gets its optimizer step.

        See `GradWatch` for when.
        """

    def regroup(self, layout: Layout) -> None:
        """More modules are watched from now on, because layers have thawed."""

    def membership(self, optimizer: Optimizer) -> None:
        """What the optimizer moves from its ``step`` on, after every window of before.

        Called as the first epoch begins, also of a training that is resumed, and after a change.
        """

    def restart(self, event: Event) -> None:
        """What comes next is not compared with what was before."""

    def kept(self, kept: Kept) -> None:
        """``weights/last_healthy.pt`` is the checkpoint of another epoch from now on.

        Epoch 0 says that there is none.
        """

    def end(self, report: Report) -> None:
        """The training is over; the first thing in ``on_train_end``.

        Called again if it fails after all, in a later callback.
        """

    def close(self) -> None:
        """Let go of everything; called once, whatever has happened."""


class OutputBase:
    """An `Output` that ignores everything; derive from it to leave methods out."""

    def start(self, run: RunInfo) -> None:
        """See `Output`."""

    def epoch_start(self, epoch: int, epochs: int) -> None:
        """See `Output`."""

    def steps(self, samples: Sequence[Sample], norms: Floats) -> None:
        """See `Output`."""

    def window(self, window: Window) -> None:
        """See `Output`."""

    def findings(self, changes: Sequence[FindingChange]) -> None:
        """See `Output`."""

    def epoch(self, clipping: EpochClipping) -> None:
        """See `Output`."""

    def flow(self, flow: Flow) -> None:
        """See `Output`."""

    def regroup(self, layout: Layout) -> None:
        """See `Output`."""

    def membership(self, optimizer: Optimizer) -> None:
        """See `Output`."""

    def restart(self, event: Event) -> None:
        """See `Output`."""

    def kept(self, kept: Kept) -> None:
        """See `Output`."""

    def end(self, report: Report) -> None:
        """See `Output`."""

    def close(self) -> None:
        """See `Output`."""


METHODS = tuple(name for name in vars(OutputBase) if not name.startswith("_"))
"""Names of the methods of an `Output`."""
