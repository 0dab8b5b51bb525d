"""What a trace has measured, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.causes import Cause

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yolo_gradwatch.diagnose.finding import Reason
    from yolo_gradwatch.measure.layout import Layout


def cause_of(reason: Reason, layout: Layout, training: Mapping[str, object]) -> Cause | None:
    """The cause and its remedy; None for what no trace has measured."""
    del layout, training
    if reason.kind != "saturated":
        return None
    (module, kind), (share,) = reason.names, reason.values
    return Cause(
        f"{share:.0%} of the outputs of {module} ({kind}) are saturated, where the slope is near "
        "zero",
        f"SiLU or ReLU instead of {kind}, or BatchNorm in front of it",
    )
