"""Why a traced module has no gradient: cut off, not called, or called with gradients disabled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.graph import is_in
from yolo_gradwatch.diagnose.measured_forward import RANK
from yolo_gradwatch.diagnose.measured_steps import is_absent
from yolo_gradwatch.diagnose.route import around
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yolo_gradwatch.diagnose.finding import Finding
    from yolo_gradwatch.diagnose.route import Calls


def absent(finding: Finding, calls: Calls, _training: Mapping[str, object]) -> Reason | None:
    """Return why there is no gradient: outputs are cut off, or never computed with gradients on."""
    name, layout = finding.module, calls.layout
    called = {call.module for call in calls.calls}
    own = zip(layout.modules, layout.roles, strict=True)
    if called.isdisjoint(module for module, role in own if role and is_in(name, module)):
        return _uncalled(name, calls)
    without = [call for call in calls.inside(name) if is_absent(call)]
    last = without[-1] if without else None
    if last is None:
        return None
    later = [call for call in calls.points if call.order > last.order]
    reader = next((call for call in later if not is_absent(call)), None)
    if reader is None:
        return None
    block = layout.block_of[layout.modules.index(name)]
    if block == layout.head:  # the next call may be that of another branch
        whole = (c for c in calls.calls if c.module == block and not is_absent(c))
        names = calls.names(last, next(whole, reader), calls.outer_of(name))
        return Reason("cut", names, (), RANK)
    between = [last, *(c for c in calls.calls if last.order < c.order < reader.order)]
    suspect = next((call.module for call in between if calls.is_suspect(call.module)), "")
    place = suspect or calls.place(last, reader)
    if not calls.is_suspect(place):
        place = block
    return Reason("cut", calls.names(last, reader, place), (), RANK)


def _uncalled(name: str, calls: Calls) -> Reason:
    """Return the module without a call, or the called one around it with no call inside.

    A trace has no calls where gradients are disabled. The value is 1 if the module was called.
    """
    own = {call.module: call for call in calls.calls}
    outer = next((own[n] for n in (name, *reversed(around(name))) if n in own and n != WHOLE), None)
    inside = outer and any(n != outer.module and is_in(outer.module, n) for n in own)
    if outer and is_absent(outer) and not inside:
        return Reason("uncalled", (outer.module, outer.type), (1.0,), RANK)
    return Reason("uncalled", (name, calls.type_of(name)), (0.0,), RANK)
