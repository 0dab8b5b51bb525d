from __future__ import annotations

import inspect
import re
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from yolo_gradwatch import model_layout as layout
from yolo_gradwatch.graph import Graph
from yolo_gradwatch.layout import WHOLE

WRAPPERS = ("module", "_orig_mod", "student_model")


class Around(nn.Module):
    """Keeps a model under one name, as DDP, `torch.compile` and distillation do."""

    def __init__(self, name, model):
        super().__init__()
        self.add_module(name, model)


class Teaching(nn.Module):
    def __init__(self, student):
        super().__init__()
        self.teacher_model = ultralytics_like().requires_grad_(requires_grad=False)
        self.student_model = student
        self.projector = nn.ModuleList([nn.Conv2d(3, 3, 1)])


class Net(nn.Module):
    """A model of named children that knows nothing of Ultralytics."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def chain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Linear(4, 2))


def block(inputs, module):
    module.f = inputs
    return module


def ultralytics_like():
    """Blocks 0 to 4; 2 has no parameters, 3 reads 2 and 0, the head reads 3 and 1."""
    return Net(
        model=nn.Sequential(
            block(-1, nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))),
            block(-1, nn.Conv2d(3, 3, 1)),
            block(-1, nn.Upsample()),
            block([-1, 0], nn.Sequential(nn.Conv2d(3, 3, 1))),
            block([3, 1], Net(cv2=nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)]))),
        )
    )


def shared():
    part = nn.Linear(3, 3)
    return Net(first=part, second=nn.Sequential(part, nn.Linear(3, 1)))


def tied():
    model = Net(encoder=nn.Linear(4, 4, bias=False), decoder=nn.Linear(4, 4, bias=False))
    model.decoder.weight = model.encoder.weight
    return model


def partly_frozen():
    model = chain()
    model[0].requires_grad_(requires_grad=False)
    model[3].bias.requires_grad_(requires_grad=False)
    return model


def own_parameter():
    model = ultralytics_like()
    model.gain = nn.Parameter(torch.ones(1))
    return model


def compiled_inside():
    model = ultralytics_like()
    model.model[0] = block(-1, Around("_orig_mod", model.model[0]))
    return model


def wrapped():
    return Around("module", Around("_orig_mod", ultralytics_like()))


def taught():
    return Teaching(ultralytics_like())


MODELS = (
    chain,
    ultralytics_like,
    shared,
    tied,
    partly_frozen,
    own_parameter,
    compiled_inside,
    wrapped,
    taught,
)


@pytest.fixture(scope="module")
def yolo():
    from ultralytics.nn.tasks import DetectionModel

    return DetectionModel("yolo26n.yaml", verbose=False)


def sizes_by_path(model):
    """Trainable elements under every path that leads to one, tied parameters once.

    Computed from the paths of the parameters alone, with no look at the modules.
    """
    found = defaultdict(dict)
    for path, parameter in model.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            continue
        words = [word for word in path.split(".")[:-1] if word not in WRAPPERS]
        for end in range(len(words) + 1):
            found[".".join(words[:end]) or WHOLE][id(parameter)] = parameter.numel()
    return {path: sum(sizes.values()) for path, sizes in found.items()}


@pytest.mark.parametrize("build", MODELS)
def test_every_module_with_a_trainable_parameter_has_exactly_one_row(build):
    model = build()
    found, _ = layout.read(model)
    expected = sizes_by_path(model)
    if build is shared:  # one module, two paths: the first is its name
        del expected["second.0"]
    assert dict(zip(found.modules, found.parameters, strict=True)) == expected
    assert len(set(found.modules)) == len(found.modules)
    assert found.modules[0] == WHOLE
    assert found.block_of[0] == ""


@pytest.mark.parametrize("build", MODELS)
def test_members_hold_the_parameters_of_each_module(build):
    model = build()
    found, members = layout.read(model)
    parameters = layout.watched(model)
    stretches = np.split(members.indices, members.starts[1:])
    assert len(stretches) == len(found.modules)
    for size, stretch in zip(found.parameters, stretches, strict=True):
        assert len(set(stretch)) == len(stretch)
        assert sum(parameters[p].numel() for p in stretch) == size
    assert members.elements.tolist() == [p.numel() for p in parameters]
    assert {int(p) for _, p in members.weights} == {
        i for i, p in enumerate(parameters) if p.ndim >= 2
    }


def test_a_parameter_that_is_shared_counts_once_in_the_parent():
    found, members = layout.read(tied())
    assert dict(zip(found.modules, found.parameters, strict=True)) == {
        "model": 16,
        "encoder": 16,
        "decoder": 16,
    }
    assert members.weights.tolist() == [[1, 0], [2, 0]]


def test_a_module_under_two_names_has_the_row_of_the_first():
    found, _ = layout.read(shared())
    assert found.modules == ("model", "first", "second", "second.1")
    assert found.parameters == (16, 12, 16, 4)


def test_frozen_parameters_are_left_out():
    model = partly_frozen()
    found, members = layout.read(model)
    assert found.modules == ("model", "1", "3")
    assert found.parameters == (16, 8, 8)
    assert len(members.elements) == len(layout.watched(model)) == 3


def test_trainable_parameters_keep_the_order_of_named_parameters():
    model = partly_frozen()
    expected = [p for _, p in model.named_parameters() if p.requires_grad]
    assert all(a is b for a, b in zip(layout.watched(model), expected, strict=True))


def roles_of(model):
    found, _ = layout.read(model)
    return {name: role for name, role in zip(found.modules, found.roles, strict=True) if role}


def test_a_module_that_owns_a_parameter_has_a_role_and_a_container_has_none():
    assert roles_of(ultralytics_like()) == {
        "model.0.0": "weight",
        "model.0.1": "norm",
        "model.1": "weight",
        "model.3.0": "weight",
        "model.4.cv2.0": "weight",
        "model.4.cv2.1": "weight",
    }


class Gain(nn.Module):
    """A parameter of one dimension that is no norm layer's."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))


class Table(Gain):
    """A weight beside a parameter of one dimension."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.ones(2, 3))


def without_bias(module):
    """As ``bias=False``, which a LayerNorm takes from torch 2.1 on."""
    module.bias = None
    return module


@pytest.mark.parametrize(
    ("module", "role"),
    [
        (nn.Linear(2, 2), "weight"),
        (nn.ConvTranspose2d(2, 2, 1, bias=False), "weight"),
        (nn.Embedding(2, 2), "weight"),
        (Table(), "weight"),
        (Gain(), "other"),
        (nn.PReLU(), "other"),
        (nn.BatchNorm2d(2), "norm"),
        (nn.GroupNorm(1, 2), "norm"),
        (nn.LayerNorm((2, 2)), "norm"),  # its weight has two dimensions
        (without_bias(nn.LayerNorm((2, 2))), "norm"),
    ],
)
def test_the_role_of_a_layer(module, role):
    assert roles_of(Net(layer=module)) == {"layer": role}


class Scale(nn.Module):
    """A factor for each channel."""

    def __init__(self, *shape):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(shape))


@pytest.mark.parametrize("shape", [(), (4,), (4, 1, 1), (1, 4, 1, 1)])
def test_a_factor_for_each_channel_is_no_weight(shape):
    assert roles_of(Net(layer=Scale(*shape))) == {"layer": "other"}


OF_TORCH = [
    *(nn.BatchNorm1d(4), nn.BatchNorm2d(4), nn.BatchNorm3d(4), nn.SyncBatchNorm(4)),
    *(nn.InstanceNorm2d(4, affine=True), nn.GroupNorm(2, 4), nn.LayerNorm((2, 3, 4))),
    *([nn.RMSNorm((2, 4))] if hasattr(nn, "RMSNorm") else []),  # torch 2.4 has it
]


@pytest.mark.parametrize("module", OF_TORCH, ids=lambda module: type(module).__name__)
def test_a_norm_layer_of_torch_is_one_and_so_is_what_inherits_from_it(module):
    module.__class__ = type("Plain", (type(module),), {})
    assert roles_of(Net(layer=module)) == {"layer": "norm"}


def own(kind, base=nn.Module, *args, shape=None):
    """A layer of a class of its own with a parameter of such a shape."""
    module = type(kind, (base,), {})(*args)
    if shape is not None:
        module.own = nn.Parameter(torch.ones(shape))
    return module


@pytest.mark.parametrize(
    "kind",
    ["LayerNorm2d", "RMSNorm", "GRN", "FRN2d", "L2Norm", "Layernorm", "my_norm", "EvoNormB0"],
)
@pytest.mark.parametrize("shape", [(4,), (4, 1, 1), (1, 4, 1, 1), (1, 1, 1, 4)])
def test_a_class_whose_name_has_the_word_and_that_owns_a_number_a_channel_is_a_norm_layer(
    kind, shape
):
    assert roles_of(Net(layer=own(kind, shape=shape))) == {"layer": "norm"}
    assert roles_of(Net(layer=own(kind, shape=(4, 2)))) == {"layer": "weight"}


@pytest.mark.parametrize("kind", ["Normalizer", "Normal", "Enormous", "Abnormal", "Gain"])
def test_a_class_whose_name_has_the_letters_only_is_no_norm_layer(kind):
    assert roles_of(Net(layer=own(kind, shape=(4,)))) == {"layer": "other"}
    assert roles_of(Net(layer=own(kind, shape=(4, 2)))) == {"layer": "weight"}


@pytest.mark.parametrize(
    ("kind", "base", "arguments"),
    [
        ("NormedConv2d", nn.Conv2d, (2, 4, 3)),
        ("NormConv", nn.Conv2d, (2, 4, 1)),
        ("LayerNormLinear", nn.Linear, (2, 4)),
    ],
)
def test_a_weight_is_one_whatever_its_class_is_called(kind, base, arguments):
    layer = own(kind, base, *arguments)
    model = nn.Sequential(layer, nn.Conv2d(4, 4, 1))
    _, members = layout.read(model)
    assert roles_of(model) == {"0": "weight", "1": "weight"}
    assert [len(weights) for weights in members.trunk] == [1]


class ConvNormAct(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.SiLU()


def test_a_container_is_no_norm_layer():
    assert roles_of(Net(block=ConvNormAct())) == {"block.conv": "weight", "block.norm": "norm"}
    block = ConvNormAct()
    block.gain = nn.Parameter(torch.ones(4))
    assert roles_of(Net(block=block))["block"] == "other"


@pytest.mark.parametrize("kind", ["Mixer", "PatternBlock", "Attention"])
@pytest.mark.parametrize("compiled", [False, True])
def test_an_attention_is_told_by_what_it_inherits_from(kind, compiled):
    inner = own(kind, nn.MultiheadAttention, 4, 2)
    model = Net(mix=Around("_orig_mod", inner) if compiled else inner, last=nn.Linear(4, 4))
    found, _ = layout.read(model)
    assert found.attentions == ("mix",)
    inside = dict(zip(found.modules, Graph(found).attention, strict=True))
    assert inside == {"model": False, "mix": True, "mix.out_proj": True, "last": False}


@pytest.mark.parametrize("kind", ["Lattice", "PatternBlock", "Attic", "Flatten", "Unflatten"])
def test_a_class_whose_name_has_the_letters_only_is_no_attention(kind):
    found, _ = layout.read(Net(mix=own(kind, nn.Linear, 4, 2), last=nn.Linear(4, 4)))
    assert found.attentions == ()
    assert not Graph(found).attention.any()


def classes_of_ultralytics():
    """All classes of layers that Ultralytics' models are built of."""
    from ultralytics.nn import modules

    parts = (part for part in vars(modules).values() if inspect.ismodule(part))
    every = (kind for part in (modules, *parts) for kind in vars(part).values())
    return {k.__name__ for k in every if inspect.isclass(k) and issubclass(k, nn.Module)}


def test_the_attentions_and_norm_layers_of_ultralytics_are_known():
    """Those of the installed version, by the letters that a word is looked for with."""
    kinds = classes_of_ultralytics()
    assert {"AAttn", "Attention", "MSDeformAttn"} <= kinds
    letters = {kind for kind in kinds if re.search("att", kind, re.IGNORECASE)}
    assert {kind for kind in kinds if layout.is_attention(kind)} == letters - {"Flatten"}
    letters = {kind for kind in kinds if re.search("norm", kind, re.IGNORECASE)}
    assert {kind for kind in kinds if layout._is_norm(kind)} == letters


@pytest.mark.parametrize(
    ("module", "positions"),
    [
        (nn.Conv2d(2, 2, 1), 1),
        (nn.Conv2d(2, 2, 3), 9),
        (nn.Conv2d(4, 4, (1, 7), groups=4, bias=False), 7),
        (nn.Conv1d(2, 2, 5), 5),
        (nn.ConvTranspose2d(2, 3, 2), 4),
        (nn.Linear(2, 2), 1),
        (nn.BatchNorm2d(2), 1),
    ],
)
@pytest.mark.parametrize("wrapper", [None, "_orig_mod"])
def test_kernels_are_the_positions_of_the_modules_own_weight(module, positions, wrapper):
    layer = Around(wrapper, module) if wrapper else module
    found, _ = layout.read(Net(layer=layer))
    assert dict(zip(found.modules, found.kernels, strict=True)) == {"model": 1, "layer": positions}


def test_yolo_kernels_are_those_of_its_convolutions(yolo):
    found, _ = layout.read(yolo)
    named = {layout.clean_name(name): module for name, module in yolo.named_modules()}
    sizes = {
        name: kernel[0] * kernel[1]
        for name in found.modules
        if (kernel := getattr(named[name], "kernel_size", None))
    }
    expected = tuple(sizes.get(name, 1) for name in found.modules)
    assert found.kernels == expected
    assert set(expected) == {1, 9}


def test_the_role_is_that_of_what_is_watched():
    model = Net(frozen=nn.Linear(2, 2), last=nn.Linear(2, 2))
    model.frozen.weight.requires_grad_(requires_grad=False)
    assert roles_of(model) == {"frozen": "other", "last": "weight"}


def test_a_module_with_a_parameter_of_its_own_and_children_has_a_role_too():
    assert roles_of(own_parameter())["model"] == "other"


def test_a_block_tells_which_classes_without_parameters_are_inside():
    model = Net(
        model=nn.Sequential(
            block(-1, nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid(), nn.Sequential(nn.Tanh()))),
            block(-1, nn.Upsample()),
            block(-1, nn.Conv2d(3, 3, 1)),
            block(-1, nn.Sequential(nn.SiLU(), nn.PReLU(), nn.Conv2d(3, 3, 1), nn.SiLU())),
        )
    )
    found, _ = layout.read(model)
    assert found.inside == (("Sigmoid", "Tanh"), ("Upsample",), (), ("SiLU",))


def test_the_inside_of_a_block_stays_the_same_when_its_layers_are_frozen():
    model = ultralytics_like()
    model.model[0].requires_grad_(requires_grad=False)
    found, _ = layout.read(model)
    plain, _ = layout.read(ultralytics_like())
    assert found.inside == plain.inside == ((), (), ("Upsample",), (), ())


NAMES = ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias")


def frozen_chain():
    """The first layer is frozen, and so is the bias of the last."""
    model = partly_frozen()
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == [
        "0.weight",
        "0.bias",
        "3.bias",
    ]
    return model


@pytest.mark.parametrize(
    ("meant", "left_out"),
    [
        (("",), ("0.weight", "0.bias", "3.bias")),
        ((), ()),
        (("0.",), ("0.weight", "0.bias")),
        (("0.", "3."), ("0.weight", "0.bias", "3.bias")),
        (("bias",), ("0.bias", "3.bias")),
        (("1.", "2."), ()),  # what is meant to be frozen, and is not, is watched
    ],
)
def test_what_is_frozen_without_being_meant_to_is_watched(meant, left_out):
    model = frozen_chain()
    named = dict(model.named_parameters())
    expected = [named[name] for name in NAMES if name not in left_out]
    found = layout.watched(model, meant)
    assert len(found) == len(expected)
    assert all(a is b for a, b in zip(found, expected, strict=True))
    read, members = layout.read(model, meant)
    assert read.parameters[0] == sum(p.numel() for p in expected)
    assert members.elements.tolist() == [p.numel() for p in expected]


def test_parameters_that_can_have_no_gradient_are_never_watched():
    model = Net(layer=nn.Linear(2, 2))
    model.codes = nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)
    assert len(layout.watched(model, ())) == 2
    found, _ = layout.read(model, ())
    assert found.parameters == (6, 6)


@pytest.mark.parametrize("name", ["module", "_orig_mod"])
def test_names_that_are_meant_to_be_frozen_are_found_in_a_wrapper(name):
    model = ultralytics_like()
    for part in (model.model[0], model.model[1]):
        part.requires_grad_(requires_grad=False)
    found, _ = layout.read(Around(name, model), ("model.0.",))
    assert "model.0" not in found.modules
    assert "model.1" in found.modules


def test_a_model_without_a_list_of_blocks_has_its_children_as_blocks():
    found, members = layout.read(Net(stem=chain(), act=nn.ReLU(), fc=nn.Linear(2, 2)))
    assert found.blocks == (("stem", "Sequential"), ("fc", "Linear"))
    assert found.head == "fc"
    assert found.edges == ()
    assert found.block_of == ("", "stem", "stem", "stem", "stem", "fc")
    assert [trunk.tolist() for trunk in members.trunk] == [[0, 4]]


def test_a_single_module_is_the_whole_model():
    found, members = layout.read(nn.Linear(2, 3))
    assert (found.modules, found.roles) == (("model",), ("weight",))
    assert (found.blocks, found.inside, found.head) == ((), (), "")
    assert members.trunk == ()


def test_blocks_of_an_ultralytics_like_model():
    found, members = layout.read(ultralytics_like())
    assert [name for name, _ in found.blocks] == [f"model.{n}" for n in range(5)]
    assert found.blocks[2] == ("model.2", "Upsample")
    assert len(found.inside) == len(found.blocks)
    assert found.head == "model.4"
    assert found.edges == (
        ("model.0", "model.1"),
        ("model.1", "model.2"),
        ("model.2", "model.3"),
        ("model.0", "model.3"),
        ("model.3", "model.4"),
        ("model.1", "model.4"),
    )
    assert [len(trunk) for trunk in members.trunk] == [1, 1, 1]  # neither model.2 nor the head


WRAPPINGS = {
    "ddp": lambda: Around("module", ultralytics_like()),
    "compiled": lambda: Around("_orig_mod", ultralytics_like()),
    "compiled in ddp": wrapped,
    "ddp in compiled": lambda: Around("_orig_mod", Around("module", ultralytics_like())),
    "compiled inside": compiled_inside,
    "compiled inside ddp": lambda: Around("module", compiled_inside()),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappers_change_nothing(wrapping):
    plain, plain_members = layout.read(ultralytics_like())
    found, members = layout.read(WRAPPINGS[wrapping]())
    assert found == plain
    for field in ("indices", "starts", "elements", "weights"):
        np.testing.assert_array_equal(getattr(members, field), getattr(plain_members, field))


@pytest.mark.parametrize("name", ["module", "_orig_mod"])
def test_a_wrapped_module_keeps_its_role(name):
    plain, plain_members = layout.read(own_parameter())
    found, members = layout.read(Around(name, own_parameter()))
    assert found.roles == plain.roles
    np.testing.assert_array_equal(members.weights, plain_members.weights)


@pytest.mark.parametrize("part", [0, 1])
def test_a_compiled_layer_keeps_its_role(part):
    model, plain_model = ultralytics_like(), ultralytics_like()
    if part == 0:
        model.model[0][1] = Around("_orig_mod", model.model[0][1])  # a norm layer
    else:
        model.model[1] = block(-1, Around("_orig_mod", model.model[1]))
    found, members = layout.read(model)
    plain, plain_members = layout.read(plain_model)
    assert found.roles == plain.roles
    assert found.inside == plain.inside
    np.testing.assert_array_equal(members.weights, plain_members.weights)


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("", "model"),
        ("model", "model"),
        ("module", "model"),
        ("module.model.0.conv", "model.0.conv"),
        ("_orig_mod.module.model.0", "model.0"),
        ("module.student_model.model.22", "model.22"),
        ("model.3._orig_mod", "model.3"),
        ("model.3._orig_mod.cv1.conv", "model.3.cv1.conv"),
        ("model.3.module.conv", "model.3.module.conv"),
        ("modules.0", "modules.0"),
        ("model.0._orig_module", "model.0._orig_module"),
    ],
)
def test_clean_name(name, clean):
    assert layout.clean_name(name) == clean


def test_a_frozen_teacher_is_left_out_and_the_projector_is_kept():
    found, _ = layout.read(taught())
    plain, _ = layout.read(ultralytics_like())
    assert found.modules[: len(plain.modules)] == plain.modules
    assert found.modules[len(plain.modules) :] == ("projector", "projector.0")
    assert found.head == "model.4"
    assert found.edges == plain.edges
    assert found.parameters[0] == plain.parameters[0] + 12


def test_yolo_has_one_row_for_the_whole_model_and_none_for_its_sequential(yolo):
    found, _ = layout.read(yolo)
    assert found.modules[0] == "model"
    assert found.types[0] == "DetectionModel"
    assert found.modules.count("model") == 1
    assert found.modules[1] == "model.0"
    assert found.parameters[0] == sum(p.numel() for p in yolo.parameters() if p.requires_grad)


def test_yolo_rows_equal_an_independent_computation(yolo):
    found, _ = layout.read(yolo)
    assert dict(zip(found.modules, found.parameters, strict=True)) == sizes_by_path(yolo)


def test_yolo_blocks(yolo):
    found, members = layout.read(yolo)
    assert [name for name, _ in found.blocks] == [f"model.{n}" for n in range(24)]
    assert found.head == "model.23"
    for name, owner in zip(found.modules, found.block_of, strict=True):
        assert owner == ".".join(name.split(".")[:2]) if name != "model" else owner == ""
    with_weights = {owner for owner in found.block_of if owner not in ("", "model.23")}
    assert len(members.trunk) == len(with_weights)


def test_yolo_roles_are_those_of_its_layers(yolo):
    found, _ = layout.read(yolo)
    named = dict(yolo.named_modules())
    owners = {
        layout.clean_name(name): module
        for name, module in named.items()
        if any(p.requires_grad for p in module.parameters(recurse=False))
    }
    kinds = {"BatchNorm2d": "norm", "Conv2d": "weight"}
    assert roles_of(yolo) == {n: kinds[type(module).__name__] for n, module in owners.items()}
    assert set(found.roles) == {"", "norm", "weight"}


def test_yolo_has_its_activations_inside(yolo):
    found, _ = layout.read(yolo)
    inside = dict(zip((name for name, _ in found.blocks), found.inside, strict=True))
    assert inside["model.0"] == ("SiLU",)
    assert {"MaxPool2d", "SiLU"} <= set(inside["model.9"])
    assert inside["model.11"] == ("Upsample",)
    assert inside["model.12"] == ("Concat",)


def test_yolo_edges(yolo):
    found, _ = layout.read(yolo)
    into = defaultdict(list)
    for source, target in found.edges:
        into[target].append(source)
    types = dict(found.blocks)
    concats = {name: into[name] for name in types if types[name] == "Concat"}
    assert concats == {
        "model.12": ["model.11", "model.6"],
        "model.15": ["model.14", "model.4"],
        "model.18": ["model.17", "model.13"],
        "model.21": ["model.20", "model.10"],
    }
    assert into["model.23"] == ["model.16", "model.19", "model.22"]
    assert into["model.0"] == []


def test_yolo_in_ddp_and_compile_reads_the_same(yolo):
    plain, _ = layout.read(yolo)
    found, _ = layout.read(Around("module", Around("_orig_mod", yolo)))
    assert found.modules == plain.modules
    assert (found.head, found.edges) == (plain.head, plain.edges)


def test_ultralytics_distillation_reads_as_its_student():
    distill = pytest.importorskip("ultralytics.nn.distill_model", reason="came with 8.4.1xx")
    from ultralytics.nn.tasks import DetectionModel

    teacher, student = (DetectionModel("yolo26n.yaml", verbose=False) for _ in range(2))
    student.args = SimpleNamespace(imgsz=64, dis=1.0)
    found, _ = layout.read(distill.DistillationModel(teacher, student))
    plain, _ = layout.read(student)
    assert found.modules[: len(plain.modules)] == plain.modules
    assert all(name.startswith("projector") for name in found.modules[len(plain.modules) :])
    assert (found.head, found.edges) == (plain.head, plain.edges)
