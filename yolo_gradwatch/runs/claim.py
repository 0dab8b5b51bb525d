"""Assigns a run's folder to one training; of two at the same time, the first one gets it."""

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
"""How long a claim is valid: a training begins its files sooner, and one that crashed before
that blocks the folder no longer."""


class Taken(RuntimeError):  # noqa: N818  # describes a folder
    """A folder into which another training writes its files: which, and what to do."""


@contextmanager
def claimed(folder: Path, *, resumes: bool) -> Iterator[None]:
    """Hold a folder until a training has marked it as its own in ``gradwatch.json``.

    That file names the process that writes it, so nothing needs cleaning up when a training
    ends or crashes. A claim file, which only one process can create, keeps apart two trainings
    that begin at once. This also works on network disks.

    Processes of another machine cannot be checked. A new training then keeps the tables of the
    earlier one as ``*.old``; a resumed one continues them, as after a move to another machine.

    Args:
        folder: The run's folder.
        resumes: Whether the training continues the run in the folder.

    Raises:
        Taken: A live training of this machine writes there, or another one is about to.
    """
    # The life of a claim:
    # 1. _hold creates the claim file exclusively; it names this process. One that is older than
    #    MOST_SECONDS, or whose process is gone, is removed first.
    # 2. _look reads gradwatch.json: a live writer there has the folder, and we raise.
    # 3. The body starts the run, which writes this process into gradwatch.json.
    # 4. The claim file is removed. From now on, gradwatch.json keeps others out.
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
    """Create the claim file; return False if it cannot be written, as other files will also show.

    Raises:
        Taken: Another training holds the claim.
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
    """Return whether a claim belongs to a training that is just beginning."""
    try:
        if time.time() - claim.stat().st_mtime > MOST_SECONDS:
            return False
        return not process.is_gone(msgspec.json.decode(claim.read_bytes(), type=Process))
    except OSError:
        return False
    except (msgspec.MsgspecError, ValueError):  # half-written, or without a process
        return True


def _look(folder: Path, *, resumes: bool) -> None:
    """Raise if a live training writes into the folder; keep tables whose writer is unknown.

    Raises:
        Taken: A live training does.
    """
    try:
        meta = read_meta(folder)
    except Exception:  # noqa: BLE001  # a file may contain anything
        return
    writer = meta.process
    if meta.status != "running" or writer is None or process.is_own(writer):
        return
    if process.is_alive(writer):
        raise Taken(_advice(f"the training of process {writer.pid} writes into this folder"))
    if not (resumes or process.is_gone(writer)):
        _keep(folder)


def _keep(folder: Path) -> None:
    """Set aside the tables of a training that may be running on another machine.

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
