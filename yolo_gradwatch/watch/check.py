"""A short trial of a training before it begins: a few optimizer steps that leave no trace."""

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
"""Default number of optimizer steps."""

NOWHERE = Path("check")
"""Placeholder for the folder of a check, which is removed."""

_FALSE = {"", "0", "false", "none"}


class Unfit(ValueError):  # noqa: N818  # describes the arguments
    """Arguments that a short training cannot use; the message names them and says what to do."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a short training showed.

    Attributes:
        report: Its findings.
        run: The run read from its files; None if they could not be read.
        cost: What its batches took.
        error: The exception that ended the training; None if there was none.
    """

    report: Report
    run: Run | None
    cost: Cost
    error: Exception | None = None


def check_model(
    model: Any, arguments: Mapping[str, Any], steps: int, thresholds: Thresholds, tell: Tell
) -> Checked:
    """Try the training that ``model.train(**arguments)`` would begin; leave the model unchanged.

    Raises:
        TypeError: It is not a model that Ultralytics can train.
        ValueError: The arguments do not fit a short training, or Ultralytics cannot use them.
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
        raise ValueError("train() returned without a training run")
    return checked


def report_of_check(
    model: Any, arguments: Mapping[str, Any], steps: int, thresholds: Thresholds
) -> Report:
    """Run `check_model` with progress on standard error, see `GradWatch.check`.

    Raises:
        Exception: What `check_model` raises, or the exception that ended the training.
    """
    with closing(Progress()) as progress:
        checked = check_model(model, arguments, steps, thresholds, progress)
    if checked.error:
        raise checked.error
    return checked.report


def check_arguments(arguments: Mapping[str, object]) -> None:
    """Raise if a short training cannot run with these arguments.

    Args:
        arguments: Training arguments by name, as Python values or as text.

    Raises:
        Unfit: The message names the argument and says what to do.
    """
    if str(arguments.get("resume", "")).lower() not in _FALSE:
        raise Unfit(
            "resume: check looks at the start of a training run; drop resume and pass the "
            "checkpoint as the model"
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
    """Train for a few optimizer steps in a temporary folder.

    Args:
        train: Runs the training. It gets a function to call with the trainer before it begins, and
            arguments that override the user's.
        steps: Maximum number of optimizer steps.
        thresholds: Limits of the rules.
        tell: Reports progress, as in `Short`.
        model: The model to train; None if it exists only in a file.

    Returns:
        None if nothing was trained.

    Raises:
        ValueError: ``steps`` is not a valid number of steps.
        Unfit: The training uses several devices.
        Exception: What the training raised before its first epoch.
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
    """Collect the results before the folder is removed."""
    report = session.report()
    report = replace(report, run=NOWHERE, remarks=(*report.remarks, *course.remarks))
    return Checked(report, _read(session.folder), course.cost(), error)


def _read(folder: Path) -> Run | None:
    """Read a run with everything in its files; None if they cannot be read."""
    try:
        run = load_run(folder)
        _ = run.flow  # load it now: it is cached, and the folder goes away
    except FormatError:
        return None
    return run
