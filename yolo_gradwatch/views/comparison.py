"""Comparison of two runs: as text, in a notebook, and as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from string import ascii_uppercase
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.html import finding_html, verdict_html
from yolo_gradwatch.views.beside import beside as side_by_side
from yolo_gradwatch.views.compare import compare, modules_of
from yolo_gradwatch.views.html.table import table_html
from yolo_gradwatch.views.parting import parting
from yolo_gradwatch.views.terminal import compare as words
from yolo_gradwatch.views.terminal.parting import sentences

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.runs.run import Run
    from yolo_gradwatch.views.beside import Beside


@dataclass(frozen=True, repr=False)
class Comparison:
    """Comparison of two runs, each judged under its own limits.

    Attributes:
        runs: Runs A and B.
        reports: Reports of A and B.
        norms: Result of `views.compare.compare`: a row for each run, module and part.
        names: Module -> its class in each run; these are shown. By default the whole model and the
            blocks.
        is_by_blocks: Whether ``names`` is that default.
    """

    runs: tuple[Run, Run]
    reports: tuple[Report, Report]
    norms: pd.DataFrame
    names: dict[str, list[str]]
    is_by_blocks: bool = True

    def __repr__(self) -> str:
        parts = words.side_by_side(self.runs, self.reports, self.shown, self.names, width=None)
        return "\n\n".join(part.plain for part in parts if part)

    def _repr_html_(self) -> str:
        """Render for a notebook cell."""
        pair = words.pair_columns(self.shown, self.names, 1)
        far = words.farthest_columns(self.shown, self.names, 1)
        apart = words.found_apart(self.reports)
        return "\n".join(
            [
                "<div>",
                *map(_outcome, ascii_uppercase, self.reports),
                *(f"<p>{escape(line)}</p>" for line in words.options_apart(self.runs)),
                *(f"<p>{escape(line)}</p>" for line in sentences(parting(*self.runs), "B")),
                f"<p><b>{escape(words.pair_title(1))}</b></p>{table_html(pair)}",
                f"<p><b>{escape(words.farthest_title(1))}</b></p>{table_html(far)}" if far else "",
                f"<p><b>{escape(words.count_apart(self.reports))}</b></p>",
                *(f"<p>only in {letter}:</p>{finding_html(finding)}" for letter, finding in apart),
                "</div>",
            ]
        )

    @property
    def shown(self) -> pd.DataFrame:
        """Rows of ``norms`` for the modules that are shown."""
        return self.norms[self.norms["module"].isin(self.names)]

    def picture(self, *, modules: bool = False) -> Beside:
        """Return the norms of both runs at the same share of their trainings.

        Args:
            modules: Show every module of the models, regardless of ``names``.
        """
        names = modules_of(self.runs) if modules else self.names
        return side_by_side(self.runs, self.reports, names)

    def plot(self, *, modules: bool = False) -> Figure:
        """Draw both runs: the norms of each, and those of B relative to A.

        The runs are aligned at the same share of their planned epochs.

        Args:
            modules: Draw a row for each module instead of each top-level block.
        """
        from yolo_gradwatch.views.png.beside import draw  # noqa: PLC0415  # loads matplotlib

        return draw(self.picture(modules=modules))


def beside(run: Run, other: Run) -> Comparison:
    """Compare two runs.

    Raises:
        FormatError: A file of a run cannot be read.
    """
    runs = (run, other)
    return Comparison(
        runs, (run.report(), other.report()), compare(runs), modules_of(runs, blocks=True)
    )


def _outcome(letter: str, report: Report) -> str:
    return f"<p>{letter} &nbsp;{escape(report.path)}<br>{verdict_html(report)}</p>"
