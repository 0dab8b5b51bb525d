"""`GradWatch`: what a user configures, attaches and asks for the outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.diagnose.vocabulary import alarms
from yolo_gradwatch.loggers.catalog import AUTO, checked_loggers
from yolo_gradwatch.watch.attachment import Attachment
from yolo_gradwatch.watch.check import STEPS, report_of_check
from yolo_gradwatch.watch.options import Options, checked_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.diagnose.report import Report
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
            and where a logger records the console, a table is printed at the end of each epoch. A
            notebook shows the training in one display, unless this is False; see also `view`.
        on_finding: Called with each finding when it begins, comes back, grows worse or has a cause.
        stop_on: Rules or kinds of rules, such as ``("nonfinite",)``, that end the training.
        loggers: Experiment loggers that get norms, findings and pictures in the run Ultralytics has
            opened there: ``"auto"`` for all, names such as ``("wandb",)``, or ``()`` for none.
        outputs: Objects with any of the methods of `Output`, called as the training goes on.
        flow: Trace single batches through every module, what comes out and which gradient arrives:
            at the optimizer steps 1, 2, 4, 8, ... and after a finding begins, at most 40 in a run,
            from step 65 on in 0.2 % of the time, but for those of the first four findings.
        keep_healthy: Copy ``last.pt`` to ``weights/last_healthy.pt`` at the end of each epoch, as
            long as no critical finding lasts, and no `weight_growth`, `weight_jump` or `rate_jump`.
            Findings name it as the way back, ``resume`` goes on from it. Needs ``save=True``.
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
        keep_healthy: bool = False,
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
            keep_healthy=keep_healthy,
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

        A training that it watches goes on without it, and is reported as interrupted here.
        """
        self._attachment.detach()

    @staticmethod
    def check(
        model: Any,
        *,
        steps: int = STEPS,
        thresholds: Thresholds = Thresholds(),  # noqa: B008  # frozen
        **arguments: Any,
    ) -> Report:
        """Look at a training before it begins: some optimizer steps that leave nothing behind.

        Trains as ``model.train(**arguments)`` would, in a temporary folder, without validation,
        plots, checkpoints and loggers. The model stays as it is, bit for bit. Callbacks that were
        added to it are called.

        Args:
            model: ``YOLO``, ``RTDETR``, ... before ``train()``.
            steps: Optimizer steps; fewer if the training has no more.
            thresholds: Limits of the rules.
            arguments: Of ``train``.

        Raises:
            TypeError: It is no model that Ultralytics can train.
            ValueError: An argument is of no use: ``resume``, several data sets or devices.
        """
        return report_of_check(model, arguments, steps, thresholds)

    def view(self) -> None:
        """Show the newest training, and every later one, in this cell of a notebook.

        Before the training, it keeps the display out of the training's cell; after it, it shows the
        outcome. A training on several GPUs is shown by ``load_run(...).view()``.
        """
        self._attachment.show()

    @property
    def run_dir(self) -> Path | None:
        """The folder of the newest training; None before the first, and on other ranks than 0."""
        return one.folder if (one := self._attachment.newest) else None

    @property
    def has_started(self) -> bool:
        """Whether the newest training got as far as its first epoch."""
        return one.has_started if (one := self._attachment.newest) else False

    @property
    def stopped_by(self) -> Finding | None:
        """The finding that stopped the newest training; None if none did."""
        return one.stopped_by if (one := self._attachment.newest) else None

    def report(self) -> Report:
        """What was found in the newest training, so far or to its end.

        In a process of several that is not rank 0 it says that rank 0 reports.

        Raises:
            RuntimeError: No training has begun, or the processes of the newest have left no files.
        """
        return self._attachment.report()

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
