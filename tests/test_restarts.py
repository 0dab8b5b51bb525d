"""Trainings that Ultralytics begins anew, or ends, by itself: NaN, too little memory."""

import inspect

import numpy as np
import pytest
from oracle import Oracle
from training import needs, small, train

from yolo_gradwatch import GradWatch, load_run

pytestmark = pytest.mark.train


def watched(folder, oracle, *, calls=(), **options):
    """Train, watched, and hold every step against torch and the replay against the live report."""
    wraps = []

    def look(trainer):
        wraps.append(("unscale_" in vars(trainer.scaler), "preprocess_batch" in vars(trainer)))

    watch = GradWatch(live=False)
    calls = [("on_train_start", oracle.take_model), ("on_train_epoch_end", look), *calls]
    try:
        model = train(folder, watch=watch, model=small(), calls=calls, **{"imgsz": 32, **options})
    finally:
        assert set(wraps) == {(True, True)}
        run = load_run(folder / "run")
        assert_as_torch(run, oracle)
        assert run.report() == watch.report()
    return model.trainer, run


def assert_as_torch(run, oracle):
    """The steps follow each other, and each has the norms that torch saw at its clip."""
    whole = run.windows[run.windows["module"] == "model"]
    assert list(whole["step_first"]) == list(range(1, len(oracle.clip) + 1))
    assert list(whole["step_last"]) == list(whole["step_first"])
    assert list(whole["nonfinite"]) == list(~np.isfinite(oracle.clip))
    np.testing.assert_allclose(whole["norm_mean"], oracle.clip, rtol=1e-5)
    for step, table in run.windows.groupby("step_first"):
        expected = [oracle.norms[step - 1][name] for name in table["module"]]
        np.testing.assert_allclose(table["norm_mean"], expected, rtol=1e-5, atol=1e-12)


def events_of(run):
    return [(event.kind, event.step) for event in run.meta.events]


def ruin(times):
    """A callback that makes a weight NaN at the start of the second epoch, so many times."""
    done = []

    def fill(trainer):
        if trainer.epoch == 1 and len(done) < times:
            done.append(1)
            dict(trainer.model.named_parameters())["model.2.conv.weight"].data.fill_(float("nan"))

    return ("on_train_epoch_start", fill)


@pytest.mark.parametrize("times", [1, pytest.param(3, marks=pytest.mark.full)])
def test_recovery_from_nan_goes_on_with_the_count(tmp_path, oracle, times):
    from ultralytics.engine.trainer import BaseTrainer

    if "loss_nan and (" in inspect.getsource(BaseTrainer._handle_nan_recovery):
        pytest.skip("this Ultralytics recovers only if the fitness is lost too, and there is none")
    _, run = watched(tmp_path, oracle, epochs=5, calls=[ruin(times)])
    passes = oracle.epochs.count(2) // 2  # of two steps each; in 8.4.100 only the first has steps
    assert passes in {1, 1 + times}
    again = [("nan_recovery", 5 + 2 * min(n, passes - 1)) for n in range(times)]
    assert events_of(run) == [("start", 1), *again]
    assert [epoch.epoch for epoch in run.meta.epochs] == [1, *[2] * passes, 3, 4, 5]
    assert run.meta.status == "finished"
    (finding,) = run.report().findings
    assert (finding.rule, finding.step) == ("nonfinite", 3)
    assert finding.step_end == again[-1][1]


@pytest.mark.full
def test_a_recovery_that_is_given_up_fails_as_without_the_watch(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="NaN persisted for 4 epochs"):
        train(tmp_path / "bare", model=small(), imgsz=32, epochs=3, calls=[ruin(4)])
    with pytest.raises(RuntimeError, match="NaN persisted for 4 epochs"):
        watched(tmp_path, Oracle(monkeypatch), epochs=3, calls=[ruin(4)])
    run = load_run(tmp_path / "run")
    assert events_of(run) == [("start", 1), *(("nan_recovery", step) for step in (5, 7, 9))]
    assert run.meta.status == "failed"


def starve(times):
    """A callback after which the model's second forward pass runs out of memory, so many times."""
    import torch
    from ultralytics.engine.trainer import BaseTrainer

    needs(BaseTrainer, "_oom_retries")

    def plant(trainer):
        passes, failed = [], []

        def hook(_module, _inputs):
            if not torch.is_grad_enabled():
                return
            passes.append(trainer.batch_size)
            if len(passes) % 2 == 0 and len(failed) < times:
                failed.append(1)
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

        trainer.model.model[2].register_forward_pre_hook(hook)

    return ("on_train_start", plant)


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.full)])
def test_half_the_batch_after_too_little_memory_goes_on_with_the_count(tmp_path, oracle, times):
    options = {"imgsz": 64, "warmup_epochs": 0}  # for batches of a single image
    trainer, run = watched(tmp_path, oracle, epochs=2, calls=[starve(times)], **options)
    assert trainer.batch_size == 4 >> times
    assert [kind for kind, _ in events_of(run)] == ["start", *["oom_restart"] * times]
    assert events_of(run)[1] == ("oom_restart", 2)
    assert run.meta.status == "finished"
    assert [epoch.epoch for epoch in run.meta.epochs][-2:] == [1, 2]


@pytest.mark.full
def test_too_little_memory_after_the_first_epoch_fails_as_without_the_watch(tmp_path, monkeypatch):
    import torch

    def late(trainer):
        if trainer.epoch == 1:
            starve(1)[1](trainer)

    calls = [("on_train_epoch_start", late)]
    with pytest.raises(torch.cuda.OutOfMemoryError, match="out of memory"):
        train(tmp_path / "bare", model=small(), imgsz=32, epochs=3, calls=calls)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="out of memory"):
        watched(tmp_path, Oracle(monkeypatch), epochs=3, calls=calls)
    run = load_run(tmp_path / "run")
    assert (run.meta.status, run.report().steps) == ("failed", 3)


@pytest.mark.full
def test_a_training_that_stops_early_is_finished(tmp_path, oracle):
    from ultralytics.models.yolo.detect import DetectionTrainer

    class Tired(DetectionTrainer):
        def validate(self):
            metrics, _ = super().validate()
            return metrics, 0.5  # no progress

    options = {"epochs": 8, "patience": 1, "val": True}
    trainer, run = watched(tmp_path, oracle, trainer=Tired, **options)
    assert trainer.epoch == 1
    assert run.meta.status == "finished"
    assert [epoch.epoch for epoch in run.meta.epochs] == [1, 2]


@pytest.mark.full
def test_epochs_without_a_step_leave_no_trace_in_the_table(tmp_path, oracle):
    """The batches of two epochs go into each step."""
    options = {"epochs": 4, "nbs": 16, "warmup_epochs": 0}
    _, run = watched(tmp_path, oracle, **options)
    assert run.report().steps == 2
    assert [epoch.epoch for epoch in run.meta.epochs] == [2, 4]
    assert sorted(set(run.windows["epoch"])) == [2, 4]
