"""A run as one page for a browser (Plotly), which needs no network."""

from __future__ import annotations

import json
from base64 import b64encode
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
from plotly.offline import get_plotlyjs

from yolo_gradwatch.heatmap import COLOURS, STATES, WEAK, WEAK_ZERO, ZERO, heatmap
from yolo_gradwatch.overview import module_columns, source_of
from yolo_gradwatch.report import finding_line
from yolo_gradwatch.runlog import replacing
from yolo_gradwatch.summary import summary

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from yolo_gradwatch.finding import Finding
    from yolo_gradwatch.heatmap import Heatmap
    from yolo_gradwatch.report import Report
    from yolo_gradwatch.review import Run

_PARTS = files("yolo_gradwatch") / "page_parts"


def write(run: Run, report: Report, path: Path) -> None:
    """Write the page of a run, replacing an earlier one whole.

    Raises:
        OSError: It cannot be written.
    """
    with replacing(path) as draft:
        draft.write_text(page(run, report), encoding="utf-8")


def page(run: Run, report: Report) -> str:
    """The page: verdict, findings, an interactive heat map and a table of all modules."""
    template = Template(_part("page.html"))
    return template.substitute(
        name=escape(report.name),
        verdict=escape(report.verdict),
        facts="\n".join(f"<p>{escape(fact.strip())}</p>" for fact in report.facts()),
        source=escape(source_of(run)),
        findings=_findings(report.findings),
        table=_table(summary(run.grid, run.layout, report.findings)),
        data=json.dumps(_data(run, report), allow_nan=False).replace("<", "\\u003c"),
        style=_part("page.css"),
        plotly=get_plotlyjs(),
        script=_part("page.js"),
    )


def _part(name: str) -> str:
    return (_PARTS / name).read_text(encoding="utf-8")


def _findings(findings: Iterable[Finding]) -> str:
    items = [
        f'<li class="{f.severity}">{f.number}. {escape(finding_line(f).strip())}</li>'
        for f in findings
    ]
    around = ("<section><h2>Findings</h2>", '<ul id="findings">', *items, "</ul></section>")
    return "\n".join(around) if items else ""


def _table(table: pd.DataFrame) -> str:
    """Head and rows, with the values to sort by and the words to filter by.

    The modules of a finding come first, each group in forward order.
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
        sick = ' class="sick"' if found else ""
        rows.append(f'<tr{sick} data-words="{escape(words.iloc[i])}">{"".join(cells)}')
    return "\n".join(["<thead><tr>", *heads, "</tr></thead>", "<tbody>", *rows, "</tbody>"])


def _data(run: Run, report: Report) -> dict[str, Any]:
    """What the script of the page draws."""
    modules, blocks = heatmap(run, report, modules=True), heatmap(run, report)
    place = {name: row for row, name in enumerate(modules.names)}
    return {
        "names": modules.names,
        "types": run.layout.types[1:],
        "epoch": modules.epoch.tolist(),
        "first": modules.step_first.tolist(),
        "last": modules.step_last.tolist(),
        "norms": _packed(modules.norms, "<f4"),
        "states": _packed(modules.states, "u1"),
        "totals": _packed(modules.totals, "<f4"),
        "clip": modules.clip,
        "states_known": [
            {"word": word, "colour": colour} for word, colour in (*STATES.values(), WEAK, WEAK_ZERO)
        ],
        "zero": ZERO,
        "views": {"blocks": _view(blocks, place), "modules": _view(modules, place)},
    }


def _view(picture: Heatmap, place: dict[str, int]) -> dict[str, Any]:
    marks = [
        {
            "number": mark.finding.number,
            "rule": mark.finding.rule,
            "colour": COLOURS[mark.finding.severity],
            "rows": mark.rows,
            "first": mark.first,
            "last": mark.last,
        }
        for mark in picture.marks
    ]
    rows = [place[name] for name in picture.names]
    return {
        "labels": picture.labels,
        "rows": rows,
        "marks": marks,
        "limits": picture.limits,
        "weak": picture.weak.tolist(),
    }


def _packed(values: NDArray[Any], kind: str) -> str:
    """The bytes of an array in rows, as text."""
    return b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()
