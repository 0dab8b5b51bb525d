"""Self-contained HTML page of two runs, with Plotly."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from plotly.offline import get_plotlyjs

from yolo_gradwatch.diagnose.report import finding_line
from yolo_gradwatch.views.apart import differences, limits
from yolo_gradwatch.views.beside import COLUMNS
from yolo_gradwatch.views.html.beside import COVERS, covers, figure
from yolo_gradwatch.views.html.frame import embedded, framed, legend, write_page
from yolo_gradwatch.views.html.table import table_html
from yolo_gradwatch.views.parting import parting
from yolo_gradwatch.views.terminal import compare as words
from yolo_gradwatch.views.terminal.parting import sentences

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from yolo_gradwatch.views.beside import Beside, Side
    from yolo_gradwatch.views.comparison import Comparison


def write(found: Comparison, path: Path) -> None:
    """Write the page of two runs, atomically replacing an earlier one.

    Raises:
        OSError: The page cannot be written.
    """
    write_page(path, page(found))


def page(found: Comparison) -> str:
    """Render the page: where the runs differ, both verdicts, findings, heat maps, and tables."""
    first = found.picture()
    views = {"blocks": first}
    if found.is_by_blocks:
        views["modules"] = found.picture(modules=True)
    names = escape(" and ".join(f"{s.letter} {s.report.name}" for s in first.sides))
    return framed(
        "compare.html",
        names,
        ("plot.js", "compare.js"),
        style="page.css",
        library=get_plotlyjs(),
        names=names,
        apart="\n".join(f'<p class="verdict">{escape(line)}</p>' for line in differences(first)),
        limits="\n".join(f"<p>{escape(line)}</p>" for line in limits(first)),
        verdicts="\n".join(_verdict(side) for side in first.sides),
        findings=_findings(first.sides),
        one_view="" if len(views) > 1 else "hidden",
        legends="\n".join(legend(name, covers(one), COVERS) for name, one in views.items()),
        table_title=escape(words.pair_title(1)),
        table=table_html(words.pair_columns(found.shown, found.names, 1)),
        more="\n".join(_more(found)),
        data=embedded(_data(views)),
    )


def _verdict(side: Side) -> str:
    report = side.report
    where = f'<span class="source">{escape(report.path)}</span>'
    return f"<p><b>{side.letter}</b> &nbsp;{escape(report.verdict)} &nbsp;{where}</p>"


def _findings(sides: Iterable[Side]) -> str:
    """List the findings of both runs in full."""
    items = [
        f'<li class="{f.severity}">{side.letter}{f.number}. {escape(finding_line(f).strip())}</li>'
        for side in sides
        for f in side.report.findings
    ]
    return _section("Findings", f'<ul class="findings">{"".join(items)}</ul>') if items else ""


def _more(found: Comparison) -> Iterator[str]:
    """Yield sections on other quantities, on options that differ, and on the divergence."""
    far = words.farthest_columns(found.shown, found.names, 1)
    if far:
        yield _section(words.farthest_title(1), f'<div class="wide plain">{table_html(far)}</div>')
    apart = words.options_apart(found.runs)
    if apart:
        yield _section("Options that differ", _paragraphs(apart))
    steps = sentences(parting(*found.runs), "B")
    yield _section("B compared with A, step by step", _paragraphs(steps))


def _section(title: str, html: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{html}</section>"


def _paragraphs(lines: Iterable[str]) -> str:
    return "\n".join(f"<p>{escape(line)}</p>" for line in lines)


def _data(views: Mapping[str, Beside]) -> dict[str, Any]:
    """Return the data for the script of the page."""
    sides = views["blocks"].sides
    return {
        "columns": COLUMNS,
        "isTrained": any(side.there.any() for side in sides),
        "covers": ["", *(word for word, _ in COVERS)],
        "sides": [
            {
                "letter": side.letter,
                "planned": side.share.planned,
                "begin": side.share.begin,
                "end": side.share.end,
            }
            for side in sides
        ],
        "views": {name: _view(picture) for name, picture in views.items()},
    }


def _view(picture: Beside) -> dict[str, Any]:
    return {
        "figure": figure(picture),
        "labels": picture.labels,
        "marks": [
            {
                "text": f"finding {side.number(span)}: {span.finding.rule}",
                "rows": span.rows,
                "begin": span.begin,
                "end": span.end,
            }
            for side in picture.sides
            for span in side.spans
        ],
    }
