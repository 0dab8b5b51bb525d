"""`GradWatch`: what a user configures, attaches and queries for results."""

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
    stays the same, bit for bit. The files appear in the run's folder.

    Args:
        interval: Optimizer steps between captured steps.
        thresholds: Limits of the rules.
        live: Draw the live panel; None draws it where standard output is a terminal. Without it,
            and where a logger records the console, a table is printed at the end of each epoch. A
            notebook shows the training in one display, unless this is False; see also `view`.
        on_finding: Called with each finding when it begins, returns, worsens or has a known cause.
        stop_on: Rules, kinds or severities that end the training, such as ``("nonfinite",)``.
        loggers: Experiment loggers that get norms, findings and pictures in the run Ultralytics has
            opened there: ``"auto"`` for all, names such as ``("wandb",)``, or ``()`` for none.
        outputs: Objects with any of the methods of `Output`, called during the training.
        flow: Trace single batches through every module, recording outputs and incoming gradients:
            at optimizer steps 1, 2, 4, 8, ... and after a finding begins, at most 40 per run. From
            step 65 on, traces take at most 0.2 % of the time, except for the first four findings.
        keep_healthy: Copy ``last.pt`` to ``weights/last_healthy.pt`` at the end of each epoch,
            unless a critical finding, `weight_growth`, `weight_jump` or `rate_jump` is active.
            Findings name it as the way back, and ``resume`` accepts it. Needs ``save=True``.
        share_names: Whether loggers may receive image names and absolute paths.

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

        Any other watch attached to it is detached, but keeps a training that it is already
        watching.

        If Ultralytics is too old to be watched on several GPUs, a warning says so: for a trainer
        that uses several, and for a model on a machine with several, as it gets its devices later.

        Args:
            model_or_trainer: ``YOLO``, ``RTDETR``, ... before ``train()``, or a trainer before
                ``trainer.train()``.

        Returns:
            This watch, for chaining.

        Raises:
            TypeError: It is neither, or a model that Ultralytics cannot train.
        """
        self._attachment.attach(model_or_trainer)
        return self

    def detach(self) -> None:
        """Detach this watch from every model and trainer; its findings so far remain.

        A training in progress continues without it, and is reported as interrupted here.
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
        """Try a training before it begins: a few optimizer steps that leave no trace.

        Trains as ``model.train(**arguments)`` would, in a temporary folder, without validation,
        plots, checkpoints or loggers. The model stays the same, bit for bit. Callbacks added to
        it are called.

        Args:
            model: ``YOLO``, ``RTDETR``, ... before ``train()``.
            steps: Optimizer steps; fewer if the training is shorter.
            thresholds: Limits of the rules.
            arguments: Arguments of ``train``.

        Raises:
            TypeError: It is not a model that Ultralytics can train.
            ValueError: An argument does not fit a check: ``resume``, several data sets or devices.
        """
        return report_of_check(model, arguments, steps, thresholds)

    def view(self) -> None:
        """Show the newest training, and every later one, in this notebook cell.

        Called before the training, it keeps the display out of the training's cell; called after,
        it shows the outcome. Use ``load_run(...).view()`` for a training on several GPUs.
        """
        self._attachment.show()

    @property
    def run_dir(self) -> Path | None:
        """The folder of the newest training; None before the first, and on ranks other than 0."""
        return one.folder if (one := self._attachment.newest) else None

    @property
    def has_started(self) -> bool:
        """Whether the newest training reached its first epoch."""
        return one.has_started if (one := self._attachment.newest) else False

    @property
    def stopped_by(self) -> Finding | None:
        """The finding that stopped the newest training; None if none did."""
        return one.stopped_by if (one := self._attachment.newest) else None

    def report(self) -> Report:
        """Return the report of the newest training, so far or to its end.

        On a rank other than 0, the report says that rank 0 reports.

        Raises:
            RuntimeError: No training has begun, or the processes of the newest left no files.
        """
        return self._attachment.report()

    @property
    def reports(self) -> list[Report]:
        """The report of each training, oldest first; see `report`."""
        return [session.report() for session in sessions_of(self) if session.has_report]


def begin(watch: GradWatch, trainer: Any) -> None:
    """Have a watch begin with this trainer's training, as an attached watch does by itself."""
    watch._attachment.on_begin(trainer)  # noqa: SLF001  # for the rest of the package, not the user


def sessions_of(watch: GradWatch) -> tuple[Session | Launched, ...]:
    """Return the watched trainings, oldest first, in this process or launched in others."""
    return tuple(watch._attachment.sessions)  # noqa: SLF001  # as above
