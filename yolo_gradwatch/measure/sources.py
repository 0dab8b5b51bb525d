"""In which file the classes of a model that are the user's own are written."""

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
"""Begins the name of the folder to which a notebook's cells are written."""


def sources(modules: Iterable[nn.Module]) -> tuple[tuple[str, str], ...]:
    """Where each class is written that is neither torch's nor Ultralytics' own.

    Args:
        modules: Of a model, without wrappers.

    Returns:
        Class names and places such as ``blocks.py:19``, without folders. A class without a source
        file is left out, and so is a name that two classes have.
    """
    kinds = dict.fromkeys(type(module) for module in modules)
    names = [kind.__name__ for kind in kinds]
    own = [kind for kind in kinds if _is_own(kind) and names.count(kind.__name__) == 1]
    found = ((kind.__name__, _place(kind)) for kind in own)
    return tuple((name, place) for name, place in found if place)


def _is_own(kind: type) -> bool:
    return str(kind.__module__).partition(".")[0] not in _NOT_OWN


def _place(kind: type) -> str:
    """File and line; "" where there is none, as in a notebook or of a class that code has made.

    The line is looked for as text: `inspect.getsourcelines` compiles the file.
    """
    try:
        path = Path(inspect.getsourcefile(kind) or "")
        lines = linecache.getlines(str(path))
    except Exception:  # noqa: BLE001  # somebody else's class may raise anything, and has no place
        return ""
    heads = tuple(f"class {kind.__name__}{end}" for end in "(:[")
    found = (number for number, line in enumerate(lines, 1) if line.lstrip().startswith(heads))
    place = f"{path.name}:{next(found, 0)}"
    is_file = path.suffix == ".py" and not path.parent.name.startswith(_CELLS)
    return place if is_file and place.isprintable() and not place.endswith(":0") else ""
