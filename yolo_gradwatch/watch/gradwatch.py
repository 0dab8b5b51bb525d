"""`GradWatch`: what a user configures, attaches and asks for the outcome."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.diagnose.report import ELSEWHERE, Report
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.diagnose.vocabulary import alarms
from yolo_gradwatch.loggers.catalog import AUTO, checked_loggers
from yolo_gradwatch.watch.attachment import Attachment
from yolo_gradwatch.watch.options import Options, checked_outputs
from yolo_gradwatch.watch.ultralytics import ddp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.watch.launched import Launched
    from yolo_gradwatch.watch.session import Session


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
        loggers: Experiment loggers that get the norms, the findings and the pictures, in the run
            that Ultralytics has opened there: ``"auto"`` for every one that has such a run, names
            such as ``("wandb", "tensorboard")``, or ``()`` for none.
        outputs: Objects with any of the methods of `Output`, called as the training goes on.
        flow: Trace single batches through every module, what comes out and which gradient arrives:
            at the optimizer steps 1, 2, 4, 8, ... and in the batch after a finding begins, at most
            40 in a run. From step 65 on they may take 0.2 % of the time.
        share_names: Whether loggers may be sent the names of images and absolute paths.

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
        loggers: str | Iterable[str] = AUTO,
        outputs: Iterable[object] = (),
        flow: bool = True,
        share_names: bool = False,
    ) -> None:
        options = Options(
            interval=interval,
            thresholds=thresholds,
            live=live,
            on_finding=on_finding,
            stop_on=alarms("stop_on", stop_on),
            outputs=checked_outputs(outputs),
            flow=flow,
            loggers=checked_loggers(loggers),
            share_names=share_names,
        )
        self._attachment = Attachment(options)

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
        self._attachment.attach(model_or_trainer)
        return self

    def detach(self) -> None:
        """Take this watch off every model and trainer; what it has found so far stays.

        A training that it watches goes on without it, and is reported as interrupted here. A second
        call does nothing.
        """
        self._attachment.detach()

    @property
    def run_dir(self) -> Path | None:
        """The folder of the newest training; None before the first, and on other ranks than 0."""
        newest = self._attachment.newest
        return newest.folder if newest else None

    @property
    def has_started(self) -> bool:
        """Whether the newest training got as far as its first epoch."""
        newest = self._attachment.newest
        return newest is not None and newest.has_started

    @property
    def stopped_by(self) -> Finding | None:
        """The finding that stopped the newest training; None if none did."""
        newest = self._attachment.newest
        return newest.stopped_by if newest else None

    def report(self) -> Report:
        """What was found in the newest training, so far or to its end.

        In a process of several that is not rank 0 it says that rank 0 reports.

        Raises:
            RuntimeError: No training has begun, or the processes of the newest have left no files.
        """
        newest = self._attachment.newest
        if newest is not None:
            return newest.report()
        if not ddp.reports():
            return Report(Path(), ELSEWHERE, 0, 0, (), ())
        raise RuntimeError(
            "no training has begun: attach the watch, then call train(); what tune() trains is not "
            "watched"
        )

    @property
    def reports(self) -> list[Report]:
        """What was found in each training, oldest first; see `report`."""
        return [session.report() for session in sessions_of(self) if session.has_report]


def begin(watch: GradWatch, trainer: Any) -> None:
    """Have a watch begin with the training of this trainer, as an attached one does by itself."""
    watch._attachment.on_begin(trainer)  # noqa: SLF001  # for the rest of the package, not the user


def sessions_of(watch: GradWatch) -> tuple[Session | Launched, ...]:
    """The trainings that were watched, oldest first, in this process or launched in others."""
    return tuple(watch._attachment.sessions)  # noqa: SLF001  # as above
