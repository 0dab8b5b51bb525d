"""Assembles the parts of a watch for one training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from yolo_gradwatch.diagnose.diagnosis import Diagnosis
from yolo_gradwatch.loggers.catalog import loggers_of
from yolo_gradwatch.loggers.ending import Drawn
from yolo_gradwatch.measure.clipping import CLIP_NORM
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.runs import resume
from yolo_gradwatch.runs.evidence import Evidence
from yolo_gradwatch.runs.files import Files
from yolo_gradwatch.runs.healthy import Shelf
from yolo_gradwatch.runs.outputs import RunInfo
from yolo_gradwatch.views.notebook import Notebook
from yolo_gradwatch.views.picture import DepthPicture, Ended, Picture, page_of
from yolo_gradwatch.watch.diagnosing import Diagnosing
from yolo_gradwatch.watch.fanout import Fanout
from yolo_gradwatch.watch.keeping import Keeping
from yolo_gradwatch.watch.reactions import Callback, StopRule
from yolo_gradwatch.watch.recorder import Recorder
from yolo_gradwatch.watch.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from yolo_gradwatch.measure.layout import Layout, Members
    from yolo_gradwatch.measure.optimizer import Optimizer
    from yolo_gradwatch.runs.outputs import OutputBase
    from yolo_gradwatch.runs.run import Run
    from yolo_gradwatch.views.notebook import View
    from yolo_gradwatch.views.terminal.output import Terminal
    from yolo_gradwatch.watch.options import Options


@dataclass(frozen=True, slots=True)
class Training:
    """What is known about a training when it begins.

    Attributes:
        folder: The run's folder.
        options: Training arguments that findings refer to.
        epochs: Planned number of epochs.
        resumes: Whether it continues an earlier training in the same folder.
        earlier: The run that it continues, if that run was watched.
        versions: Versions of the packages involved.
    """

    folder: Path
    options: dict[str, object]
    epochs: int
    resumes: bool
    earlier: Run | None
    versions: dict[str, str]


class Parts(NamedTuple):
    """The parts of a watch that `Events` calls.

    Attributes:
        recorder: Receives the samples.
        diagnosing: Receives the traces.
        evidence: Receives other facts about a step, such as its images.
        stop: Decides whether to stop the training.
        optimizer: The last known optimizer of the continued run; None if unknown.
        schedule: Decides which batches are traced; None if tracing is off.
        keeping: Copies healthy checkpoints; None if that is off.
    """

    recorder: Recorder
    diagnosing: Diagnosing
    evidence: Evidence
    stop: StopRule
    optimizer: Optimizer | None
    schedule: Schedule | None
    keeping: Keeping | None


def assemble(  # noqa: PLR0913  # everything a watch consists of
    layout: Layout,
    members: Members,
    training: Training,
    options: Options,
    *,
    terminal: Terminal,
    view: View,
    announce: Callable[[Path], None],
) -> Parts:
    """Build the recorder of a training and its outputs, in the order in which they are called.

    Args:
        layout: Layout of the watched model.
        members: Which parameters make up each module.
        training: What is known about the training.
        options: Options of the watch.
        terminal: The live report.
        view: Where a notebook shows the training.
        announce: Called with the path of the picture when it is drawn.
    """
    asked = training.options
    if training.resumes:
        asked = resume.as_asked(asked, training.earlier)

    def diagnose(layout: Layout) -> Diagnosis:
        return Diagnosis(layout, options.thresholds, asked)

    diagnosis, past = diagnose(layout), None
    if training.earlier:
        layout, diagnosis, past = resume.continued(training.earlier, layout, diagnose)
    first_step = past.first_step if past else 1
    clip = asked.get("clip")
    run = RunInfo(
        folder=training.folder,
        layout=layout,
        thresholds=options.thresholds,
        begin=Event(first_step, "resume" if training.resumes else "start"),
        interval=options.interval,
        stop_on=options.stop_on,
        training=asked,
        epochs=training.epochs,
        clip=clip if isinstance(clip, float) else CLIP_NORM,
        versions=training.versions,
    )
    files = Files(past)
    evidence = Evidence(training.folder, files)
    stop = StopRule(options.stop_on, terminal.print)
    waiting = [f.number for f in diagnosis.findings.all.values() if f.waits_for_cause]
    traces, last = past.traces if past else 0, options.last_step
    schedule = Schedule(traces, findings=waiting, last=last) if options.flow else None
    called = [Callback(options.on_finding)] if options.on_finding else []
    wishes = [schedule] if schedule else []
    notebook = Notebook(view, live=options.live)
    terminal.beside = lambda: notebook.is_drawn

    def drawn(picture: Path) -> None:
        notebook.picture = picture
        announce(picture)

    kept, shown = [evidence], [notebook, terminal]
    last_ones = _at_the_end(files, options, drawn)
    if last is not None:  # a check: its folder is removed afterwards
        kept, shown, last_ones = [], [], []
    outputs = [files, *kept, *wishes, *shown, *called, stop, *options.outputs]
    fanout = Fanout([*outputs, *last_ones])
    shelf = Shelf(training.folder) if options.keep_healthy else None
    diagnosing = Diagnosing(diagnosis, fanout, evidence.file, training.folder, shelf)
    recorder = Recorder(run, members, diagnosing, fanout, past)
    recorder.weighing.also = last or 0
    files.remarks = recorder.remarks
    known = past.optimizers[-1] if past and past.optimizers else None
    if diagnosis.way_back:
        terminal.kept(diagnosis.way_back)
    keeping = Keeping(shelf, recorder, diagnosing) if shelf else None
    return Parts(recorder, diagnosing, evidence, stop, known, schedule, keeping)


def _at_the_end(
    files: Files, options: Options, announce: Callable[[Path], None]
) -> list[OutputBase]:
    """Return the pictures, and the loggers that upload them."""
    ended = Ended(files)
    pictures = Picture(ended, announce), DepthPicture(ended)
    drawn = Drawn(
        pictures=lambda: tuple(file for one in pictures for file in one.files),
        page=partial(page_of, ended),
    )
    return [*pictures, *loggers_of(options.loggers, drawn, share_names=options.share_names)]
