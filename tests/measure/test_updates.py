"""How a step changes the weights, compared with copies made around the step."""

import gc
import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracle import check
from short import FAKE
from torch import nn
from training import amp_trainer, recording_trainer, shapes

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.measure.capture import Capture
from yolo_gradwatch.measure.doubling import Doubling
from yolo_gradwatch.measure.updates import Updates
from yolo_gradwatch.watch.step_change import StepChange
from yolo_gradwatch.watch.ultralytics import hooks

INF = float("inf")


class Loop:
    """Optimizer steps as in a trainer, with the watch reading their updates.

    Args:
        optimizer: Makes an optimizer of parameters.
        scaled: Whether a loss scaler skips steps with Inf.
    """

    def __init__(self, optimizer, *, scaled=True):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        self.optimizer = optimizer(self.model.parameters())
        self.scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=4.0)
        parameters = list(self.model.parameters())
        self.capture = Capture(parameters)
        self.remarks = []
        self.change = StepChange(self.capture, parameters, self.remarks)
        self.step, self.samples, self.moved, self.before = 0, [], [], []
        self.hooks = hooks.StepHooks(self.change.begin, self._after)
        self.hooks.attach(SimpleNamespace(optimizer=self.optimizer))

    def _after(self):
        self.change.end(self.step)

    def take(self, *, factor=1.0, opens=False, weighs=False, captured=True):
        """One step, with its gradients multiplied by a factor."""
        self.step += 1
        self.scaler.scale(self.model(torch.randn(5, 3)).square().sum()).backward()
        for parameter in self.model.parameters():
            parameter.grad *= factor
        self.scaler.unscale_(self.optimizer)
        if captured:
            skipped = torch.tensor([0.0 if np.isfinite(factor) else 1.0])
            extras = [skipped, torch.tensor(1.0)]
            self.capture.take(1, self.step, extras, detailed=opens, weighed=weighs)
            self.change.read(opens=opens, weighs=weighs)
        before = [p.detach().double().clone() for p in self.model.parameters()]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        moved = [p.detach() - b for p, b in zip(self.model.parameters(), before, strict=True)]
        self.moved.append([float(m.norm()) for m in moved])
        self.before.append([float(b.norm()) for b in before])
        self.change.end_batch()
        samples = list(self.capture.drain())
        self.change.landed(samples)
        self.samples += samples

    def measured(self):
        """The steps with a known change, each compared with the copies."""
        for one in self.samples:
            if one.change:
                np.testing.assert_allclose(one.change.moved, self.moved[one.step - 1], rtol=1e-5)
                np.testing.assert_allclose(one.change.before, self.before[one.step - 1], rtol=1e-6)
        return [one.step for one in self.samples if one.change]


OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True),
}


@pytest.fixture(params=OPTIMIZERS)
def loop(request):
    if not hasattr(torch.amp, "GradScaler"):
        pytest.skip("this torch has no loss scaler on a CPU")
    try:
        return Loop(OPTIMIZERS[request.param])
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factors", "expected"),
    [((1, 1, 1, 1), [1, 4]), ((INF, 1, 1, 1), [2, 4]), ((INF, INF, INF, 1), [4])],
)
def test_first_step_of_a_window_that_is_not_skipped_is_measured(loop, factors, expected):
    for n, factor in enumerate(factors):
        loop.take(factor=factor, opens=n in {0, 3}, weighs=n in {0, 3})
    assert loop.measured() == expected


def test_steps_without_due_weights_or_capture_are_not_measured(loop):
    loop.take(opens=True)
    loop.take(captured=False)
    loop.take(factor=INF, opens=True, weighs=True)
    loop.take(captured=False)
    loop.take()
    assert loop.measured() == [5]


@pytest.mark.slow
def test_nothing_is_kept_after_a_step(loop):
    def live():
        gc.collect()
        return sum(torch.is_tensor(one) for one in gc.get_objects())

    loop.take(opens=True, weighs=True)
    before = live()
    for n in range(8):
        loop.take(opens=True, weighs=True, factor=INF if n == 5 else 1.0)
    assert live() == before


def test_hooks_can_be_removed(loop):
    loop.hooks.remove()
    loop.take(opens=True, weighs=True)
    assert loop.measured() == []


def test_new_optimizer_is_hooked_instead(loop):
    loop.take(opens=True, weighs=True)
    loop.optimizer = type(loop.optimizer)(loop.model.parameters(), lr=0.05)
    for _ in range(2):  # a second call does nothing
        loop.hooks.attach(SimpleNamespace(optimizer=loop.optimizer))
    loop.take(opens=True, weighs=True)
    assert loop.measured() == [1, 2]


def test_weights_in_a_new_storage_are_compared(loop):
    for parameter in loop.model.parameters():
        parameter.data = parameter.data.clone()
    loop.take(opens=True, weighs=True)
    assert loop.measured() == [1]
    assert loop.samples[0].change.moved.any()


@pytest.mark.parametrize("name", ["begin", "end"])
@pytest.mark.parametrize("fails", [RuntimeError, torch.cuda.OutOfMemoryError])
def test_failure_does_not_affect_the_step(loop, monkeypatch, name, fails):
    def fail(*_args, **_options):
        raise fails("injected")

    if name == "begin":
        monkeypatch.setattr(torch.Tensor, "clone", fail)
    else:
        monkeypatch.setattr(torch, "_foreach_sub_", fail)
    loop.change.read(opens=True, weighs=True)
    loop.change.begin()
    loop.change.end(1)
    monkeypatch.undo()
    if fails is RuntimeError:
        with pytest.raises(RuntimeError, match="injected"):
            loop.change.end_batch()
    assert len(loop.remarks) == (fails is not RuntimeError)
    loop.take(opens=True, weighs=True)
    assert loop.moved[-1][0] > 0
    assert loop.measured() == []


def test_optimizer_without_hooks_gives_a_remark_and_no_update_ratios(tmp_path):
    class Own:
        """An optimizer of torch, without hooks."""

        def __init__(self, optimizer):
            self.param_groups = optimizer.param_groups
            self.zero_grad, self.step = optimizer.zero_grad, optimizer.step

    def swap(trainer):
        trainer.optimizer = Own(trainer.optimizer)

    watch = GradWatch(live=False)
    calls = [("on_pretrain_routine_end", swap)]
    FAKE.train(tmp_path, watch=watch, calls=calls, epochs=1)
    (remark,) = watch.report().remarks
    assert "Own" in remark
    run = load_run(watch.run_dir)
    assert run.windows["update_ratio"].isna().all()
    assert run.windows["weight_max"].notna().any()


def test_weights_without_a_copy_have_no_change():
    assert Updates([nn.Parameter(torch.ones(2))]).end() is None


def test_powers_of_two_are_due():
    due = Doubling()
    assert [step for step in range(1, 70) if due.is_due(step)] == [1, 2, 4, 8, 16, 32, 64]
    late = Doubling()
    assert [step for step in range(1001, 3000, 10) if late.is_due(step)] == [1001, 1031, 2051]


@pytest.mark.train
@pytest.mark.parametrize("optimizer", ["SGD", "MuSGD", "AdamW"])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_file_matches_copies_made_around_the_step(tmp_path, oracle, optimizer, accumulated):
    from ultralytics.engine import trainer

    if optimizer not in inspect.getsource(trainer):
        pytest.skip(f"this Ultralytics has no {optimizer}")
    options = {"nbs": 4 * accumulated, "optimizer": optimizer, "lr0": 1e-3, "warmup_epochs": 0}
    run = check(tmp_path, oracle, data=shapes(24), **options)
    assert (run.windows.query("module == 'model'")["update_ratio"].dropna() > 0).all()


@pytest.mark.train
def test_skipped_step_has_no_update(tmp_path, oracle):
    spoils = amp_trainer(recording_trainer(at=2, fault="nan"))
    run = check(tmp_path, oracle, data=shapes(16), trainer=spoils)
    whole = run.windows.query("module == 'model'").set_index("step_first")
    assert whole["update_ratio"].notna().tolist() == [True, False, True, True]
