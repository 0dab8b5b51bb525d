"""Whose folder it is: of two trainings at the same time in one folder, the first has it."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from yolo_gradwatch.runs import process
from yolo_gradwatch.runs.meta import read_meta
from yolo_gradwatch.runs.process import Process
from yolo_gradwatch.runs.repair import set_aside
from yolo_gradwatch.runs.schema import CLAIM_FILE, META_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOG = logging.getLogger(__name__)

MOST_SECONDS = 60.0
"""For which a claim holds: a training begins its files in less, and one that crashed meanwhile is
in nobody's way for longer."""


class Taken(RuntimeError):  # noqa: N818  # says what a folder is
    """A folder in which another training writes its files: which, and what to do."""


@contextmanager
def claimed(folder: Path, *, resumes: bool) -> Iterator[None]:
    """Hold a folder until a training has marked it as its own in ``gradwatch.json``.

    That file names the process that writes it, so nothing has to be taken away when a training
    ends or crashes. A file that is there for these moments alone, and that only one process can
    create, keeps two trainings that begin at once apart; network disks know it, too.

    A process of another machine cannot be asked. A new training then keeps the tables of the
    earlier one as ``*.old``; a resumed one goes on with them, as after a move to another machine.

    Args:
        folder: The run's folder.
        resumes: Whether the training continues the one that is there.

    Raises:
        Taken: A training of this machine that runs writes there, or another one is about to.
    """
    claim = folder / CLAIM_FILE
    is_held = _hold(claim)
    try:
        _look(folder, resumes=resumes)
        yield
    finally:
        if is_held:
            with suppress(OSError):
                claim.unlink()


def _hold(claim: Path) -> bool:
    """Create the file; False where none can be written, which the other files will show, too.

    Raises:
        Taken: Somebody else has created it and not given up since.
    """
    with suppress(OSError):
        if claim.exists() and not _holds(claim):
            claim.unlink()
    try:
        with claim.open("xb") as file:
            file.write(msgspec.json.encode(process.own()))
    except FileExistsError:
        raise Taken(_advice("another training begins in this folder")) from None
    except OSError:
        return False
    return True


def _holds(claim: Path) -> bool:
    """Whether a claim is that of a training which begins now."""
    try:
        if time.time() - claim.stat().st_mtime > MOST_SECONDS:
            return False
        return not process.is_gone(msgspec.json.decode(claim.read_bytes(), type=Process))
    except OSError:
        return False
    except (msgspec.MsgspecError, ValueError):  # it is being written, or has no process
        return True


def _look(folder: Path, *, resumes: bool) -> None:
    """Raise if a training that runs writes into a folder, and keep what cannot be asked for.

    Raises:
        Taken: One does.
    """
    try:
        meta = read_meta(folder)
    except Exception:  # noqa: BLE001  # there is no end to what may be in a file
        return
    writer = meta.process
    if meta.status != "running" or writer is None or process.is_own(writer):
        return
    if process.is_alive(writer):
        raise Taken(_advice(f"the training of process {writer.pid} writes into this folder"))
    if not (resumes or process.is_gone(writer)):
        _keep(folder)


def _keep(folder: Path) -> None:
    """Set the tables of a training aside that may run on another machine.

    Raises:
        Taken: They cannot be renamed, as on Windows while they are open.
    """
    try:
        set_aside(folder)
    except OSError as error:
        raise Taken(_advice(f"files of another training in it are open ({error})")) from None
    _LOG.warning(
        "GradWatch: %s has no end of the earlier training in this folder, whose process is unknown "
        "to this machine; its files are kept as *.old: %s",
        META_FILE,
        folder,
    )


def _advice(why: str) -> str:
    return (
        f"{why}, and Ultralytics mixes the weights of both in it. Give each training a name or "
        "project of its own, or leave exist_ok=True out"
    )
