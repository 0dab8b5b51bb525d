"""The loggers by the names that users write; a new one is a class and its place here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.thresholds import shown
from yolo_gradwatch.loggers.clearml import ClearML
from yolo_gradwatch.loggers.comet import Comet
from yolo_gradwatch.loggers.dvc import DVCLive
from yolo_gradwatch.loggers.mlflow import MLflow
from yolo_gradwatch.loggers.tensorboard import TensorBoard
from yolo_gradwatch.loggers.wandb import WandB

if TYPE_CHECKING:
    from yolo_gradwatch.loggers.ending import Drawn
    from yolo_gradwatch.loggers.logger import Logger

_ALL = TensorBoard, WandB, MLflow, Comet, ClearML, DVCLive

LOGGERS: dict[str, type[Logger]] = {one.name: one for one in _ALL}

AUTO = "auto"
"""All of them whose run Ultralytics has opened."""

HEADINGS = ("logger", "numbers", "findings", "verdict", "pictures", "page", "table of findings")


def checked_loggers(names: object) -> tuple[str, ...] | None:
    """The loggers that a user names, in the order of the catalogue; None stands for ``auto``.

    Raises:
        TypeError: They are neither ``auto`` nor a list of names.
        ValueError: One is not known.
    """
    known = ", ".join(LOGGERS)
    if isinstance(names, str) and names == AUTO:
        return None
    if isinstance(names, str) or not isinstance(names, Iterable):
        got = f"the text {shown(names)}" if isinstance(names, str) else type(names).__name__
        raise TypeError(f'loggers must be "auto" or a list or tuple of names ({known}), got {got}')
    chosen = tuple(names)
    for name in chosen:
        if not isinstance(name, str) or name not in LOGGERS:
            raise ValueError(f"loggers: {shown(name)} is not one of {known}")
    return tuple(name for name in LOGGERS if name in chosen)


def loggers_of(chosen: tuple[str, ...] | None, drawn: Drawn, *, share_names: bool) -> list[Logger]:
    """The loggers of a training; those that are not open when it starts do nothing.

    Args:
        chosen: As `checked_loggers` gives them.
        drawn: What is drawn of the run when it is over.
        share_names: Whether absolute paths and names of images may be sent.
    """
    names = tuple(LOGGERS) if chosen is None else chosen
    options = {"is_asked": chosen is not None, "share_names": share_names}
    made: dict[str, Logger] = {}
    for name in names:  # of which TensorBoard is the first
        made[name] = LOGGERS[name](drawn, relay=made.get(TensorBoard.name), **options)
    return [*made.values()]


def table() -> str:
    """What each logger gets, as a table in Markdown."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *map(_cells, LOGGERS.values())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cells(one: type[Logger]) -> tuple[str, ...]:
    texts = one.axis, one.findings_as, one.verdict_as, one.pictures_as, one.page_as, one.table_as
    return (f"{one.title} (`{one.name}`)", *(text or "no" for text in texts))
