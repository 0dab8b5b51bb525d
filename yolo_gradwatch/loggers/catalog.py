"""Loggers by the names that users write; to add one, write a class and list it here."""

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
"""Every logger whose run Ultralytics has opened."""

HEADINGS = ("logger", "numbers", "findings", "verdict", "pictures", "page", "table of findings")


def checked_loggers(names: object) -> tuple[str, ...] | None:
    """Return the loggers that a user named, in catalog order; None means ``auto``.

    Raises:
        TypeError: The argument is neither ``auto`` nor a list of names.
        ValueError: A name is unknown.
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
    """Create the loggers of a training; those that are not open when it starts do nothing.

    Args:
        chosen: Return value of `checked_loggers`.
        drawn: Pictures and page of the run, for when it is over.
        share_names: Whether absolute paths and image names may be sent.
    """
    names = tuple(LOGGERS) if chosen is None else chosen
    options = {"is_asked": chosen is not None, "share_names": share_names}
    made: dict[str, Logger] = {}
    for name in names:  # TensorBoard comes first: others may record it
        made[name] = LOGGERS[name](drawn, relay=made.get(TensorBoard.name), **options)
    return [*made.values()]


def table() -> str:
    """Return a Markdown table of what each logger gets."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *map(_cells, LOGGERS.values())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cells(one: type[Logger]) -> tuple[str, ...]:
    texts = one.axis, one.findings_as, one.verdict_as, one.pictures_as, one.page_as, one.table_as
    return (f"{one.title} (`{one.name}`)", *(text or "no" for text in texts))
