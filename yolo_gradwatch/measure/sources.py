"""Source files of the user-defined classes in a model."""

from __future__ import annotations

import inspect
import linecache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

_NOT_OWN = {"builtins", "torch", "ultralytics"}
"""Packages whose classes nobody has to look up."""

_CELLS = "ipykernel_"
"""Prefix of the folder to which a notebook's cells are written."""


def sources(modules: Iterable[nn.Module]) -> tuple[tuple[str, str], ...]:
    """Return where each class is defined that is neither torch's nor Ultralytics'.

    Args:
        modules: Modules of a model, without wrappers.

    Returns:
        Class names and places such as ``blocks.py:19``, without folders. Classes without a source
        file are left out, and so are names that two classes share.
    """
    kinds = dict.fromkeys(type(module) for module in modules)
    names = [kind.__name__ for kind in kinds]
    own = [kind for kind in kinds if _is_own(kind) and names.count(kind.__name__) == 1]
    found = ((kind.__name__, _place(kind)) for kind in own)
    return tuple((name, place) for name, place in found if place)


def _is_own(kind: type) -> bool:
    return str(kind.__module__).partition(".")[0] not in _NOT_OWN


def _place(kind: type) -> str:
    """Return file and line; "" if there are none, as in a notebook or for a generated class.

    The line is searched for as text, because `inspect.getsourcelines` compiles the file.
    """
    try:
        path = Path(inspect.getsourcefile(kind) or "")
        lines = linecache.getlines(str(path))
    except Exception:  # noqa: BLE001  # a custom class may raise anything
        return ""
    heads = tuple(f"class {kind.__name__}{end}" for end in "(:[")
    found = (number for number, line in enumerate(lines, 1) if line.lstrip().startswith(heads))
    place = f"{path.name}:{next(found, 0)}"
    is_file = path.suffix == ".py" and not path.parent.name.startswith(_CELLS)
    return place if is_file and place.isprintable() and not place.endswith(":0") else ""
