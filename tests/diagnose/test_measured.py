"""Which cause a traced batch shows; the numbers come from a chain of a few layers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shown import finding_of
from values import Part, plan

from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.diagnose.measured import KINDS, RULES_WITH_A_CAUSE, measured
from yolo_gradwatch.diagnose.measured_finite import ENDS
from yolo_gradwatch.diagnose.measured_forward import FLAT, LARGE, SATURATED, SMALL, ZERO
from yolo_gradwatch.diagnose.measured_words import cause_of
from yolo_gradwatch.measure.layout import WHOLE
from yolo_gradwatch.measure.trace import Call, Flow

HALF, BRAIN = ENDS["float16"], ENDS["bfloat16"]
BLOCKS = tuple(f"model.{n}" for n in range(4))
LAYOUT, _ = plan(
    [
        Part("model.0.conv"),
        Part("model.1.a"),
        *(Part(f"model.1.tail.{n}") for n in (0, 2, 4)),
        Part("model.2.conv"),
        Part("model.2.bn", is_weight=False),
        Part("model.3.cv2.0.conv"),
        Part("model.3.cv2.0.out"),
    ],
    BLOCKS,
    tuple(pairwise(BLOCKS)),
)
KINDS_OF = {
    "model.0.conv": "Conv2d",
    "model.0": "Conv",
    "model.1.a": "Conv2d",
    "model.1": "Own",
    "model.1.tail": "Sequential",
    "model.2.conv": "Conv2d",
    "model.2.bn": "BatchNorm2d",
    **{f"model.1.tail.{n}": "Sigmoid" if n % 2 else "Conv2d" for n in range(6)},
    "model.2.act": "ReLU",
    "model.2": "Conv",
    "model.3.cv2.0.conv": "Conv2d",
    "model.3.cv2.0.out": "Conv2d",
    "model.3.cv2.0": "Sequential",
    "model.3": "Detect",
}
"""Modules in the order in which their calls end, with their classes."""

ORDER = (
    *("model.0.conv", "model.0", "model.1.a", *(f"model.1.tail.{n}" for n in range(6))),
    *("model.1.tail", "model.1", "model.2.conv", "model.2.bn", "model.2.act", "model.2"),
    *("model.3.cv2.0.conv", "model.3.cv2.0.out", "model.3.cv2.0", "model.3"),
)
LAYOUT = replace(LAYOUT, blocks=tuple((name, KINDS_OF[name]) for name in BLOCKS))
WRAPS = {
    "model.0": "model.0.conv",
    "model.1.tail": "model.1.tail.5",
    "model.1": "model.1.tail.5",
    "model.2": "model.2.act",
    "model.3.cv2.0": "model.3.cv2.0.out",
    "model.3": "model.3.cv2.0.out",
}
"""Containers, with the part whose output they return; its values are their default."""

STACK = tuple(f"model.1.tail.{n}" for n in range(6))
FRONT = ORDER[: ORDER.index("model.1.a") + 1]
NAN = float("nan")


def flow(step=5, without=(), **columns):
    """A healthy trace except for some values of modules: ``gradient={"model.0": 1e-4}``."""
    fields = {"rms": "output_rms", "largest": "output_max", "zero": "output_zero"}
    fields |= {"saturated": "output_saturated", "gradient": "gradient_norm"}
    calls = []
    for name in (one for one in ORDER if one not in without):
        values = {"rms": 1.0, "largest": 4.0, "zero": 0.0, "saturated": None, "gradient": 1.0}
        values |= {
            column: found[WRAPS.get(name)]
            for column, found in columns.items()
            if WRAPS.get(name) in found
        }
        values |= {column: found[name] for column, found in columns.items() if name in found}
        numbers = {fields[column]: value for column, value in values.items()}
        calls.append(Call(len(calls) + 1, name, 1, KINDS_OF[name], 100, **numbers))
    return Flow(1, step, tuple(calls))


def cause(rule, module, traced, training=None, reason=None):
    """Kind, place and values of the measured cause, or None."""
    finding = replace(finding_of(rule, module), reason=reason)
    found = measured(finding, LAYOUT, traced, training or {})
    return found and (found.kind, found.names[0], tuple(round(v, 3) for v in found.values))


def up_to(name, value):
    """This value for each module up to the named one."""
    return dict.fromkeys(ORDER[: ORDER.index(name) + 1], value)


RULES = (
    *("vanishing", "leaf_vanishing", "collapse", "total_low", "exploding", "spike", "total_high"),
    *("dead", "no_gradient", "partly_dead", "dead_branch", "nonfinite", "weight_overflow"),
)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("module", [WHOLE, "model.1", "model.2.conv"])
def test_healthy_trace_shows_no_cause(rule, module):
    assert cause(rule, module, flow()) is None


@pytest.mark.parametrize("module", ["model.2.bn", "model.1"])
def test_zeros_outside_activations_lose_no_gradient(module):
    gradient = up_to("model.1.tail.5" if module == "model.2.bn" else "model.1.a", 1e-4)
    sound, sparse = flow(gradient=gradient), flow(gradient=gradient, zero={module: 0.95})
    (*found, _), (*same, _) = (cause("vanishing", "model.1", one) for one in (sound, sparse))
    assert found == same
    assert found[0] not in FLAT


@pytest.mark.parametrize("rule", ["large_weights", "not_updated", "slow_branch"])
def test_rules_without_a_measured_cause_are_skipped(rule):
    assert cause(rule, "model.1", flow(gradient=up_to("model.1.tail.5", 1e-6))) is None


@pytest.mark.parametrize("trace", [Flow(1, 5, ()), flow(without=ORDER)])
def test_empty_trace_shows_no_cause(trace):
    assert cause("no_gradient", "model.1", trace) is None


def test_module_missing_from_the_layout_has_no_cause():
    assert cause("vanishing", "model.9", flow(gradient=up_to("model.1.a", 1e-4))) is None


@pytest.mark.parametrize("rule", ["vanishing", "exploding"])
def test_nonfinite_gradient_is_neither_a_fall_nor_a_rise(rule):
    gradient = {"model.1.tail.1": NAN, **up_to("model.1.a", 1e-4)}
    assert cause(rule, "model.1", flow(gradient=gradient)) is None


@pytest.mark.parametrize(("value", "is_cause"), [(4.5, False), (2.5, True)])
def test_small_fall_does_not_explain_a_change_of_the_whole_net(value, is_cause):
    """A stack that loses little lost as much before."""
    traced = flow(gradient=up_to("model.1.a", 10**-2.1))
    collapsed = finding_of("collapse", WHOLE, value=value)
    assert (measured(collapsed, LAYOUT, traced, {}) is not None) is is_cause
    low = finding_of("total_low", WHOLE, value=10.0**-value, limit=1.0)
    assert (measured(low, LAYOUT, traced, {}) is not None) is is_cause


# --- too little -----------------------------------------------------------------------------------


def test_fall_between_two_layers_is_in_the_enclosing_module():
    found = cause("vanishing", "model.1", flow(gradient=up_to("model.1.a", 1e-4)))
    assert found == ("falls", "model.1", (4.0,))


def test_fall_at_the_end_of_a_forward_is_in_that_module():
    traced = flow(gradient={**up_to("model.1.tail.5", 1e-4), "model.1.tail": 1e-4, "model.1": 1.0})
    assert cause("vanishing", "model.1", traced) == ("falls", "model.1", (4.0,))


def test_fall_in_a_sequential_is_in_the_layer():
    found = cause("vanishing", "model.1", flow(gradient=up_to("model.1.tail.2", 1e-4)))
    assert found == ("falls", "model.1.tail.3", (4.0,))


@pytest.mark.parametrize("decades", [1.4, 1.6])
def test_fall_at_its_limit(decades):
    found = cause("vanishing", "model.1", flow(gradient=up_to("model.1.a", 10**-decades)))
    assert (found is not None) == (decades > 1.5)


def test_branch_with_less_gradient_is_not_a_fall():
    assert cause("vanishing", "model.1", flow(gradient=dict.fromkeys(STACK, 1e-4))) is None


def test_stack_of_layers_shrinks_the_gradient():
    gradient = {name: 10.0**n for n, name in enumerate(("model.1.a", *STACK))}
    downstream = dict.fromkeys(ORDER[ORDER.index("model.2.conv") :], 1e6)
    traced = flow(gradient={"model.0.conv": 1.0, **gradient, **downstream})
    found = measured(finding_of("vanishing", "model.1"), LAYOUT, traced, {})
    assert (found.kind, found.values) == ("shrinks", (6.0, 3.0, 6.0, 3.0, 3.0))
    assert found.names == (
        *("model.1.tail", "Sequential", "model.1.a", "model.1.tail.5"),
        "Sigmoid",
    )


@pytest.mark.parametrize(("share", "is_named"), [(0.49, False), (0.51, True)])
def test_activation_class_that_loses_half_of_a_stack_is_named(share, is_named):
    level, gradient = 0.0, {"model.1.a": 1.0}
    for n, name in enumerate(STACK):
        level += 2 * share if n % 2 else 2 * (1 - share)
        gradient[name] = 10.0**level
    downstream = dict.fromkeys(ORDER[ORDER.index("model.2.conv") :], 1e6)
    found = measured(
        finding_of("vanishing", "model.1"), LAYOUT, flow(gradient={**gradient, **downstream}), {}
    )
    assert found.names[4:] == (("Sigmoid",) if is_named else ())
    assert found.values == pytest.approx((6.0, 3.0, 6.0, *((3.0, 6 * share) if is_named else ())))


@pytest.mark.parametrize(("rule", "sign"), [("vanishing", 1), ("exploding", -1)])
def test_reported_loss_is_the_ratio_of_the_output_gradients(rule, sign):
    """A branch upstream of them has more gradient, so that less is lost in the end."""
    own = [n for n in FRONT if n.startswith("model.1")]
    gradient = {**dict.fromkeys(("model.1.tail.0", *own), 10.0 ** (sign * -4.0))}
    gradient["model.1.a"] = 10.0 ** (sign * -3.7)
    found = measured(finding_of(rule, "model.1"), LAYOUT, flow(gradient=gradient), {})
    assert found.names[2:] == ("model.1.tail.0", "model.1.tail.1")
    assert found.values == pytest.approx((4.0,))
    edges = {
        "model.1.a": 1.0,
        "model.1.tail.1": 10.0 ** (sign * 1.8),
        **dict.fromkeys(ORDER[ORDER.index("model.1.tail.2") :], 10.0 ** (sign * 6.0)),
    }
    stack = flow(
        gradient={**up_to("model.1.a", 1.0), "model.1.tail.0": 10.0 ** (sign * 1.4), **edges}
    )
    found = measured(finding_of(rule, "model.1"), LAYOUT, stack, {})
    levels = {call.module: call.gradient_norm for call in stack.calls}
    before, after = (levels[name] for name in found.names[2:4])
    assert 10 ** found.values[0] == pytest.approx((after / before) ** sign)


@pytest.mark.parametrize(
    ("share", "kind"), [(SATURATED + 0.01, "saturated"), (SATURATED - 0.01, "falls")]
)
def test_saturated_activation_at_its_limit(share, kind):
    traced = flow(gradient=up_to("model.1.tail.2", 1e-4), saturated={"model.1.tail.3": share})
    kinds = cause("vanishing", "model.1", traced)
    assert kinds[:2] == (kind, "model.1.tail.3")
    assert kinds[2] == ((share, 1.0) if kind == "saturated" else (4.0,))


def test_saturated_activation_that_loses_nothing_is_not_the_cause():
    traced = flow(gradient=up_to("model.1.a", 1e-4), saturated={"model.1.tail.5": 0.99})
    assert cause("vanishing", "model.1", traced)[:2] == ("falls", "model.1")


def test_forward_signal_that_shrinks_as_much_is_the_cause():
    rms = dict.fromkeys(ORDER[ORDER.index("model.1.tail.0") :], 1e-4)
    traced = flow(gradient=up_to("model.1.a", 1e-4), rms=rms)
    assert cause("vanishing", "model.1", traced) == ("scaled_forward", "model.1", (1.0, 0.0))


@pytest.mark.parametrize("rms", [SMALL * 1.1, SMALL * 0.9])
def test_collapsed_signal_upstream_is_the_cause_below_its_limit(rms):
    found = cause("leaf_vanishing", "model.2.conv", flow(rms={"model.1.tail.0": rms}))
    assert found == (None if rms > SMALL else ("scaled_forward", "model.1", (1.0, round(rms, 3))))


# --- too much -------------------------------------------------------------------------------------


def test_multiplied_gradient():
    found = cause("exploding", "model.1", flow(gradient=up_to("model.1.a", 1e4)))
    assert found == ("multiplied", "model.1", (4.0,))


def test_stack_that_grows_the_gradient():
    gradient = {name: 10.0**-n for n, name in enumerate(("model.1.a", *STACK))}
    downstream = dict.fromkeys(ORDER[ORDER.index("model.2.conv") :], 1e-6)
    found = cause(
        "exploding", "model.1", flow(gradient={**up_to("model.0", 1.0), **gradient, **downstream})
    )
    assert found == ("grows", "model.1.tail", (6.0, 3.0, 6.0))


def test_gradient_from_several_readers_is_not_a_rise():
    edges = (*LAYOUT.edges, ("model.0", "model.2"))
    layout = replace(LAYOUT, edges=edges)
    traced = flow(
        gradient={**up_to("model.0", 1e4), **dict.fromkeys(("model.2.bn", "model.2.act"), 1e4)}
    )
    assert measured(finding_of("exploding", "model.0"), layout, traced, {}) is None
    assert measured(finding_of("exploding", "model.0"), LAYOUT, traced, {}).kind == "multiplied"


@pytest.mark.parametrize("rms", [LARGE - 1, LARGE + 1])
def test_output_that_is_far_too_large(rms):
    found = cause("total_high", WHOLE, flow(rms={"model.3.cv2.0.out": rms}))
    assert found == (("scaled_forward", "model.3.cv2.0.out", (1.0, rms)) if rms > LARGE else None)


@pytest.mark.parametrize(
    ("large", "is_cause"),
    [
        ("model.0", True),
        ("model.1", True),
        ("model.2.act", False),
        ("model.2", False),
        ("model.3.cv2.0.out", False),
    ],
)
@pytest.mark.parametrize("named", [("model.2.bn",), ("model.3.cv2.0.conv", "model.2.bn")])
def test_only_an_upstream_output_makes_statistics_overflow(large, is_cause, named):
    rms = {large: 1e6}
    traced = flow(rms={**rms, "model.0.conv": 1.0, "model.1.tail.5": 1.0})
    module = named[0] if len(named) == 1 else WHOLE
    found = cause("weight_overflow", module, traced, reason=Reason("buffers", named))
    assert found == (("scaled_forward", large, (1.0, 1e6)) if is_cause else None)


def test_another_branch_does_not_make_statistics_overflow():
    edges = (("model.0", "model.1"), ("model.0", "model.2"), ("model.2", "model.3"))
    layout = replace(LAYOUT, edges=edges)
    finding = replace(finding_of("weight_overflow", "model.2.bn"), reason=None)
    elsewhere = flow(rms={"model.1": 1e6, "model.1.tail.5": 1.0})
    assert measured(finding, layout, elsewhere, {}) is None
    assert measured(finding, LAYOUT, elsewhere, {}).names[0] == "model.1"


def test_overflow_cause_fits_the_judge_even_after_an_earlier_trace():
    traced = flow(rms={"model.2": 1e6})
    own = replace(
        finding_of("weight_overflow", WHOLE),
        judged=Reason("buffers", ("model.2.bn",)),
        reason=Reason("scaled_forward", ("model.3",)),
        is_traced=True,
    )
    assert measured(own, LAYOUT, traced, {}) is None
    downstream = replace(own, judged=Reason("buffers", ("model.3.cv2.0.conv",)))
    assert measured(downstream, LAYOUT, traced, {}).names[0] == "model.2"


def test_input_through_blocks_without_parameters():
    blocks = (("model.0", "Conv"), ("model.1", "Own"), ("model.1x", "Scale"), *LAYOUT.blocks[2:])
    edges = (("model.0", "model.1"), ("model.1", "model.1x"), ("model.1x", "model.2"))
    layout = replace(LAYOUT, blocks=blocks, inside=((),) * 5, edges=(*edges, LAYOUT.edges[-1]))
    calls = list(flow(gradient=up_to("model.1", 1e-6)).calls)
    at = ORDER.index("model.1") + 1
    scaled = replace(calls[at - 1], module="model.1x", type="Scale", output_rms=1e6)
    calls[at:at] = [scaled]
    traced = Flow(1, 5, tuple(replace(one, order=n) for n, one in enumerate(calls, 1)))
    for rule, module in (("vanishing", "model.1"), ("weight_overflow", "model.2.bn")):
        found = measured(finding_of(rule, module), layout, traced, {})
        assert (found.kind, found.names[0]) == ("scaled_forward", "model.1x")


def test_normalization_that_divides_by_a_large_input():
    """The small gradient at its input belongs to the output that is too large."""
    lost = up_to("model.1", 1e-6)
    large = {"model.1.tail.5": 1.0, "model.1": 1e6}
    found = cause("vanishing", "model.1", flow(gradient=lost, rms=large))
    assert found == ("scaled_forward", "model.1", (1.0, 1e6))
    twice = (*LAYOUT.edges, ("model.0", "model.2"))
    traced = flow(gradient=lost, rms=large)
    found = measured(finding_of("vanishing", "model.0"), replace(LAYOUT, edges=twice), traced, {})
    assert (found.kind, found.names[0]) == ("scaled_forward", "model.1")
    assert found.names[4:] == ("model.2.bn",)


def test_normalization_without_a_large_output_upstream():
    found = cause("vanishing", "model.1", flow(gradient=up_to("model.1", 1e-6)))
    assert found == ("falls", "model.2.bn", (6.0,))
    small = flow(gradient=up_to("model.1", 1e-6), rms=dict.fromkeys(("model.2.bn",), 1e-6))
    assert cause("vanishing", "model.1", small)[0] == "scaled_forward"


def test_dead_activation_explains_high_norms_from_amplified_noise():
    traced = flow(gradient=up_to("model.0", 1e8), zero={"model.2.act": 1.0})
    assert cause("total_high", WHOLE, traced) == ("zero", "model.2.act", (1.0, 1.0))


def test_activation_with_zero_inputs_is_not_their_cause():
    rms = dict.fromkeys(ORDER[ORDER.index("model.1.tail.0") :], 0.0)
    assert cause("total_high", WHOLE, flow(rms=rms, zero={"model.2.act": 1.0}))[0] == "zeroed"
    later = dict.fromkeys(ORDER[ORDER.index("model.2.act") :], 0.0)
    assert cause("total_high", WHOLE, flow(rms=later, zero={"model.2.act": 1.0}))[0] == "zero"


# --- none -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [ZERO - 0.01, ZERO])
def test_zero_gradient_upstream_of_an_activation(share):
    traced = flow(gradient=up_to("model.2.bn", 0.0), zero={"model.2.act": share})
    kind, name, values = cause("dead", "model.2", traced)
    assert name == "model.2.act"
    found = measured(finding_of("dead", "model.2"), LAYOUT, traced, {})
    assert found.names[2] == "model.2.bn"
    assert (kind, values) == (("zero", (share, 1.0)) if share >= ZERO else ("zeroed", (share,)))


def test_zero_gradient_between_two_layers():
    assert cause("dead", "model.1", flow(gradient=up_to("model.1.a", 0.0))) == (
        "zeroed",
        "model.1",
        (0.0,),
    )


def test_zero_fraction_of_an_output_without_slope():
    gradient = up_to("model.1.tail.5", 0.0)
    own = {"gradient": {**gradient, "model.1.tail": 0.0, "model.1": 1.0}}
    assert cause("dead", "model.1", flow(**own, zero={"model.1": 0.3})) == (
        *("zeroed", "model.1"),
        (0.3,),
    )
    traced = flow(**own, rms={"model.1": 0.0}, zero={"model.1": 1.0})
    assert cause("dead", "model.1", traced) == ("zeroed", "model.1", (1.0,))


def test_zeros_before_a_normalization_belong_to_its_input():
    gradient = {**up_to("model.1", 0.0), "model.2.conv": 1.0}
    traced = flow(gradient=gradient, zero={"model.2.conv": 1.0})
    assert cause("dead", "model.1", traced) == ("zeroed", "model.2.bn", (1.0,))


@pytest.mark.parametrize(("share", "is_named"), [(0.55, False), (0.65, True)])
def test_partly_zero_activation(share, is_named):
    found = cause("partly_dead", "model.2.conv", flow(zero={"model.2.act": share}))
    assert found == (("zero", "model.2.act", (share, 1.0)) if is_named else None)


def test_most_saturated_activation_of_a_module():
    traced = flow(saturated={"model.1.tail.1": 0.7, "model.1.tail.3": 0.9})
    assert cause("partly_dead", "model.1.tail", traced) == (
        "saturated",
        "model.1.tail.3",
        (0.9, 1.0),
    )


def test_detach_between_two_layers():
    found = cause("no_gradient", "model.1.a", flow(gradient=up_to("model.1.a", None)))
    assert found == ("cut", "model.1", ())


def test_unused_part_of_the_head_is_named_with_the_head():
    traced = flow(gradient={"model.3.cv2.0.conv": None})
    found = measured(finding_of("no_gradient", "model.3.cv2.0.conv"), LAYOUT, traced, {})
    assert found.names == ("model.3", "Detect", "model.3.cv2.0.conv", "model.3")


def test_layer_under_no_grad_counts_as_not_called():
    traced = flow(without=("model.2.conv", "model.2.bn", "model.2.act"), gradient={"model.2": None})
    assert cause("no_gradient", "model.2", traced) == ("uncalled", "model.2", (1.0,))
    assert cause("no_gradient", "model.2.conv", traced) == ("uncalled", "model.2", (1.0,))


def test_block_that_is_never_called():
    inside = ("model.2.conv", "model.2.bn", "model.2.act")
    assert cause("no_gradient", "model.2", flow(without=(*inside, "model.2"))) == (
        *("uncalled", "model.2"),
        (0.0,),
    )
    assert cause("no_gradient", "model.2.conv", flow(without=inside[:1])) == (
        *("uncalled", "model.2.conv"),
        (0.0,),
    )
    with_gradient = flow(without=inside)
    assert cause("no_gradient", "model.2", with_gradient) == ("uncalled", "model.2", (0.0,))


def test_branch_of_the_head_implies_nothing_about_the_next():
    gradient = dict.fromkeys(("model.3.cv2.0.conv", "model.3.cv2.0.out"), 0.0)
    assert cause("dead_branch", "model.3.cv2", flow(gradient=gradient)) is None


# --- not finite -----------------------------------------------------------------------------------

INF = {"model.1.tail.0": float("inf")}


def test_first_nonfinite_output():
    assert cause("nonfinite", "model.1", flow(largest=INF)) == ("not_finite", "model.1", (0.0, 4.0))


def test_weights_spoiled_by_a_step_are_not_a_cause():
    assert cause("nonfinite", "model.1", flow(largest=up_to("model.3", NAN))) is None


@pytest.mark.parametrize(
    ("kind", "names", "is_kept"),
    [
        ("call", ("model.1.a", "Conv2d", ""), True),
        ("call", ("model.1.tail.0", "Conv2d", "model.1.a"), False),
        ("slope", (), True),
        ("loss", (), False),
        ("loss items", ("box_loss", ""), True),
        ("input", ("model.0.conv",), True),
        ("forward", ("model.2", "model.2.bn", "model.0", "model.2"), True),
        ("forward", ("model.1", "model.2.bn", "model.0", "model.1"), False),
    ],
)
def test_judge_with_a_more_direct_measurement_is_kept(kind, names, is_kept):
    found = cause("nonfinite", "model.1", flow(largest=INF), reason=Reason(kind, names, (1.0,), 3))
    assert found == (None if is_kept else ("not_finite", "model.1", (1.0, 4.0)))


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_nonfinite_gradient_nearest_to_the_loss(value):
    traced = flow(gradient=up_to("model.1.tail.1", value))
    assert cause("nonfinite", "model.1", traced) == (
        "not_finite_gradient",
        "model.1.tail.2",
        (0.0,),
    )
    assert cause("nonfinite", "model.1", flow(gradient=up_to("model.3", value))) is None


@pytest.mark.parametrize(
    ("training", "largest", "end"),
    [
        ({"amp": True}, 61000.0, HALF),
        ({"amp": True}, HALF / 4 - 1, None),
        ({"amp": False}, 61000.0, None),
        ({"amp": True, "fitted": {"amp": False}}, 61000.0, None),
        ({"amp": "bf16"}, 61000.0, None),
        ({"amp": "bf16"}, 1e38, BRAIN),
    ],
)
def test_outputs_near_the_largest_number_of_the_type(training, largest, end):
    found = cause("nonfinite", "model.1", flow(largest={"model.1.a": largest}), training)
    assert found == (("head_room", "model.1.a", (0.0, largest, round(end, 3))) if end else None)


NUMBERS = st.sampled_from([None, 0.0, 1e-40, 1e-9, 0.5, 0.99, 1.0, 3.0, 1e30, float("inf"), NAN])
ANY_CALL = st.tuples(
    st.sampled_from([*LAYOUT.modules, *ORDER, "model.0.act", "teacher.0", ""]),
    st.sampled_from(["Sigmoid", "SiLU", "Conv2d", "BatchNorm2d", "Own", "ReLU", "Detect"]),
    st.sampled_from([0, 1, 100]),
    st.tuples(*[NUMBERS] * 5),
)


@pytest.mark.slow
@settings(max_examples=500)
@given(
    st.sampled_from(RULES_WITH_A_CAUSE),
    st.sampled_from(LAYOUT.modules),
    st.lists(ANY_CALL, max_size=12),
)
def test_any_trace_has_a_worded_cause_or_none(rule, module, calls):
    """Files come from other people: no trace in them may crash a report or a watch."""
    traced = (
        Call(order, name, 1, kind, elements, *numbers)
        for order, (name, kind, elements, numbers) in enumerate(calls, 1)
    )
    found = measured(finding_of(rule=rule, module=module), LAYOUT, Flow(1, 5, tuple(traced)), {})
    assert found is None or cause_of(found, LAYOUT, {})


# --- wording --------------------------------------------------------------------------------------

STACKED = ("model.1.tail", "Sequential", "model.1.a", "model.1.tail.5")
SPOKEN = (
    Reason("saturated", ("model.1.tail.1", "Sigmoid"), (0.97, 1.0)),
    Reason("saturated", ("model.1.tail.1", "Sigmoid"), (1.0, 3.0)),
    Reason("saturated", ("model.2.act", "ReLU6", "model.2.bn"), (1.0, 1.0)),
    Reason("zero", ("model.1.tail.1", "ReLU"), (0.998, 1.0)),
    Reason("zero", ("model.2.act", "ReLU", "model.2.bn"), (1.0, 1.0)),
    Reason("falls", ("model.1", "Own", "model.1.a", "model.1.tail.0"), (4.5,)),
    Reason("falls", ("model.1.tail.1", "Gate", "model.1.tail.0", "model.1.tail.1"), (3.0,)),
    Reason("falls", ("model.2.bn", "BatchNorm2d", "model.1", "model.2.bn"), (5.0,)),
    Reason("shrinks", (*STACKED, "Sigmoid"), (4.8, 3.0, 6.0, 3.0, 3.6)),
    Reason("shrinks", STACKED, (4.8, 3.0, 6.0)),
    Reason("shrinks", (*STACKED, "SiLU"), (4.8, 0.0, 6.0, 1.0, 3.0)),
    Reason("grows", STACKED, (6.0, 3.0, 6.0)),
    Reason("shrinks", ("model.2", "Conv", "model.1", "model.2.act"), (3.0, 2.0, 3.0)),
    Reason(
        "shrinks", ("model.2", "Conv", "model.1", "model.2.act", "Tanh"), (3.0, 2.0, 3.0, 2.0, 2.0)
    ),
    Reason("multiplied", ("model.1", "Own", "model.1.a", "model.1.tail.0"), (4.0,)),
    Reason("multiplied", ("model.2.bn", "BatchNorm2d", "model.1", "model.2.bn"), (3.0,)),
    Reason("cut", ("model.1", "Own", "model.1.a", "model.1.tail.0")),
    Reason("uncalled", ("model.1", "Own"), (1.0,)),
    Reason("uncalled", ("model.1", "Own"), (0.0,)),
    Reason("zeroed", ("model.1", "Own", "model.1.a", "model.1"), (1.0,)),
    Reason("zeroed", ("model.1", "Own", "model.1.a", "model.1"), (0.3,)),
    Reason("zeroed", ("model.1.tail.1", "Gate", "model.1.tail.0", "model.1.tail.1"), (0.3,)),
    Reason("scaled_forward", ("model.1", "Own", "model.1.a", "model.1"), (0.64, 6.4e-8)),
    Reason("scaled_forward", ("model.3.cv2.0.out", "Conv2d", "model.2", "model.3"), (0.6, 940.0)),
    Reason("scaled_forward", ("model.1", "Own", "model.1.a", "model.1", "model.2.bn"), (0.6, 6e5)),
    Reason("not_finite", ("model.1", "Own", "model.1.a", "model.1.tail.0"), (0.0, 4.1)),
    Reason("not_finite_gradient", ("model.1", "Own", "model.1.a", "model.1.tail.0")),
    Reason("head_room", ("model.1.a", "Conv2d"), (0.0, 61000.0, HALF)),
    Reason("head_room", ("model.1.a", "Conv2d"), (0.0, 1e38, BRAIN)),
)


def test_wording_of_each_kind(golden):
    worded = [cause_of(reason, LAYOUT, {"optimizer": "SGD", "lr0": 0.01}) for reason in SPOKEN]
    assert {reason.kind for reason in SPOKEN} == set(KINDS)
    golden("measured", "".join(f"{one.why}\n    Try {one.remedy}.\n\n" for one in worded))


def test_reasons_of_judges_are_worded_elsewhere():
    assert cause_of(Reason("slope"), LAYOUT, {}) is None
