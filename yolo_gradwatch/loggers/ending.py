"""Outcome of a training as loggers get it, without anything that must stay private."""

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

COLUMNS = ("finding", "severity", "rule", "module", "step", "resolved at step", "value", "message")
"""Columns of the table of findings."""

_ESCAPES = str.maketrans(
    {"<": "&lt;", "&": "&amp;", **{one: f"\\{one}" for one in "\\`*_[|"}},
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Pictures and page of a run, requested only when it is over.

    Attributes:
        pictures: Returns the paths of the pictures that were drawn.
        page: Returns the HTML page as text; None if Plotly is missing or the files are incomplete.
    """

    pictures: Callable[[], tuple[Path, ...]]
    page: Callable[[Report], str | None]


@dataclass(frozen=True, slots=True)
class Ending:
    """The outcome of a run, for a logger.

    Attributes:
        step: Last optimizer step with numbers.
        verdict: Verdict in one line.
        alarms: Number of findings above a notice.
        rows: One row of text for each finding, with `COLUMNS`.
        pictures: Paths of the pictures, ``gradwatch.png`` and ``flow.png``.
        page: Returns the HTML page as text; None if there is none.
    """

    step: int
    verdict: str
    alarms: int
    rows: tuple[tuple[str, ...], ...]
    pictures: tuple[Path, ...]
    page: Callable[[], str | None]

    @property
    def markdown(self) -> str:
        """The verdict, the table of findings without its wide message column, then each message.

        Viewers give a column of sentences the full width, and squeeze the others to one letter.
        """
        lines = [COLUMNS[:-1], ("---",) * len(COLUMNS[:-1])] if self.rows else []
        lines += [tuple(map(as_markdown, row[:-1])) for row in self.rows]
        table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        said = "".join(f"\n**{row[0]}**: {as_markdown(row[-1])}\n" for row in self.rows)
        return f"{as_markdown(self.verdict)}\n\n{table}{said}"


def as_markdown(text: str) -> str:
    """Escape a text for Markdown: ``__init__.py`` does not turn bold, ``<lambda>`` is not a tag."""
    return text.translate(_ESCAPES)


class Privacy:
    """Keeps absolute paths and image names out of what loggers are sent.

    Args:
        run: The run whose folder and arguments are private.
        share_names: Whether they may be sent anyway.
    """

    def __init__(self, run: RunInfo, *, share_names: bool) -> None:
        self.shares = share_names
        self._folder = run.folder
        paths = {str(run.folder), str(run.folder.resolve()), *_paths(run.training)}
        self._paths = sorted({*paths, *map(escape, paths)}, key=len, reverse=True)  # as in HTML

    def text(self, text: str) -> str:
        """Return a text with its absolute paths cut to their last part, unless they may be sent."""
        for path in () if self.shares else self._paths:
            text = text.replace(path, Path(path).name)
        return text

    def finding(self, finding: Finding) -> str:
        """Return a finding in one line, with the images of its step if they may be sent."""
        line = self.text(finding_line(finding).strip())
        images = self._images(finding) if self.shares else []
        return f"{line} Images: {', '.join(images)}" if images else line

    def ending(self, report: Report, drawn: Drawn, step: int) -> Ending:
        """Return the outcome of the run."""
        rows = tuple(tuple(map(self.text, _row(finding))) for finding in report.findings)
        verdict = self.text(report.verdict)
        if self.shares:
            verdict = f"{verdict} {self._folder}"

        def page() -> str | None:
            text = drawn.page(report)
            return None if text is None else self.text(text)

        return Ending(step, verdict, len(report.alarms), rows, drawn.pictures(), page)

    def _images(self, finding: Finding) -> list[str]:
        """Return the images of a finding's evidence file; none without such a file."""
        if not finding.evidence:
            return []
        content = json.loads((self._folder / finding.evidence).read_text("utf-8"))
        return [str(image) for batch in content.get("images", ()) for image in batch]


def _paths(training: Mapping[str, object]) -> set[str]:
    """Return the absolute paths among a training's arguments."""
    texts = (str(value) for value in training.values() if isinstance(value, (str, Path)))
    return {text for text in texts if Path(text).is_absolute() and Path(text).name}


def _row(finding: Finding) -> tuple[str, ...]:
    over = "" if finding.step_end is None else str(finding.step_end)
    return (
        *(str(finding.number), finding.severity, finding.rule, finding.module),
        *(str(finding.step), over, f"{finding.value:.3g}", finding.message),
    )
