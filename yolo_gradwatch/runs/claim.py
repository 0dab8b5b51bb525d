"""Assigns a run's folder to one training; if two start at once, the first one gets it."""

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
    from contextlib import ExitStack
    from pathlib import Path

_LOG = logging.getLogger(__name__)

MOST_SECONDS = 60.0
"""How long a claim is valid: a training starts its files sooner than that, and one that crashed
first must not block the folder for longer."""


class Taken(RuntimeError):  # noqa: N818  # describes a folder
    """Another training writes to the folder: which one, and what to do."""


_WATCHED: dict[Path, ExitStack] = {}
"""Folders that trainings of this process write to."""


@contextmanager
def claimed(folder: Path, *, resumes: bool, over: ExitStack) -> Iterator[None]:
    """Hold a folder until a training has marked it as its own in ``gradwatch.json``.

    That file names the process that writes it, so nothing needs cleaning up when a training ends or
    crashes. If two trainings start at once, a claim file decides, which only one process can
    create. This also works on network disks.

    Processes on another machine cannot be checked. A new training then sets the files of the
    earlier one aside, see `set_aside`; a resumed one continues them, as after a move.

    Args:
        folder: The run's folder.
        resumes: Whether the training continues the run in the folder.
        over: Closed when the training is over; until then, no other training of this process gets
            the folder.

    Raises:
        Taken: A live training on this machine writes there, or another one is about to.
    """
    # The life of a claim:
    # 1. _hold creates the claim file exclusively; it names this process.
    # 2. _look reads gradwatch.json: if a live process writes it, we raise.
    # 3. The body starts the run, which writes this process into gradwatch.json.
    # 4. The claim file is removed. From now on, gradwatch.json keeps others out.
    path = folder.resolve()
    if _WATCHED.setdefault(path, over) is not over:
        raise Taken(_advice("another training in this process is writing to this folder"))
    over.callback(_WATCHED.pop, path)
    claims = _hold(folder / CLAIM_FILE)
    try:
        _look(folder, resumes=resumes)
        yield
    finally:
        _release(claims)


def _hold(claim: Path) -> list[Path]:
    """Create a claim file, after any that crashed processes have left.

    A stale claim is not removed: between the check and the removal, another process could replace
    it by its own. Instead, the new claim gets a longer name. It is valid if the stale claims are
    still there afterwards, because the process that holds a claim removes them before its own.

    Returns:
        All claim files in the order in which to remove them, our own last; none if it cannot be
        written, which other files will show as well.

    Raises:
        Taken: Another training holds the claim.
    """
    left: list[Path] = []
    while _is_left(claim):
        left.append(claim)
        claim = claim.with_name(f"{claim.name}.next")
    try:
        with claim.open("xb") as file:
            file.write(msgspec.json.encode(process.own()))
    except FileExistsError:
        raise Taken(_STARTS) from None
    except OSError:
        return []
    if not all(map(_is_left, left)):
        _release([claim])
        raise Taken(_STARTS)
    return [*left, claim]


def _release(claims: list[Path]) -> None:
    for claim in claims:
        with suppress(OSError):
            claim.unlink()


def _is_left(claim: Path) -> bool:
    """Return whether a claim file exists whose training will no longer start."""
    try:
        if time.time() - claim.stat().st_mtime > MOST_SECONDS:
            return True
        return process.is_gone(msgspec.json.decode(claim.read_bytes(), type=Process))
    except (OSError, msgspec.MsgspecError, ValueError):  # gone, half-written, or without a process
        return False


def _look(folder: Path, *, resumes: bool) -> None:
    """Raise if a live training writes to the folder; set tables of an unknown process aside.

    Raises:
        Taken: A live training writes there.
    """
    try:
        meta = read_meta(folder)
    except Exception:  # noqa: BLE001  # a file may contain anything
        return
    writer = meta.process
    if meta.status != "running" or writer is None or process.is_own(writer):
        return
    if process.is_alive(writer):
        raise Taken(_advice(f"another training (process {writer.pid}) is writing to this folder"))
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
        raise Taken(_advice(f"another training has files of this folder open ({error})")) from None
    _LOG.warning(
        "GradWatch: %s does not say how the earlier training in this folder ended, and its process "
        "is unknown on this machine; its files are kept as *.old: %s",
        META_FILE,
        folder,
    )


def _advice(why: str) -> str:
    return (
        f"{why}, and Ultralytics would mix the weights of both. Give each its own name or project, "
        "or drop exist_ok=True"
    )


_STARTS = _advice("another training is starting in this folder")
