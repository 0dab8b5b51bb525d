"""Self-contained HTML page of a run, with Plotly."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from plotly.offline import get_plotlyjs

from yolo_gradwatch.diagnose.phrases import significant
from yolo_gradwatch.diagnose.report import finding_line
from yolo_gradwatch.runs.schema import FormatError
from yolo_gradwatch.views.depth import Depth, depth
from yolo_gradwatch.views.heatmap import heatmap
from yolo_gradwatch.views.html import depth as along
from yolo_gradwatch.views.html.figure import COVERS, covers, figure
from yolo_gradwatch.views.html.frame import embedded, framed, legend, write_page
from yolo_gradwatch.views.html.hover import quantities
from yolo_gradwatch.views.summary import summary
from yolo_gradwatch.views.terminal.review import module_columns, source_of
from yolo_gradwatch.views.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import pandas as pd

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.runs.run import Run
    from yolo_gradwatch.views.heatmap import Heatmap


def write(run: Run, report: Report, path: Path) -> None:
    """Write the page of a run, atomically replacing an earlier one.

    Raises:
        OSError: The page cannot be written.
    """
    write_page(path, page(run, report))


def page(run: Run, report: Report) -> str:
    """Render the page: verdict, findings, an interactive heat map and a table of all modules."""
    try:
        deep = depth(run, report)
    except FormatError:  # the rest of the page does not need the traces
        deep = Depth((), (), (), ())
    views = {"blocks": heatmap(run, report), "modules": heatmap(run, report, modules=True)}
    name = escape(report.name)
    return framed(
        "page.html",
        name,
        ("plot.js", "sort.js", "page.js"),
        style="page.css",
        library=get_plotlyjs(),
        heading=name,
        verdict=escape(report.verdict),
        facts="\n".join(f"<p>{escape(fact.strip())}</p>" for fact in report.facts()),
        source=escape(source_of(run)),
        findings=_findings(report.findings),
        legends="\n".join(legend(name, covers(one), COVERS) for name, one in views.items()),
        table=_table(summary(run.grid, run.layout, report.findings)),
        data=embedded(_data(run, views, deep)),
        no_depth="" if deep.curves else "hidden",
    )


def _findings(findings: Iterable[Finding]) -> str:
    items = [
        f'<li class="{f.severity}" data-measured="{str(f.is_measured).lower()}">'
        f"{f.number}. {escape(finding_line(f).strip())}</li>"
        for f in findings
    ]
    around = ("<section><h2>Findings</h2>", '<ul id="findings">', *items, "</ul></section>")
    return "\n".join(around) if items else ""


def _table(table: pd.DataFrame) -> str:
    """Render head and rows, with values to sort by and words to filter by.

    Modules with a finding come first; both groups are in forward order.
    """
    table = table.iloc[np.argsort(table["findings"].to_numpy(str) == "", kind="stable")]
    columns = module_columns(table)
    kinds = ['class="text"' if column.is_left else "" for column in columns.values()]
    heads = [
        f'<th scope="col" {kind}><button>{escape(column.heading)}</button></th>'
        for kind, column in zip(kinds, columns.values(), strict=True)
    ]
    values = [table[name].astype("object").where(table[name].notna(), "") for name in columns]
    words = table[["module", "type", "findings"]].agg(" ".join, axis=1)
    rows = []
    for i, found in enumerate(table["findings"]):
        cells = [
            f'<td {kind} data-value="{escape(str(value.iloc[i]))}">{escape(column.cells[i])}</td>'
            for kind, value, column in zip(kinds, values, columns.values(), strict=True)
        ]
        bad = ' class="unhealthy"' if found else ""
        rows.append(f'<tr{bad} data-words="{escape(words.iloc[i])}">{"".join(cells)}')
    return "\n".join(["<thead><tr>", *heads, "</tr></thead>", "<tbody>", *rows, "</tbody>"])


def _data(run: Run, views: Mapping[str, Heatmap], deep: Depth) -> dict[str, Any]:
    """Return the data for the script of the page."""
    one = views["blocks"]
    has_windows = len(one.epoch) > 0
    rows = {name: row for row, name in enumerate(run.layout.modules)}
    return {
        "epoch": one.epoch.tolist(),
        "first": one.step_first.tolist(),
        "last": one.step_last.tolist(),
        "covers": ["", *(word for word, _ in COVERS)],
        "total": _texts_of_total(one),
        "views": {name: _view(one, run.layout, rows) for name, one in views.items() if has_windows},
        "quantities": quantities(run.grid),
        "depth": along.figure(deep) if deep.curves else None,
    }


def _texts_of_total(picture: Heatmap) -> list[str]:
    """(W,) hover text on the norm of the whole model in each window."""
    shown = ([significant(norm, 3) for norm in norms] for norms in picture.totals.T)
    return [f"norm {mean} ({low} to {high})" for low, mean, high in shown]


def _view(picture: Heatmap, layout: Layout, rows: Mapping[str, int]) -> dict[str, Any]:
    """Return the figure on a linear axis of steps, and the parts that differ for equal widths."""
    edges = Timeline(picture.step_first, picture.step_last).edges
    shown, even = (
        figure(picture, sides).to_plotly_json() for sides in (edges, np.arange(float(len(edges))))
    )
    differing = ("shapes", "annotations", "xaxis", "xaxis2")
    return {
        "figure": shown,
        "even": {
            "x": [trace["x"] for trace in even["data"]],
            "layout": {name: even["layout"][name] for name in differing},
        },
        "names": picture.names,
        "types": [layout.types[rows[name]] for name in picture.names],
        "rows": [rows[name] for name in picture.names],
        "marks": [
            {
                "text": f"finding {mark.finding.number}: {mark.finding.rule}",
                "rows": mark.rows,
                "first": mark.first,
                "last": mark.last,
            }
            for mark in picture.marks
        ],
    }
