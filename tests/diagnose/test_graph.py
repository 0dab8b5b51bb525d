from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import FAMILIES, FORK_EDGES, NET
from torch import nn
from values import LAWS, LAYOUT, Part, plan

from yolo_gradwatch.diagnose.graph import Graph, Paths
from yolo_gradwatch.measure import model_layout as layouts


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Small models are slow when threads wait for a busy processor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def wired(edges, *, head=(), empty=(), blocks=4):
    """The graph of blocks with one weight each, or none if `empty`; edges and head by number."""
    last = f"model.{blocks - 1}"
    parts = [Part(f"model.{n}") for n in range(blocks - 1) if n not in empty]
    parts += [Part(f"{last}.{name}") for name in head]
    layout, _ = plan(
        parts or [Part("model")],
        [f"model.{n}" for n in range(blocks)],
        [(f"model.{source}", f"model.{target}") for source, target in edges],
    )
    return Graph(layout)


def readers(graph):
    """The names of the units that read each block."""
    return {
        block: [graph.units[u] for u in found]
        for block, found in zip(graph.blocks, graph.consumers, strict=True)
    }


def numbered_readers(graph):
    """As `readers`, without the prefix `model.`."""
    return {
        block.removeprefix("model."): [name.removeprefix("model.") for name in found]
        for block, found in readers(graph).items()
    }


# Hand-built layouts.


def test_net_with_a_block_without_parameters_and_a_head_of_families():
    graph = Graph(NET)
    assert graph.blocks == ("model.0", "model.1", "model.2", "model.4", "model.5")
    branches = tuple(f"model.6.{family}.{scale}" for family in FAMILIES for scale in range(3))
    assert graph.units == (*graph.blocks, *branches)
    assert numbered_readers(graph) == {
        "0": ["1"],
        "1": ["2"],
        "2": ["4", "6.cv2.0", "6.cv3.0"],
        "4": ["5", "6.cv2.1", "6.cv3.1"],
        "5": ["6.cv2.2", "6.cv3.2"],
    }
    assert graph.feeds_trunk.tolist() == [True, True, True, True, False]
    weights = zip(graph.trunk_weights, graph.block_of_weight, strict=True)
    found = [(graph.blocks[block], NET.modules[m]) for m, block in weights]
    leaves = {"model.1": "abc"}
    assert found == [
        (block, f"{block}.{leaf}") for block in graph.blocks for leaf in leaves.get(block, ["conv"])
    ]


def test_blocks_without_parameters_are_skipped_on_the_way_to_a_single_unit_head():
    graph = wired([(0, 1), (1, 2), (2, 3), (3, 4)], empty=(1, 2, 3), blocks=5, head=["conv"])
    assert numbered_readers(graph) == {"0": ["4"]}
    assert graph.feeds_trunk.tolist() == [False]
    graph = wired([(0, 2), (1, 2), (2, 3), (2, 4), (3, 4)], empty=(2,), blocks=5, head=["conv"])
    assert numbered_readers(graph) == {"0": ["3", "4"], "1": ["3", "4"], "3": ["4"]}
    assert graph.feeds_trunk.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("edges", "head", "empty", "expected"),
    [
        # the order of the inputs is the order of the scales
        ("01 12 23 03 13", "a.0 a.1 a.2", (), "0>1 0>3.a.1 1>2 1>3.a.2 2>3.a.0"),
        # a scale reaches the head through a block without parameters, and a block feeds two scales
        ("01 02 13 23", "a.0 a.1", (2,), "0>1 0>3.a.1 1>3.a.0"),
        ("01 13 13", "a.0 a.1", (2,), "0>1 1>3.a.0 1>3.a.1"),
        # detached branches, and families that read other families, read no block
        ("01 12 23", "cv2.0 one2one_cv2.0 one2one_cv4.0", (), "0>1 1>2 2>3.cv2.0"),
        ("01 12 23", "cv4.0 cv4_kpts.0 cv40.0", (), "0>1 1>2 2>3.cv4.0 2>3.cv40.0"),
    ],
)
def test_which_block_feeds_which_scale(edges, head, empty, expected):
    graph = wired([map(int, edge) for edge in edges.split()], head=head.split(), empty=empty)
    assert expected.split() == [
        f"{a}>{b}" for a, found in numbered_readers(graph).items() for b in found
    ]
    assert graph.units[-len(head.split()) :] == tuple(f"model.3.{name}" for name in head.split())
    assert set(graph.families) == {name.partition(".")[0] for name in head.split()}


@pytest.mark.parametrize(("entries", "is_family"), [(1, False), (2, True), (3, False)])
def test_list_in_the_head_is_a_family_if_it_has_one_entry_per_scale(entries, is_family):
    head = ["cv2.0", "cv2.1", *(f"proto.{n}" for n in range(entries))]
    graph = wired([(0, 1), (1, 2), (1, 3), (2, 3)], head=head)
    assert list(graph.families) == ["cv2", "proto"][: 1 + is_family]
    assert ("3.proto.0" in numbered_readers(graph)["1"]) is is_family


def test_nested_list_in_the_head_is_not_a_family():
    graph = wired([(1, 3), (2, 3)], head=["cv2.0", "cv2.1", "decoder.layers.0", "decoder.layers.1"])
    assert list(graph.families) == ["cv2"]


@pytest.mark.parametrize("head", [["conv", "linear"], ["layers.0", "layers.1"]])
def test_head_without_families_is_one_unit(head):
    graph = wired([(0, 1), (1, 2), (2, 3)], head=head)
    assert graph.families == {}
    assert graph.units == ("model.0", "model.1", "model.2", "model.3")
    assert numbered_readers(graph)["2"] == ["3"]
    assert graph.weights[-1].tolist() == [5, 6] if head[0] == "conv" else [6, 7]


def test_block_with_the_prefix_of_another_does_not_own_its_parameters():
    names = ["model.1", "model.10", "model.11"]
    layout, _ = plan([Part("model.10"), Part("model.11")], names)
    assert Graph(layout).blocks == ("model.10",)


def test_block_without_weights_is_still_a_unit():
    parts = [Part("model.0.bn", is_weight=False), Part("model.1.gain", is_weight=False)]
    layout, _ = plan([*parts, Part("model.2")])
    graph = Graph(layout)
    assert graph.blocks == ("model.0", "model.1")
    assert [len(found) for found in graph.weights] == [0, 0, 1]
    assert [len(found) for found in graph.norms] == [1, 0, 0]


def test_leaves_own_parameters_and_the_trunk_ends_before_the_head():
    graph = Graph(LAYOUT)
    rows = zip(LAYOUT.modules, graph.leaves, graph.trunk, strict=True)
    for name, leaf, trunk in rows:
        assert leaf == (name.count(".") == 2)
        assert trunk == name.startswith(("model.0", "model.1"))


def test_model_without_edges_has_no_consumers():
    graph = Graph(replace(NET, edges=()))
    assert set(graph.consumers) == {()}
    assert graph.families == {}
    assert graph.units == (*graph.blocks, "model.6")
    assert not graph.feeds_trunk.any()


def test_single_module_has_no_units():
    single, _ = layouts.read(nn.Linear(2, 3))
    graph = Graph(single)
    assert (graph.units, graph.blocks, graph.consumers, graph.families) == ((), (), (), {})
    assert len(graph.trunk_weights) == len(graph.block_of_weight) == 0
    assert (graph.siblings, len(graph.group_of_weight)) == ((), 0)


# Siblings of weights.


def siblings(*weights, head="model.9"):
    """The names of the siblings of each trunk weight."""
    layout, _ = plan([*map(Part, weights), Part(head)])
    graph = Graph(layout)
    groups = [[layout.modules[m] for m in group] for group in graph.siblings]
    return {
        layout.modules[m]: groups[group] if group >= 0 else None
        for m, group in zip(graph.trunk_weights, graph.group_of_weight, strict=True)
    }


def test_siblings_are_the_weights_of_the_smallest_module_with_three():
    inner = [f"model.0.m.0.{name}" for name in "abc"]
    outer = ["model.0.cv1", "model.0.cv2"]
    found = siblings(*inner, *outer)
    assert all(found[name] == inner for name in inner)
    assert all(found[name] == [*inner, *outer] for name in outer)


@pytest.mark.parametrize(("count", "have"), [(2, False), (3, True), (40, True), (41, False)])
def test_siblings_number_between_3_and_40(count, have):
    weights = [f"model.0.{n}" for n in range(count)]
    found = siblings(*weights, "model.1")
    assert all(found[name] == (weights if have else None) for name in weights)
    assert found["model.1"] is None


def test_part_of_a_too_large_module_can_have_siblings():
    large = [f"model.0.{n}" for n in range(40)]
    part = [f"model.0.layer.{n}" for n in range(3)]
    found = siblings(*large, *part)
    assert found["model.0.0"] is None
    assert found["model.0.layer.2"] == part


# Attention.


@pytest.mark.parametrize(
    ("path", "is_inside"),
    [
        *((path, True) for path in ("attn", "attn.qkv", "attn.qkv.conv")),
        *((path, False) for path in ("attn.qkv.conv.deep", "ffn.conv", "attn2.conv")),
    ],
)
@pytest.mark.parametrize(
    "kind",
    [
        *("Attention", "AAttn", "MultiheadAttention", "MSDeformAttn", "MultiScaleAttention"),
        *("attn", "RoPEAttention", "MHSA", "window_attention", "SelfAttn2d", "Attn3x3"),
        *("CoordAtt", "CrossATT", "Coordinate_Att"),
    ],
)
def test_attention_is_recognized_by_its_class(path, kind, is_inside):
    layout, _ = plan([Part(f"model.0.{path}"), Part("model.1")])
    types = [kind if name == "model.0.attn" else "Conv2d" for name in layout.modules]
    graph = Graph(replace(layout, types=tuple(types)))
    found = dict(zip(layout.modules, graph.attention, strict=True))
    assert found[f"model.0.{path}"] == is_inside
    assert not found["model.0"]
    assert not found["model.1"]


# Upstream.


@LAWS
@given(st.sets(st.tuples(st.integers(0, 6), st.integers(1, 7)).filter(lambda e: e[0] < e[1])))
def test_upstream_agrees_with_powers_of_the_adjacency_matrix(edges):
    graph = wired(sorted(edges), blocks=8, head=["a"])
    step = np.zeros((8, 8), int)
    for source, target in edges:
        step[source, target] = 1
    reach = sum(np.linalg.matrix_power(step, n) for n in range(1, 8))
    for b in range(7):
        assert graph.upstream(b) == np.flatnonzero(reach[:7, b]).tolist()


@LAWS
@given(
    st.sets(st.tuples(st.integers(0, 6), st.integers(1, 7)).filter(lambda e: e[0] < e[1])),
    st.sets(st.integers(0, 6), max_size=6),
)
def test_consumers_are_the_ends_of_paths_through_empty_blocks(edges, empty):
    graph = wired(sorted(edges), empty=empty, blocks=8, head=["a"])

    def ends(block):
        return {
            end
            for source, target in edges
            if source == block
            for end in (ends(target) if target in empty else {f"model.{target}"})
        }

    assert {block: set(found) for block, found in readers(graph).items()} == {
        f"model.{n}": ends(n) for n in range(7) if n not in empty
    }


# Ultralytics models, whose forward pass shows which module reads which.

RESNET = {
    "nc": 10,
    "backbone": [[-1, 1, "TorchVision", [512, "resnet18", None, True, 2]]],
    "head": [[-1, 1, "Classify", ["nc"]]],
}
"""As yolo11-cls-resnet18.yaml, without a download."""

MODELS = [
    ("yolo26n.yaml", "DetectionModel", 64),
    ("yolov8n.yaml", "DetectionModel", 64),
    ("yolov10n.yaml", "DetectionModel", 64),
    ("yolov3-tiny.yaml", "DetectionModel", 64),
    ("yolov5n-p6.yaml", "DetectionModel", 128),
    ("yolo11n-seg.yaml", "SegmentationModel", 64),
    ("yolo26n-obb.yaml", "OBBModel", 64),
    ("yolo26n-pose.yaml", "PoseModel", 64),
    ("yolo26n-cls.yaml", "ClassificationModel", 64),
    pytest.param(*("resnet18", "ClassificationModel", 64), marks=pytest.mark.slow),
    pytest.param(*("rtdetr-l.yaml", "RTDETRDetectionModel", 160), marks=pytest.mark.slow),
]


@functools.cache
def built(config, kind):
    """An Ultralytics model; RT-DETR would need labels in training mode."""
    from ultralytics.nn import tasks

    model = getattr(tasks, kind)(RESNET if config == "resnet18" else config, verbose=False)
    return model.eval() if "rtdetr" in config else model


def tensors(value):
    if isinstance(value, (list, tuple)):
        return [one for each in value for one in tensors(each)]
    return [value] if hasattr(value, "shape") else []


def recorded_calls(model, names, size):
    """The inputs and outputs of each named module in a forward pass, in order."""
    seen = []
    modules = dict(model.named_modules())

    def note(name, kind):
        return lambda _module, *passed: seen.append((name, kind, tensors(passed[kind])))

    hooks = [modules[name].register_forward_pre_hook(note(name, 0)) for name in names]
    hooks += [modules[name].register_forward_hook(note(name, 1)) for name in names]
    with torch.no_grad():
        model(torch.rand(2, 3, size, size))
    for hook in hooks:
        hook.remove()
    return seen


def observed(model, layout, graph, size):
    """The units that received a block's output, directly or through blocks without parameters."""
    blocks = [name for name, _ in layout.blocks]
    branches = [unit for units in graph.families.values() for unit in units]
    seen = recorded_calls(model, [*blocks, *branches], size)
    given, taken = ({n: t for n, k, t in seen if k == kind} for kind in (1, 0))
    if branches:
        del taken[layout.head]

    def ends(block):
        for name, inputs in taken.items():
            if any(one is other for one in inputs for other in given[block]):
                yield from [name] if name in graph.units else ends(name)

    return {block: set(ends(block)) for block in graph.blocks}


@pytest.mark.slow
@pytest.mark.parametrize(("config", "kind", "size"), MODELS)
def test_consumers_match_an_observed_forward_pass(config, kind, size):
    model = built(config, kind)
    layout, _ = layouts.read(model)
    graph = Graph(layout)
    assert {b: set(found) for b, found in readers(graph).items()} == observed(
        model, layout, graph, size
    )
    assert all(graph.consumers)


HEADS = {
    "yolo26n.yaml": ("DetectionModel", FAMILIES, 3),
    "yolov8n.yaml": ("DetectionModel", ("cv2", "cv3"), 3),
    "yolov3-tiny.yaml": ("DetectionModel", ("cv2", "cv3"), 2),
    "yolov5n-p6.yaml": ("DetectionModel", ("cv2", "cv3"), 4),
    "yolo11n-seg.yaml": ("SegmentationModel", ("cv2", "cv3", "cv4"), 3),
    "yolo26n-cls.yaml": ("ClassificationModel", (), 0),
    "rtdetr-l.yaml": ("RTDETRDetectionModel", ("input_proj",), 3),
}


@pytest.mark.parametrize(
    "config", [*list(HEADS)[:-1], pytest.param("rtdetr-l.yaml", marks=pytest.mark.slow)]
)
def test_families_and_scales_of_ultralytics_heads(config):
    kind, families, scales = HEADS[config]
    layout, _ = layouts.read(built(config, kind))
    graph = Graph(layout)
    assert graph.families == {
        family: tuple(f"{layout.head}.{family}.{scale}" for scale in range(scales))
        for family in families
    }


@pytest.fixture(scope="module")
def yolo():
    layout, _ = layouts.read(built("yolo26n.yaml", "DetectionModel"))
    return layout, Graph(layout)


def test_trunk_of_yolo26(yolo):
    _, graph = yolo
    last = [b for b, feeds in zip(graph.blocks, graph.feeds_trunk, strict=True) if not feeds]
    assert last == ["model.22"]
    names = [graph.blocks[b] for b in graph.upstream(graph.blocks.index("model.13"))]
    assert names == [f"model.{n}" for n in range(11)]


def test_each_weight_and_norm_layer_of_yolo26_is_in_one_unit(yolo):
    layout, graph = yolo
    for role, groups in (("weight", graph.weights), ("norm", graph.norms)):
        rows = [m for m, own in enumerate(layout.roles) if own == role]
        assert sorted(m for found in groups for m in found) == rows
    assert set(graph.trunk_weights) == {
        m for m, own in enumerate(layout.roles) if own == "weight" and graph.trunk[m]
    }


@pytest.mark.parametrize(
    ("module", "of", "place"),
    [
        *((name, "model.1.bn", "inside") for name in ("model.1.conv", "model.1")),
        *(("model.0.bn", "model.3", "upstream"), ("model.2.conv", "model.4.conv", "upstream")),
        *((name, "model.0.bn", "downstream") for name in ("model.3.conv", "model.4.conv")),
        ("model.4.conv", "model.2.conv", "downstream"),
        ("model.1.conv", "model.2.conv", "elsewhere"),
    ],
)
def test_position_of_a_module_relative_to_another(module, of, place):
    parts = [Part(f"model.{block}.{leaf}") for block in range(5) for leaf in ("conv", "bn")]
    layout, _ = plan(parts, edges=FORK_EDGES)
    assert Paths(layout).place(module, of) == place
