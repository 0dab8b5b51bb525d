"""Faults with a known call and mechanism for `causes.py`, each with the expected cause.

Every expectation was written down before the analysis first ran on the fault.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from fault_parts import (
    Around,
    Aside,
    Gamma,
    Pair,
    cut,
    exponential,
    killed,
    logarithm,
    plain,
    quotient,
    replaced,
    root,
    scale_gradient,
    scaled_outputs,
    times,
    without_grad,
)
from torch import nn

from yolo_gradwatch.demo.faults import FAULTS, Fault, GradientFactor, after, use_scaler

if TYPE_CHECKING:
    from collections.abc import Callable

OLD = ("yolo26n", "yolo11n")
"""Models with the block numbers that the demo's faults use."""

ONE, TWO = ("yolo26n", "yolov8n"), ("yolo11n", "yolov5n")
CLASSIFY = ("yolo26n-cls", "yolov8n-cls")


@dataclass(frozen=True)
class Case:
    """A fault and the cause that the analysis should find.

    Attributes:
        fault: The fault to inject.
        calls: Regular expression for the modules that are right.
        kinds: Mechanisms that are right; empty if a trace cannot show the cause.
        models: Models to inject it into.
        is_held_out: Whether the fault was left aside while the analysis was written.
    """

    fault: Fault
    calls: str = ""
    kinds: frozenset[str] = field(default_factory=frozenset)
    models: tuple[str, str] = ONE
    is_held_out: bool = False


def _case(  # noqa: PLR0913  # a row of the table
    title: str,
    change: Callable[[Any], None],
    calls: str,
    kinds: str,
    models: tuple[str, str] = ONE,
    *,
    held: bool = False,
    scaler: bool = False,
) -> Case:
    fault = Fault(title, change=change, begin=use_scaler if scaler else None)
    return Case(fault, calls, frozenset(kinds.split()), models, held)


def _gallery_case(name: str, calls: str = "", kinds: str = "") -> Case:
    return Case(FAULTS[name], calls, frozenset(kinds.split()), OLD)


_NAN, _BAD_GRADIENT = "not_finite call", "not_finite_gradient"

# fmt: off
CASES: dict[str, Case] = {
    "saturated": _gallery_case("saturated", r"model\.4\.after", "shrinks saturated"),
    "gradient-cut": _gallery_case("gradient-cut", r"model\.4\.after", "falls"),
    "tanh-stack": _gallery_case("tanh-stack", r"model\.6\.after", "shrinks"),
    "dying-relu": _gallery_case("dying-relu", r"model\.17\.act", "zero"),
    "detached": _gallery_case("detached", r"model\.10(\.after)?$", "cut"),
    "amp-overflow": _gallery_case("amp-overflow", r"model\.6\.after", _BAD_GRADIENT),
    "loss-spike": _gallery_case("loss-spike"),
    "nan": _gallery_case("nan"),
    # saturated and zero
    "sigmoid-bias": _case(
        "a Sigmoid whose inputs lie near 14 after block 2",
        after(2, partial(plain, 1, nn.Sigmoid, bias=14.0)),
        r"model\.2\.after\.1", "saturated", ONE,
    ),
    "tanh-bias": _case(
        "a Tanh whose inputs lie near -11 after block 6",
        after(6, partial(plain, 1, nn.Tanh, bias=-11.0)),
        r"model\.6\.after\.1", "saturated", TWO, held=True,
    ),
    "sigmoid-three": _case(
        "three Sigmoids whose inputs lie near 9 after block 4",
        after(4, partial(plain, 3, nn.Sigmoid, gain=0.5, bias=9.0)),
        r"model\.4\.after\.[135]", "saturated", TWO,
    ),
    "relu6-end": _case(
        "block 3 ends with a ReLU6 whose inputs lie above 6", killed("model.3", nn.ReLU6, 30.0),
        r"model\.3\.act", "saturated", ONE, held=True,
    ),
    "hardsigmoid-classify": _case(
        "a Hardsigmoid whose inputs lie near 9 after block 4 of a classifier",
        after(4, partial(plain, 1, nn.Hardsigmoid, bias=9.0)),
        r"model\.4\.after\.1", "saturated", CLASSIFY, held=True,
    ),
    "softsign-bias": _case(
        "a Softsign whose inputs lie near 500 after block 3",
        after(3, partial(plain, 1, nn.Softsign, bias=500.0)),
        r"model\.3\.after\.1", "saturated", ONE, held=True,
    ),
    "hardtanh-end": _case(
        "block 5 ends with a Hardtanh whose inputs lie below -1",
        killed("model.5", nn.Hardtanh, -9.0), r"model\.5\.act", "saturated", TWO, held=True,
    ),
    "relu-block-5": _case(
        "the ReLU units of block 5 put out zero", killed("model.5"), r"model\.5\.act", "zero", ONE
    ),
    "relu-inside": _case(
        "the ReLU units of the last convolution of block 6 put out zero", killed("model.6.cv2"),
        r"model\.6\.cv2\.act", "zero", TWO, held=True,
    ),
    # falls, shrinks, zeroed, cut
    "falls-between": _case(
        "the gradient is multiplied by 1e-4 between the layers of block 4",
        replaced(4, lambda block: Pair(block, partial(scale_gradient, 1e-4))),
        r"model\.4$", "falls", ONE,
    ),
    "falls-after": _case(
        "the gradient is multiplied by 1e-5 at the end of block 6",
        replaced(6, lambda block: Around(block, after=partial(scale_gradient, 1e-5))),
        r"model\.6$", "falls", TWO,
    ),
    "falls-before": _case(
        "the gradient is multiplied by 1e-4 before the first layer of block 3",
        replaced(3, lambda block: Around(block, before=partial(scale_gradient, 1e-4))),
        r"model\.3$", "falls", ONE, held=True,
    ),
    "falls-classify": _case(
        "the gradient is multiplied by 1e-4 after block 5 of a classifier",
        after(5, lambda _: GradientFactor(1e-4)),
        r"model\.5\.after", "falls", CLASSIFY, held=True,
    ),
    "small-stack": _case(
        "five convolutions of a tenth of He's initialization after block 4",
        after(4, partial(plain, 5, nn.ReLU, gain=0.1)),
        r"model\.4\.after", "shrinks scaled_forward", ONE,
    ),
    "sigmoid-stack": _case(
        "eight convolutions with Sigmoid after block 2",
        after(2, partial(plain, 8, nn.Sigmoid, gain=0.7)),
        r"model\.2\.after", "shrinks", TWO, held=True,
    ),
    "times-zero": _case(
        "the output of block 8 is multiplied by 0",
        replaced(8, lambda block: Around(block, after=partial(times, 0.0))),
        r"model\.8$", "zeroed", ONE,
    ),
    "gamma-zero": _case(
        "the output of block 4 is multiplied by a constant gamma of 0",
        after(4, lambda _: Gamma(0.0)), r"model\.4\.after", "zeroed", TWO, held=True,
    ),
    "times-zero-classify": _case(
        "the input of block 4 of a classifier is multiplied by 0",
        replaced(4, lambda block: Around(block, before=partial(times, 0.0))),
        r"model\.4$", "zeroed", CLASSIFY, held=True,
    ),
    "times-small": _case(
        "the output of block 5 is multiplied by 1e-7",
        replaced(5, lambda block: Around(block, after=partial(times, 1e-7))),
        r"model\.5$", "scaled_forward", ONE,
    ),
    "detach-between": _case(
        "detach() between the layers of block 6", replaced(6, lambda block: Pair(block, cut)),
        r"model\.6$", "cut", ONE,
    ),
    "detach-classify": _case(
        "detach() at the end of block 6 of a classifier",
        replaced(6, lambda block: Around(block, after=cut)),
        r"model\.6$", "cut", CLASSIFY, held=True,
    ),
    "no-grad": _case(
        "block 4 runs under torch.no_grad", replaced(4, without_grad), r"model\.4", "cut uncalled",
        TWO,
    ),
    "forgotten": _case(
        "a convolution of block 6 whose output is not used", replaced(6, Aside),
        r"model\.6(\.aside)?$", "cut", ONE,
    ),
    "forgotten-classify": _case(
        "a convolution of block 4 of a classifier whose output is not used",
        replaced(4, Aside), r"model\.4(\.aside)?$", "cut", CLASSIFY, held=True,
    ),
    # multiplied, grows, scaled_forward
    "times-1e4": _case(
        "the gradient is multiplied by 1e4 after block 4",
        after(4, lambda _: GradientFactor(1e4)), r"model\.4\.after", "multiplied", ONE,
    ),
    "multiplied-between": _case(
        "the gradient is multiplied by 1e5 between the layers of block 6",
        replaced(6, lambda block: Pair(block, partial(scale_gradient, 1e5))),
        r"model\.6$", "multiplied", TWO, held=True,
    ),
    "multiplied-after": _case(
        "the gradient is multiplied by 1e4 at the end of block 5",
        replaced(5, lambda block: Around(block, after=partial(scale_gradient, 1e4))),
        r"model\.5$", "multiplied", TWO, held=True,
    ),
    "large-stack": _case(
        "six convolutions of ten times He's initialization after block 4",
        after(4, partial(plain, 6, nn.ReLU, gain=10.0)),
        r"model\.4\.after", "grows scaled_forward", ONE,
    ),
    "times-large": _case(
        "the output of block 5 is multiplied by 1e6",
        replaced(5, lambda block: Around(block, after=partial(times, 1e6))),
        r"model\.5$", "scaled_forward", ONE,
    ),
    "large-classes": _case(
        "the last convolutions of the class branches are 1,000 times too large",
        scaled_outputs(1000.0), r"model\.2[234].*cv3", "scaled_forward", TWO, held=True,
    ),
    # not finite
    "logarithm": _case(
        "a logarithm of 0 at the end of block 6",
        replaced(6, lambda block: Around(block, after=logarithm)), r"model\.6$", _NAN, ONE,
        scaler=True,
    ),
    "half-exp": _case(
        "a hand-written softmax in half precision between the layers of block 4",
        replaced(4, lambda block: Pair(block, exponential)), r"model\.4(\.second\.conv)?$", _NAN,
        TWO, scaler=True,
    ),
    "quotient": _case(
        "a division by a spread of 0 before block 7",
        replaced(7, lambda block: Around(block, before=quotient)), r"model\.7", _NAN, ONE,
        scaler=True, held=True,
    ),
    "logarithm-before": _case(
        "a logarithm of 0 before the first layer of block 5",
        replaced(5, lambda block: Around(block, before=logarithm)), r"model\.5", _NAN, TWO,
        scaler=True, held=True,
    ),
    "root": _case(
        "a square root of 0 at the end of block 6",
        replaced(6, lambda block: Around(block, after=root)), r"model\.6$", _BAD_GRADIENT, TWO,
        scaler=True,
    ),
}
"""Every fault by its name."""
# fmt: on
