"""The command ``compare``: several runs side by side, from their files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yolo_gradwatch.cli.options import Csv, Json, Pattern, found, judged, matching
from yolo_gradwatch.cli.output import outcome, records, refuse, show, width, write_csv, write_json

Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN_A RUN_B [RUN...]", help="Two or more runs.", show_default=False),
]


def compare(
    runs: Runs,
    module: Pattern = "",
    csv: Csv = False,
    json: Json = False,
) -> None:
    """Compare watched trainings: from which step on they differ, norms, and findings.

    For the same model under another optimizer or image size, or with a block of your own.

    Every run is judged under its own limits and compared with the first: step by step, and at the
    same share of training.
    """
    from yolo_gradwatch.views import compare as comparing
    from yolo_gradwatch.views.parting import parting
    from yolo_gradwatch.views.terminal.compare import side_by_side
    from yolo_gradwatch.views.terminal.parting import parting_record

    if not 2 <= len(runs) <= 26:
        refuse("compare needs 2 to 26 runs, as in: yolo-gradwatch compare runs/a runs/b")
    pairs = [judged(found(path), lambda own: own) for path in runs]
    loaded, reports = [run for run, _ in pairs], [report for _, report in pairs]
    table = comparing.compare(loaded)
    names = comparing.modules_of(loaded, blocks=not module)
    if module:
        wanted = set(matching(table, module)["module"])
        names = {name: kinds for name, kinds in names.items() if name in wanted}
    table = table[table["module"].isin(names)]
    if csv:
        write_csv(table, reports)
    elif json:
        partings = enumerate((parting(loaded[0], other) for other in loaded[1:]), 2)
        write_json(
            {
                "runs": [outcome(report) for report in reports],
                "differences": {d.name: d.by_run for d in comparing.differences(loaded)},
                "partings": [parting_record(i, one) for i, one in partings],
                "modules": records(table),
            }
        )
    else:
        show(side_by_side(loaded, reports, table, names, width()))
