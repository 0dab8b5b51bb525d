"""`GradWatch`: what a user configures, attaches and asks for the outcome."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.diagnose.report import ELSEWHERE, Report
from yolo_gradwatch.diagnose.thresholds import Thresholds, check_count, shown
from yolo_gradwatch.diagnose.vocabulary import alarms
from yolo_gradwatch.runs.outputs import METHODS
from yolo_gradwatch.watch.assembly import Options
from yolo_gradwatch.watch.guard import warn_of_own_error
from yolo_gradwatch.watch.launched import Launched
from yolo_gradwatch.watch.session import Session
from yolo_gradwatch.watch.ultralytics import ddp
from yolo_gradwatch.watch.ultralytics import training as facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from yolo_gradwatch.diagnose.finding import Finding

_BEGIN = "on_pretrain_routine_start"
"""The event at which Ultralytics has built a trainer that trains."""

_LOG = logging.getLogger(__name__)


class GradWatch:
    """Watches the gradients of every training of the models that it is attached to.

    Each optimizer step costs one vector of norms, copied without stopping the device; the training
    itself is not changed by a bit. The files appear in the run's folder.

    Args:
        interval: Optimizer steps from one captured step to the next.
        thresholds: Limits of the rules.
        live: Draw the live panel; None draws it where standard output is a terminal. Without it,
            in a notebook, and where a logger records the console, a table is printed at the end of
            each epoch; the panel itself is never recorded.
        on_finding: Called with each finding when it begins, comes back or grows worse.
        stop_on: Rules or kinds of rules, such as ``("nonfinite",)``, that end the training.
        outputs: Objects with any of the methods of `Output`, called as the training goes on.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: An argument has an impossible value.
    """

    def __init__(  # noqa: PLR0913  # the whole configuration, all of it optional
        self,
        *,
        interval: int = 1,
        thresholds: Thresholds = Thresholds(),  # noqa: B008  # frozen
        live: bool | None = None,
        on_finding: Callable[[Finding], None] | None = None,
        stop_on: Iterable[str] = (),
        outputs: Iterable[object] = (),
    ) -> None:
        check_count("interval", interval)
        if not isinstance(thresholds, Thresholds):
            raise TypeError(f"thresholds must be a Thresholds, got {type(thresholds).__name__}")
        if not (live is None or isinstance(live, bool)):
            raise TypeError(f"live must be True, False or None, got {shown(live)}")
        if not (on_finding is None or callable(on_finding)):
            raise TypeError(f"on_finding must be callable, got {type(on_finding).__name__}")
        self._options = Options(
            interval=interval,
            thresholds=thresholds,
            live=live,
            on_finding=on_finding,
            stop_on=alarms("stop_on", stop_on),
            outputs=_outputs(outputs),
        )
        self._has_warned = False
        self._targets: list[weakref.ref[Any]] = []
        self._sessions: list[Session | Launched] = []

    def attach(self, model_or_trainer: Any) -> GradWatch:
        """Watch every later training of a model, or the training of a trainer.

        Another watch that is attached to it is taken off. A training that this one watches by then
        is left to it.

        Where Ultralytics is too old to be watched on several GPUs, a warning says so: to a trainer
        on several, and to a model if there are several, because it gets its devices only later.

        Args:
            model_or_trainer: ``YOLO``, ``RTDETR``, ... before ``train()``, or a trainer before
                ``trainer.train()``.

        Returns:
            This watch, so that it can be attached where it is built.

        Raises:
            TypeError: It is neither, or a model that Ultralytics cannot train.
        """
        target = model_or_trainer
        if not facts.is_trainer(target):
            facts.check_trainable(target)
        watches = _attached(target)
        if self in watches:
            return self
        for other in watches:
            other.leave(target)
        target.add_callback(_BEGIN, self._on_begin)
        alive = [one for one in self._targets if one() is not None]
        self._targets = [*alive, weakref.ref(target)]
        _hear_of_launches()
        self._warn_if_dropped(target)
        if facts.is_trainer(target) and not ddp.launches_workers(target):
            if facts.has_begun(target):
                _LOG.warning("GradWatch: this training has begun: attach before train()")
            else:
                self._on_begin(target)  # a trainer's own routine start is over
        return self

    def detach(self) -> None:
        """Take this watch off every model and trainer; what it has found so far stays.

        A training that it watches goes on without it, and is reported as interrupted here. A second
        call does nothing.
        """
        watched = [s for s in self._sessions if isinstance(s, Session)]
        for target in (*(target() for target in self._targets), *(s.trainer for s in watched)):
            if target is not None:
                self.leave(target)
        for session in watched:
            session.detach()

    @property
    def run_dir(self) -> Path | None:
        """The folder of the newest training; None before the first, and on other ranks than 0."""
        return self._session.folder if self._session else None

    @property
    def has_started(self) -> bool:
        """Whether the newest training got as far as its first epoch."""
        return self._session is not None and self._session.has_started

    @property
    def stopped_by(self) -> Finding | None:
        """The finding that stopped the newest training; None if none did."""
        return self._session.stopped_by if self._session else None

    def report(self) -> Report:
        """What was found in the newest training, so far or to its end.

        In a process of several that is not rank 0 it says that rank 0 reports.

        Raises:
            RuntimeError: No training has begun, or the processes of the newest have left no files.
        """
        if self._session is not None:
            return self._session.report()
        if not ddp.reports():
            return Report(Path(), ELSEWHERE, 0, 0, (), ())
        raise RuntimeError(
            "no training has begun: attach the watch, then call train(); what tune() trains is not "
            "watched"
        )

    @property
    def reports(self) -> list[Report]:
        """What was found in each training, oldest first; see `report`."""
        return [session.report() for session in self._sessions if session.has_report]

    def _on_begin(self, trainer: Any) -> None:
        """Watch the training of this trainer, or find it again if it launches others for it.

        Ultralytics calls this when it has built a trainer that trains; the other ranks of several
        do nothing here.
        """
        try:
            self._begin(trainer)
        except Exception as error:  # noqa: BLE001  # there is no session yet that would catch it
            warn_of_own_error(error)

    def _begin(self, trainer: Any) -> None:
        if ddp.launches_workers(trainer):
            self._warn_if_dropped(trainer)
            self._sessions.append(Launched(facts.save_dir(trainer), self._options.stop_on))
        elif ddp.reports():
            self._sessions.append(Session(trainer, self._options))

    def __getstate__(self) -> dict[str, object]:
        """The configuration alone: Ultralytics pickles callbacks for the processes of a DDP run."""
        return {**vars(self), "_sessions": [], "_targets": []}

    @property
    def _session(self) -> Session | Launched | None:
        return self._sessions[-1] if self._sessions else None

    def leave(self, target: Any) -> None:
        """Take this watch off a model or a trainer, and off its training if that is to come."""
        calls = target.callbacks[_BEGIN]
        target.callbacks[_BEGIN] = [c for c in calls if getattr(c, "__self__", None) is not self]
        self._targets = [one for one in self._targets if one() is not target]
        for session in self._sessions[:]:
            if isinstance(session, Session) and session.is_waiting and session.trainer is target:
                session.detach()
                self._sessions.remove(session)

    def _warn_if_dropped(self, target: Any) -> None:
        """Say once that a training on several GPUs is not watched, where that is so."""
        if not self._has_warned and ddp.drops_callbacks() and ddp.may_launch(target):
            self._has_warned = True
            _LOG.warning("GradWatch: %s", ddp.dropped_callbacks())


@cache
def _hear_of_launches() -> None:
    """From the first call on, tell every watch of the trainings that are launched in ddp."""
    ddp.before_launch(_begin_launched)


def _begin_launched(trainer: Any) -> None:
    """Tell the watch that is attached, if one is, of a trainer that launches ddp."""
    for watch in _attached(trainer):
        begin(watch, trainer)


def begin(watch: GradWatch, trainer: Any) -> None:
    """Have a watch begin with the training of this trainer, as an attached one does by itself."""
    watch._on_begin(trainer)  # noqa: SLF001  # for the rest of the package, not for the user


def sessions_of(watch: GradWatch) -> tuple[Session | Launched, ...]:
    """The trainings that were watched, oldest first, in this process or launched in others."""
    return tuple(watch._sessions)  # noqa: SLF001  # as above


def _attached(target: Any) -> list[GradWatch]:
    """The watches that are attached to a model or a trainer: one at the most."""
    owners = (getattr(callback, "__self__", None) for callback in target.callbacks.get(_BEGIN, []))
    return [owner for owner in owners if isinstance(owner, GradWatch)]


def _outputs(outputs: Iterable[object]) -> tuple[object, ...]:
    if not isinstance(outputs, Iterable):
        raise TypeError(f"outputs must be a list or tuple, got {type(outputs).__name__}")
    chosen = tuple(outputs)
    for output in chosen:
        if isinstance(output, type):
            raise TypeError(f"outputs: {output.__qualname__} is a class, give an object of it")
        if not any(callable(getattr(output, method, None)) for method in METHODS):
            raise TypeError(
                f"outputs: {type(output).__name__} has none of the methods {', '.join(METHODS)}"
            )
    return chosen
