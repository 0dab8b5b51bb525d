"""HTML of findings and reports for notebooks: readable without styles, and free of scripts."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yolo_gradwatch.diagnose.finding import Finding, Severity
    from yolo_gradwatch.diagnose.report import Report

SHADES: dict[Severity | None, str] = {
    None: "#2e8b57",
    "notice": "#1f8bc4",
    "warning": "#c27c0e",
    "critical": "#d93636",
}
"""Colours by severity, readable on light and dark pages; None for healthy."""


def coloured(text: str, severity: Severity | None) -> str:
    """Return bold text in the colour of a severity."""
    return f'<b style="color:{SHADES[severity]}">{escape(text)}</b>'


def finding_html(finding: Finding) -> str:
    """Return a finding as a paragraph: what happened, why, and what to try, one line each."""
    parts = [finding.account]
    if finding.why:
        before, why, after = finding.account.partition(finding.why)
        parts = [before, why, after]
    lines = "<br>".join(escape(part.strip()) for part in parts if part.strip())
    return f"<p>{coloured(f'{finding.severity} {finding.rule}', finding.severity)}: {lines}</p>"


def report_html(report: Report) -> str:
    """Return the verdict, the findings in full, the other facts, and the run's folder."""
    facts = [fact.strip() for fact in (*report.facts(), report.path)]
    return "\n".join(
        [
            f"<div><p>{verdict_html(report)}</p>",
            *map(finding_html, report.findings),
            f"<p>{'<br>'.join(map(escape, facts))}</p></div>",
        ]
    )


def verdict_html(report: Report) -> str:
    """Return the outcome in one line."""
    return coloured(f"GradWatch: {report.verdict}", report.severity)
