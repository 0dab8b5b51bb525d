"""What the advice assumes about Ultralytics, checked in real trainings of this version."""

import pytest
import torch
from short import at, leave, real
from shown import finding_of

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.diagnose.causes import at_work, lower_rate, moment
from yolo_gradwatch.diagnose.warmup import Warmup

pytestmark = pytest.mark.train


def trained(folder, calls=(), **options):
    """The recorded options of a watched training of two batches an epoch."""
    watch = GradWatch(live=False)
    real().train(folder, watch=watch, calls=calls, **{"epochs": 1, **options})
    return load_run(watch.run_dir).meta.options.training


class Rates:
    """Records the optimizer and its learning rates in each batch."""

    def __init__(self):
        self.seen = []

    def __call__(self, trainer):
        self.kind = type(trainer.optimizer).__name__
        groups = trainer.optimizer.param_groups
        self.initial = [group["initial_lr"] for group in groups]
        self.seen.append((trainer.epoch + 1, [group["lr"] for group in groups]))

    @property
    def calls(self):
        return [("on_train_batch_end", self)]


def test_requested_and_actual_automatic_optimizer_are_recorded(tmp_path):
    rates = Rates()
    options = trained(tmp_path, rates.calls)
    assert (options["optimizer"], options["lr0"]) == ("auto", 0.01)
    assert at_work(options, "optimizer") == rates.kind != "auto"
    assert at_work(options, "lr0") == min(rates.initial) != 0.01


def test_automatic_optimizer_ignores_lr0_so_advice_names_the_optimizer(tmp_path):
    usual, high = Rates(), Rates()
    trained(tmp_path / "usual", usual.calls)
    options = trained(tmp_path / "high", high.calls, lr0=0.5)
    assert high.initial == usual.initial
    assert options["lr0"] == 0.5
    advice = lower_rate(options)
    assert f"optimizer={high.kind}" in advice
    assert f"{min(high.initial)}" in advice
    assert "0.5" not in advice


@pytest.mark.parametrize("optimizer", ["AdamW", "MuSGD", "sgd"])
def test_lr0_is_used_with_a_named_optimizer_so_advice_names_lr0(tmp_path, optimizer):
    rates = Rates()
    options = trained(tmp_path, rates.calls, optimizer=optimizer, lr0=0.02)
    assert rates.kind.lower() == optimizer.lower()
    assert min(rates.initial) == 0.02
    assert (options["optimizer"], at_work(options, "optimizer")) == (optimizer, optimizer)
    assert at_work(options, "lr0") == 0.02
    assert lower_rate(options) == "a lower lr0 (now 0.02)"


def test_resumed_training_keeps_the_requested_options(tmp_path):
    calls = [at("on_train_batch_end", 3, leave(KeyboardInterrupt))]
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, calls, epochs=3, save=True)
    first = load_run(tmp_path / "run").meta.options.training
    last = tmp_path / "run" / "weights" / "last.pt"
    options = trained(tmp_path, resume=str(last), epochs=3)
    names = ("optimizer", "lr0", "warmup_bias_lr", "model")
    assert [options[name] for name in names] == [first[name] for name in names]
    assert [at_work(options, name) for name in names] == [at_work(first, name) for name in names]
    assert lower_rate(options) == lower_rate(first)


def test_arguments_are_recorded_as_given(tmp_path):
    """On a CPU there are no workers and no loss scaler."""
    given = {"weight_decay": 0.001, "mosaic": 0.3, "cos_lr": True, "box": 5.0, "freeze": [0, 1]}
    options = trained(tmp_path, workers=3, amp=True, **given)
    assert given.items() <= options.items()
    assert not given.keys() & options["fitted"].keys()
    assert len(options) > 90
    assert (options["workers"], at_work(options, "workers")) == (3, 0)
    assert (options["amp"], at_work(options, "amp")) == (True, False)


def test_freeze_applies_as_given_and_nothing_else_is_frozen(tmp_path):
    frozen = []

    def look(trainer):
        parameters = trainer.model.named_parameters()
        frozen.extend(name for name, p in parameters if not p.requires_grad)

    options = trained(tmp_path, [("on_train_start", look)], freeze=2)
    assert options["freeze"] == 2
    assert frozen
    # model.5.dfl is always frozen
    assert {name.split(".")[1] for name in frozen} <= {"0", "1", "5"}
    assert not load_run(tmp_path / "run").report().findings


@pytest.mark.parametrize(("epochs", "close"), [(4, 2), (3, 1), (2, 0), (2, 10)])
def test_close_mosaic_takes_effect_in_the_epoch_named_by_advice(tmp_path, epochs, close):
    closed = []

    def spy(trainer):
        dataset = trainer.train_loader.dataset
        inner = dataset.close_mosaic

        def close_mosaic(hyp):
            closed.append(trainer.epoch + 1)
            return inner(hyp)

        dataset.close_mosaic = close_mosaic

    calls = [("on_train_start", spy)]
    options = trained(tmp_path, calls, epochs=epochs, close_mosaic=close, warmup_epochs=0)
    named = [
        epoch
        for epoch in range(1, epochs + 1)
        if "close_mosaic" in moment(options, finding_of(step=9, epoch=epoch))
    ]
    assert named == [epoch for epoch in closed if epoch > 1]


def test_training_without_mixed_images_has_no_mosaic_to_close(tmp_path):
    options = trained(tmp_path, epochs=4, close_mosaic=2, warmup_epochs=0)
    third = finding_of(step=9, epoch=3)
    assert "close_mosaic" in moment(options, third)
    for changes in (
        {"task": "classify"},
        {"mosaic": 0.0, "mixup": 0.0, "copy_paste": 0, "cutmix": 0.0},
        {"rect": True},
        {"time": 0.5},
    ):
        assert moment({**options, **changes}, third) == "", changes


@pytest.mark.parametrize("warmup", [0, 1, 60])
def test_warm_up_lasts_as_long_as_advice_says(tmp_path, warmup):
    rates = Rates()
    epochs = 4
    options = trained(
        tmp_path, rates.calls, epochs=epochs, optimizer="SGD", warmup_epochs=warmup, lrf=1.0
    )
    seen = Warmup(options)
    for window in load_run(tmp_path / "run").windows_in_order():
        seen.add(window)
    rising = [max(found) != pytest.approx(0.01) for _, found in rates.seen]
    found = [seen.covers(epoch, step) for step, (epoch, _) in enumerate(rates.seen, 1)]
    assert found == rising
    assert any(found) == (warmup > 0)
    assert options["warmup_epochs"] == warmup


def test_clip_is_the_one_of_the_real_step(tmp_path, monkeypatch):
    seen, clip = [], torch.nn.utils.clip_grad_norm_

    def spy(parameters, max_norm, **options):
        seen.append(max_norm)
        return clip(parameters, max_norm, **options)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    options = trained(tmp_path)
    assert set(seen) == {options["clip"]}


def test_active_scaler_is_recorded(tmp_path):
    options = trained(tmp_path, kind=real().scaled(), amp=True)
    assert (options["amp"], at_work(options, "amp")) == (True, True)
