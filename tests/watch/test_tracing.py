"""Traces of a training: in which steps, at what cost, and without changing it."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from short import FAKE, assert_nothing_left, at, bits_of, leave, real, spoil, starve, warnings_of
from torch import nn
from training import needs, train

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.measure import flow as probes
from yolo_gradwatch.runs.schema import FLOW_COLUMNS, FLOW_FILE


def watched(way, folder, *, calls=(), flow=True, **options):
    """Train; the trainer, the run and the watch."""
    watch = GradWatch(live=False, flow=flow)
    trainer = way.train(folder, watch=watch, calls=calls, **options)
    return trainer, load_run(watch.run_dir), watch


def steps_of(run):
    return list(dict.fromkeys(run.flow["step"]))


def hooks_of(trainer):
    return [m for m in trainer.model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_powers_of_two_are_traced_without_changing_the_weights(way, tmp_path):
    bare, _, _ = watched(way, tmp_path / "off", flow=False, epochs=5)
    trainer, run, _ = watched(way, tmp_path / "on", epochs=5)
    assert bits_of(trainer) == bits_of(bare)
    assert steps_of(run) == [1, 2, 4, 8]
    assert tuple(run.flow) == FLOW_COLUMNS
    assert list(run.flow.groupby("step")["epoch"].first()) == [1, 1, 2, 4]
    assert not hooks_of(trainer)
    assert_nothing_left(trainer)
    for _, trace in run.flow.groupby("step"):
        assert list(trace["order"]) == list(range(1, len(trace) + 1))
        assert not trace.duplicated(["module", "call"]).any()
        assert np.isfinite(trace["gradient_norm"]).all()
        assert {name for name in trace["module"] if "." in name} >= {"model.1.conv", "model.1.bn"}


def test_without_flow_there_is_no_file_and_an_empty_table(way, tmp_path):
    _, run, _ = watched(way, tmp_path, flow=False, epochs=1)
    assert not (run.folder / FLOW_FILE).exists()
    assert tuple(run.flow) == FLOW_COLUMNS
    assert run.flow.empty


def test_new_training_in_the_same_folder_removes_old_traces(faked, tmp_path):
    watched(faked, tmp_path, epochs=2)
    _, run, _ = watched(faked, tmp_path, flow=False, epochs=1)
    assert not (run.folder / FLOW_FILE).exists()


def test_output_and_gradient_match_a_hook_of_the_user(way, tmp_path):
    seen = []

    def add_hook(trainer):
        layer = dict(trainer.model.named_modules())["model.1.conv"]
        layer.register_forward_hook(hook)

    def hook(_module, _inputs, output):
        if torch.is_grad_enabled():
            seen.append({"rms": float(output.detach().double().pow(2).mean().sqrt())})
            output.register_hook(lambda grad: seen[-1].update(norm=float(grad.double().norm())))

    _, run, _ = watched(way, tmp_path, calls=[("on_train_start", add_hook)], epochs=2)
    rows = run.flow[run.flow["module"] == "model.1.conv"]
    for step, rms, norm in zip(
        rows["step"], rows["output_rms"], rows["gradient_norm"], strict=True
    ):
        assert norm == pytest.approx(seen[step - 1]["norm"], rel=1e-4)
        assert rms == pytest.approx(seen[step - 1]["rms"], rel=1e-5)


def test_with_accumulation_the_first_batch_of_the_step_is_traced(faked, tmp_path):
    hooked, steps = [], []

    def look(trainer):
        trainer.model.register_forward_pre_hook(lambda *_: hooked.append(bool(hooked_in(trainer))))
        trainer.optimizer.register_step_post_hook(lambda *_: steps.append(len(hooked)))

    def hooked_in(trainer):
        return [m for m in trainer.model.modules() if m._forward_hooks]

    options = {"nbs": 16, "images": 32, "epochs": 4, "warmup_epochs": 0}
    _, run, _ = watched(faked, tmp_path, calls=[("on_train_start", look)], **options)
    firsts = [0, *steps][: len(steps)]  # the batch with which each step starts
    wanted = [step for step in (1, 2, 4, 8) if step <= len(steps)]
    assert len(steps) > 4
    assert len(hooked) > 2 * len(steps)
    assert steps_of(run) == wanted
    assert [i for i, is_hooked in enumerate(hooked) if is_hooked] == [firsts[n - 1] for n in wanted]


def test_batch_after_a_finding_is_traced(way, tmp_path):
    calls = [spoil("model.1.conv.weight", at=5)]
    _, run, _ = watched(way, tmp_path, calls=calls, epochs=1, images=32)
    assert "nonfinite" in set(run.alerts["rule"])
    assert steps_of(run) == [1, 2, 4, 6, 8]


def test_loss_scale_is_divided_out(way, tmp_path):
    options = {"kind": way.scaled(), "amp": True, "epochs": 2}
    _, plain, _ = watched(way, tmp_path / "plain", epochs=2)
    _, run, _ = watched(way, tmp_path / "scaled", **options)
    one = plain.flow[plain.flow["step"] == 1]
    other = run.flow[run.flow["step"] == 1]
    assert run.meta.epochs[0].scale is not None
    np.testing.assert_allclose(other["gradient_norm"], one["gradient_norm"], rtol=1e-3)


def test_world_size_is_divided_out(faked, tmp_path, monkeypatch):
    """Ultralytics multiplies the loss by the number of processes."""

    class Wrapper(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.module = model

        def forward(self, batch):
            loss, items = self.module(batch)
            return loss * 4, items

    def wrap(trainer):
        trainer.model, trainer.world_size = Wrapper(trainer.model), 4

    _, plain, _ = watched(faked, tmp_path / "one", epochs=1)
    calls = [("on_pretrain_routine_end", wrap)]
    _, run, _ = watched(faked, tmp_path / "four", calls=calls, epochs=1)
    one, four = (r.flow[r.flow["step"] == 1] for r in (plain, run))
    assert list(one["module"]) == list(four["module"])
    np.testing.assert_allclose(four["gradient_norm"], one["gradient_norm"], rtol=1e-5)
    np.testing.assert_allclose(four["output_rms"], one["output_rms"])


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, RuntimeError, KeyError])
def test_error_in_a_hook_ends_only_the_traces(  # noqa: PLR0913, PLR0917  # cases
    faked, tmp_path, monkeypatch, caplog, error, capsys
):
    bare, _, _ = watched(faked, tmp_path / "off", flow=False)
    original, calls = probes.norm_of, []

    def failing(tensor):
        calls.append(1)
        if len(calls) > 60:  # the third trace
            raise error("CUDA out of memory. Tried to allocate 2 GiB.")
        return original(tensor)

    monkeypatch.setattr(probes, "norm_of", failing)
    caplog.clear()
    trainer, run, watch = watched(faked, tmp_path / "on")
    assert len(calls) == 61
    assert bits_of(trainer) == bits_of(bare)
    assert len(steps_of(run)) < 4
    (line,) = warnings_of(caplog)
    assert error.__name__ in line
    report = watch.report()
    assert (report.status, report.steps) == ("finished", 8)
    (remark,) = report.remarks
    assert error.__name__ in remark
    assert remark in capsys.readouterr().out
    assert load_run(run.folder).report().remarks == (remark,)
    assert not hooks_of(trainer)


def test_compiled_model_is_not_traced_and_gives_a_remark(tmp_path):
    """Nothing is compiled here; ``is_compiled`` has its own test."""
    _, run, watch = watched(FAKE, tmp_path, compile=True, epochs=1)
    assert run.flow.empty
    (remark,) = watch.report().remarks
    assert "torch.compile" in remark
    assert load_run(run.folder).report().remarks == (remark,)


def test_batch_that_did_not_fit_is_traced_when_repeated(way, tmp_path):
    if way.is_real:
        from ultralytics.engine.trainer import BaseTrainer

        needs(BaseTrainer, "_oom_retries")
    trainer, run, _ = watched(way, tmp_path, calls=[("on_train_start", starve)], imgsz=64)
    assert [event.kind for event in run.meta.events] == ["start", "oom_restart"]
    assert steps_of(run)[:3] == [1, 2, 4]
    assert [m for m in hooks_of(trainer) if m._forward_hooks] == []


@pytest.mark.parametrize("event", ["on_train_batch_start", "on_train_batch_end"])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_training_that_ends_in_a_traced_batch_keeps_no_hooks(faked, tmp_path, event, error):
    held = []

    def raise_in_model(trainer):
        held.append(trainer)
        trainer.model.model[3].register_forward_hook(lambda *_: leave(error)(trainer))

    with pytest.raises(error):
        watched(faked, tmp_path, calls=[at(event, 4, raise_in_model)])
    (trainer,) = held
    assert sum(len(m._forward_hooks) for m in trainer.model.modules()) == 1


def test_watch_detached_in_a_traced_batch_leaves_no_hooks(faked, tmp_path):
    watch = GradWatch(live=False)

    def detach(trainer):
        trainer.model.model[2].register_forward_hook(lambda *_: watch.detach())

    trainer = faked.train(tmp_path, watch=watch, calls=[("on_train_start", detach)])
    assert watch.report().status == "interrupted"
    assert sum(len(m._forward_hooks) for m in trainer.model.modules()) == 1


def test_other_callbacks_see_the_model_without_hooks(way, tmp_path):
    """Also a callback at the end of a batch that was added before the watch."""
    seen = []

    def look(trainer):
        trainer.model.zero_grad()
        seen.append(len(hooks_of(trainer)))

    watch = GradWatch(live=False)
    way.train(tmp_path, watch=watch, first=[("on_train_batch_end", look)], epochs=2)
    assert seen == [0] * 4


def test_optimizer_that_calls_the_model_again_is_not_traced(way, tmp_path):
    seen = []

    def look(trainer):
        trainer.optimizer.register_step_pre_hook(lambda *_: seen.append(len(hooks_of(trainer))))

    watched(way, tmp_path, calls=[("on_train_start", look)], epochs=2)
    assert seen == [0] * 4


def test_resumed_training_continues_the_powers_of_two(way, tmp_path):
    watch = GradWatch(live=False)
    with pytest.raises(KeyboardInterrupt):
        way.train(
            tmp_path,
            watch=watch,
            epochs=5,
            save=True,
            calls=[at("on_fit_epoch_end", 3, leave(KeyboardInterrupt))],
        )
    before = load_run(watch.run_dir)
    assert steps_of(before) == [1, 2, 4]
    last = watch.run_dir / "weights" / "last.pt"
    trainer = way.trainer(tmp_path, epochs=5, save=True, resume=str(last), model=str(last))
    again = GradWatch(live=False).attach(trainer)
    trainer.train()
    run = load_run(again.run_dir)
    assert [event.kind for event in run.meta.events] == ["start", "resume"]
    assert steps_of(run) == [1, 2, 4, 8]
    assert run.flow.iloc[: len(before.flow)].equals(before.flow)


def test_output_receives_each_trace(faked, tmp_path):
    flows = []
    watch = GradWatch(live=False, outputs=[SimpleNamespace(flow=flows.append)])
    faked.train(tmp_path, watch=watch)
    run = load_run(watch.run_dir)
    assert [flow.step for flow in flows] == [1, 2, 4, 8]
    assert [len(flow.calls) for flow in flows] == list(run.flow.groupby("step").size())


@pytest.mark.train
@pytest.mark.parametrize(
    "model",
    ["yolo26n.yaml", "yolov8n.yaml", pytest.param("rtdetr-l.yaml", marks=pytest.mark.full)],
)
def test_every_model_traces_every_call_and_keeps_its_weights(tmp_path, model):
    if model.startswith("rtdetr"):
        pytest.importorskip("ultralytics.models.utils.ops")  # needs scipy in 8.4.0
    real()  # the first training of a process has other random numbers in older versions
    results, size = [], 160 if model.startswith("rtdetr") else 64  # it has 300 queries
    for flow in (False, True):
        kept = []
        watch = GradWatch(live=False, flow=flow)
        make = partial(_rtdetr, model) if model.startswith("rtdetr") else lambda: model
        train(
            tmp_path / str(flow),
            watch=watch,
            model=make(),
            imgsz=size,
            calls=[("on_train_end", kept.append)],
        )
        results.append(bits_of(kept[0]))
        run = load_run(watch.run_dir)
    assert results[0] == results[1]
    trace = run.flow[run.flow["step"] == 1]
    assert len(trace) > 150
    assert np.isfinite(trace["output_max"]).all()
    assert (trace["gradient_norm"].notna()).mean() > 0.9
    if model == "yolo26n.yaml":
        assert len(trace) == 543
        assert trace["gradient_norm"].notna().all()


def _rtdetr(name):
    from ultralytics import RTDETR

    return RTDETR(name)
