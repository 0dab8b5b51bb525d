"""What Ultralytics drops from a model when it rebuilds it."""

import gc
import weakref

import pytest
from fake_trainer import Block, FakeModel, Net
from torch import nn
from training import TINY, shapes, small

from yolo_gradwatch import GradWatch
from yolo_gradwatch.watch.guard import Guard
from yolo_gradwatch.watch.ultralytics.rebuilt import Networks


class Trainer:
    """Builds its network as Ultralytics' trainers do."""

    resume = False

    def setup_model(self):
        self.model = self.get_model()

    def get_model(self):
        net = Net()
        net.yaml = {"yaml_file": "folder/net.yaml"}
        return net


for builder in (Trainer.get_model, Trainer.setup_model):
    builder.__module__ = "ultralytics.engine"


class Own(Trainer):
    """Builds a network of its own."""

    def get_model(self):
        return super().get_model()


def guard():
    return Guard(lambda: None, lambda: None)


def changed(index=2, **more):
    """A network with a custom block in place of another."""
    net = Net()
    net.model[index] = nn.Sequential(net.model[index], Block(4, 4))
    vars(net).update(more)
    return net


def dropped(net, *, kind=Trainer, ckpt=None, edit=None, belongs=True):
    """What the training lacks of a model with this network."""
    model = FakeModel()
    model.model, model.ckpt, trainer = net, ckpt, kind()
    networks = Networks(trainer, [weakref.ref(model)], guard())
    model.trainer = trainer if belongs else kind()
    trainer.setup_model()
    if edit:
        edit(trainer)
    said = networks.dropped(trainer)
    assert "get_model" not in vars(trainer)
    return said


def put_back(trainer):
    trainer.model = changed()


@pytest.mark.parametrize(
    ("net", "named"),
    [
        (changed(), "model.2: Sequential in yours, Block in training"),
        (changed(5), "model.5: Sequential in yours, Block in training"),
        (type("Mine", (Net,), {})(), "model: Mine in yours, Net in training"),
    ],
)
def test_rebuilt_block_is_named_with_both_classes(net, named):
    said = dropped(net)
    assert f"({named})" in said
    assert "net.yaml" in said
    assert "folder" not in said


def normless():
    net = Net()
    net.model[1].bn = nn.Identity()
    return net


def test_removed_layer_is_named():
    assert "(model.1.bn: Identity in yours, BatchNorm2d in training)" in dropped(normless())
    assert dropped(normless(), ckpt={"version": "0"}) == ""


def fused():
    net = normless()
    net.model[0].forward_fuse = net.model[0].forward

    def forward_fuse(x):
        return x

    net.model[0].forward = forward_fuse
    return net


def headless():
    net = Net()
    del net.model[5].bn
    return net


@pytest.mark.parametrize("net", [Net(), Net().half(), fused(), headless(), "net.yaml", None])
def test_network_rebuilt_unchanged_gives_no_warning(net):
    assert dropped(net) == ""


@pytest.mark.parametrize(
    "how",
    [
        {"kind": Own},
        {"kind": type("Resumed", (Trainer,), {"resume": True})},
        {"belongs": False},
        {"edit": put_back},
    ],
)
def test_change_that_is_not_lost_gives_no_warning(how):
    assert dropped(changed(), **how) == ""


def test_blocks_are_compared_whatever_version_a_checkpoint_has():
    assert dropped(changed(), ckpt={"version": "0"})
    assert dropped(changed(), ckpt={})


def test_neither_the_model_nor_the_trainer_is_kept_alive():
    model, trainer = FakeModel(), Trainer()
    model.model = changed()
    networks = Networks(trainer, [weakref.ref(model)], guard())
    alive = [weakref.ref(model), weakref.ref(trainer)]
    del model, trainer
    gc.collect()
    assert [one() for one in alive] == [None, None]
    networks.release()


@pytest.mark.train
def test_block_dropped_by_ultralytics_is_in_the_report(tmp_path, caplog):
    from ultralytics import YOLO

    def edited():
        model = YOLO(small())
        block = model.model.model[2]
        model.model.model[2] = wrapper = nn.Sequential(block)
        wrapper.f, wrapper.i, wrapper.type, wrapper.np = block.f, block.i, block.type, block.np
        return model

    asked = {**TINY, "data": shapes(4), "imgsz": 32}
    checked = GradWatch.check(edited(), steps=1, **{**asked, "name": None, "exist_ok": None})
    watch, model = GradWatch(live=False), edited()
    watch.attach(model)
    model.train(project=str(tmp_path), **asked)
    for report in (checked, watch.report()):
        (remark,) = [one for one in report.remarks if "model.2: Sequential in yours" in one]
        assert remark in caplog.text
