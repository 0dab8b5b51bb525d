"""Reads a training's arguments from the file that Ultralytics writes."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

ARGUMENTS_FILE = "args.yaml"

_ARGUMENT = re.compile(r"(\w+): (\S.*)")
_WORDS = {"null": None, "true": True, "false": False}
_MOST = 65_536  # characters


def arguments_of(folder: Path) -> dict[str, object]:
    """Return the single-valued arguments in Ultralytics' ``args.yaml``; empty without the file.

    It is written when a trainer is built, with one line per name.
    """
    try:
        with (folder / ARGUMENTS_FILE).open(encoding="utf-8", errors="replace") as file:
            lines = file.read(_MOST).splitlines()
    except OSError:
        return {}
    pairs = (_ARGUMENT.fullmatch(line) for line in lines)
    return {found[1]: _scalar(found[2]) for found in pairs if found}


def _scalar(text: str) -> object:
    """Parse a scalar of a YAML file."""
    if text in _WORDS:
        return _WORDS[text]
    for kind in (int, float):
        with suppress(ValueError, OverflowError):
            number = kind(text)
            return number if abs(number) < math.inf else text
    return text.strip("'\"")
