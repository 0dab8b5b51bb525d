"""The calls that an output of a watched training receives, and when."""

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
    """A training at the moment the watch starts.

    Attributes:
        folder: The run's folder.
        layout: Layout of the watched model.
        thresholds: Limits of the rules.
        begin: Its first optimizer step in this process; kind ``start`` or ``resume``.
        interval: Optimizer steps between captured steps.
        stop_on: Rules, kinds of rules or severities that end the training.
        training: Its arguments, as findings refer to them.
        epochs: Planned number of epochs.
        clip: Total norm above which the trainer clips.
        versions: Versions of the packages involved.
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
    """A receiver of the steps, windows and findings of a training.

    Every method is optional. If one raises, the output gets a warning, one ``close()`` and no
    more calls; the training and the other outputs continue.
    """

    def start(self, run: RunInfo) -> None:
        """Handle the start of the training."""

    def epoch_start(self, epoch: int, epochs: int) -> None:
        """Handle the start of a pass over an epoch, of ``epochs`` planned so far."""

    def steps(self, samples: Sequence[Sample], norms: Floats) -> None:
        """Handle one or more optimizer steps, with their (S, M) module norms in float64.

        Called up to four times a second while the training waits; for live views.
        """

    def window(self, window: Window) -> None:
        """Handle a complete window."""

    def findings(self, changes: Sequence[FindingChange]) -> None:
        """Handle one or more findings that began, returned, worsened, ended or got a cause."""

    def epoch(self, clipping: EpochClipping) -> None:
        """Handle the end of a pass over an epoch that has at least one captured step."""

    def flow(self, flow: Flow) -> None:
        """Handle a traced batch, before `steps` gets its optimizer step.

        See `GradWatch` for which batches are traced.
        """

    def regroup(self, layout: Layout) -> None:
        """Handle a layout with more modules, watched from now on because layers have thawed."""

    def membership(self, optimizer: Optimizer) -> None:
        """Handle what the optimizer moves from its ``step`` on, after every earlier window.

        Called when the first epoch begins, also in a resumed training, and after a change.
        """

    def restart(self, event: Event) -> None:
        """Handle a restart: what follows is not compared with what came before."""

    def kept(self, kept: Kept) -> None:
        """Handle a new checkpoint in ``weights/last_healthy.pt``, from another epoch.

        Epoch 0 means that there is none.
        """

    def end(self, report: Report) -> None:
        """Handle the end of the training, before everything else in ``on_train_end``.

        Called again if the training then fails in a later callback.
        """

    def close(self) -> None:
        """Release everything; called once in any case."""


class OutputBase:
    """An `Output` that ignores everything; derive from it to omit methods."""

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
