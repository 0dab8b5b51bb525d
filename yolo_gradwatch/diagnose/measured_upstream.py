"""Outputs of a traced batch that are upstream of a module, or that it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.graph import is_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yolo_gradwatch.diagnose.route import Calls
    from yolo_gradwatch.measure.trace import Call


def leading_to(calls: Calls, module: str) -> list[Call]:
    """Return the points whose outputs a module reads, directly or not, and those inside it."""
    order = max((c.order for c in calls.calls if is_in(module, c.module)), default=0)
    block, unit = _block_of(calls, module), _unit_of(calls, module)
    places, pending = {unit}, _sources(calls, unit) if unit != block else {block}
    while pending:
        places |= pending - {calls.layout.head}
        pending = {a for a, b in calls.layout.edges if b in pending} - places
    before = [call for call in calls.points if call.order <= order]
    return [c for c in before if not block or _is_in_one(places, c.module)]


def read_by(calls: Calls, call: Call) -> list[Call]:
    """Return the points before a call, in its block and in the blocks that it reads directly."""
    block, unit = _block_of(calls, call.module), _unit_of(calls, call.module)
    places, pending = {unit, *_sources(calls, unit)}, {block} if unit == block else set()
    while pending:  # look through blocks without parameters
        pending = {a for a, b in calls.layout.edges if b in pending} - places
        places |= pending
        pending -= {*calls.graph.blocks}
    before = [one for one in calls.points if one.order < call.order]
    return [one for one in before if _is_in_one(places, one.module)]


def _block_of(calls: Calls, module: str) -> str:
    """Return the top-level block of a module, even without parameters; "" for the whole model."""
    return next((block for block, _ in calls.layout.blocks if is_in(block, module)), "")


def _unit_of(calls: Calls, module: str) -> str:
    """Return the block of the trunk, or the branch of the head, that contains a module."""
    own = (unit for unit in calls.graph.units if is_in(unit, module))
    return next(own, _block_of(calls, module))


def _sources(calls: Calls, unit: str) -> set[str]:
    """Return the blocks with parameters whose output a unit reads."""
    graph = calls.graph
    pairs = zip(graph.blocks, graph.consumers, strict=True)
    return {block for block, readers in pairs if unit in {graph.units[u] for u in readers}}


def _is_in_one(places: Iterable[str], module: str) -> bool:
    return any(is_in(place, module) for place in places)
