"""Text of a trace: output statistics and gradient norm of each module call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from yolo_gradwatch.plain import printable
from yolo_gradwatch.views.terminal.glyphs import STYLES, number
from yolo_gradwatch.views.terminal.table import Column, columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yolo_gradwatch.measure.trace import Call, Flow

_GAP = 2


def flow_text(
    flow: Flow, calls: Sequence[Call], width: int | None, steps: Sequence[int] = ()
) -> Text:
    """Return a trace as a table in forward order, headed by the first non-finite call.

    Args:
        flow: Trace.
        calls: Calls of the trace to show.
        width: Cells per line; None for no limit. If the table is wider, classes are left out.
        steps: Steps of all traces of the run.
    """
    count = f"{len(flow.calls):,} calls"
    some = count if len(calls) == len(flow.calls) else f"{len(calls):,} of {count}"
    where = f"step {flow.step:,} (epoch {flow.epoch:,})"
    heading = f"Flow of a batch of {where}: {some} in forward order"
    table = _columns(flow, calls)
    if width is not None and _needed(table) > width:
        table = [column for column in table if column.heading != "class"]
    others = [Text(f"traced: steps {', '.join(f'{one:,}' for one in steps)}")] if steps else []
    parts = [Text(heading, "bold"), *others, *_not_finite(flow), columns(table, width)]
    return Text("\n").join(parts)


def _needed(table: Sequence[Column]) -> int:
    """Return the cells per line that a table needs."""
    widths = [max(map(cell_len, (column.heading, *column.cells))) for column in table]
    return sum(widths) + _GAP * (len(table) - 1)


def _not_finite(flow: Flow) -> list[Text]:
    """Name the first call whose output has a NaN or Inf, and the call before it."""
    first = flow.first_not_finite
    if first is None:
        return []
    before = [call for call in flow.calls if call.order < first.order][-1:]
    after = "".join(f", after {_named(call)}" for call in before)
    line = f"first output that is not finite: {_named(first)} ({printable(first.type)}){after}"
    return [Text(line, STYLES["critical"])]


def _named(call: Call) -> str:
    times = f", call {call.call:,}" if call.call > 1 else ""
    return f"{printable(call.module)}{times}"


def _columns(flow: Flow, calls: Sequence[Call]) -> list[Column]:
    first = flow.first_not_finite
    styles = [STYLES["critical"] if call is first else "" for call in calls]
    texts = {
        "module": [printable(call.module) for call in calls],
        "call": [f"{call.call:,}" for call in calls],
        "class": [printable(call.type) for call in calls],
        "RMS": [number(call.output_rms) for call in calls],
        "max": [number(call.output_max) for call in calls],
        "zeros": [_share(call.output_zero) for call in calls],
        "saturated": [_share(call.output_saturated) for call in calls],
        "gradient": [number(call.gradient_norm) for call in calls],
    }
    if all(call.output_saturated is None for call in calls):
        del texts["saturated"]
    return [
        Column(heading, cells, styles, is_left=heading in {"module", "class"})
        for heading, cells in texts.items()
    ]


def _share(share: float | None) -> str:
    """Format a share in at most 5 cells; only exact 0 and 1 are shown as 0% and 100%."""
    if share is None:
        return "-"
    if share in {0.0, 1.0}:
        return f"{share:.0%}"
    return f"{min(max(share, 0.001), 0.999):.1%}"
