"""A stand-in for a notebook's kernel that stores the displays of its cells."""

import sys
from html.parser import HTMLParser
from types import SimpleNamespace

VOID = {"br", "circle", "img", "path", "polyline"}
SHOWN = {"div", "p", "b", "table", "thead", "tbody", "tr", "th", "td", "svg", "title", "span"}
"""Elements that our HTML may contain, in addition to the void ones."""


class Kernel:
    """The parts of ``IPython`` and ``IPython.display`` that we use.

    Attributes:
        shown: The states of each display, in order of creation.
        trouble: Raised by the next call, if set.
    """

    def __init__(self, monkeypatch):
        self.shown = {}
        self.trouble = None
        ipython = SimpleNamespace(get_ipython=lambda: self, version_info=(9, 0))
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", self)

    def display(self, data, *, raw, display_id):
        self._take(data, raw)
        assert display_id not in self.shown
        self.shown[display_id] = [data]

    def update_display(self, data, *, raw, display_id):
        self._take(data, raw)
        self.shown[display_id].append(data)

    def _take(self, data, raw):
        if self.trouble:
            raise self.trouble
        assert raw
        assert sorted(data) == ["text/html", "text/plain"]
        Read(data["text/html"])

    @property
    def states(self):
        """The states of the only display."""
        (states,) = self.shown.values()
        return states


class Read(HTMLParser):
    """Parses HTML without its styles; fails on forbidden content.

    Attributes:
        text: The text, with elements separated.
        rows: The cells of each table row.
        images: The sources of the images.
    """

    def __init__(self, html):
        super().__init__()
        self._open = []
        self.text, self.rows, self.images = "", [], []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        assert tag in SHOWN | VOID
        assert not [name for name, _ in attrs if name.startswith("on") or name in {"id", "class"}]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        self.text += "\n" if tag in {"p", "br", "tr"} else " "

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data
