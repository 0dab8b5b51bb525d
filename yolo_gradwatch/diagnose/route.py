"""The calls of a traced batch that a gradient passes, in order, and the code between two of them.

A trace has numbers at outputs. A *point* is an output where the gradient is meaningful: what a
layer passes to its own normalization is left out, because the normalization divides the gradient
there by the factor that the layer applies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from yolo_gradwatch.diagnose.graph import Graph, is_in
from yolo_gradwatch.diagnose.measured_steps import NEAR, Route
from yolo_gradwatch.diagnose.rules.origin import USUAL
from yolo_gradwatch.measure.layout import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from yolo_gradwatch.measure.layout import Layout
    from yolo_gradwatch.measure.trace import Call, Flow

NORM = "Norm"
"""Part of the class names of normalizations."""

KNOWN = (
    *("Conv2d", "Conv1d", "Linear", "ConvTranspose2d", "Identity", "Dropout", "Embedding"),
    *("BatchNorm2d", "BatchNorm1d", "GroupNorm", "LayerNorm", "InstanceNorm2d", "SyncBatchNorm"),
    *("SiLU", "ReLU", "ReLU6", "LeakyReLU", "GELU", "Mish", "ELU", "PReLU", "Hardswish", "Softmax"),
    *("Sigmoid", "Tanh", "Hardsigmoid", "Hardtanh", "LogSigmoid", "Softsign", "Softplus"),
    *("MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "Upsample", "Concat", "ZeroPad2d", "DFL"),
    *("Sequential", "ModuleList", "MultiheadAttention", "Attention", "AAttn", "ABlock"),
    *("Bottleneck", "C3k", "RepVGGDW", "CIB", "PSABlock", "RepBottleneck", "RepCSP"),
)
"""Classes of torch and Ultralytics within blocks: user-defined classes are suspected before the
code between layers of these."""


class Calls:
    """A trace with its calls in the order in which they pass on their outputs.

    Args:
        layout: Layout of the model.
        flow: The trace.
    """

    def __init__(self, layout: Layout, flow: Flow) -> None:
        self.layout = layout
        self.graph = Graph(layout)
        self.calls = tuple(_placed(flow.calls))
        self._types = {call.module: call.type for call in self.calls} | dict(layout.blocks)
        self._outer = {outer for call in self.calls for outer in around(call.module)}
        self.points = tuple(self._points())

    def inside(self, module: str) -> list[Call]:
        """Return the points of a module, including its own output."""
        if module == WHOLE:
            return list(self.points)
        return [call for call in self.points if is_in(module, call.module)]

    def routes(self, block: str) -> list[Route]:
        """Return the routes from a block of the trunk to each unit that reads it."""
        own, graph = self.inside(block), self.graph
        if block not in graph.blocks or not own:
            return []
        units = [graph.units[u] for u in graph.consumers[graph.blocks.index(block)]]
        return [Route((*own, *self.inside(unit))) for unit in units]

    def branches(self, module: str) -> list[Route]:
        """Return the branches of the head in a module, or the part of a branch that it is."""
        units = [unit for unit in self.graph.units if is_in(module, unit)]
        return [Route(tuple(self.inside(unit))) for unit in units or [module]]

    def place(self, before: Call, after: Call) -> str:
        """Return the module whose code is between two outputs.

        It is the later layer itself, the smallest module around both, or one entered in between.
        """
        if not self._is_known(after.module) or is_in(after.module, before.module):
            return after.module
        outer = [name for name in around(after.module) if name != WHOLE]
        both = [name for name in outer if is_in(name, before.module)]
        candidates = (*both[-1:], *(name for name in outer if name not in both))
        return next((n for n in candidates if not self._is_known(n)), after.module)

    def between(self, before: Call, after: Call) -> str:
        """Return that module for distant outputs: the smallest one around both."""
        points = [call.order for call in self.points if before.order <= call.order <= after.order]
        both = [n for n in around(after.module) if is_in(n, before.module) and n != WHOLE]
        return both[-1] if both and len(points) > NEAR else self.place(before, after)

    def names(self, before: Call, after: Call, place: str = "") -> tuple[str, str, str, str]:
        """Return the module with the code between two outputs, its class, and both modules."""
        place = place or self.place(before, after)
        return place, self.type_of(place), before.module, after.module

    def is_suspect(self, module: str) -> bool:
        """Return whether a module's class is user-defined."""
        return not self._is_known(module)

    def outer_of(self, module: str) -> str:
        """Return the smallest user-defined module around one; the head if there is none."""
        own = [name for name in around(module) if self.is_suspect(name) and name != WHOLE]
        return own[-1] if own else self.layout.head

    def activation_of(self, module: str, types: Sequence[str]) -> Call | None:
        """Return a module's activation with the most zeros; without one, the first after it."""
        own = [call for call in self.calls if is_in(module, call.module)]
        acts = [call for call in own if call.type in types]
        if acts or not own:
            return max(acts, key=_flat, default=None)
        after = (call for call in self.calls if call.order > own[-1].order)
        return next((call for call in after if call.type in types), None)

    def order_of(self, module: str) -> int:
        """Return when a module first finished; 0 if it was not called."""
        return next((call.order for call in self.calls if call.module == module), 0)

    def raw_of(self, call: Call) -> Call:
        """Return the call that feeds a normalization; for other calls, the call itself."""
        at = self.calls.index(call)
        is_raw = at and _is_normed(self.calls[at - 1], call)
        return self.calls[at - 1] if is_raw else call

    def norm_before(self, call: Call) -> str:
        """Return the normalization right before an output; "" if there is none."""
        at = self.calls.index(call)
        before = self.calls[at - 1] if at else call
        return before.module if NORM in before.type else ""

    def weights_between(self, before: Call, after: Call, place: str) -> int:
        """Count the calls of layers with weights in a module between two outputs."""
        own = dict(zip(self.layout.modules, self.layout.roles, strict=True))
        inner = (c.module for c in self.calls if before.order < c.order <= after.order)
        return sum(own.get(name) == "weight" and is_in(place, name) for name in inner)

    def type_of(self, module: str) -> str:
        """Return the class of a module; "" if it is not known."""
        return self._types.get(module, "")

    def _is_known(self, module: str) -> bool:
        kind = self.type_of(module)
        return not kind or kind in KNOWN or kind in USUAL or module == self.layout.head

    def _points(self) -> Iterator[Call]:
        """Yield outputs of layers, except those before a norm, and of modules that change them."""
        leaves = [call for call in self.calls if call.module not in self._outer]
        following = dict(zip((c.order for c in leaves), leaves[1:], strict=False))
        newest = None
        for call in self.calls:
            if call.module in self._outer:
                if newest and _is_same(call, newest):
                    continue
            elif _is_normed(call, following.get(call.order)):
                continue
            newest = call
            yield call


def _flat(call: Call) -> float:
    """Return the share of an output at which an activation has no slope."""
    return max(call.output_zero or 0.0, call.output_saturated or 0.0)


def _placed(calls: Sequence[Call]) -> Iterator[Call]:
    """Yield the calls; those of a shared module are named after the place where it is called.

    Ultralytics' convolutions share one activation, usually ``model.0.act``.
    """
    shared = {call.module for call in calls if call.call > 1}
    before = ""
    for call, following in zip(calls, [*calls[1:], None], strict=True):
        name = call.module
        if name in shared and following and is_in(following.module, before):
            name = f"{following.module}.{name.rpartition('.')[2]}"
        before = name
        yield replace(call, module=name)


def around(module: str) -> list[str]:
    """Return the modules around one, outermost first."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def _is_same(call: Call, other: Call) -> bool:
    """Return whether a module passes on the output of its last part unchanged."""
    return (call.output_rms, call.gradient_norm) == (other.output_rms, other.gradient_norm)


def _is_normed(call: Call, following: Call | None) -> bool:
    """Return whether a layer's output goes into the normalization next to it."""
    if following is None or NORM not in following.type:
        return False
    return call.module.rpartition(".")[0] == following.module.rpartition(".")[0]
