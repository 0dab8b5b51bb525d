"""What the watch knows about Ultralytics' trainers, mostly without a training."""

from __future__ import annotations

from functools import partial
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from types import SimpleNamespace

import pytest
import torch
from training import shapes, trainer_of

from yolo_gradwatch.watch.ultralytics import hooks
from yolo_gradwatch.watch.ultralytics import training as facts


def idle_scaler():
    """The loss scaler of a training without AMP, as Ultralytics makes it."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler("cpu", enabled=False)
    return torch.cuda.amp.GradScaler(enabled=False)  # before torch 2.3


@pytest.mark.slow
def test_clip_is_among_the_options_of_a_run(tmp_path):
    from ultralytics.engine.trainer import BaseTrainer

    class Gentle(BaseTrainer):
        def optimizer_step(self):
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=2.5)

    trainer = object.__new__(Gentle)  # not initialized
    trainer.args = SimpleNamespace(task="detect", freeze=[0, 1], data=tmp_path, warmup_epochs=3)
    trainer.train_loader, trainer.epochs = range(50), 100
    trainer.scaler, trainer.device = idle_scaler(), torch.device("cpu")
    trainer.optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    options = facts.training_options(trainer, facts.given_options(trainer))
    assert options["clip"] == 2.5
    assert (options["freeze"], options["data"]) == ([0, 1], str(tmp_path))
    assert options["fitted"] == {"optimizer": "SGD", "amp": False, "device": "cpu"}


CPU = torch.device("cpu")
BOX, CLS, PAIR = torch.tensor(1.5), torch.tensor([2.0]), torch.tensor([0.5, 2.5])


@pytest.mark.parametrize(
    ("items", "names", "expected"),
    [
        ({"box_loss": BOX, "cls_loss": CLS}, (), (("box_loss", "cls_loss"), [BOX, CLS])),
        ({"box_loss": BOX, "note": 1.0}, (), (("box_loss",), [BOX])),
        ({"box_loss": BOX, "far": torch.ones(1, device="meta")}, (), (("box_loss",), [BOX])),
        (BOX, ("box_loss",), (("box_loss",), [BOX])),
        (BOX, ["box_loss"], (("box_loss",), [BOX])),
        (BOX, "loss", (("loss",), [BOX])),
        (PAIR, ("box_loss", "cls_loss"), (("box_loss", "cls_loss"), [PAIR])),
        (PAIR, ("box_loss",), (("loss/0", "loss/1"), [PAIR])),
        (PAIR, ("loss", "loss"), (("loss/0", "loss/1"), [PAIR])),
        ({"box_loss": BOX, "class": PAIR}, (), (("box_loss", "class/0", "class/1"), [BOX, PAIR])),
        ({"a\x1b": BOX, 1: CLS}, (), (("a?", "1"), [BOX, CLS])),
        ({"a\n": BOX, "a\t": CLS}, (), (("loss/0", "loss/1"), [BOX, CLS])),
        ({"box_loss": torch.ones(1, dtype=torch.complex64)}, (), ((), [])),
        (torch.ones(3, device="meta"), ("a", "b", "c"), ((), [])),
        (None, ("a",), ((), [])),
        ([1.5], ("a",), ((), [])),
        ({}, (), ((), [])),
    ],
)
def test_loss_items_of_every_version(items, names, expected):
    found = facts.losses(SimpleNamespace(loss_items=items, loss_names=names, device=CPU))
    assert found[0] == expected[0]
    assert [*map(id, found[1])] == [*map(id, expected[1])]  # not copied


def test_learning_rates_are_those_of_the_optimizer_groups():
    groups = [{"lr": 0.1}, {"lr": torch.tensor(0.5)}]
    trainer = SimpleNamespace(optimizer=SimpleNamespace(param_groups=groups))
    assert facts.learning_rates(trainer) == (0.1, 0.5)
    groups[0]["lr"] = 0.2
    assert facts.learning_rates(trainer)[0] == 0.2


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"freeze_layer_names": ["model.0.", ".dfl"]}, ("model.0.", ".dfl", "teacher_model.")),
        ({"freeze_layer_names": []}, ("",)),
        ({"freeze_layer_names": None}, ("",)),
        ({}, ("",)),  # unknown: frozen layers count as intended
    ],
)
def test_intentionally_frozen_names(found, expected):
    assert facts.meant_frozen(SimpleNamespace(**found)) == expected


class Owner:
    """As much of a trainer as its hooks need; it is its own scaler."""

    scaler = property(lambda self: self)
    result = "trained"

    def _do_train(self):
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    def unscale_(self, optimizer):
        return optimizer

    def preprocess_batch(self, batch, *, scale=1):
        getattr(self, "log", []).append("goes on")
        return batch, scale


@pytest.mark.parametrize(
    ("batch", "images", "objects"),
    [
        ({"im_file": ["a.png", "b.png"], "img": 1}, ["a.png", "b.png"], None),
        ({"im_file": ("a.png",), "cls": torch.ones(7, 1)}, ("a.png",), 7),
        ({"cls": torch.ones(0, 1)}, (), 0),
        ({"cls": [1, 2]}, (), 2),
        ({"cls": torch.ones(())}, (), None),
        ({"img": 1, "cls": 2}, (), None),
        ((1, 2), (), None),
    ],
)
def test_images_and_objects_of_a_batch_are_recorded_first(batch, images, objects):
    trainer, log = Owner(), []
    trainer.log = log
    hooks.before_batch(trainer, lambda *of_batch: log.append(of_batch))
    assert trainer.preprocess_batch(batch, scale=2) == (batch, 2)
    assert log == [(images, objects), "goes on"]


HOOKS = {
    "preprocess_batch": hooks.before_batch,
    "_do_train": hooks.around_training,
    "unscale_": hooks.after_unscale,
}


@pytest.fixture(params=HOOKS)
def hooked(request):
    """A trainer, the name of a wrapped method, functions to wrap and call it, and its log."""
    trainer, log = Owner(), []
    arguments = [] if request.param == "_do_train" else [{}]
    wrap = lambda: HOOKS[request.param](trainer, lambda *_: log.append(1))  # noqa: E731
    call = lambda: getattr(trainer, request.param)(*arguments)  # noqa: E731
    return trainer, request.param, wrap, call, log


def test_wrap_passes_calls_on_and_can_be_undone(hooked):
    trainer, _, wrap, call, log = hooked
    plain = call()
    undo = wrap()
    assert (call(), log) == (plain, [1])
    undo()
    undo()
    assert vars(trainer) == {}
    assert (call(), log) == (plain, [1])


def test_wrap_of_the_user_is_restored(hooked):
    trainer, name, wrap, call, log = hooked
    setattr(trainer, name, own := lambda *_: "own")
    undo = wrap()
    assert (call(), log) == ("own", [1])
    undo()
    assert vars(trainer) == {name: own}


def test_wrap_around_ours_is_left_alone(hooked):
    trainer, name, wrap, call, log = hooked
    undo = wrap()
    ours = getattr(trainer, name)
    setattr(trainer, name, later := partial(ours))
    undo()
    assert vars(trainer) == {name: later}
    call()
    assert log == [1]


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        *((c, "stopped") for c in (None, 0, False)),
        *((c, "failed") for c in (1, True, "", 0.0, "no")),
    ],
)
def test_system_exit_codes_count_as_in_python(code, outcome):
    trainer, outcomes = Owner(), []
    trainer.result = SystemExit(code)
    hooks.around_training(trainer, outcomes.append)
    with pytest.raises(SystemExit):
        trainer._do_train()
    assert outcomes == [outcome]
    assert "_do_train" not in vars(trainer)


def test_end_is_reported_even_if_ctrl_c_raises_twice(monkeypatch):
    def hooked(owner, name, function):
        setattr(owner, name, function)
        return interrupted

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(hooks, "replaced", hooked)
    trainer, outcomes = Owner(), []
    trainer.result = KeyboardInterrupt()
    hooks.around_training(trainer, outcomes.append)
    with pytest.raises(KeyboardInterrupt):
        trainer._do_train()
    assert outcomes == ["interrupted"]


class Ends:
    """As much of a trainer as uploads of pictures at its end need."""

    def __init__(self, *, plots, names):
        self.args = SimpleNamespace(plots=plots)
        self.plots = {"results.png": {}} if plots else {}
        self.seen = {}
        self.callbacks = {"on_train_end": [self.uploader(name) for name in names]}

    def uploader(self, module):
        def upload(trainer):
            trainer.seen[module] = list(trainer.plots)
            if module.endswith("broken"):
                raise ZeroDivisionError(module)

        upload.__module__ = module
        return upload

    def on_plot(self, path):
        self.plots[path] = {"timestamp": 1.0}

    def end(self):
        """Run the callbacks as Ultralytics does; the first announces a picture."""
        undos = []
        announce = lambda trainer: undos.append(hooks.announce_picture(trainer, "ours.png"))  # noqa: E731
        self.callbacks["on_train_end"].insert(0, announce)
        for call in self.callbacks["on_train_end"]:
            call(self)
        return undos[0]


INSIDE = "ultralytics.utils.callbacks"
NAMES = (*(f"{INSIDE}.{name}" for name in ("clearml", "comet", "dvc", "later", "wb")), "users_own")


@pytest.mark.parametrize(("plots", "unaware"), [(False, {"comet", "dvc", "later"}), (True, set())])
def test_picture_is_passed_only_where_it_does_no_harm(plots, unaware):
    trainer = Ends(plots=plots, names=NAMES)
    before = list(trainer.callbacks["on_train_end"])
    undo = trainer.end()
    seen = {name.rpartition(".")[2] for name, found in trainer.seen.items() if "ours.png" in found}
    assert {name.rpartition(".")[2] for name in NAMES} - seen == unaware
    assert set(trainer.seen) == set(NAMES)
    assert "ours.png" in trainer.plots
    undo()
    undo()
    assert trainer.callbacks["on_train_end"][1:] == before


def test_integration_that_fails_anyway_fails_as_without_the_watch():
    trainer = Ends(plots=False, names=[f"{INSIDE}.broken"])
    with pytest.raises(ZeroDivisionError, match="broken"):
        trainer.end()
    assert trainer.seen == {f"{INSIDE}.broken": []}
    assert list(trainer.plots) == ["ours.png"]


def test_integrations_that_take_pictures_exist():
    from importlib import import_module

    for name in hooks.TAKE_PICTURES:
        import_module(f"{INSIDE}.{name}")


def test_versions_are_the_installed_ones(monkeypatch):
    versions = facts.versions()
    assert list(versions) == ["python", "torch", "ultralytics", "yolo-gradwatch"]
    installed = [python_version(), version("torch"), version("ultralytics")]
    assert [versions[name] for name in [*versions][:3]] == installed

    def from_a_checkout(_name):
        raise PackageNotFoundError

    monkeypatch.setattr(facts, "version", from_a_checkout)
    known = {name: versions[name] for name in ("python", "yolo-gradwatch")}
    assert facts.versions() == {**dict.fromkeys(versions, "unknown"), **known}


@pytest.fixture
def ready(tmp_path):
    """Set up a real trainer without training."""

    def setup(**options):
        trainer = trainer_of(tmp_path, data=shapes(), **options)
        trainer._setup_train()
        return trainer

    return setup


@pytest.mark.slow
@pytest.mark.parametrize(("options", "layers"), [({"freeze": 2}, 2), ({}, 0)])
def test_real_trainer_freezes_what_its_option_says(ready, options, layers):
    trainer = ready(**options)
    names = facts.meant_frozen(trainer)
    assert {n for n in names if n.startswith("model.")} == {f"model.{i}." for i in range(layers)}
    frozen = [n for n, p in trainer.model.named_parameters() if not p.requires_grad]
    assert bool(frozen) == bool(layers)
    assert all(any(part in name for part in names) for name in frozen)


@pytest.mark.slow
def test_real_trainer_has_the_rates_of_its_optimizer(ready):
    trainer = ready(optimizer="SGD", lr0=0.03, warmup_epochs=0)
    assert set(facts.learning_rates(trainer)) == {0.03}
    assert facts.training_options(trainer, {})["clip"] == 10.0
    assert facts.amp_state(trainer) == []
