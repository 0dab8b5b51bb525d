"""From samples to windows, news, files, screen and report: the watch without the trainer."""

from __future__ import annotations

import json
import logging
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from rich.text import Text

from yolo_gradwatch import console, runlog, writer
from yolo_gradwatch.board import Board
from yolo_gradwatch.clipping import CLIP_NORM, Clipping, epochs_of
from yolo_gradwatch.contract import unknown_bar
from yolo_gradwatch.detect import matches
from yolo_gradwatch.diagnosis import Diagnosis, replay
from yolo_gradwatch.disk import Disk
from yolo_gradwatch.event import Event
from yolo_gradwatch.evidence import Evidence, existing
from yolo_gradwatch.layout import dated
from yolo_gradwatch.report import Report
from yolo_gradwatch.review import last_step_of, load_run
from yolo_gradwatch.screen import Screen, draws_panel
from yolo_gradwatch.sinks import Fanout, scalars
from yolo_gradwatch.tables import grid_of
from yolo_gradwatch.thresholds import Thresholds
from yolo_gradwatch.windows import Rollup, windows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from yolo_gradwatch.clipping import EpochClipping
    from yolo_gradwatch.event import EventKind
    from yolo_gradwatch.finding import Finding, News
    from yolo_gradwatch.layout import Layout, Members
    from yolo_gradwatch.review import Run
    from yolo_gradwatch.sample import Sample
    from yolo_gradwatch.sinks import Sink
    from yolo_gradwatch.windows import Window

MOST_WAITING = 32
"""Steps that are looked at together at the most; so many take about four times as long as one."""

WAIT_SECONDS = 0.25
"""How long a step waits for others at the most, so that news and panel are fresh."""

NOTED_SHARE = 0.01
"""Of the epochs, how many more there must be before ``gradwatch.json`` is written whole again."""

OWN_PARTS = (
    *("format_version", "status", "process", "versions", "options", "thresholds", "layout"),
    *("last_step", "events", "epochs"),
)
"""Parts of ``gradwatch.json`` that are written."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """What a user asks of the watch; ``GradWatch`` explains each."""

    interval: int = 1
    thresholds: Thresholds = field(default_factory=Thresholds)
    live: bool | None = None
    on_finding: Callable[[Finding], None] | None = None
    stop_on: tuple[str, ...] = ()
    sinks: tuple[Sink, ...] = ()


@dataclass(frozen=True, slots=True)
class Training:
    """What the recorder needs to know of a training.

    Attributes:
        folder: The run's folder.
        options: Arguments that findings refer to.
        epochs: How many it is to have.
        resumes: Whether it continues an earlier one in the same folder.
        earlier: Its first part, if it is known already.
        versions: Of the packages at work.
        handlers: Log handlers that write to the terminal.
        has_known_bar: Whether its progress bar can be drawn inside a panel.
    """

    folder: Path
    options: dict[str, object]
    epochs: int
    resumes: bool
    versions: dict[str, str]
    handlers: Sequence[logging.StreamHandler[Any]]
    has_known_bar: bool = True
    earlier: Run | None = None


class Recorder:
    """Takes the samples of one training and makes everything of them that a user sees.

    Args:
        layout: Of the model that is watched.
        members: Which parameters make up each module.
        training: What there is to know of the training.
        options: Of the watch.

    Attributes:
        first_step: Number of the first optimizer step of this process.
        last_step: Number of the newest one, captured or not.
        evidence: What the newest steps were made of.
        stop_wanted: The finding that is to stop the training; None as long as there is none.
    """

    def __init__(
        self, layout: Layout, members: Members, training: Training, options: Options
    ) -> None:
        earlier = training.earlier
        if training.resumes:
            earlier = earlier or earlier_run(training.folder)
            training = replace(training, options=as_asked(training.options, earlier), earlier=None)
        if earlier:
            layout = dated(layout, earlier.layout, _next_step(earlier))
        self._layout = layout
        self._training = training
        self._options = options
        self._diagnosis = self._new_diagnosis()
        clip = training.options.get("clip")
        self._clip = clip if isinstance(clip, float) else CLIP_NORM
        self._rollup = Rollup(members, options.interval, self._clip)
        self._board = Board(
            layout, epochs=training.epochs, clip=self._clip, interval=options.interval
        )
        self._panel = console.Panel(self._board)
        self._screen: Screen | None = None
        self._fanout = Fanout()
        self._others: dict[str, Any] = {}  # of gradwatch.json, from a later version
        self._events: list[Event] = []
        self._epochs: list[EpochClipping] = []
        self._noted = 0
        self._telemetry = Clipping(0, self._clip, layout)
        self._writer = writer.own()
        self._status = "running"
        self._drawn = ""
        self._landed: list[Sample] = []
        self._settled = 0.0
        self._seen = 0
        self._steps = 0
        self.first_step = 1
        self.last_step = 0
        self.evidence = Evidence(training.folder, layout)
        self.stop_wanted: Finding | None = None
        self._disk = Disk(training.folder)
        self._continues = earlier is not None and self._goes_on(earlier)

    def open(self, safely: Callable[..., None]) -> None:
        """Begin the files and the live report.

        Args:
            safely: Calls a function of ours from a stream; what it raises stays with us.
        """
        folder = self._training.folder
        self._disk.begin(runlog.RunLog(folder, self._layout, resume=self._continues))
        if self._is_live():
            self._screen = Screen(self._panel, self._training.handlers, safely)
            if not self._screen.open():  # that of another training, in another thread
                self._screen = None
        self.begin_anew("resume" if self._training.resumes else "start", self.first_step)

    def _is_live(self) -> bool:
        is_wanted = draws_panel(self._options.live)
        if is_wanted and not self._training.has_known_bar:
            _LOG.warning("GradWatch: %s", unknown_bar())
        return is_wanted and self._training.has_known_bar

    def opens_window(self, step: int) -> bool:
        """Whether the sample of ``step`` will begin a window, as far as is known before it."""
        return self._rollup.opens_window(step)

    def begin_anew(self, kind: EventKind, step: int) -> None:
        """Note that the run begins anew with ``step``; what was before is not compared with."""
        self._close_window()
        event = Event(step, kind)
        self._events.append(event)
        self._rollup.begin_anew()
        self._diagnosis.begin_anew()
        self._write_meta()

    def take_in(self, layout: Layout, members: Members, step: int) -> None:
        """Watch a layout with more modules from ``step`` on, because some have thawed."""
        self._close_window()
        more = len(layout.modules) - len(self._layout.modules)
        self._layout = dated(layout, self._layout, step)
        self._rollup.regroup(members)
        for part in (self._board, self._telemetry, self.evidence, self._diagnosis):
            part.regroup(self._layout)
        self._disk.write(lambda log: log.regroup(self._layout))
        what = "module is" if more == 1 else "modules are"
        self._print(Text(f"GradWatch: {more} thawed {what} watched from step {step} on", "dim"))
        self.begin_anew("thaw", step)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Count clips and skips of this pass over an epoch, of ``epochs`` as planned by now."""
        self._keep_epoch()
        self._board.epochs = epochs
        self._telemetry = Clipping(epoch, self._clip, self._layout)

    def take(self, samples: Iterable[Sample]) -> None:
        """Take steps as they land, in order; they are looked at when it is worth the while."""
        self._landed += samples
        if self._landed and self._is_due():
            self.settle()

    def settle(self) -> None:
        """Look at every step that has landed."""
        samples, self._landed = self._landed, []
        self._settled = time.monotonic()
        if not samples:
            return
        self._seen = samples[-1].step
        windows = self._rollup.add(samples)
        norms = self._rollup.newest
        self._steps += len(samples)
        self._telemetry.add(samples, norms)
        self._board.add(samples, norms)
        self.evidence.add(samples, norms)
        self._judge(windows)

    def _is_due(self) -> bool:
        """Whether there is news, many steps wait, or the last look was some time ago."""
        return (
            self._rollup.is_urgent(self._landed)
            or len(self._landed) >= MOST_WAITING
            or time.monotonic() - self._settled >= WAIT_SECONDS
        )

    def redraw(self) -> None:
        """Bring the live panel up to date, at most a few times a second."""
        if self._screen:
            self._screen.redraw()

    def end_epoch(self) -> None:
        """Close the open window; print the table where there is no live panel to be read."""
        self._close_window()
        had_steps = self._keep_epoch()
        if len(self._epochs) > (1 + NOTED_SHARE) * self._noted:
            self._write_meta()
        if had_steps and (self._screen is None or self._screen.is_recorded):
            self._print(console.epoch_table(self._board))

    def draw(self, status: str, announce: Callable[[Path], None] = lambda _path: None) -> None:
        """Draw the picture of the run as it ended.

        Args:
            status: As in `finish`.
            announce: Called with its path.
        """
        if not self._disk.is_whole:
            return
        self._drawn = status
        path = self._training.folder / runlog.PICTURE_FILE
        try:
            from yolo_gradwatch.heatmap import heatmap  # noqa: PLC0415  # only the end pays for it
            from yolo_gradwatch.plots import write  # noqa: PLC0415  # loads matplotlib

            report = replace(self.report(), status=status)
            write(heatmap(load_run(self._training.folder), report), report, path)
            announce(path)
        except Exception as error:  # noqa: BLE001  # a picture is not worth the rest of the watch
            is_debugged = _LOG.isEnabledFor(logging.DEBUG)
            _LOG.warning("GradWatch could not draw %s: %s", path, error, exc_info=is_debugged)

    def finish(self, status: str) -> None:
        """Write and print the outcome: ``finished``, ``failed`` or ``interrupted``."""
        self._close_window()
        self.mark(status)
        if self._screen:
            self._screen.close()
            self._screen = None
        self._print(console.end_report(self.report()))
        if self._drawn != status:  # last, because whoever stops a training may not wait for it
            self.draw(status)
        self._print(console.file_list(self._files()), fitted=False)

    def mark(self, status: str) -> None:
        """Write down how the training ended; what was written first stands."""
        if self._status == "running":
            self._status = status
            self._write_meta()

    def report(self) -> Report:
        """What was found so far; steps that wait to be looked at are not in it yet."""
        running = self._telemetry.result()
        epochs = (*self._epochs, running) if running.steps else tuple(self._epochs)
        return Report(
            run=self._training.folder,
            status=self._status,
            steps=self._steps,
            modules=len(self._layout.modules),
            findings=tuple(self._diagnosis.findings.all.values()),
            epochs=epochs,
            clip=self._clip,
            unjudged=self._diagnosis.unjudged(),
            thresholds=self._options.thresholds,
            interval=self._options.interval,
        )

    def close(self) -> None:
        """Give the terminal back and close files and sinks, whatever has happened."""
        with ExitStack() as stack:  # each is closed, even if the one before fails
            stack.callback(self.mark, "failed")  # unless it has ended, an error of ours did it
            stack.callback(self._disk.close)
            for sink in self._options.sinks:
                stack.callback(self._fanout.close, sink)
            if self._screen:
                stack.callback(self._screen.close)

    def _new_diagnosis(self) -> Diagnosis:
        limits, training = self._options.thresholds, self._training.options
        return Diagnosis(self._layout, limits, training, self._prove)

    def _goes_on(self, run: Run) -> bool:
        """Whether the run that is resumed could be taken over."""
        try:
            self._take_over(run)
        except Exception as error:  # noqa: BLE001  # there is no end to what may be in a file
            _set_aside(run.folder, error)
            self._layout = replace(self._layout, since=())
            self._diagnosis = self._new_diagnosis()
            return False
        return True

    def _take_over(self, run: Run) -> None:
        """Go on with the count, the events and the findings of the run that is resumed."""
        events = runlog.events_of_meta(run.meta)
        epochs = runlog.epochs_of_meta(run.meta)
        epochs += epochs_of(run.grid, sum(epoch.steps for epoch in epochs))
        windows = list(windows_of(grid_of(run.windows, self._layout)))
        replay(self._diagnosis, windows, events, run.reported)
        runlog.mend(run.folder, run.layout.modules[-1])  # files that are set aside stay as they are
        self._steps = sum(window.steps for window in windows)
        self.first_step = _next_step(run)
        self.last_step = self.first_step - 1
        self._events, self._epochs = events, epochs
        self._others = {name: part for name, part in run.meta.items() if name not in OWN_PARTS}

    def _keep_epoch(self) -> bool:
        """Whether the pass over an epoch that ends here had a step."""
        epoch = self._telemetry.result()
        self._telemetry = Clipping(epoch.epoch, self._clip, self._layout)
        if epoch.steps:
            self._epochs.append(epoch)
        return epoch.steps > 0

    def _close_window(self) -> None:
        self.settle()
        self._judge(self._rollup.close())

    def _judge(self, windows: Iterable[Window]) -> None:
        for window in windows:
            news = self._diagnosis.update(window, self._seen)
            self._disk.write(partial(runlog.RunLog.write_window, window=window))
            self._tell(news)
            numbers = scalars(self._layout, window) if self._options.sinks else {}
            for sink in self._options.sinks:
                self._fanout.call(sink, "write", numbers, window.step_last)

    def _prove(self, first: int, last: int) -> str:
        """The file on one of some steps; "" if there is none and none can be written."""
        folder = self._training.folder
        if not existing(folder, first, last):
            self._disk.write(lambda _log: self.evidence.write(first, last))
        return existing(folder, first, last)

    def _tell(self, news: Sequence[News]) -> None:
        if not news:
            return
        self._disk.write(lambda log: log.write_news(news))
        self._board.show(self._diagnosis.findings.all.values())
        for one in news:
            line = console.news_line(one)
            # In a log, the frame of Ultralytics' bar has no line end yet.
            self._print(line if self._screen else Text("\n").append_text(line))
            if one.change == "end":
                continue
            if self._options.on_finding:
                self._fanout.call(self._options.on_finding, "__call__", one.finding)
            if self.stop_wanted is None and matches(one.finding, self._options.stop_on):
                self.stop_wanted = one.finding
                self._print(console.stop_line(one.finding))

    def _write_meta(self) -> None:
        self._noted = len(self._epochs)
        meta = {
            **self._others,
            "format_version": runlog.FORMAT_VERSION,
            "status": self._status,
            "process": asdict(self._writer) if self._writer else None,
            "versions": self._training.versions,
            "options": {
                "interval": self._options.interval,
                "stop_on": list(self._options.stop_on),
                "training": self._training.options,
            },
            "thresholds": asdict(self._options.thresholds),
            "layout": runlog.meta_of_layout(self._layout),
            "last_step": self.last_step,
            "events": [asdict(event) for event in self._events],
            "epochs": [asdict(epoch) for epoch in self.report().epochs],
        }
        self._disk.write(lambda log: log.write_meta(meta))

    def _print(self, text: Text, *, fitted: bool = True) -> None:
        """Print to the terminal or the log; where there is no reader any more, to nobody."""
        out = self._screen.console if self._screen else console.plain_console()
        text = console.encodable(console.fitted(text, out) if fitted else text, out)
        with console.forgiving(out):
            if self._screen:
                self._screen.print(text)
            else:
                out.print(text, soft_wrap=True)

    def _files(self) -> list[Path]:
        names = (*runlog.RUN_FILES, runlog.PICTURE_FILE)
        paths = (self._training.folder / name for name in names)
        return [path for path in paths if path.exists()]


def earlier_run(folder: Path) -> Run | None:
    """The run that is resumed, if its first part was watched and its files can be continued."""
    if not (folder / runlog.META_FILE).exists():
        return None
    try:
        run = load_run(folder)
        json.dumps(run.meta, allow_nan=False)  # much of it is written again
        _next_step(run)
    except Exception as error:  # noqa: BLE001  # there is no end to what may be in a file
        _set_aside(folder, error)
        return None
    return run


def _set_aside(folder: Path, error: Exception) -> None:
    """Keep files that cannot be continued, and say why."""
    is_debugged = _LOG.isEnabledFor(logging.DEBUG)
    told = "GradWatch starts new files, the old ones are kept as *.old: %s"
    _LOG.warning(told, error, exc_info=is_debugged)
    runlog.set_aside(folder)


def _next_step(run: Run) -> int:
    """The optimizer step with which a resumed run goes on."""
    begun = (event.step for event in runlog.events_of_meta(run.meta))
    last = max(int(run.grid.step_last.max(initial=0)), last_step_of(run.meta))
    return max([last + 1, *begun])


def as_asked(options: dict[str, object], earlier: Run | None) -> dict[str, object]:
    """Options of a resumed training as the user gave them to its first part.

    A checkpoint holds what Ultralytics made of them, such as AdamW of ``optimizer=auto``, as if the
    user had asked for that. Where the first part does not tell, nobody knows: None.
    """
    is_known = earlier is not None and earlier.meta["format_version"] > 1
    first = earlier.meta["options"]["training"] if earlier and is_known else {}
    model = {"model": first["model"]} if "model" in first else {}  # else the checkpoint
    if not is_known and options.get("optimizer") != "auto":
        first = {"optimizer": None, "lr0": None}
        first["fitted"] = {name: options.get(name) for name in first}
    made = {n: v for n, v in first.get("fitted", {}).items() if n in first and options.get(n) == v}
    fitted = {**made, **cast("dict[str, object]", options.get("fitted", {}))}
    return {**options, **model, **{name: first[name] for name in made}, "fitted": fitted}
