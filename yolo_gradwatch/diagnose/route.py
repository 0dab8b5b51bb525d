"""The calls of a traced batch that a gradient passes, in order, and whose code lies between two.

A trace has numbers at outputs. A *point* is an output at which the gradient says something: what a
layer hands to its own normalization is left out, because the normalization divides the gradient
there by what the layer multiplies it with.
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
"""Part of the names of the classes that normalize."""

KNOWN = (
    *("Conv2d", "Conv1d", "Linear", "ConvTranspose2d", "Identity", "Dropout", "Embedding"),
    *("BatchNorm2d", "BatchNorm1d", "GroupNorm", "LayerNorm", "InstanceNorm2d", "SyncBatchNorm"),
    *("SiLU", "ReLU", "ReLU6", "LeakyReLU", "GELU", "Mish", "ELU", "PReLU", "Hardswish", "Softmax"),
    *("Sigmoid", "Tanh", "Hardsigmoid", "Hardtanh", "LogSigmoid", "Softsign", "Softplus"),
    *("MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "Upsample", "Concat", "ZeroPad2d", "DFL"),
    *("Sequential", "ModuleList", "MultiheadAttention", "Attention", "AAttn", "ABlock"),
    *("Bottleneck", "C3k", "RepVGGDW", "CIB", "PSABlock", "RepBottleneck", "RepCSP"),
)
"""Classes of torch and Ultralytics within blocks: what lies between their layers is not suspected
before a class of somebody's own."""


class Calls:
    """A trace with the order in which its calls hand on what they compute.

    Args:
        layout: Of the model.
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
        """The points of a module, its own output among them."""
        if module == WHOLE:
            return list(self.points)
        return [call for call in self.points if is_in(module, call.module)]

    def routes(self, block: str) -> list[Route]:
        """From a block of the trunk to each unit that reads it."""
        own, graph = self.inside(block), self.graph
        if block not in graph.blocks or not own:
            return []
        units = [graph.units[u] for u in graph.consumers[graph.blocks.index(block)]]
        return [Route((*own, *self.inside(unit))) for unit in units]

    def branches(self, module: str) -> list[Route]:
        """The branches of the head that are in a module, or the part of one that it is."""
        units = [unit for unit in self.graph.units if is_in(module, unit)]
        return [Route(tuple(self.inside(unit))) for unit in units or [module]]

    def place(self, before: Call, behind: Call) -> str:
        """Whose code lies between two outputs, if it is no layer's own; the layer if it is.

        That is the smallest module around both, or one that is entered on the way.
        """
        if not self._is_known(behind.module) or is_in(behind.module, before.module):
            return behind.module
        outer = [name for name in around(behind.module) if name != WHOLE]
        both = [name for name in outer if is_in(name, before.module)]
        candidates = (*both[-1:], *(name for name in outer if name not in both))
        return next((n for n in candidates if not self._is_known(n)), behind.module)

    def between(self, before: Call, behind: Call) -> str:
        """The same for outputs with others between them: the smallest module around both."""
        points = [call.order for call in self.points if before.order <= call.order <= behind.order]
        both = [n for n in around(behind.module) if is_in(n, before.module) and n != WHOLE]
        return both[-1] if both and len(points) > NEAR else self.place(before, behind)

    def names(self, before: Call, behind: Call, place: str = "") -> tuple[str, str, str, str]:
        """Whose code lies between two outputs, its class, and the modules of both."""
        place = place or self.place(before, behind)
        return place, self.type_of(place), before.module, behind.module

    def is_suspect(self, module: str) -> bool:
        """Whether a module is of somebody's own class."""
        return not self._is_known(module)

    def outer_of(self, module: str) -> str:
        """The smallest module of somebody's own around one; the head if there is none."""
        own = [name for name in around(module) if self.is_suspect(name) and name != WHOLE]
        return own[-1] if own else self.layout.head

    def activation_of(self, module: str, types: Sequence[str]) -> Call | None:
        """Of the activations in a module, the one with most zeros; else the first behind it."""
        own = [call for call in self.calls if is_in(module, call.module)]
        acts = [call for call in own if call.type in types]
        if acts or not own:
            return max(acts, key=_flat, default=None)
        behind = (call for call in self.calls if call.order > own[-1].order)
        return next((call for call in behind if call.type in types), None)

    def order_of(self, module: str) -> int:
        """When a module was over for the first time; 0 if it was not called."""
        return next((call.order for call in self.calls if call.module == module), 0)

    def raw_of(self, call: Call) -> Call:
        """What goes into a normalization; of others, their own output."""
        at = self.calls.index(call)
        is_raw = at and _is_normed(self.calls[at - 1], call)
        return self.calls[at - 1] if is_raw else call

    def norm_before(self, call: Call) -> str:
        """The normalization right in front of an output; "" if there is none."""
        at = self.calls.index(call)
        before = self.calls[at - 1] if at else call
        return before.module if NORM in before.type else ""

    def weights_between(self, before: Call, behind: Call, place: str) -> int:
        """How many calls of layers with weights in a module lie between two outputs."""
        own = dict(zip(self.layout.modules, self.layout.roles, strict=True))
        inner = (c.module for c in self.calls if before.order < c.order <= behind.order)
        return sum(own.get(name) == "weight" and is_in(place, name) for name in inner)

    def type_of(self, module: str) -> str:
        """The class of a module; "" if it is not known."""
        return self._types.get(module, "")

    def _is_known(self, module: str) -> bool:
        kind = self.type_of(module)
        return not kind or kind in KNOWN or kind in USUAL or module == self.layout.head

    def _points(self) -> Iterator[Call]:
        """Outputs of layers but those in front of a norm, and of modules that change them."""
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
    """The share of an output at which an activation has no slope."""
    return max(call.output_zero or 0.0, call.output_saturated or 0.0)


def _placed(calls: Sequence[Call]) -> Iterator[Call]:
    """The calls, those of a module that many share named after the place where it is called.

    Ultralytics' convolutions share one activation, ``model.0.act`` as a rule.
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
    """The modules around one, the outermost first."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def _is_same(call: Call, other: Call) -> bool:
    """Whether a module hands on the output of its last part."""
    return (call.output_rms, call.gradient_norm) == (other.output_rms, other.gradient_norm)


def _is_normed(call: Call, following: Call | None) -> bool:
    """Whether a layer's output goes into the normalization beside it."""
    if following is None or NORM not in following.type:
        return False
    return call.module.rpartition(".")[0] == following.module.rpartition(".")[0]
