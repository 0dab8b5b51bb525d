"""One watched training, from the moment it is known until the watch has left the trainer."""

from __future__ import annotations

import weakref
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.diagnose.report import Report
from yolo_gradwatch.measure import model_layout as layouts
from yolo_gradwatch.runs.arguments import arguments_of
from yolo_gradwatch.runs.claim import Taken, claimed
from yolo_gradwatch.runs.resume import earlier_run
from yolo_gradwatch.views.notebook import View
from yolo_gradwatch.views.terminal.output import Terminal
from yolo_gradwatch.watch.assembly import Parts, Training, assemble
from yolo_gradwatch.watch.events import Events
from yolo_gradwatch.watch.events import view as view_of
from yolo_gradwatch.watch.guard import Guard
from yolo_gradwatch.watch.listening import around_training, connect, listen
from yolo_gradwatch.watch.trial import join_results, outlast_stop
from yolo_gradwatch.watch.ultralytics import contract, hooks
from yolo_gradwatch.watch.ultralytics import training as facts
from yolo_gradwatch.watch.ultralytics.rebuilt import Networks

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.watch.options import Options
    from yolo_gradwatch.watch.ultralytics.rebuilt import Models


class Session:
    """Watches one training; afterwards nothing of the watch is left in the trainer.

    It does not keep its trainer alive; once the watch is over, it keeps the outcome alone.

    Args:
        trainer: A trainer that has not begun to train.
        options: Options of the watch.
        view: Where a notebook shows the training.
        models: Models that it may be training, alive or not.

    Attributes:
        folder: The run's folder.
    """

    def __init__(self, trainer: Any, options: Options, view: View, models: Models = ()) -> None:
        self._alive = weakref.ref(trainer)
        self._options = options
        self._view: View | None = view
        self._parts: Parts | None = None
        self._events: Events | None = None
        self._report: Report | None = None
        self._stopped_by: Finding | None = None
        self._given: dict[str, object] = {}
        self._guard = Guard(self._let_go, partial(self._finish, "interrupted"))
        self.folder: Path = facts.save_dir(trainer)
        self._guard.safely(self._wait, models)

    @property
    def stopped_by(self) -> Finding | None:
        """The finding that stopped the training, if one did."""
        return self._parts.stop.wanted if self._parts else self._stopped_by

    @property
    def has_started(self) -> bool:
        """Whether the training reached its first epoch."""
        return self._parts is not None or self._report is not None

    @property
    def is_broken(self) -> bool:
        """Whether an internal error ended the watch before the training ended."""
        return self._guard.is_broken

    @property
    def has_report(self) -> bool:
        """Whether there is something to report."""
        return self.has_started or self.is_broken

    @property
    def trainer(self) -> Any:
        """The watched trainer; None if it is gone or the watch is over."""
        return self._alive() if self._guard.is_on else None

    @property
    def is_waiting(self) -> bool:
        """Whether the training has yet to begin."""
        return self._guard.is_on and not self.has_started

    def report(self) -> Report:
        """Return the report so far, including why the watch ended early, if it did.

        Raises:
            RuntimeError: The training has not begun yet.
        """
        report = self._parts.recorder.report() if self._parts else self._report
        if report is None and self.is_broken:
            report = Report(self.folder, "failed", 0, 0, (), ())
        if report is None:
            raise RuntimeError("the training has not started yet, so there is nothing to report")
        remarks = dict.fromkeys([*report.remarks, *self._guard.remarks])
        return replace(report, remarks=tuple(remarks))

    def detach(self) -> None:
        """End the watch as if the training were interrupted here; the training continues."""
        self._guard.detach()

    def _wait(self, models: Models) -> None:
        """Have the trainer call us when it begins and when it is over."""
        trainer = self._alive()
        outlast_stop(self._guard.undo)
        given = facts.given_options(trainer)
        workers = arguments_of(self.folder).get("workers")  # already set to 0 on a CPU
        self._given = given if workers is None else {**given, "workers": workers}
        contract.check_step(type(trainer))
        around_training(trainer, self._guard, self._finish)
        start = partial(self._start, Networks(trainer, models, self._guard))
        begin = partial(_in_own_folder, self._alive, self.folder, self._guard.undo, start)
        listen(trainer, self._guard, "on_train_start", begin)

    def _start(self, networks: Networks) -> None:
        """Start watching, right before the first epoch."""
        trainer, guard = self._alive(), self._guard
        resumes = facts.resumes(trainer)
        earlier = earlier_run(self.folder) if resumes else None
        model = facts.model_of(trainer)
        seen = view_of(trainer, layouts.owned(model, earlier.layout.modules) if earlier else ())
        training = Training(
            folder=self.folder,
            options=facts.training_options(trainer, self._given),
            epochs=facts.epochs_of(trainer),
            resumes=resumes,
            earlier=earlier,
            versions=facts.versions(),
        )
        self._parts = parts = assemble(
            seen.layout,
            seen.members,
            training,
            self._options,
            terminal=_terminal(self._options, guard),
            view=self._view or View(),
            announce=self._announce,
        )
        guard.undo.callback(self._close, parts)
        parts.recorder.open()
        if not hooks.has_step_hooks(trainer):
            kind = type(facts.optimizer_of(trainer)).__name__
            parts.recorder.remarks.append(f"no update ratios: the optimizer {kind} has no hooks")
        networks.warn(trainer, parts.recorder.remarks)
        self._events = Events(self._alive, seen, parts, self._options.interval)
        connect(trainer, guard, self._events, parts.keeping)
        join_results(trainer, guard, parts.recorder)

    def _announce(self, picture: Path) -> None:
        trainer = self._alive()
        if trainer is not None:
            self._guard.undo.callback(hooks.announce_picture(trainer, picture))

    def _close(self, parts: Parts) -> None:
        """Close the outputs, with a remark on why the watch is over."""
        parts.recorder.remarks.extend(self._guard.remarks)
        parts.recorder.close()

    def _finish(self, outcome: str) -> None:
        """End the watch: the training is over."""
        try:
            if self._events and self._parts:
                self._parts.recorder.remarks.extend(self._guard.remarks)
                self._events.finish(outcome)
            elif outcome == "finished":
                raise contract.never_began(type(self._alive()), "on_train_start")
        finally:
            self._guard.release()

    def _let_go(self) -> None:
        """Release everything but the outcome."""
        parts, self._parts, self._events, self._given = self._parts, None, None, {}
        self._view = None  # its page may hold a picture
        if parts:
            self._report, self._stopped_by = parts.recorder.report(), parts.stop.wanted


def _in_own_folder(
    alive: Callable[[], Any], folder: Path, over: ExitStack, start: Callable[[], None]
) -> None:
    """Start watching once the folder is claimed for this training.

    Raises:
        Unwatchable: Another training writes to it.
    """
    try:
        with claimed(folder, resumes=facts.resumes(alive()), over=over):
            start()
    except Taken as taken:
        raise contract.Unwatchable(str(taken)) from None


def _terminal(options: Options, guard: Guard) -> Terminal:
    """Build the live report."""
    return Terminal(
        live=options.live,
        handlers=facts.log_handlers(),
        no_panel="" if facts.has_known_bar() else contract.unknown_bar(),
        safely=guard.safely,
    )
