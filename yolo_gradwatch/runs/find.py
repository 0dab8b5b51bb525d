"""Finds the run that a path refers to, and all runs below a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from yolo_gradwatch.runs.evidence import OWN_FOLDER
from yolo_gradwatch.runs.schema import RUN_FILES, WINDOWS_FILE, FormatError

_ARGUMENTS_FILE = "args.yaml"
"""Ultralytics writes it into the folder of every training."""

_NO_RUNS_INSIDE = {OWN_FOLDER, "weights"}
"""Subfolders of a run's folder that hold no runs."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The trainings in a tree of folders.

    Attributes:
        runs: Folders of watched trainings; a run reached by several links appears once.
        unwatched: Folders of other trainings.
        closed: Folders that cannot be read.
    """

    runs: tuple[Path, ...]
    unwatched: tuple[Path, ...]
    closed: tuple[Path, ...]


def find_run(path: str | Path) -> Path:
    """Return the folder of a run: the given one, that of a CSV, or the newest run below.

    Args:
        path: A run's folder, its ``gradwatch.csv``, or a folder up to three levels above, such as
            ``runs/detect``.

    Raises:
        FormatError: There is no watched run.
    """
    given = folder_of(path)
    if given != Path(path) or (given / WINDOWS_FILE).exists():
        return given
    depths = ("*", "*/*", "*/*/*")
    found = [file for depth in depths for file in given.glob(f"{depth}/{WINDOWS_FILE}")]
    if given.is_file() or not found:
        _refuse(path, given)
    return max(found, key=lambda file: file.stat().st_mtime).parent


def folder_of(path: str | Path) -> Path:
    """Return the folder that a path refers to: the path itself, or the parent of a run's table."""
    given = Path(path)
    is_there = given.is_file() or given.name == WINDOWS_FILE
    is_table = given.suffix == ".csv" and is_there and not given.is_dir()
    return given.parent if is_table else given


def folder_of_run(path: str | Path) -> Path:
    """Return the folder of exactly this run.

    Raises:
        FormatError: It is a folder of runs: which one is the newest, or that there is none.
    """
    given = folder_of(path)
    if given.is_dir() and not any((given / name).exists() for name in RUN_FILES):
        raise FormatError(path, f"is not a run; the newest run below it is {find_run(given)}")
    return given


def _refuse(path: str | Path, given: Path) -> NoReturn:
    """Raise an error that says why there is no run, and what to pass instead."""
    if given.is_file():
        raise FormatError(path, f"is a file; pass its folder, or {WINDOWS_FILE}")
    lack = "no watched run in it" if given.is_dir() else "no such file or folder"
    remedy = f"pass the folder of a watched run, or its {WINDOWS_FILE}"
    raise FormatError(path, f"{lack}; {remedy}")


def tree_of(path: str | Path) -> Tree:
    """Return all trainings in a folder and below it, at any depth.

    Links to folders are not followed, unless they lead directly to a run.

    Raises:
        FormatError: There is no watched run.
    """
    given = folder_of(path)
    found: dict[str, list[str]] = {"runs": [], "unwatched": [], "closed": []}
    left, links = [str(given)] if given.is_dir() else [], list[str]()
    while left:
        folder = left.pop()
        try:
            with os.scandir(folder) as listed:
                entries = list(listed)
        except OSError:
            found["closed"].append(folder)
            continue
        names = {entry.name for entry in entries}
        is_run = not names.isdisjoint(RUN_FILES)
        if is_run or _ARGUMENTS_FILE in names:
            found["runs" if is_run else "unwatched"].append(folder)
        inside = [one for one in entries if not (is_run and one.name in _NO_RUNS_INSIDE)]
        links += [one.path for one in inside if one.is_symlink()]
        left += [one.path for one in inside if one.is_dir(follow_symlinks=False)]
    found["runs"] += _linked(links, found["runs"])
    if not found["runs"]:
        _refuse(path, given)
    return Tree(**{kind: tuple(map(Path, sorted(one))) for kind, one in found.items()})


def _linked(links: list[str], known: list[str]) -> list[str]:
    """Return the links that lead to a run, each new run once."""
    there = {os.path.realpath(folder) for folder in known}
    found = []
    for link in sorted(links):
        real = os.path.realpath(link)
        if real not in there and any((Path(real) / name).is_file() for name in RUN_FILES):
            there.add(real)
            found.append(link)
    return found
