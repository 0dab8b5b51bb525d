"""Finds the run that a path means."""

from __future__ import annotations

from pathlib import Path

from yolo_gradwatch.runs.schema import WINDOWS_FILE, FormatError


def find_run(path: str | Path) -> Path:
    """The folder of a run: the one that is given, that of a CSV, or the newest below.

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
    if given.is_file():
        raise FormatError(path, f"is a file; pass its folder, or {WINDOWS_FILE}")
    if not found:
        lack = "no watched run in it" if given.is_dir() else "no such file or folder"
        remedy = f"pass the folder of a watched training, or its {WINDOWS_FILE}"
        raise FormatError(path, f"{lack}; {remedy}")
    return max(found, key=lambda file: file.stat().st_mtime).parent


def folder_of(path: str | Path) -> Path:
    """The folder that a path names: itself, or the one of a table of a run."""
    given = Path(path)
    is_there = given.is_file() or given.name == WINDOWS_FILE
    is_table = given.suffix == ".csv" and is_there and not given.is_dir()
    return given.parent if is_table else given
