"""Findings as JSON records."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolo_gradwatch.diagnose.finding import Finding

_IN_CAUSE = ("judged", "is_traced", "is_measured", "why")
"""Fields of a finding that its record groups under ``cause``."""


def finding_record(finding: Finding) -> dict[str, object]:
    """Return a finding as a JSON record, with all its episodes and a summary of them."""
    summed = {name: getattr(finding, name) for name in ("epoch", "step", "step_end", "value")}
    own = {name: value for name, value in asdict(finding).items() if name not in _IN_CAUSE}
    record: dict[str, object] = plain({**own, **summed, "cause": _cause(finding)})
    return record


def _cause(finding: Finding) -> dict[str, object]:
    """Return the text on the cause, whether it was measured, and the measurements."""
    reason = finding.reason
    return {
        "measured": finding.is_measured,
        "text": finding.why,
        "kind": reason.kind if reason else "",
        "names": reason.names if reason else (),
        "values": reason.values if reason else (),
    }


def plain(value: Any) -> Any:
    """Return names and values for JSON: lists, and None for non-finite numbers."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
