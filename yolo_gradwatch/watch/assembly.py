"""Puts together what the watch of one training consists of."""

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
    """What there is to know of a training as it begins.

    Attributes:
        folder: The run's folder.
        options: Arguments that findings refer to.
        epochs: How many it is to have.
        resumes: Whether it continues an earlier one in the same folder.
        earlier: The run that it continues, if that was watched.
        versions: Of the packages at work.
    """

    folder: Path
    options: dict[str, object]
    epochs: int
    resumes: bool
    earlier: Run | None
    versions: dict[str, str]


class Parts(NamedTuple):
    """What the events of a training speak to.

    Attributes:
        recorder: Takes what was read.
        diagnosing: Takes the traces.
        evidence: Takes what else is known of a step.
        stop: Says whether to stop.
        optimizer: What moved the parameters of the run that is continued; None if unknown.
        schedule: Says which batches are traced; None if none is.
        keeping: Copies checkpoints; None if none is to be kept.
    """

    recorder: Recorder
    diagnosing: Diagnosing
    evidence: Evidence
    stop: StopRule
    optimizer: Optimizer | None
    schedule: Schedule | None
    keeping: Keeping | None


def assemble(  # noqa: PLR0913  # all that a watch is made of
    layout: Layout,
    members: Members,
    training: Training,
    options: Options,
    *,
    terminal: Terminal,
    view: View,
    announce: Callable[[Path], None],
) -> Parts:
    """Build the recorder of a training and its outputs, in the order of their calls.

    Args:
        layout: Of the model that is watched.
        members: Which parameters make up each module.
        training: What there is to know of it.
        options: Of the watch.
        terminal: The live report.
        view: Where a notebook shows it.
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
    if last is not None:  # a check, whose folder is removed
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
    """The pictures, and the loggers, which get them."""
    ended = Ended(files)
    pictures = Picture(ended, announce), DepthPicture(ended)
    drawn = Drawn(
        pictures=lambda: tuple(file for one in pictures for file in one.files),
        page=partial(page_of, ended),
    )
    return [*pictures, *loggers_of(options.loggers, drawn, share_names=options.share_names)]
