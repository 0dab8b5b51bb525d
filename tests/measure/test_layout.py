from __future__ import annotations

import inspect
import re
from collections import defaultdict
from functools import cache, partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracle import total_norm
from torch import nn

from yolo_gradwatch.diagnose.graph import Graph
from yolo_gradwatch.measure import model_layout
from yolo_gradwatch.measure.layout import WHOLE, is_attention, module_norms
from yolo_gradwatch.measure.model_layout import clean_name, read, watched

WRAPPERS = ("module", "_orig_mod", "student_model")


class Wrapper(nn.Module):
    """Holds a model under one name, as DDP, `torch.compile` and distillation do."""

    def __init__(self, name, model):
        super().__init__()
        self.add_module(name, model)


class Net(nn.Module):
    """A model with named children, independent of Ultralytics."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def own(kind, base=nn.Module, *args, shape=None, **shapes):
    """A layer of a custom class with parameters of these shapes."""
    module = type(kind, (base,), {})(*args)
    for name, size in ({**shapes, "own": shape} if shape is not None else shapes).items():
        setattr(module, name, nn.Parameter(torch.ones(size)))
    return module


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
    """The first layer is frozen, and so is the bias of the last."""
    model = chain()
    model[0].requires_grad_(requires_grad=False)
    model[3].bias.requires_grad_(requires_grad=False)
    return model


def half_frozen_layer():
    model = Net(frozen=nn.Linear(2, 2), last=nn.Linear(2, 2))
    model.frozen.weight.requires_grad_(requires_grad=False)
    return model


def own_parameter():
    model = ultralytics_like()
    model.gain = nn.Parameter(torch.ones(1))
    return model


def compiled_inside(part=0):
    """A compiled block, or a compiled norm layer in a block."""
    model = ultralytics_like()
    if part is None:
        model.model[0][1] = Wrapper("_orig_mod", model.model[0][1])
    else:
        model.model[part] = block(-1, Wrapper("_orig_mod", model.model[part]))
    return model


def with_teacher():
    return Net(
        teacher_model=ultralytics_like().requires_grad_(requires_grad=False),
        student_model=ultralytics_like(),
        projector=nn.ModuleList([nn.Conv2d(3, 3, 1)]),
    )


def with_activations():
    return Net(
        model=nn.Sequential(
            block(-1, nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid(), nn.Sequential(nn.Tanh()))),
            block(-1, nn.Upsample()),
            block(-1, nn.Conv2d(3, 3, 1)),
            block(-1, nn.Sequential(nn.SiLU(), nn.PReLU(), nn.Conv2d(3, 3, 1), nn.SiLU())),
        )
    )


@cache
def yolo_model():
    from ultralytics.nn.tasks import DetectionModel

    return DetectionModel("yolo26n.yaml", verbose=False)


@pytest.fixture
def yolo():
    return yolo_model()


def sizes_by_path(model):
    """Trainable elements under each path; tied parameters count once.

    Computed from the paths of the parameters only, without looking at the modules.
    """
    found = defaultdict(dict)
    for path, parameter in model.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            continue
        words = [word for word in path.split(".")[:-1] if word not in WRAPPERS]
        for end in range(len(words) + 1):
            found[".".join(words[:end]) or WHOLE][id(parameter)] = parameter.numel()
    return {path: sum(sizes.values()) for path, sizes in found.items()}


MODELS = (
    *(chain, ultralytics_like, shared, tied, partly_frozen, own_parameter, compiled_inside),
    *(
        lambda: Wrapper("module", Wrapper("_orig_mod", ultralytics_like())),
        with_teacher,
        yolo_model,
    ),
)


@pytest.mark.parametrize("build", MODELS)
def test_each_module_with_a_trainable_parameter_has_one_row(build):
    model = build()
    found, members = read(model)
    expected = sizes_by_path(model)
    if build is shared:  # one module with two paths is named by the first
        del expected["second.0"]
    assert dict(zip(found.modules, found.parameters, strict=True)) == expected
    assert len(set(found.modules)) == len(found.modules)
    assert (found.modules[0], found.block_of[0]) == (WHOLE, "")
    parameters = watched(model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert all(a is b for a, b in zip(parameters, trainable, strict=True))
    stretches = np.split(members.indices, members.starts[1:])
    for size, stretch in zip(found.parameters, stretches, strict=True):
        assert len(set(stretch)) == len(stretch)
        assert sum(parameters[p].numel() for p in stretch) == size
    assert members.elements.tolist() == [p.numel() for p in parameters]
    weights = {i for i, p in enumerate(parameters) if p.ndim >= 2}
    assert {int(p) for _, p in members.weights} == weights


@pytest.mark.parametrize("build", MODELS)
def test_module_norms_agree_with_torch_and_the_total_with_clipping(build):
    torch.manual_seed(0)
    model = build()
    parameters = watched(model)
    for p in parameters[1:] or parameters:  # one has no gradient
        p.grad = torch.randn_like(p)
    found, members = read(model)
    norms = np.array([0.0 if p.grad is None else p.grad.double().norm().item() for p in parameters])
    modules = {clean_name(n): module for n, module in reversed([*model.named_modules()])}
    for name, norm in zip(found.modules, module_norms(norms, members), strict=True):
        gradients = [p.grad.double() for p in modules[name].parameters() if p.grad is not None]
        assert norm == pytest.approx(total_norm(gradients), rel=1e-12)
    total = torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0).item()
    assert module_norms(norms, members)[0] == pytest.approx(total, rel=1e-6)


READ = {
    tied: {"modules": ("model", "encoder", "decoder"), "parameters": (16, 16, 16)},
    shared: {"modules": ("model", "first", "second", "second.1"), "parameters": (16, 12, 16, 4)},
    partly_frozen: {"modules": ("model", "1", "3"), "parameters": (16, 8, 8)},
    half_frozen_layer: {"roles": ("", "other", "weight")},  # of the watched parameters
    with_activations: {"inside": (("Sigmoid", "Tanh"), ("Upsample",), (), ("SiLU",))},
    own_parameter: {"modules": read(ultralytics_like())[0].modules},
    lambda: Net(stem=chain(), act=nn.ReLU(), fc=nn.Linear(2, 2)): {
        "blocks": (("stem", "Sequential"), ("fc", "Linear")),
        "block_of": ("", "stem", "stem", "stem", "stem", "fc"),
        "head": "fc",
        "edges": (),
    },
    lambda: nn.Linear(2, 3): {
        "modules": ("model",),
        "roles": ("weight",),
        "blocks": (),
        "inside": (),
        "head": "",
    },
    ultralytics_like: {
        "blocks": tuple(
            (f"model.{n}", kind)
            for n, kind in enumerate(("Sequential", "Conv2d", "Upsample", "Sequential", "Net"))
        ),
        "inside": ((), (), ("Upsample",), (), ()),
        "head": "model.4",
        "edges": tuple(
            (f"model.{a}", f"model.{b}")
            for a, b in ((0, 1), (1, 2), (2, 3), (0, 3), (3, 4), (1, 4))
        ),
    },
}


@pytest.mark.parametrize("build", READ)
def test_layout_of_a_model(build):
    found, _ = read(build())
    assert {name: getattr(found, name) for name in READ[build]} == READ[build]


@pytest.mark.parametrize(
    ("build", "trunk"),
    [
        (ultralytics_like, [1, 1, 1]),  # without model.2, which has no weights, and the head
        (lambda: Net(stem=chain(), act=nn.ReLU(), fc=nn.Linear(2, 2)), [2]),
        (lambda: nn.Linear(2, 3), []),
    ],
)
def test_trunk_consists_of_the_weights_before_the_head(build, trunk):
    assert [len(weights) for weights in read(build())[1].trunk] == trunk


def test_inside_of_a_block_is_unchanged_by_frozen_layers():
    model = ultralytics_like()
    model.model[0].requires_grad_(requires_grad=False)
    assert read(model)[0].inside == READ[ultralytics_like]["inside"]


# --- roles ----------------------------------------------------------------------------------------


def roles_of(model):
    found, _ = read(model)
    return {name: role for name, role in zip(found.modules, found.roles, strict=True) if role}


def conv_norm_act():
    """A container with "norm" in the name of its class."""
    return own("ConvNormAct", nn.Sequential, nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.SiLU())


def gained():
    module = conv_norm_act()
    module.gain = nn.Parameter(torch.ones(4))
    return module


@pytest.mark.parametrize(
    ("build", "roles"),
    [
        (own_parameter, {"model": "other", **roles_of(ultralytics_like())}),
        (
            ultralytics_like,
            {
                "model.0.0": "weight",
                "model.0.1": "norm",
                "model.1": "weight",
                **dict.fromkeys(("model.3.0", "model.4.cv2.0", "model.4.cv2.1"), "weight"),
            },
        ),
        (lambda: Net(block=conv_norm_act()), {"block.0": "weight", "block.1": "norm"}),
        (
            lambda: Net(block=gained()),
            {"block": "other", "block.0": "weight", "block.1": "norm"},
        ),
    ],
)
def test_only_modules_that_own_a_parameter_have_a_role(build, roles):
    assert roles_of(build()) == roles


def without_bias(module):
    """As with ``bias=False``, which LayerNorm accepts since torch 2.1."""
    module.bias = None
    return module


def inherits(module):
    """A layer whose class inherits from one of torch's."""
    module.__class__ = type("Plain", (type(module),), {})
    return module


CHANNELS = [(4,), (4, 1, 1), (1, 4, 1, 1), (1, 1, 1, 4)]
NORM_WORDS = ["LayerNorm2d", "RMSNorm", "GRN", "FRN2d", "L2Norm", "Layernorm", "my_norm"]
NORM_LETTERS = ["Normalizer", "Normal", "Enormous", "Abnormal", "Gain"]
LAYERS = [
    ("weight", nn.Linear(2, 2)),
    ("weight", nn.ConvTranspose2d(2, 2, 1, bias=False)),
    ("weight", nn.Embedding(2, 2)),
    ("weight", own("Table", gain=(3,), table=(2, 3))),
    ("weight", own("NormedConv2d", nn.Conv2d, 2, 4, 3)),
    ("weight", own("NormConv", nn.Conv2d, 2, 4, 1)),
    ("weight", own("LayerNormLinear", nn.Linear, 2, 4)),
    *(("weight", own(kind, shape=(4, 2))) for kind in (*NORM_WORDS, *NORM_LETTERS)),
    ("other", nn.PReLU()),
    *(("other", own("Scale", shape=shape)) for shape in ((), *CHANNELS)),
    *(("other", own(kind, shape=(4,))) for kind in NORM_LETTERS),
    *(("norm", own(kind, shape=s)) for kind in (*NORM_WORDS, "EvoNormB0") for s in CHANNELS),
    ("norm", nn.BatchNorm2d(2)),
    ("norm", nn.LayerNorm((2, 2))),  # its weight has two dimensions
    ("norm", without_bias(nn.LayerNorm((2, 2)))),
    *(("norm", inherits(kind(4))) for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)),
    *(("norm", inherits(one)) for one in (nn.SyncBatchNorm(4), nn.GroupNorm(2, 4))),
    ("norm", inherits(nn.InstanceNorm2d(4, affine=True))),
    ("norm", inherits(nn.LayerNorm((2, 3, 4)))),
    *([("norm", inherits(nn.RMSNorm((2, 4))))] if hasattr(nn, "RMSNorm") else []),  # torch 2.4
]


@pytest.mark.parametrize(("role", "module"), LAYERS, ids=lambda part: type(part).__name__)
def test_role_of_a_layer(role, module):
    assert roles_of(Net(layer=module)) == {"layer": role}
    if role == "weight":
        _, members = read(nn.Sequential(module, nn.Conv2d(4, 4, 1)))
        assert [len(weights) for weights in members.trunk] == [1]


@pytest.mark.parametrize("kind", ["Mixer", "PatternBlock", "Attention"])
@pytest.mark.parametrize("compiled", [False, True])
def test_attention_is_recognized_by_its_base_class(kind, compiled):
    inner = own(kind, nn.MultiheadAttention, 4, 2)
    model = Net(mix=Wrapper("_orig_mod", inner) if compiled else inner, last=nn.Linear(4, 4))
    found, _ = read(model)
    assert found.attentions == ("mix",)
    inside = dict(zip(found.modules, Graph(found).attention, strict=True))
    assert inside == {"model": False, "mix": True, "mix.out_proj": True, "last": False}


@pytest.mark.parametrize("kind", ["Lattice", "PatternBlock", "Attic", "Flatten", "Unflatten"])
def test_class_name_that_only_contains_the_letters_is_not_an_attention(kind):
    found, _ = read(Net(mix=own(kind, nn.Linear, 4, 2), last=nn.Linear(4, 4)))
    assert found.attentions == ()
    assert not Graph(found).attention.any()


def test_attentions_and_norm_layers_of_ultralytics_are_recognized():
    """All classes of the installed version whose names contain the letters."""
    from ultralytics.nn import modules

    parts = (part for part in vars(modules).values() if inspect.ismodule(part))
    every = (kind for part in (modules, *parts) for kind in vars(part).values())
    kinds = {k.__name__ for k in every if inspect.isclass(k) and issubclass(k, nn.Module)}
    assert {"AAttn", "Attention", "MSDeformAttn"} <= kinds
    letters = {kind for kind in kinds if re.search("att", kind, re.IGNORECASE)}
    assert {kind for kind in kinds if is_attention(kind)} == letters - {"Flatten"}
    letters = {kind for kind in kinds if re.search("norm", kind, re.IGNORECASE)}
    assert {kind for kind in kinds if model_layout._is_norm(kind)} == letters


@pytest.mark.parametrize(
    ("module", "positions"),
    [
        *((nn.Conv2d(2, 2, 1), 1), (nn.Conv2d(2, 2, 3), 9), (nn.Conv1d(2, 2, 5), 5)),
        (nn.Conv2d(4, 4, (1, 7), groups=4, bias=False), 7),
        *((nn.ConvTranspose2d(2, 3, 2), 4), (nn.Linear(2, 2), 1), (nn.BatchNorm2d(2), 1)),
    ],
)
@pytest.mark.parametrize("wrapper", [None, "_orig_mod"])
def test_kernel_size_is_that_of_the_modules_own_weight(module, positions, wrapper):
    layer = Wrapper(wrapper, module) if wrapper else module
    assert read(Net(layer=layer))[0].kernels == (1, positions)


# --- which parameters are watched -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("meant", "left_out"),
    [
        (("",), ("0.weight", "0.bias", "3.bias")),
        ((), ()),
        (("0.",), ("0.weight", "0.bias")),
        (("0.", "3."), ("0.weight", "0.bias", "3.bias")),
        (("bias",), ("0.bias", "3.bias")),
        (("1.", "2."), ()),  # meant to be frozen, but is not: it is watched
    ],
)
def test_parameters_frozen_unintentionally_are_watched(meant, left_out):
    model = partly_frozen()
    expected = [p for name, p in model.named_parameters() if name not in left_out]
    assert all(a is b for a, b in zip(watched(model, meant), expected, strict=True))
    found, members = read(model, meant)
    assert found.parameters[0] == sum(p.numel() for p in expected)
    assert members.elements.tolist() == [p.numel() for p in expected]


def test_parameters_that_cannot_have_a_gradient_are_never_watched():
    model = Net(layer=nn.Linear(2, 2))
    model.codes = nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)
    assert len(watched(model, ())) == 2
    assert read(model, ())[0].parameters == (6, 6)


@pytest.mark.parametrize("name", ["module", "_orig_mod"])
def test_frozen_names_are_matched_inside_a_wrapper(name):
    model = ultralytics_like()
    for part in (model.model[0], model.model[1]):
        part.requires_grad_(requires_grad=False)
    found, _ = read(Wrapper(name, model), ("model.0.",))
    assert {"model.0", "model.1"} & set(found.modules) == {"model.1"}


# --- wrappers -------------------------------------------------------------------------------------


WRAPPINGS = {
    "none": lambda build: build(),
    "ddp": lambda build: Wrapper("module", build()),
    "compiled": lambda build: Wrapper("_orig_mod", build()),
    "compiled in ddp": lambda build: Wrapper("module", Wrapper("_orig_mod", build())),
    "ddp in compiled": lambda build: Wrapper("_orig_mod", Wrapper("module", build())),
}


def assert_reads_the_same(model, plain_model):
    (found, members), (plain, plain_members) = read(model), read(plain_model)
    assert found == plain
    for field in ("indices", "starts", "elements", "weights"):
        np.testing.assert_array_equal(getattr(members, field), getattr(plain_members, field))


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("build", [ultralytics_like, own_parameter])
def test_wrappers_change_nothing(wrapping, build):
    assert_reads_the_same(WRAPPINGS[wrapping](build), build())
    for part in (0, 1, None):
        assert_reads_the_same(
            WRAPPINGS[wrapping](partial(compiled_inside, part)), ultralytics_like()
        )


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        *(("", "model"), ("model", "model"), ("module", "model")),
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
    assert clean_name(name) == clean


def assert_reads_as_its_student(found, student):
    plain, _ = read(student)
    count = len(plain.modules)
    assert found.modules[:count] == plain.modules
    assert found.modules[count] == "projector"
    assert all(name.startswith("projector") for name in found.modules[count:])
    assert (found.head, found.edges) == (plain.head, plain.edges)
    return plain


def test_frozen_teacher_is_omitted_and_the_projector_is_kept():
    found, _ = read(with_teacher())
    plain = assert_reads_as_its_student(found, ultralytics_like())
    assert found.parameters[0] == plain.parameters[0] + 12


def test_ultralytics_distillation_reads_as_its_student():
    distill = pytest.importorskip("ultralytics.nn.distill_model", reason="came with 8.4.1xx")
    from ultralytics.nn.tasks import DetectionModel

    teacher, student = (DetectionModel("yolo26n.yaml", verbose=False) for _ in range(2))
    student.args = SimpleNamespace(imgsz=64, dis=1.0)
    found, _ = read(distill.DistillationModel(teacher, student))
    assert_reads_as_its_student(found, student)


# --- YOLO -----------------------------------------------------------------------------------------


def test_blocks_of_yolo(yolo):
    found, members = read(yolo)
    assert found.modules[:2] == ("model", "model.0")
    assert found.types[0] == "DetectionModel"
    assert [name for name, _ in found.blocks] == [f"model.{n}" for n in range(24)]
    owners = (".".join(name.split(".")[:2]) if name != WHOLE else "" for name in found.modules)
    assert found.block_of == tuple(owners)
    assert len(members.trunk) == len({*found.block_of} - {"", "model.23"})
    assert_reads_the_same(Wrapper("module", Wrapper("_orig_mod", yolo)), yolo)


def test_yolo_roles_and_kernels_match_its_layers(yolo):
    found, _ = read(yolo)
    named = {clean_name(name): module for name, module in yolo.named_modules()}
    kinds = {"BatchNorm2d": "norm", "Conv2d": "weight"}
    assert found.roles == tuple(kinds.get(type(named[name]).__name__, "") for name in found.modules)
    sizes = (getattr(named[name], "kernel_size", (1, 1)) for name in found.modules)
    assert found.kernels == tuple(height * width for height, width in sizes)
    assert set(found.kernels) == {1, 9}


def test_yolo_blocks_have_activations_and_edges(yolo):
    found, _ = read(yolo)
    inside = dict(zip((name for name, _ in found.blocks), found.inside, strict=True))
    assert inside["model.0"] == ("SiLU",)
    assert {"MaxPool2d", "SiLU"} <= set(inside["model.9"])
    assert (inside["model.11"], inside["model.12"]) == (("Upsample",), ("Concat",))
    assert found.head == "model.23"
