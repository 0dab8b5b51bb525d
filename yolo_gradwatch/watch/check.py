"""A short look at a training before it begins: some optimizer steps that leave nothing behind."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from yolo_gradwatch.diagnose.thresholds import Thresholds, check_count
from yolo_gradwatch.runs.run import load_run
from yolo_gradwatch.runs.schema import FormatError
from yolo_gradwatch.views.terminal.progress import Progress
from yolo_gradwatch.watch.attachment import Attachment, take_off
from yolo_gradwatch.watch.options import Options
from yolo_gradwatch.watch.session import Session
from yolo_gradwatch.watch.ultralytics import ddp, hooks, short, twin
from yolo_gradwatch.watch.ultralytics import training as facts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.runs.run import Run
    from yolo_gradwatch.views.checked import Cost

    Begin = Callable[[Any], None]
    Tell = Callable[[int, int, float], None]

STEPS = 30
"""Optimizer steps, unless others are asked for."""

NOWHERE = Path("check")
"""Stands for the folder of a run, which is gone."""

_FALSE = {"", "0", "false", "none"}


class Unfit(ValueError):  # noqa: N818  # says what arguments are
    """Arguments of a training that cannot be a short one: which, and what to do."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a short training has shown.

    Attributes:
        report: Its findings.
        run: What its files held; None if they could not be read.
        cost: What its batches took.
        error: With which the training ended; None if it did not.
    """

    report: Report
    run: Run | None
    cost: Cost
    error: Exception | None = None


def check_model(
    model: Any, arguments: Mapping[str, Any], steps: int, thresholds: Thresholds, tell: Tell
) -> Checked:
    """Look at the training that ``model.train(**arguments)`` would begin; the model stays as it is.

    Raises:
        TypeError: It is no model that Ultralytics can train.
        ValueError: The arguments are not for a short training, or Ultralytics cannot use them.
    """
    facts.check_trainable(model)
    check_arguments(arguments)

    other = twin.twin_of(model)

    def train(begin: Begin, settled: Mapping[str, object]) -> None:
        take_off(other)
        short.without_loggers(other.callbacks)
        hooks.add_callback(other, "on_pretrain_routine_start", begin)
        forget_launches = ddp.before_launch(begin)
        given = {name: one for name, one in arguments.items() if name != "save_dir"}
        try:
            other.train(**{**given, **settled})
        finally:
            forget_launches()

    checked = check(train, steps, thresholds, tell, other)
    if checked is None:
        raise ValueError("train() returned without a training")
    return checked


def report_of_check(
    model: Any, arguments: Mapping[str, Any], steps: int, thresholds: Thresholds
) -> Report:
    """The same with its progress on standard error, see `GradWatch.check`.

    Raises:
        Exception: What `check_model` raises, or what the training ended with.
    """
    with closing(Progress()) as progress:
        checked = check_model(model, arguments, steps, thresholds, progress)
    if checked.error:
        raise checked.error
    return checked.report


def check_arguments(arguments: Mapping[str, object]) -> None:
    """Raise if a training with these arguments cannot be a short one.

    Args:
        arguments: By name, as given in Python or as text.

    Raises:
        Unfit: Which, and what to do.
    """
    if str(arguments.get("resume", "")).lower() not in _FALSE:
        raise Unfit(
            "resume: check looks at the start of a training; drop resume and pass the checkpoint "
            "as the model"
        )
    data = arguments.get("data")
    if isinstance(data, (list, tuple)) or str(data).startswith(("[", "(")):
        raise Unfit("data: check looks at one data set; pass one of them")


def check(
    train: Callable[[Begin, Mapping[str, object]], None],
    steps: int,
    thresholds: Thresholds,
    tell: Tell,
    model: Any = None,
) -> Checked | None:
    """Train some optimizer steps in a folder that is gone afterwards.

    Args:
        train: Trains; gets what its trainer is handed to before it begins, and arguments that
            replace those of the user's.
        steps: At the most.
        thresholds: Limits of the rules.
        tell: As of `Short`.
        model: It is to train; None where there is none but in a file.

    Returns:
        None if nothing was trained.

    Raises:
        ValueError: ``steps`` is no number of steps.
        Unfit: It is a training on several devices.
        Exception: What the training has raised before its first epoch.
    """
    check_count("steps", steps)
    attachment = Attachment(Options(thresholds=thresholds, live=False, last_step=steps))
    if model is not None:
        attachment.expect(model)

    def is_watched() -> bool:
        session = attachment.newest
        return isinstance(session, Session) and not session.is_broken

    course = short.Short(steps, attachment.on_begin, is_watched, tell)
    with TemporaryDirectory(prefix="yolo-gradwatch-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        error: Exception | None = None
        try:
            train(course.begin, short.settled(folder))
        except hooks.Ended:
            pass
        except short.Refused as refused:
            raise Unfit(refused.why) from None
        except Exception as raised:
            if attachment.newest is None or not attachment.newest.has_report:
                raise
            error = raised
        finally:
            course.close()
        session = attachment.newest
        if not isinstance(session, Session):
            return None
        return _outcome(session, course, error)


def _outcome(session: Session, course: short.Short, error: Exception | None) -> Checked:
    """What is left when the folder goes."""
    report = session.report()
    report = replace(report, run=NOWHERE, remarks=(*report.remarks, *course.remarks))
    return Checked(report, _read(session.folder), course.cost(), error)


def _read(folder: Path) -> Run | None:
    """A run with all that it has in files."""
    try:
        run = load_run(folder)
        _ = run.flow  # read now, and kept
    except FormatError:
        return None
    return run
