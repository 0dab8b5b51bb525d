"""A run beside another one, for whoever asks in Python: as text, and as a notebook shows it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from string import ascii_uppercase
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.html import finding_html, verdict_html
from yolo_gradwatch.views.compare import compare, modules_of
from yolo_gradwatch.views.html.table import table_html
from yolo_gradwatch.views.parting import parting
from yolo_gradwatch.views.terminal import compare as words
from yolo_gradwatch.views.terminal.parting import sentences

if TYPE_CHECKING:
    import pandas as pd

    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.runs.run import Run


@dataclass(frozen=True, repr=False)
class Comparison:
    """A run beside another one, each judged under its own limits.

    Attributes:
        runs: A and B.
        reports: Theirs.
        norms: What `views.compare.compare` gives: a row for each run, module and part.
    """

    runs: tuple[Run, Run]
    reports: tuple[Report, Report]
    norms: pd.DataFrame

    def __repr__(self) -> str:
        parts = words.side_by_side(self.runs, self.reports, self._shown, self._names, width=None)
        return "\n\n".join(part.plain for part in parts if part)

    def _repr_html_(self) -> str:
        """As a cell of a notebook shows it."""
        pair = words.pair_columns(self._shown, self._names, 1)
        far = words.farthest_columns(self._shown, self._names, 1)
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
    def _names(self) -> dict[str, list[str]]:
        """The whole model and the blocks, with their class in each run."""
        return modules_of(self.runs, blocks=True)

    @property
    def _shown(self) -> pd.DataFrame:
        return self.norms[self.norms["module"].isin(self._names)]


def beside(run: Run, other: Run) -> Comparison:
    """Compare a run with another one.

    Raises:
        FormatError: A file of a run cannot be read.
    """
    runs = (run, other)
    return Comparison(runs, (run.report(), other.report()), compare(runs))


def _outcome(letter: str, report: Report) -> str:
    return f"<p>{letter} &nbsp;{escape(report.path)}<br>{verdict_html(report)}</p>"
