"""Short texts: a change of a finding, the verdict, the end report, the files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.text import Text

from yolo_gradwatch.diagnose.messages import MEASURED, lasted
from yolo_gradwatch.diagnose.report import finding_line
from yolo_gradwatch.views.terminal.glyphs import STYLES, number

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from yolo_gradwatch.diagnose.finding import Finding, FindingChange
    from yolo_gradwatch.diagnose.report import Report
    from yolo_gradwatch.views.live import Board


def status(board: Board) -> str:
    """Return epoch, step, total norm, share of clipped steps and number of AMP skips."""
    epoch = f"{board.epoch}/{board.epochs}" if board.epochs else str(board.epoch)
    captured = f" (1 in {board.interval:,})" if board.interval > 1 else ""
    return (
        f"epoch {epoch}  step {board.step:,}{captured}  total norm {number(board.total)}  "
        f"clipped {board.clipped:.0%}  AMP skips {board.skipped:,}"
    )


def clip_line(board: Board) -> str:
    """Return the clipping factor of the newest step, and the blocks with the largest gradients."""
    left = f"gradient scaled by {board.factor:.2g}"
    if math.isnan(board.factor):
        left = "spreads NaN or Inf to all weights"
    shares = [f"{name} {share:.0%}" for name, share in board.owners.items() if share >= 0.01]
    whose = f"  largest shares: {', '.join(shares)}" if shares else ""
    return f"clip at {board.clip:g}: {left}{whose}"


def change_line(change: FindingChange) -> Text:
    """Report a finding that begins, recurs, gets worse, is explained or is resolved."""
    finding = change.finding
    newest = finding.episodes[-1]
    if change.change == "end":
        text = f"{finding.rule} in {finding.module} ({lasted(newest)})"
        return Text.assemble(("GradWatch resolved: ", "green"), text)
    if change.change == "cause":
        how = "measured the cause of" if finding.is_measured else "explains"
        word = f"GradWatch {how} {finding.rule} in {finding.module}: "
        return Text.assemble((word, STYLES[finding.severity]), finding.why.removeprefix(MEASURED))
    again = " (again)" if newest is not finding.episodes[0] else ""
    what = " (worse)" if change.change == "worse" else again
    word = f"GradWatch {finding.severity} {finding.rule}{what}: "
    return Text.assemble((word, STYLES[finding.severity]), finding.message)


def stop_line(finding: Finding) -> Text:
    """Say which finding stops the training."""
    reason = f"{finding.rule} in {finding.module}"
    return Text(f"GradWatch stops the training (stop_on): {reason}", "bold red")


def end_report(report: Report) -> Text:
    """Return the verdict, the findings, and what could not be judged."""
    parts = [verdict(report), *map(finding_text, report.findings), *map(Text, report.facts())]
    return Text("\n").join(parts)


def verdict(report: Report) -> Text:
    """Return the verdict in one line."""
    return Text(f"GradWatch: {report.verdict}", f"bold {STYLES[report.severity]}")


def finding_text(finding: Finding) -> Text:
    """Return a finding in full."""
    return Text(finding_line(finding), STYLES[finding.severity])


def file_list(files: Iterable[Path | str]) -> Text:
    """List the paths of the files; must not be wrapped, so that a path can be copied."""
    paths = [Text(f"  {path}", style="dim") for path in files]
    return Text("\n").join([Text("Files:"), *paths] if paths else [])
