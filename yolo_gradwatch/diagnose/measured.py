"""What the trace of a batch says of the cause of a finding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.finding import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.trace import Flow

MOST_SATURATED = 0.9
"""Share of an output from which an activation has saturated."""

RANK = 5
"""Above all that a judge measures by itself."""


def measured(
    finding: Finding, layout: Layout, flow: Flow, training: Mapping[str, object]
) -> Reason | None:
    """What a trace says of the cause of a finding; None if it says nothing."""
    del layout, training
    if finding.rule not in {"vanishing", "leaf_vanishing"}:
        return None
    found = max(flow.calls, key=lambda call: call.output_saturated or 0.0, default=None)
    share = (found.output_saturated or 0.0) if found else 0.0
    if found is None or share < MOST_SATURATED:
        return None
    return Reason("saturated", (found.module, found.type), (share,), RANK)
