"""A finding as JSON has it."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolo_gradwatch.diagnose.finding import Finding

_IN_CAUSE = ("judged", "is_traced", "is_measured", "why")
"""Fields of a finding that its record has in ``cause``."""


def finding_record(finding: Finding) -> dict[str, object]:
    """A finding with all of its episodes, and what sums these up, as JSON has it."""
    summed = {name: getattr(finding, name) for name in ("epoch", "step", "step_end", "value")}
    own = {name: value for name, value in asdict(finding).items() if name not in _IN_CAUSE}
    record: dict[str, object] = plain({**own, **summed, "cause": _cause(finding)})
    return record


def _cause(finding: Finding) -> dict[str, object]:
    """What is said of its cause, whether that was measured, and what was."""
    reason = finding.reason
    return {
        "measured": finding.is_measured,
        "text": finding.why,
        "kind": reason.kind if reason else "",
        "names": reason.names if reason else (),
        "values": reason.values if reason else (),
    }


def plain(value: Any) -> Any:
    """Names and values as JSON has them: lists, and None for a number that is not finite."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
