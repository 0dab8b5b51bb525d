"""What is known about the cause of a finding: measured by its judge, or shown by a trace."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.measured import measured

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from yolo_gradwatch.diagnose.finding import Alert, Finding, Reason
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.trace import Flow


class Traced:
    """Looks up the cause of each lasting finding in the newest trace, once per trace.

    Args:
        training: Options of the training.
    """

    def __init__(self, training: Mapping[str, object]) -> None:
        self._training = training
        self._asked: dict[int, int] = {}

    def surer(self, finding: Finding, layout: Layout, flow: Flow | None) -> Finding:
        """Return a finding with the cause that a trace shows, if it is surer than the known one.

        A trace from before its newest episode says nothing about it. A notice has no cause.
        """
        last = max(self._asked.get(finding.number, 0) + 1, finding.episodes[-1].step)
        if flow is None or flow.step < last or finding.severity == "notice":
            return finding
        self._asked[finding.number] = flow.step
        reason = measured(finding, layout, flow, self._training)
        if not is_surer(reason, finding.reason):
            return finding
        return replace(finding, reason=reason, judged=_judged(finding), is_traced=True)


def begun(finding: Finding, alerts: Iterable[Alert]) -> Finding:
    """Return a finding with its judge's reason as an episode begins."""
    return replace(finding, reason=_surest(None, alerts), judged=None, is_traced=False)


def grown(finding: Finding, alerts: Iterable[Alert]) -> Finding:
    """Return a lasting finding with its judge's current reason, unless a trace is as sure."""
    own = _surest(_judged(finding), alerts)
    if finding.is_traced and not is_surer(own, finding.reason):
        return replace(finding, judged=own)
    return replace(finding, reason=own, judged=None, is_traced=False)


def is_surer(reason: Reason | None, known: Reason | None) -> bool:
    """Return whether a reason replaces the known one."""
    return reason is not None and (known is None or reason.rank > known.rank)


def _judged(finding: Finding) -> Reason | None:
    return finding.judged if finding.is_traced else finding.reason


def _surest(known: Reason | None, alerts: Iterable[Alert]) -> Reason | None:
    """Return the reason of the highest rank."""
    reasons = [known, *(alert.reason for alert in alerts)]
    return max((one for one in reasons if one), key=lambda one: one.rank, default=None)
