"""A stand-in for the kernel of a notebook, which keeps what its cells show."""

import sys
from html.parser import HTMLParser
from types import SimpleNamespace

VOID = {"br", "circle", "img", "path", "polyline"}
SHOWN = {"div", "p", "b", "table", "thead", "tbody", "tr", "th", "td", "svg", "title", "span"}
"""Elements that a page of ours may have, beside those without an end."""


class Kernel:
    """What ``IPython`` and ``IPython.display`` are to us.

    Attributes:
        shown: Of each display, in the order in which they were made, its states.
        trouble: Raised by the next call, if any.
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
        """Of the only display."""
        (states,) = self.shown.values()
        return states


class Read(HTMLParser):
    """HTML as a browser reads it that drops every style; fails on what must not be in it.

    Attributes:
        text: What is read, elements apart.
        rows: The cells of each row of its tables.
        images: The sources of its images.
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
