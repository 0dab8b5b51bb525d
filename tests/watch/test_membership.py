"""What is recorded of the optimizer, compared with the trainer's own groups and flags."""

import math
from types import SimpleNamespace

import pytest
import torch
from short import at, leave
from torch import nn

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.measure.model_layout import clean_name
from yolo_gradwatch.measure.optimizer import Group
from yolo_gradwatch.runs.outputs import OutputBase
from yolo_gradwatch.watch.ultralytics.optimizer import Membership, read

BLOCK = "model.2."


class RecordingOutput(OutputBase):
    """Records the membership of the optimizer, and the windows."""

    def __init__(self):
        self.seen, self.calls = [], []

    def membership(self, optimizer):
        self.seen.append(optimizer)
        self.calls.append(("membership", optimizer.step))

    def window(self, window):
        self.calls.append(("window", window.step_first, window.step_last))


class GroundTruth:
    """The trainer's state at the end of each batch, from the objects themselves."""

    def __init__(self):
        self.rates = []

    def __call__(self, trainer):
        groups = trainer.optimizer.param_groups
        self.kind = type(trainer.optimizer).__name__
        self.groups = tuple(
            Group(
                g["initial_lr"],
                g["weight_decay"],
                len(g["params"]),
                sum(math.prod(p.shape) for p in g["params"]),
            )
            for g in groups
        )
        self.rates.append([g["lr"] for g in groups])
        named = dict(trainer.model.named_parameters())
        self.trained = {name for name, p in named.items() if p.requires_grad}
        self.frozen = {name for name, p in named.items() if not p.requires_grad}


def watched(way, folder, *, calls=(), **options):
    """Train; the recorded output, the run as read back, and the ground truth."""
    noted, truth = RecordingOutput(), GroundTruth()
    watch = GradWatch(live=False, outputs=[noted])
    calls = [*calls, ("on_train_batch_end", truth)]
    way.train(folder, watch=watch, calls=calls, **{"epochs": 2, "warmup_epochs": 0, **options})
    run = load_run(watch.run_dir)
    assert run.meta.optimizer == noted.seen[-1]
    assert (run.meta.optimizer.name, run.meta.optimizer.groups) == (truth.kind, truth.groups)
    assert set(run.meta.optimizer.frozen + run.meta.optimizer.frozen_otherwise) == truth.frozen
    return noted, run, truth


def inside(names, block=BLOCK):
    return tuple(name for name in names if name.startswith(block))


def leave_out(trainer):
    """Remove the parameters of a block from the optimizer."""
    out = {id(p) for n, p in trainer.model.named_parameters() if n.startswith(BLOCK)}
    for group in trainer.optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in out]


def requires(*, grad, block=BLOCK):
    def change(trainer):
        for name, parameter in trainer.model.named_parameters():
            if name.startswith(block):
                parameter.requires_grad_(requires_grad=grad)

    return change


@pytest.fixture
def real():
    from short import real

    return real()


@pytest.mark.train
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "MuSGD", "auto"])
def test_ultralytics_puts_all_trained_parameters_in_the_optimizer(real, tmp_path, optimizer):
    options = {"optimizer": optimizer, "epochs": 3, "warmup_epochs": 1, "lrf": 0.0}
    noted, run, truth = watched(real, tmp_path, **options)
    (moved,) = noted.seen
    assert len({tuple(rates) for rates in truth.rates}) > 3  # a new learning rate is not a change
    assert (moved.outside, moved.zero_rate, moved.thawed, moved.step) == ((), (), (), 1)
    assert all(".dfl" in name for name in moved.frozen)
    assert moved.frozen_otherwise == ()
    assert sum(group.parameters for group in moved.groups) == len(truth.trained | truth.frozen)
    assert len(truth.trained) > 20
    assert sum(run.layout.parameters[:1]) <= sum(group.elements for group in moved.groups)


@pytest.mark.parametrize(
    ("event", "count", "step"),
    [
        ("on_train_start", 1, 1),
        ("on_train_epoch_start", 1, 1),
        ("on_train_batch_start", 1, 1),
        ("on_train_batch_end", 2, 3),
        ("on_train_batch_end", 3, 4),
    ],
)
def test_omitted_parameter_is_outside_from_the_next_step_on(way, tmp_path, event, count, step):
    noted, run, truth = watched(way, tmp_path, calls=[at(event, count, leave_out)])
    last = noted.seen[-1]
    assert set(last.outside) == set(inside(truth.trained))
    assert len(last.outside) == 3
    assert [one.outside for one in noted.seen[:-1]] in ([], [()])
    assert last.step == step
    assert noted.calls.index(("membership", step)) < noted.calls.index(("window", step, step))
    assert {name.rpartition(".")[0] for name in last.outside} <= set(run.layout.modules)


def test_parameters_added_to_the_model_later_are_outside(way, tmp_path):
    def add(trainer):
        trainer.model.model[2].conv.gain = nn.Parameter(torch.ones(1))
        trainer.model.model[3].more = nn.Conv2d(1, 1, 1, bias=False)

    noted, *_ = watched(way, tmp_path, calls=[at("on_train_batch_end", 1, add)])
    assert [(one.step, one.outside) for one in noted.seen] == [
        (1, ()),
        (2, ("model.2.conv.gain", "model.3.more.weight")),
    ]


def test_replaced_parameter_is_outside_from_the_next_epoch_on(way, tmp_path):
    def replace(trainer):
        conv = trainer.model.model[2].conv
        conv.weight = nn.Parameter(conv.weight.detach().clone())

    noted, *_ = watched(way, tmp_path, calls=[at("on_train_batch_end", 1, replace)])
    assert [(one.step, one.outside) for one in noted.seen] == [
        (1, ()),
        (3, ("model.2.conv.weight",)),
    ]


@pytest.mark.parametrize("warmup", [0, 1])
def test_parameters_in_a_group_with_a_rate_of_zero_are_named(way, tmp_path, warmup):
    """A warm-up that starts at 0 for the other groups does not count."""
    expected = set()

    def add_zero_rate_group(trainer):
        group = trainer.optimizer.param_groups[0]
        kept = [p for n, p in trainer.model.named_parameters() if n.startswith(BLOCK)]
        ids = {id(p) for p in kept}
        expected.update(n for n, p in trainer.model.named_parameters() if id(p) in ids)
        for one in trainer.optimizer.param_groups:
            one["params"] = [p for p in one["params"] if id(p) not in ids]
        still = {**group, "params": kept, "lr": 0.0, "initial_lr": 0.0}
        trainer.optimizer.param_groups.append(still)
        if scheduler := getattr(trainer, "scheduler", None):
            scheduler.base_lrs.append(0.0)
            scheduler.lr_lambdas.append(scheduler.lr_lambdas[0])

    options = {"optimizer": "SGD", "warmup_bias_lr": 0.0, "warmup_epochs": warmup}
    noted, *_ = watched(
        way, tmp_path, calls=[at("on_train_start", 1, add_zero_rate_group)], **options
    )
    (moved,) = noted.seen
    assert set(moved.zero_rate) == expected
    assert len(expected) == 3
    assert moved.outside == ()
    assert moved.groups[-1].lr == 0.0


@pytest.mark.parametrize("freeze", [3, pytest.param([1, 3], marks=pytest.mark.train)])
def test_layers_frozen_by_an_option_are_distinguished_from_others(request, tmp_path, freeze):
    from short import FAKE

    way = FAKE if freeze == 3 else request.getfixturevalue("real")
    blocks = set(range(freeze)) if freeze == 3 else set(freeze)
    calls = [at("on_train_epoch_start", 1, requires(grad=False, block="model.4."))]
    noted, _, truth = watched(way, tmp_path, calls=calls, freeze=freeze)
    last = noted.seen[-1]
    assert {int(name.split(".")[1]) for name in last.frozen if ".dfl" not in name} == blocks
    assert set(last.frozen_otherwise) == set(inside(truth.frozen, "model.4."))
    assert len(last.frozen_otherwise) == 3
    assert (last.outside, last.thawed, last.step) == ((), (), 1)


@pytest.mark.train
def test_freeze_as_a_number_in_a_real_training(real, tmp_path):
    noted, _, truth = watched(real, tmp_path, freeze=3)
    (moved,) = noted.seen
    assert set(moved.frozen) == truth.frozen
    assert {name.split(".")[1] for name in truth.frozen} <= {"0", "1", "2", "5"}
    assert len(moved.frozen) >= 9
    assert moved.frozen_otherwise == moved.outside == ()


def test_layer_frozen_and_thawed_by_a_callback(way, tmp_path):
    calls = [
        at("on_train_epoch_start", 1, requires(grad=False)),
        at("on_train_epoch_start", 3, requires(grad=True)),
    ]
    noted, run, truth = watched(way, tmp_path, calls=calls, epochs=4)
    recorded = [(one.step, one.frozen_otherwise, one.thawed) for one in noted.seen]
    names = inside(name for name in run.meta.optimizer.thawed)
    assert set(names) == set(inside(truth.trained))
    assert recorded[-2:] == [(1, names, ()), (5, (), names)]
    assert len(recorded) <= 3  # before the callback, everything is trained


def test_thawed_layer_that_an_option_froze(way, tmp_path):
    calls = [at("on_train_batch_end", 3, requires(grad=True, block="model.1."))]
    noted, _, truth = watched(way, tmp_path, calls=calls, freeze=2)
    assert [one.step for one in noted.seen] == [1, 4]
    assert set(noted.seen[1].thawed) == set(inside(truth.trained, "model.1."))
    assert noted.seen[0].thawed == ()
    assert set(noted.seen[1].frozen) == set(noted.seen[0].frozen) - set(noted.seen[1].thawed)


@pytest.mark.parametrize("freeze", [2, 1])
def test_resumed_training_keeps_the_known_membership(way, tmp_path, freeze):
    """With fewer frozen layers, some count as thawed."""
    calls = [at("on_train_batch_end", 5, leave(KeyboardInterrupt))]
    with pytest.raises(KeyboardInterrupt):
        watched(way, tmp_path, calls=calls, epochs=4, save=True, freeze=2)
    first = load_run(tmp_path / "run").meta.optimizer
    last = tmp_path / "run" / "weights" / "last.pt"
    noted, *_ = watched(way, tmp_path, resume=str(last), epochs=4, freeze=freeze)
    (moved,) = noted.seen
    assert first.step == 1
    assert first.frozen
    if freeze == 2:
        assert moved == first
    else:
        assert moved.step == 6  # after those of the first part
        assert moved.thawed == inside(first.frozen, "model.1.")
        assert len(moved.thawed) == 3


# --- without a training ---------------------------------------------------------------------------


class Wrapper(nn.Module):
    """A wrapper like those of DDP and ``torch.compile``."""

    def __init__(self, name, model):
        super().__init__()
        setattr(self, name, model)


def fake_trainer(model, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    return SimpleNamespace(model=model, optimizer=optimizer, freeze_layer_names=[".dfl"])


def net():
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1))


@pytest.mark.parametrize("wrappers", [["module"], ["_orig_mod"], ["_orig_mod", "module"]])
def test_names_match_the_layout_whatever_wraps_the_model(wrappers):
    model = inner = net()
    optimizer = torch.optim.SGD(inner[0].parameters(), lr=0.1)
    inner[1].bias.requires_grad_(requires_grad=False)
    for name in wrappers:
        model = Wrapper(name, model)
    moved = read(fake_trainer(model, optimizer), 1)
    assert moved.outside == ("1.weight", "2.weight", "2.bias")
    assert moved.frozen_otherwise == ("1.bias",)
    names = [name for name, _ in model.named_parameters()]
    assert [clean_name(name) for name in names] == [n for n, _ in inner.named_parameters()]


def test_shared_parameter_has_one_name_and_is_counted_once():
    model = net()
    model[2] = model[1]
    moved = read(fake_trainer(model, torch.optim.SGD(model[0].parameters(), lr=0.1)), 1)
    assert moved.outside == ("1.weight", "1.bias")
    assert read(fake_trainer(model), 1).groups == (Group(0.1, 0, 4, 2 * 3 + 3 + 3 * 3 + 3),)


def test_parameter_that_cannot_have_a_gradient_is_not_frozen():
    model = net()
    model.index = nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)
    assert read(fake_trainer(model), 1).frozen_otherwise == ()


@pytest.mark.parametrize(
    "optimizer",
    [
        object(),
        SimpleNamespace(param_groups=None),
        SimpleNamespace(param_groups=[None]),
        SimpleNamespace(param_groups=[{}]),
        SimpleNamespace(param_groups=[{"params": [], "lr": "fast"}]),
        SimpleNamespace(param_groups=[{"params": []}]),
        SimpleNamespace(param_groups=[{"params": [1], "lr": 0.1}]),
        SimpleNamespace(param_groups=[{"params": None, "lr": 0.1}]),
    ],
)
def test_optimizer_without_torch_groups_is_unknown_until_it_has_them(optimizer):
    seen, trainer = Membership(), fake_trainer(net(), optimizer)
    assert seen.changed(trainer, 1, thorough=True) is None
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    known = seen.changed(trainer, 2, thorough=False)
    assert (known.step, known.outside) == (2, ())
    trainer.optimizer = optimizer
    assert seen.changed(trainer, 3, thorough=False) is None


@pytest.mark.parametrize(
    ("rate", "noted"),
    [(torch.tensor(0.25), 0.25), (torch.zeros((), device="meta"), None), (math.inf, None)],
)
def test_rate_is_a_finite_number_on_the_host_or_unknown(rate, noted):
    """A tensor on a device is not read, because that would stall the device; meta raises."""
    trainer = fake_trainer(net())
    trainer.optimizer.param_groups[0]["lr"] = rate
    moved = Membership().changed(trainer, 1, thorough=True)
    assert moved.groups[0].lr == noted
    assert moved.zero_rate == ()


def test_rebuilt_optimizer_is_no_change_but_another_class_is():
    trainer = fake_trainer(net())
    seen = Membership()
    assert seen.changed(trainer, 1, thorough=True).name == "SGD"
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    assert seen.changed(trainer, 2, thorough=False) is None
    trainer.optimizer = torch.optim.Adam(trainer.model.parameters(), lr=0.1)
    assert seen.changed(trainer, 3, thorough=False).name == "Adam"
