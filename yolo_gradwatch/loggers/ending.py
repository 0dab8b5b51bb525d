"""What a logger is given once a training is over, and what of it stays private."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.report import finding_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.runs.outputs import RunInfo

COLUMNS = ("finding", "severity", "rule", "module", "step", "over at step", "value", "message")
"""Of the table of findings."""

_ESCAPES = str.maketrans(
    {"<": "&lt;", "&": "&amp;", **{one: f"\\{one}" for one in "\\`*_[|"}},
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What is drawn of a run when it is over, asked for after it is.

    Attributes:
        pictures: Gives the files of the pictures that were drawn.
        page: Gives the HTML page as text; None if Plotly is missing, or the files are not whole.
    """

    pictures: Callable[[], tuple[Path, ...]]
    page: Callable[[Report], str | None]


@dataclass(frozen=True, slots=True)
class Ending:
    """The outcome of a run, for a logger.

    Attributes:
        step: The last optimizer step with a number.
        verdict: In one line.
        alarms: How many findings are more than a notice.
        rows: A row a finding, of `COLUMNS`, as text.
        pictures: Files of pictures, ``gradwatch.png`` and ``flow.png``.
        page: Gives the HTML page as text; None if there is none.
    """

    step: int
    verdict: str
    alarms: int
    rows: tuple[tuple[str, ...], ...]
    pictures: tuple[Path, ...]
    page: Callable[[], str | None]

    @property
    def markdown(self) -> str:
        """The verdict, the table of findings without its wide column, and what each finding says.

        A viewer gives a sentence in a column all the width, and the other columns a letter each.
        """
        lines = [COLUMNS[:-1], ("---",) * len(COLUMNS[:-1])] if self.rows else []
        lines += [tuple(map(as_markdown, row[:-1])) for row in self.rows]
        table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        said = "".join(f"\n**{row[0]}**: {as_markdown(row[-1])}\n" for row in self.rows)
        return f"{as_markdown(self.verdict)}\n\n{table}{said}"


def as_markdown(text: str) -> str:
    """A text that shows as it is in Markdown: ``__init__.py`` is not bold, ``<lambda>`` no tag."""
    return text.translate(_ESCAPES)


class Privacy:
    """Keeps absolute paths and names of images out of what a logger is sent.

    Args:
        run: Whose folder and arguments are private.
        share_names: Whether they are not.
    """

    def __init__(self, run: RunInfo, *, share_names: bool) -> None:
        self.shares = share_names
        self._folder = run.folder
        paths = {str(run.folder), str(run.folder.resolve()), *_paths(run.training)}
        self._paths = sorted({*paths, *map(escape, paths)}, key=len, reverse=True)  # as in HTML

    def text(self, text: str) -> str:
        """A text, its absolute paths cut down to their last part."""
        for path in () if self.shares else self._paths:
            text = text.replace(path, Path(path).name)
        return text

    def finding(self, finding: Finding) -> str:
        """A finding in a line, with the images of its step if these are shared."""
        line = self.text(finding_line(finding).strip())
        images = self._images(finding) if self.shares else []
        return f"{line} Images: {', '.join(images)}" if images else line

    def ending(self, report: Report, drawn: Drawn, step: int) -> Ending:
        """The outcome of the run."""
        rows = tuple(tuple(map(self.text, _row(finding))) for finding in report.findings)
        verdict = self.text(report.verdict)
        if self.shares:
            verdict = f"{verdict} {self._folder}"

        def page() -> str | None:
            text = drawn.page(report)
            return None if text is None else self.text(text)

        return Ending(step, verdict, len(report.alarms), rows, drawn.pictures(), page)

    def _images(self, finding: Finding) -> list[str]:
        """The images of which its evidence was made; of no finding without such a file."""
        if not finding.evidence:
            return []
        content = json.loads((self._folder / finding.evidence).read_text("utf-8"))
        return [str(image) for batch in content.get("images", ()) for image in batch]


def _paths(training: Mapping[str, object]) -> set[str]:
    """The absolute paths among the arguments of a training."""
    texts = (str(value) for value in training.values() if isinstance(value, (str, Path)))
    return {text for text in texts if Path(text).is_absolute() and Path(text).name}


def _row(finding: Finding) -> tuple[str, ...]:
    over = "" if finding.step_end is None else str(finding.step_end)
    return (
        *(str(finding.number), finding.severity, finding.rule, finding.module),
        *(str(finding.step), over, f"{finding.value:.3g}", finding.message),
    )
