"""Attaches a watch to models and trainers, and holds the trainings it has watched."""

from __future__ import annotations

import logging
import weakref
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.diagnose.report import ELSEWHERE, Report
from yolo_gradwatch.views.notebook import View, show_here, show_report
from yolo_gradwatch.watch.guard import warn_of_own_error
from yolo_gradwatch.watch.launched import Launched
from yolo_gradwatch.watch.session import Session
from yolo_gradwatch.watch.trial import numbers
from yolo_gradwatch.watch.ultralytics import ddp, tuning
from yolo_gradwatch.watch.ultralytics import training as facts

if TYPE_CHECKING:
    from yolo_gradwatch.watch.options import Options

_BEGIN = "on_pretrain_routine_start"
"""The event at which Ultralytics has built a trainer that will train."""

_LOG = logging.getLogger(__name__)


class Attachment:
    """The models and trainers that one watch is attached to; it keeps none of them alive.

    Args:
        options: Options of the watch.

    Attributes:
        sessions: The trainings, oldest first, in this process or launched in others.
        view: The notebook display for the newest training or the next one.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._has_warned = False
        self._targets: list[weakref.ref[Any]] = []
        self.sessions: list[Session | Launched] = []
        self.view = View()

    @property
    def newest(self) -> Session | Launched | None:
        """The newest training, or None before the first."""
        return self.sessions[-1] if self.sessions else None

    def report(self) -> Report:
        """Return the report of the newest training, see `GradWatch.report`.

        Raises:
            RuntimeError: There was no training, or its processes left no files.
        """
        if self.newest is not None:
            return self.newest.report()
        if not ddp.reports():
            return Report(Path(), ELSEWHERE, 0, 0, (), ())
        raise RuntimeError(
            "no training has started here: attach the watch, then call train(); for a trial of "
            "tune(use_ray=True), call load_run(folder).report()"
        )

    def numbers(self) -> dict[str, object]:
        """Return the newest training's numbers for a Ray Tune result; empty without a report."""
        newest = self.newest
        try:
            return numbers(newest.report()) if newest and newest.has_report else {}
        except Exception as error:  # noqa: BLE001  # the finished training must return its results
            warn_of_own_error(error)
            return {}

    def show(self) -> None:
        """Show the newest training, and every later one, in this notebook cell."""
        if self.newest is not None and self.newest.has_report and not self.view.page:
            show_report(self.view, self.newest.report())
        else:
            show_here(self.view)

    def attach(self, target: Any) -> None:
        """Attach this watch to a model or a trainer, in place of any other watch.

        Raises:
            TypeError: It is neither, or a model that Ultralytics cannot train.
        """
        if not facts.is_trainer(target):
            facts.check_trainable(target)
        others = _attached(target)
        if self in others:
            return
        for other in others:
            other.leave(target)
        target.add_callback(_BEGIN, self.on_begin)
        tuning.carry(target, self)
        alive = [one for one in self._targets if one() is not None]
        self._targets = [*alive, weakref.ref(target)]
        _hear_of_launches()
        self._warn_if_dropped(target)
        if facts.is_trainer(target) and not ddp.launches_workers(target):
            if facts.has_begun(target):
                _LOG.warning("GradWatch: this training has already started; attach before train()")
            else:
                self.on_begin(target)  # a built trainer has already fired _BEGIN

    def expect(self, model: Any) -> None:
        """Register the model of a training that will begin with a call of `on_begin`."""
        self._targets.append(weakref.ref(model))

    def detach(self) -> None:
        """Detach from every model and trainer, and end the watch of a running training."""
        watched = [one for one in self.sessions if isinstance(one, Session)]
        for target in (*(target() for target in self._targets), *(s.trainer for s in watched)):
            if target is not None:
                self.leave(target)
        for session in watched:
            session.detach()

    def leave(self, target: Any) -> None:
        """Detach from a model or a trainer, and from its training if that has not begun."""
        calls = target.callbacks[_BEGIN]
        target.callbacks[_BEGIN] = [c for c in calls if getattr(c, "__self__", None) is not self]
        tuning.drop(target)
        self._targets = [one for one in self._targets if one() is not target]
        for session in self.sessions[:]:
            if isinstance(session, Session) and session.is_waiting and session.trainer is target:
                session.detach()
                self.sessions.remove(session)

    def on_begin(self, trainer: Any) -> None:
        """Watch this trainer's training, or follow it through its files if it launches processes.

        Ultralytics calls this when it has built a trainer that will train. On ranks other than 0 it
        does nothing.
        """
        try:
            self._begin(trainer)
        except Exception as error:  # noqa: BLE001  # no session exists yet to catch it
            warn_of_own_error(error)

    def _begin(self, trainer: Any) -> None:
        if ddp.launches_workers(trainer):
            self._warn_if_dropped(trainer)
            self.sessions.append(Launched(facts.save_dir(trainer), self._options.stop_on))
        elif ddp.reports():
            if not self.view.is_asked:  # otherwise that view shows every training
                self.view = View()
            self.sessions.append(Session(trainer, self._options, self.view, self._targets))

    def __getstate__(self) -> dict[str, object]:
        """Pickle the options alone: Ultralytics pickles callbacks for its DDP processes."""
        return {**vars(self), "sessions": [], "_targets": [], "view": View()}

    def _warn_if_dropped(self, target: Any) -> None:
        """Warn once if a training on several GPUs will not be watched."""
        if not self._has_warned and ddp.drops_callbacks() and ddp.may_launch(target):
            self._has_warned = True
            _LOG.warning("GradWatch: %s", ddp.dropped_callbacks())


def take_off(target: Any) -> None:
    """Detach every watch from a model or a trainer."""
    for attachment in _attached(target):
        attachment.leave(target)


@cache
def _hear_of_launches() -> None:
    """Have every watch find DDP trainings launched after the first call."""
    ddp.before_launch(_begin_launched)


def _begin_launched(trainer: Any) -> None:
    """Have the attached watch, if any, find the DDP training that a trainer launches."""
    for attachment in _attached(trainer):
        attachment.on_begin(trainer)


def _attached(target: Any) -> list[Attachment]:
    """Return the watches attached to a model or a trainer: at most one."""
    owners = (getattr(callback, "__self__", None) for callback in target.callbacks.get(_BEGIN, []))
    return [owner for owner in owners if isinstance(owner, Attachment)]
