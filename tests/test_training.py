"""The watch in real trainings: what it leaves alone, what it survives, what it writes."""

import inspect
import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from short import assert_nothing_left, streams, told
from training import HOME, amp_trainer, needs, official, shapes, small, train, witness

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.capture import Capture
from yolo_gradwatch.heatmap import FINE, heatmap

pytestmark = pytest.mark.train


def weights_of(model):
    return model.trainer.model.state_dict()


def parameter(trainer, name):
    return dict(trainer.model.named_parameters())[name]


def spoil(name, value, *, at):
    """A callback that overwrites a parameter's gradient in its ``at``-th backward pass."""

    def plant(trainer):
        passes = []

        def hook(gradient):
            passes.append(1)
            return gradient * value if len(passes) == at else gradient

        parameter(trainer, name).register_hook(hook)

    return ("on_train_start", plant)


@pytest.mark.parametrize("device", ["cpu", pytest.param("0", marks=pytest.mark.gpu)])
def test_weights_are_the_same_bit_for_bit_with_and_without_the_watch(tmp_path, device):
    import torch

    if device != "cpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    bare = train(tmp_path / "bare", epochs=2, device=device)
    watched = train(tmp_path / "watched", watch=GradWatch(live=False), epochs=2, device=device)
    one, other = weights_of(bare), weights_of(watched)
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    ema, other_ema = (m.trainer.ema.ema.state_dict() for m in (bare, watched))
    assert all(torch.equal(ema[name], other_ema[name]) for name in ema)


def test_nothing_is_left_in_the_trainer_or_in_the_checkpoint(tmp_path):
    before = streams()
    model = train(tmp_path, watch=GradWatch(live=False))
    assert_nothing_left(model.trainer)
    assert streams() == before
    checkpoint = model.trainer.last.read_bytes()
    assert b"yolo_gradwatch" not in checkpoint
    assert b"GradWatch" not in checkpoint


def test_ctrl_c_leaves_whole_files(tmp_path):
    def interrupt(trainer):
        raise KeyboardInterrupt

    watch = GradWatch(live=False)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, watch=watch, calls=[("on_train_epoch_end", interrupt)])
    run = load_run(watch.run_dir)
    assert run.meta.status == "interrupted"
    assert run.windows["step_last"].max() == 2
    assert (run.folder / "gradwatch.png").exists()


def test_the_picture_is_there_for_whatever_uploads_pictures_at_the_end(tmp_path, capsys):
    seen = []

    def upload(trainer):  # as the integrations of Ultralytics do
        seen.extend(path.read_bytes() for path in trainer.plots)

    watch = GradWatch(live=False)
    train(tmp_path, watch=watch, calls=[("on_train_end", upload)])
    assert seen == [(watch.run_dir / "gradwatch.png").read_bytes()]
    assert str(watch.run_dir / "gradwatch.png") in capsys.readouterr().out


@pytest.mark.parametrize(
    "place", ["yolo_gradwatch.png.write", "ultralytics.engine.trainer.BaseTrainer.on_plot"]
)
def test_a_picture_that_cannot_be_drawn_costs_one_warning(tmp_path, caplog, monkeypatch, place):
    def broken(*_args, **_options):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(place, broken)
    watch = GradWatch(live=False)
    train(tmp_path, watch=watch)
    said = told(caplog)
    assert len(said) == 1
    assert "Picture.end" in said[0]
    assert watch.report().status == "finished"


def test_a_second_training_is_watched_anew_in_its_own_folder(tmp_path):
    from ultralytics.engine.model import Model

    if 'self.overrides["model"] = str(ckpt)' not in inspect.getsource(Model.train):
        pytest.skip("this Ultralytics cannot train a model of a YAML file twice")
    watch = GradWatch(live=False)
    model = train(tmp_path, watch=watch)
    first, steps = watch.run_dir, watch.report().steps
    train(tmp_path, model=model, name="again", epochs=2)
    assert watch.run_dir == tmp_path / "again"
    assert first == tmp_path / "run"
    assert watch.report().steps == 2 * steps
    assert load_run(first).windows["step_last"].max() == steps


def test_a_trainer_can_be_attached_to(tmp_path):
    from training import TINY
    from ultralytics.models.yolo.detect import DetectionTrainer

    options = {**TINY, "model": "yolo26n.yaml", "data": shapes(), "project": str(tmp_path)}
    trainer = DetectionTrainer(overrides=options)
    watch = GradWatch(live=False).attach(trainer)
    trainer.train()
    assert watch.report().steps == 2
    assert watch.report().healthy


def test_a_trainer_class_of_the_users_own_is_watched(tmp_path):
    from ultralytics.models.yolo.detect import DetectionTrainer

    class MyTrainer(DetectionTrainer):
        pass

    watch = GradWatch(live=False)
    model = train(tmp_path, watch=watch, trainer=MyTrainer)
    assert type(model.trainer) is MyTrainer
    assert watch.report().steps == 2


@pytest.mark.parametrize(
    ("kind", "name"),
    [("RTDETR", "rtdetr-l.yaml"), ("YOLOWorld", "yolov8s-world.yaml"), ("YOLOE", "yoloe-v8s.yaml")],
)
def test_every_model_class_of_ultralytics_can_be_attached_to(kind, name):
    import ultralytics

    model = getattr(ultralytics, kind)(name)
    watch = GradWatch().attach(model)
    assert model.callbacks["on_pretrain_routine_start"][-1] == watch._on_begin


def test_a_model_without_training_is_refused():
    from ultralytics import FastSAM

    model = FastSAM.__new__(FastSAM)
    model.callbacks, model.task = {}, "segment"
    with pytest.raises(TypeError, match=r"FastSAM has no train\(\) in Ultralytics"):
        GradWatch().attach(model)


def test_interval_captures_every_third_step_and_the_last_report_says_so(tmp_path):
    watch = GradWatch(live=False, interval=3)
    train(tmp_path, watch=watch, data=shapes(20))  # five steps
    run = load_run(watch.run_dir)
    assert sorted(set(run.windows["step_first"])) == [1, 4]
    assert run.meta.options.interval == 3


def test_a_run_without_an_optimizer_step_says_why(tmp_path, capsys):
    from ultralytics.models.yolo.detect import DetectionTrainer

    class Idle(DetectionTrainer):
        def optimizer_step(self):
            """As an epoch that ends before nbs images were seen."""

    watch = GradWatch(live=False)
    train(tmp_path, watch=watch, trainer=Idle)
    assert "no optimizer step" in watch.report().verdict
    assert "nbs" in capsys.readouterr().out
    assert load_run(watch.run_dir).windows.empty


def test_nan_in_one_gradient_is_named_with_its_step(tmp_path, capsys):
    watch = GradWatch(live=False)
    calls = [spoil("model.6.cv2.conv.weight", float("nan"), at=3)]
    train(tmp_path, watch=watch, data=shapes(20), calls=calls)
    first = watch.report().findings[0]
    assert (first.rule, first.module, first.step) == ("nonfinite", "model.6.cv2.conv", 3)
    assert "model.6.cv2.conv (Conv2d)" in first.message
    assert "\nGradWatch critical nonfinite: model.6.cv2.conv" in capsys.readouterr().out
    assert first.evidence == "gradwatch/evidence/step-00003.json"
    run = load_run(watch.run_dir)
    assert tuple(run.alerts.loc[0, ["event", "step", "rule"]]) == ("start", 3, "nonfinite")
    assert run.report() == watch.report()
    bad = run.windows[(run.windows["step_first"] == 3) & (run.windows["nonfinite"] > 0)]
    assert set(bad["module"]) == {"model", "model.6", "model.6.cv2", "model.6.cv2.conv"}


@pytest.mark.parametrize("first", [1, 3])
def test_a_loss_so_large_that_clipping_multiplies_by_zero_is_found_at_its_first_step(
    tmp_path, first
):
    """Every element of the gradient is finite, and its norm is beyond float32."""
    learned = []

    def scale_loss(trainer):
        calls, inner = [], trainer.model.loss

        def loss(*args, **options):
            calls.append(1)
            value, items = inner(*args, **options)
            return value * (1e36 if len(calls) >= first else 1.0), items

        def see(*_args):
            gradients = (p.grad for p in trainer.model.parameters() if p.grad is not None)
            learned.append(any(bool(gradient.any()) for gradient in gradients))

        trainer.model.loss = loss
        trainer.optimizer.register_step_pre_hook(see)

    watch = GradWatch(live=False, stop_on=("total_high",))
    calls = [("on_train_start", scale_loss)]
    train(tmp_path, watch=watch, data=shapes(20), epochs=2, calls=calls)
    assert learned == [step < first for step in range(1, len(learned) + 1)]
    report, run = watch.report(), load_run(watch.run_dir)
    (finding,) = report.findings
    assert (finding.rule, finding.severity, finding.step) == ("total_high", "critical", first)
    assert watch.stopped_by == finding
    assert run.report() == report
    assert len(made_of(watch.run_dir, first)["images"][0]) == 4
    assert not run.grid.nonfinite.any()
    assert np.isinf(run.grid.norm_mean[first - 1 :, 0]).all()
    (epoch,) = report.epochs
    assert (epoch.steps, epoch.clipped, epoch.skipped) == (first, first, 0)
    assert (heatmap(run, report).states == FINE).all()


def overflows(*, first):
    """A callback that makes a gradient Inf from its ``first``-th backward pass on."""

    def plant(trainer):
        passes = []

        def hook(gradient):
            passes.append(1)
            return gradient * math.inf if len(passes) >= first else gradient

        parameter(trainer, "model.4.conv.weight").register_hook(hook)

    return ("on_train_start", plant)


@pytest.mark.parametrize(("interval", "captured"), [(1, 40), (3, 14)])
def test_counts_of_steps_are_of_those_that_were_captured(tmp_path, interval, captured):
    watch = GradWatch(live=False, interval=interval)
    options = {"data": shapes(80), "epochs": 2, "model": small(), "trainer": amp_trainer()}
    train(tmp_path, watch=watch, calls=[overflows(first=2)], **options)
    report, run = watch.report(), load_run(watch.run_dir)
    assert run.report() == report
    assert (report.interval, report.steps) == (interval, captured)
    assert sum(epoch.steps for epoch in report.epochs) == captured
    assert sum(epoch.skipped for epoch in report.epochs) == captured - 1
    whole = run.windows[run.windows["module"] == "model"]
    assert whole["steps"].sum() == captured
    assert whole["step_last"].max() == 1 + interval * (captured - 1)
    found = {f.rule: f for f in report.alarms}
    assert set(found) == {"nonfinite"}
    finding = found["nonfinite"]
    assert (finding.value, finding.limit, finding.step) == (13.0, 12.0, 1 + interval)


def test_steps_are_optimizer_steps_where_batches_accumulate(tmp_path):
    kind = witness()
    watch = GradWatch(live=False)
    options = {"batch": 4, "nbs": 16, "warmup_epochs": 0, "model": small()}
    train(tmp_path, watch=watch, data=shapes(80), trainer=kind, epochs=2, **options)
    report = watch.report()
    assert report.steps == len(kind.notes) == 10  # of 40 batches
    assert sum(epoch.steps for epoch in report.epochs) == 10
    assert load_run(watch.run_dir).report() == report


def test_an_overflow_under_amp_is_a_notice(tmp_path):
    watch = GradWatch(live=False)
    calls = [spoil("model.6.cv2.conv.weight", float("inf"), at=3)]
    train(tmp_path, watch=watch, data=shapes(20), calls=calls, trainer=amp_trainer())
    report = watch.report()
    assert report.healthy
    assert [(f.rule, f.severity) for f in report.findings] == [("amp_overflow", "notice")]
    run = load_run(watch.run_dir)
    whole = run.windows[run.windows["module"] == "model"].set_index("step_first")
    assert list(whole["skipped"]) == [0, 0, 1, 0, 0]
    assert (run.windows["nonfinite"] == 0).all()
    assert run.meta.epochs[0].skipped == 1
    assert run.meta.epochs[0].scale == 32768.0
    assert run.report() == report


def test_a_dead_block_is_named_with_what_is_upstream(tmp_path):
    def kill(trainer):
        def silence(module, inputs, output):
            if output.requires_grad:  # not while validating
                output.register_hook(lambda gradient: gradient * 0)

        trainer.model.model[9].register_forward_hook(silence)

    watch = GradWatch(live=False)
    train(tmp_path, watch=watch, data=shapes(20), calls=[("on_train_start", kill)])
    (finding,) = watch.report().findings
    assert (finding.rule, finding.module, finding.step) == ("dead", "model.9", 1)
    assert "upstream" in finding.message


def test_a_block_that_does_not_lead_to_the_loss_has_no_gradient(tmp_path):
    def cut(trainer):
        def detach(module, inputs, output):
            return output.detach()

        trainer.model.model[4].register_forward_hook(detach)

    watch = GradWatch(live=False)
    train(tmp_path, watch=watch, data=shapes(20), calls=[("on_train_start", cut)])
    (finding,) = watch.report().findings
    assert (finding.rule, finding.module) == ("no_gradient", "model.4")
    assert "upstream" in finding.message


ACCUMULATED = {"batch": 4, "nbs": 8, "warmup_epochs": 0}
"""Two batches a step."""


def made_of(folder, step):
    """The file on a step, after its norms were found to be those of the table."""
    content = json.loads((folder / f"gradwatch/evidence/step-{step:05}.json").read_text())
    run = load_run(folder)
    rows = run.windows[run.windows["step_first"] == step].set_index("module")
    assert (rows["step_last"] == step).all()
    norms = content.pop("norms")
    assert list(norms) == list(rows.index) == list(run.layout.modules)
    for module, norm in norms.items():
        row = rows.loc[module]
        bad = isinstance(norm, str)
        assert row["nonfinite"] == (bad and not content["skipped"]), module
        with np.errstate(over="ignore"):
            single = np.float32(math.nan if bad else norm)
        np.testing.assert_equal(np.float32(row["norm_mean"]), single, module)
    assert content.pop("step") == step
    assert content.pop("epoch") == rows["epoch"].iloc[0]
    return content


@pytest.mark.parametrize("interval", [1, 2])
def test_a_loss_of_nan_leaves_a_file_that_tells_what_its_step_was_made_of(tmp_path, interval):
    kind = witness(at=3, fault="nan")
    watch = GradWatch(live=False, interval=interval)
    train(tmp_path, watch=watch, data=shapes(32), trainer=kind, **ACCUMULATED)
    (finding,) = watch.report().findings
    assert (finding.rule, finding.module, finding.step) == ("nonfinite", "model", 3)
    assert finding.evidence == "gradwatch/evidence/step-00003.json"
    content = made_of(watch.run_dir, 3)
    note = kind.notes[2]
    assert [len(batch) for batch in content["images"]] == [4, 4]
    assert content["images"] == note["images"]
    assert all(Path(image).exists() for batch in content["images"] for image in batch)
    assert content["learning_rates"] == note["learning_rates"]
    assert set(content["losses"]) == set(note["losses"])
    assert "nan" in content["losses"].values()
    assert (content["scale"], content["skipped"]) == (None, False)
    run = load_run(watch.run_dir)
    assert finding.evidence in run.alerts.loc[0, "message"]
    assert finding.evidence in str(run.report())
    assert run.report() == watch.report()


def test_a_spike_leaves_a_file_with_its_losses_and_the_loss_scale(tmp_path):
    kind = witness(amp_trainer(), at=7, fault="spike")
    watch = GradWatch(live=False)
    train(tmp_path, watch=watch, data=shapes(64), trainer=kind, **ACCUMULATED)
    (finding,) = watch.report().findings
    assert (finding.rule, finding.module, finding.step) == ("spike", "model", 7)
    content = made_of(watch.run_dir, 7)
    assert content == {**kind.notes[6], "skipped": False}
    assert content["scale"] == 65536.0
    assert len(content["images"]) == 2
    assert finding.evidence in load_run(watch.run_dir).alerts.loc[0, "message"]


def test_a_nan_in_one_gradient_leaves_a_file_with_the_norms_of_the_others(tmp_path):
    kind = witness()
    watch = GradWatch(live=False)
    calls = [spoil("model.6.cv2.conv.weight", float("nan"), at=5)]
    train(tmp_path, watch=watch, data=shapes(32), trainer=kind, calls=calls, **ACCUMULATED)
    content = made_of(watch.run_dir, 3)
    assert content == {**kind.notes[2], "skipped": False}
    path = watch.run_dir / "gradwatch" / "evidence" / "step-00003.json"
    norms = json.loads(path.read_text())["norms"]
    bad = [module for module, norm in norms.items() if norm == "nan"]
    assert bad == ["model", "model.6", "model.6.cv2", "model.6.cv2.conv"]


def test_a_new_run_in_the_same_folder_clears_the_files_of_the_old_one(tmp_path):
    calls = [spoil("model.6.cv2.conv.weight", float("nan"), at=2)]
    train(tmp_path, watch=GradWatch(live=False), calls=calls)
    folder = tmp_path / "run" / "gradwatch" / "evidence"
    assert [path.name for path in folder.iterdir()] == ["step-00002.json"]
    train(tmp_path, watch=GradWatch(live=False))
    assert list(folder.iterdir()) == []
    assert load_run(tmp_path / "run").report().healthy


def test_a_classification_has_no_image_files(tmp_path):
    watch = GradWatch(live=False)
    train(
        tmp_path,
        watch=watch,
        data=official("imagenet10"),
        model="yolo26n-cls.yaml",
        calls=[spoil("model.1.conv.weight", float("nan"), at=4)],
        **{**ACCUMULATED, "batch": 2, "nbs": 4},
    )
    assert watch.report().findings[0].module == "model.1.conv"
    content = made_of(watch.run_dir, 2)
    assert content["images"] == [[], []]
    assert list(content["losses"]) == ["loss"]


def freeze(name, *, at):
    """A callback that freezes a part of the model after a batch of the run."""

    def stop(trainer):
        trainer.batches_done = getattr(trainer, "batches_done", 0) + 1
        if trainer.batches_done == at:
            for path, one in trainer.model.named_parameters():
                one.requires_grad_(requires_grad=not path.startswith(name))

    return ("on_train_batch_end", stop)


def test_a_layer_that_is_frozen_in_mid_training_is_a_notice_and_no_alarm(tmp_path):
    watch = GradWatch(live=False)
    train(tmp_path, watch=watch, data=shapes(28), calls=[freeze("model.3.", at=3)])
    report = watch.report()
    (finding,) = report.findings
    assert (finding.rule, finding.severity, finding.module) == ("frozen", "notice", "model.3")
    assert finding.step == 4
    assert report.healthy
    run = load_run(watch.run_dir)
    assert run.report() == report
    assert not run.windows[["none", "nonfinite"]].to_numpy().any()
    inside = run.windows["module"].str.match(r"model\.3(\.|$)")
    assert not run.windows.loc[inside, "zero"].any()
    unknown = run.windows["norm_mean"].isna()
    assert (unknown == (inside & (run.windows["step_first"] > 3))).all()
    assert run.windows["weight_norm"].notna().all()


def test_a_layer_that_is_frozen_right_before_the_first_step_is_told_too(tmp_path):
    def stop(trainer):
        trainer.model.model[3].requires_grad_(requires_grad=False)

    watch = GradWatch(live=False)
    train(tmp_path, watch=watch, data=shapes(16), calls=[("on_train_start", stop)])
    (finding,) = watch.report().findings
    assert (finding.rule, finding.module, finding.step) == ("frozen", "model.3", 1)


def test_layers_that_the_user_asked_to_freeze_are_not_told(tmp_path):
    watch = GradWatch(live=False)
    train(tmp_path, watch=watch, data=shapes(20), freeze=4)
    assert watch.report().findings == ()
    modules = load_run(watch.run_dir).layout.modules
    assert "model.3" not in modules
    assert "model.4" in modules


def test_a_layer_that_is_thawed_is_watched_again(tmp_path):
    def thaw(trainer):
        if trainer.batches_done == 5:
            trainer.model.requires_grad_(requires_grad=True)

    watch = GradWatch(live=False)
    calls = [freeze("model.3.", at=2), ("on_train_batch_end", thaw)]
    train(tmp_path, watch=watch, data=shapes(28), calls=calls)
    run = load_run(watch.run_dir)
    norms = run.windows[run.windows["module"] == "model.3.conv"].set_index("step_first")[
        "norm_mean"
    ]
    assert list(norms.index[norms.isna()]) == [3, 4, 5]
    assert [f.rule for f in watch.report().findings] == ["frozen"]


def test_stop_on_ends_the_training_and_keeps_its_checkpoint(tmp_path):
    watch = GradWatch(live=False, stop_on=("nonfinite",))
    calls = [spoil("model.6.cv2.conv.weight", float("nan"), at=2)]
    model = train(tmp_path, watch=watch, data=shapes(20), calls=calls, epochs=3)
    assert watch.stopped_by.rule == "nonfinite"
    assert watch.report().steps <= 5  # an older Ultralytics looks at the end of an epoch only
    assert model.trainer.last.exists()


def test_on_finding_and_outputs_are_served_and_dropped_when_they_fail(tmp_path, caplog):
    class Memory:
        def __init__(self):
            self.steps, self.closed = [], 0

        def window(self, window):
            self.steps.append(window.step_last)

        def close(self):
            self.closed += 1

    class Broken(Memory):
        def window(self, window):
            super().window(window)
            raise OSError("no connection")

    found, good, bad = [], Memory(), Broken()

    def notify(finding):
        found.append(finding.rule)
        raise RuntimeError("mail server is down")

    watch = GradWatch(live=False, on_finding=notify, outputs=[good, bad])
    calls = [spoil("model.6.cv2.conv.weight", float("nan"), at=2)]
    train(tmp_path, watch=watch, data=shapes(12), calls=calls)
    assert found[0] == "nonfinite"
    assert good.steps == [1, 2, 3]
    assert (len(bad.steps), bad.closed, good.closed) == (1, 1, 1)
    assert ["no connection" in one for one in told(caplog)] == [True, False]


def test_resume_appends_and_continues_the_count(tmp_path):
    def interrupt(trainer):
        if trainer.epoch == 2:
            raise KeyboardInterrupt

    watch = GradWatch(live=False)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, watch=watch, epochs=4, calls=[("on_train_batch_end", interrupt)])
    before = load_run(watch.run_dir)
    assert before.windows["step_last"].max() == 5
    last = tmp_path / "run" / "weights" / "last.pt"
    resumed = GradWatch(live=False)
    train(tmp_path, watch=resumed, model=str(last), resume=True, epochs=4)
    run = load_run(tmp_path / "run")
    assert run.meta.status == "finished"
    assert [(e.kind, e.step) for e in run.meta.events] == [("start", 1), ("resume", 6)]
    whole = run.windows[run.windows["module"] == "model"]
    assert list(whole["step_first"]) == list(range(1, 10))
    assert list(whole["epoch"]) == [1, 1, 2, 2, 3, 3, 3, 4, 4]
    assert run.windows[: len(before.windows)].equals(before.windows)
    assert resumed.report() == run.report()


def test_a_resumed_run_counts_steps_that_were_not_captured_too(tmp_path):
    def interrupt(trainer):
        if trainer.epoch == 1:
            raise KeyboardInterrupt

    options = {"data": shapes(20), "model": small(), "epochs": 2}
    calls = [("on_train_epoch_start", interrupt)]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, watch=GradWatch(live=False, interval=3), calls=calls, **options)
    last = tmp_path / "run" / "weights" / "last.pt"
    resumed = GradWatch(live=False, interval=3)
    train(tmp_path, watch=resumed, resume=True, **{**options, "model": str(last)})
    run = load_run(tmp_path / "run")
    assert [(e.kind, e.step) for e in run.meta.events] == [("start", 1), ("resume", 6)]
    whole = run.windows[run.windows["module"] == "model"]
    assert list(whole["step_first"]) == [1, 4, 6, 9]  # five steps an epoch
    assert run.meta.last_step == 10
    assert run.report() == resumed.report()


def resume(folder, *, epochs, faults=(), trainer=None):
    """Interrupt a training after its second epoch, and resume it; the run of both."""

    def interrupt(trainer):
        if trainer.epoch == 2:
            raise KeyboardInterrupt

    first = GradWatch(live=False)
    calls = [*faults, ("on_train_batch_end", interrupt)]
    with pytest.raises(KeyboardInterrupt):
        train(folder, watch=first, epochs=epochs, calls=calls, trainer=trainer, data=shapes(20))
    before = load_run(first.run_dir)
    assert before.report() == first.report()
    tables = [first.run_dir / name for name in ("gradwatch.csv", "gradwatch_alerts.csv")]
    old = [path.read_bytes() for path in tables]
    last = folder / "run" / "weights" / "last.pt"
    resumed = GradWatch(live=False)
    train(
        folder,
        watch=resumed,
        model=str(last),
        resume=True,
        epochs=epochs,
        calls=faults,
        trainer=trainer,
        data=shapes(20),
    )
    run = load_run(first.run_dir)
    steps = sorted(set(run.windows["step_first"]))
    assert steps == list(range(1, 5 * epochs + 2))  # epoch 3 again, after its first step
    assert all(path.read_bytes().startswith(o) for path, o in zip(tables, old, strict=True))
    assert run.report() == resumed.report()
    return before, run


def cut(trainer):
    """Take what is behind a block away from the loss."""

    def detach(module, inputs, output):
        return output.detach()

    trainer.model.model[4].register_forward_hook(detach)


def test_a_fault_that_goes_on_after_a_resume_is_the_same_finding(tmp_path):
    before, run = resume(tmp_path, epochs=4, faults=[("on_train_start", cut)])
    (old,), (new,) = before.report().findings, run.report().findings
    assert (old.rule, old.module, old.step) == ("no_gradient", "model.4", 1)
    assert (new.rule, new.modules, new.step) == (old.rule, old.modules, old.step)
    assert new.message == old.message
    assert (new.number, len(new.episodes), new.step_end) == (1, 1, None)
    assert list(run.alerts["event"]) == ["start"]


def test_a_fault_that_a_resume_cures_is_over_from_there_on(tmp_path):
    once = []

    def cut_once(trainer):
        if not once:
            cut(trainer)
        once.append(1)

    before, run = resume(tmp_path, epochs=4, faults=[("on_train_start", cut_once)])
    (old,), (new,) = before.report().findings, run.report().findings
    assert (new.rule, new.step, new.message) == (old.rule, old.step, old.message)
    assert (old.step_end, new.step_end) == (None, 12)
    assert list(run.alerts["event"]) == ["start", "end"]


def test_a_spike_before_a_resume_keeps_its_file(tmp_path):
    kind = witness(at=8, fault="spike")
    before, run = resume(tmp_path, epochs=4, trainer=kind)
    (old,), (new,) = before.report().findings, run.report().findings
    assert (old.rule, old.step) == (new.rule, new.step) == ("spike", 8)
    assert new.evidence == old.evidence == "gradwatch/evidence/step-00008.json"
    assert (tmp_path / "run" / new.evidence).exists()
    assert new.message == old.message


def test_a_new_run_into_the_same_folder_replaces_the_files(tmp_path):
    train(tmp_path, watch=GradWatch(live=False), epochs=2)
    train(tmp_path, watch=GradWatch(live=False), epochs=1)
    run = load_run(tmp_path / "run")
    assert run.windows["step_last"].max() == 2
    assert [e.kind for e in run.meta.events] == ["start"]


def poor_trainer():
    """A trainer class that runs out of memory in its second batch of four images."""
    from ultralytics.models.yolo.detect import DetectionTrainer

    class Poor(DetectionTrainer):
        def preprocess_batch(self, batch):
            if self.batch_size == 4 and self._steps_done():
                raise RuntimeError("CUDA out of memory (planted)")
            return super().preprocess_batch(batch)

        def _steps_done(self):
            self.asked = getattr(self, "asked", 0) + 1
            return self.asked > 1

    return Poor


def test_a_batch_that_did_not_fit_is_no_part_of_the_next_step(tmp_path):
    """Ultralytics drops it together with the gradients, and begins the epoch again."""
    from ultralytics.engine.trainer import BaseTrainer

    needs(BaseTrainer, "_oom_retries")
    kind = poor_trainer()
    watch = GradWatch(live=False)
    calls = [spoil("model.6.cv2.conv.weight", float("nan"), at=2)]
    train(tmp_path, watch=watch, trainer=kind, calls=calls)
    content = made_of(watch.run_dir, 2)
    assert {len(batch) for batch in content["images"]} == {2}


def test_every_epoch_has_a_table_where_there_is_no_terminal(tmp_path, capsys):
    train(tmp_path, watch=GradWatch(), epochs=2)
    out = capsys.readouterr().out
    assert out.count("GradWatch epoch") == 2
    assert "23 Detect" in out
    assert "GradWatch: healthy" in out
    assert str(tmp_path / "run" / "gradwatch.csv") in out
    assert "\x1b[?25" not in out


def test_official_coco8_is_healthy(tmp_path):
    watch = GradWatch(live=False)
    train(tmp_path, watch=watch, data=official("coco8"), imgsz=160, epochs=6)
    assert watch.report().healthy
    assert watch.report().steps == 6


def test_the_settings_of_the_tests_are_their_own():
    from ultralytics import settings

    assert str(HOME) in str(settings.file)


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), ValueError("closed file")])
def test_a_reader_that_goes_away_ends_neither_the_training_nor_the_watch(
    tmp_path, monkeypatch, error
):
    class Gone(io.StringIO):
        """Refuses our lines only: on all others Ultralytics itself would stumble."""

        def write(self, text):
            if "GradWatch" in text:
                raise error
            return super().write(text)

    watch = GradWatch()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Gone())
        model = train(tmp_path, watch=watch, epochs=2)
    assert model.trainer.last.exists()
    assert load_run(watch.run_dir).meta.status == "finished"
    assert watch.report().steps == 4


def test_files_that_cannot_be_continued_are_set_aside(tmp_path, caplog):
    def interrupt(trainer):
        if trainer.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, watch=GradWatch(), epochs=3, calls=[("on_train_epoch_start", interrupt)])
    folder = tmp_path / "run"
    (folder / "gradwatch.json").write_text("{", encoding="utf-8")
    last = folder / "weights" / "last.pt"
    train(tmp_path, watch=GradWatch(live=False), model=str(last), resume=True)
    said = told(caplog)
    assert len(said) == 1
    assert "kept as *.old" in said[0]
    assert (folder / "gradwatch.csv.old").exists()
    assert load_run(folder).report().steps == 4


def test_an_error_of_ours_is_told_by_the_file_and_by_fail_on(tmp_path, monkeypatch):
    from test_cli import SMALL

    from yolo_gradwatch.cli_main import main

    def broken(*args, **options):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Capture, "take", broken)
    arguments = ["train", "model=yolo26n.yaml", f"data={shapes()}", *SMALL, f"project={tmp_path}"]
    assert main([*arguments, "--fail-on", "dead"]) == 1
    assert load_run(tmp_path / "run").meta.status == "failed"
    assert main(arguments) == 0
