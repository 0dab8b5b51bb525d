"""What all self-contained pages share: their frame, their legends, and their data."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from yolo_gradwatch.runs.atomic import replacing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike

_PARTS = files("yolo_gradwatch.views.html") / "parts"


def write_page(path: Path, text: str) -> None:
    """Write a page, atomically replacing an earlier one.

    Raises:
        OSError: The page cannot be written.
    """
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def part(name: str) -> str:
    """Return a file of the package that pages are made of."""
    return (_PARTS / name).read_text(encoding="utf-8")


def framed(
    name: str, title: str, scripts: Iterable[str], *, style: str, library: str = "", **fields: str
) -> str:
    """Render a page.

    Args:
        name: Name of its body among the parts.
        title: Its title, escaped.
        scripts: Names of its scripts among the parts, in the order in which they run.
        style: Name of its style sheet among the parts.
        library: Plotly, if it draws on the page: it needs images and a light background.
        **fields: Contents of the body, escaped.
    """
    return _filled(
        "frame.html",
        images="; img-src data: blob:" if library else "",
        meta="" if library else '<meta name="color-scheme" content="light dark">\n',
        title=title,
        style=part(style),
        body=_filled(name, **fields).rstrip("\n"),
        library=f"<script>\n{library}\n</script>\n" if library else "",
        script="\n".join(map(part, scripts)).rstrip("\n"),
    )


def _filled(name: str, **fields: str) -> str:
    template = Template(part(name))
    return template.substitute(fields)


def embedded(data: dict[str, Any]) -> str:
    """Return data for a script as JSON that cannot end its element."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")


def legend(name: str, covers: ArrayLike, words: Sequence[tuple[str, str]]) -> str:
    """Render a legend of the covers that occur in a view.

    Args:
        name: Name of the view.
        covers: Number of the cover over each cell; 0 for none.
        words: Text and colour of each cover, numbered from 1.
    """
    there = np.unique(covers)
    items = [
        f'<span><i style="background: {colour}"></i>{escape(word)}</span>'
        for number, (word, colour) in enumerate(words, 1)
        if number in there
    ]
    return f'<p data-rows="{name}" hidden>{"".join(items)}</p>'
