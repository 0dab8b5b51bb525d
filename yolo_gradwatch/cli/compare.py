"""Command ``compare``: comparison of several runs from their files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yolo_gradwatch.cli.options import Command, Csv, Json, Pattern, found, judged, matching
from yolo_gradwatch.cli.output import (
    check_plotly,
    check_target,
    outcome,
    records,
    refuse,
    show,
    width,
    write_csv,
    write_file,
    write_json,
)
from yolo_gradwatch.runs.schema import COMPARED_FILE, COMPARED_PAGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from yolo_gradwatch.views.comparison import Comparison

Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN_A RUN_B [RUN...]", help="Two or more runs.", show_default=False),
]

_DRAWING = {"--plot": COMPARED_FILE, "--html": COMPARED_PAGE}
"""Options whose file name is optional -> its default."""


class Drawing(Command):
    """Command that accepts ``--plot`` and ``--html`` with or without a file name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Pass an empty file name to such an option if none follows."""
        return super().parse_args(ctx, list(_completed(args)))


def compare(  # noqa: PLR0913, PLR0917  # each is an option of the command
    runs: Runs,
    module: Pattern = "",
    csv: Csv = False,
    json: Json = False,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="[FILE]",
            help="Write a picture of two runs, aligned by share of training, to FILE "
            f"(default: {COMPARED_FILE} in RUN_B).",
        ),
    ] = None,
    html: Annotated[
        str | None,
        typer.Option(
            metavar="[FILE]",
            help="Write that comparison as an HTML page to FILE "
            f"(default: {COMPARED_PAGE} in RUN_B).",
        ),
    ] = None,
) -> None:
    """Compare watched runs: the step at which they diverge, gradient norms, and findings.

    For example, the same model with a different optimizer or image size, or with a custom block.

    Each run is judged under its own limits and compared with the first one, both step by step and
    at the same share of training.
    """
    from yolo_gradwatch.views import compare as comparing
    from yolo_gradwatch.views.parting import parting
    from yolo_gradwatch.views.terminal.compare import side_by_side
    from yolo_gradwatch.views.terminal.parting import parting_record

    _check_drawing(runs, plot, html)
    if not 2 <= len(runs) <= 26:
        refuse("compare needs 2 to 26 runs, as in: yolo-gradwatch compare runs/a runs/b")
    pairs = [judged(found(path), lambda own: own) for path in runs]
    loaded, reports = [run for run, _ in pairs], [report for _, report in pairs]
    whole = table = comparing.compare(loaded)
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
    if plot is not None or html is not None:
        from yolo_gradwatch.views.comparison import Comparison

        pair = (loaded[0], loaded[1]), (reports[0], reports[1])
        _draw(Comparison(*pair, whole, names, is_by_blocks=not module), plot, html)


def _completed(args: Sequence[str]) -> Iterator[str]:
    """Yield the arguments, with ``--plot=`` for a ``--plot`` that no file name follows."""
    for i, word in enumerate(args):
        is_bare = word in _DRAWING and (i + 1 == len(args) or args[i + 1].startswith("-"))
        yield f"{word}=" if is_bare else word


def _check_drawing(runs: Sequence[Path], plot: str | None, html: str | None) -> None:
    """Refuse an impossible drawing or file name before any other work is done."""
    for (option, name), text in zip(_DRAWING.items(), (plot, html), strict=True):
        if text:
            check_target(option, Path(text), example=name)
            if Path(text).suffix != Path(name).suffix:  # such as the table of a run
                refuse(
                    f"{option}: {text} is not a {Path(name).suffix} file; pass one, as in {name}"
                )
        if text is not None and len(runs) != 2:
            refuse(f"{option} needs exactly two runs, as in: compare runs/a runs/b {option}")
    if html is not None:
        check_plotly()


def _draw(pair: Comparison, plot: str | None, html: str | None) -> None:
    """Write the requested picture and page."""
    other = pair.runs[1].folder
    if plot is not None:
        from yolo_gradwatch.views.png import beside as png

        path = Path(plot) if plot else other / COMPARED_FILE
        write_file(path, lambda: png.write(pair.picture(), path))
    if html is not None:
        from yolo_gradwatch.views.html import compare as page

        place = Path(html) if html else other / COMPARED_PAGE
        write_file(place, lambda: page.write(pair, place))
