"""What a watch finds in a training, and what it writes."""

import json
import math

import numpy as np
import pytest
from devices import needs_cuda
from short import at, bits_of, leave, spoil, warnings_of
from training import HOME, official, recording_trainer, train

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.views.heatmap import FINE, heatmap

CONV = "model.1.conv"
WEIGHT = f"{CONV}.weight"
AROUND = ["model", "model.1", CONV]


def watched(way, folder, *, finds=None, **options):
    """Train, compare the live report with the files, and return report and run.

    Args:
        way: How to train.
        folder: Of the project.
        finds: Rule and module of the only finding; None if it does not matter.
        options: As for `Way.train`, and those of the watch under ``about``.
    """
    watch = GradWatch(live=False, **options.pop("about", {}))
    way.train(folder, watch=watch, **{"epochs": 1, "warmup_epochs": 0, **options})
    report, run = watch.report(), load_run(watch.run_dir)
    assert run.report() == report
    if finds is not None:
        assert [(f.rule, f.module) for f in report.findings] == [finds]
    return report, run


def whole(run):
    """The rows of the whole model."""
    return run.windows[run.windows["module"] == "model"]


def in_block(number, change):
    """A callback that hooks the output of a block."""

    def add_hook(trainer):
        def hook(_module, _inputs, output):
            return change(output) if output.requires_grad else output  # not during validation

        trainer.model.model[number].register_forward_hook(hook)

    return add_hook


def silenced(output):
    output.register_hook(lambda gradient: gradient * 0)
    return output


cut = in_block(2, lambda output: output.detach())


def requires(*, grad, name="model."):
    """A callback function that freezes or thaws a part of the model."""

    def change(trainer):
        for path, one in trainer.model.named_parameters():
            if path.startswith(name) and "dfl" not in path:
                one.requires_grad_(requires_grad=grad)

    return change


# --- findings -------------------------------------------------------------------------------------


def test_nan_in_one_gradient_is_named_with_its_step(way, tmp_path, capsys):
    calls = [spoil(WEIGHT, at=3)]
    report, run = watched(way, tmp_path, images=12, calls=calls, finds=("nonfinite", CONV))
    (finding,) = report.findings
    assert finding.step == 3
    assert f"{CONV} (Conv2d)" in finding.message
    assert f"\nGradWatch critical nonfinite: {CONV}" in capsys.readouterr().out
    assert finding.evidence == "gradwatch/evidence/step-00003.json"
    assert tuple(run.alerts.loc[0, ["event", "step", "rule"]]) == ("start", 3, "nonfinite")
    bad = run.windows[(run.windows["step_first"] == 3) & (run.windows["nonfinite"] > 0)]
    assert list(bad["module"]) == AROUND


@pytest.mark.parametrize("first", [1, 3])
def test_loss_whose_gradient_clipping_zeroes_is_found_at_its_first_step(way, tmp_path, first):
    """Each element of the gradient is finite, but its norm is beyond float32."""
    learned = []

    def scale_loss(trainer):
        calls, inner = [], trainer.model.loss

        def loss(*args, **options):
            calls.append(1)
            value, items = inner(*args, **options)
            return value * (6e35 if len(calls) >= first else 1.0), items

        def record_gradients(*_args):
            gradients = (p.grad for p in trainer.model.parameters() if p.grad is not None)
            learned.append(any(bool(gradient.any()) for gradient in gradients))

        trainer.model.loss = loss
        trainer.optimizer.register_step_pre_hook(record_gradients)

    options = {"images": 20, "epochs": 2, "calls": [("on_train_start", scale_loss)]}
    options |= {"model": "yolo26n.yaml", "imgsz": 64}  # whose norm is about 1,000
    about = {"stop_on": ("total_high",)}
    report, run = watched(way, tmp_path, finds=("total_high", "model"), about=about, **options)
    assert learned == [step < first for step in range(1, len(learned) + 1)]
    (finding,) = report.findings
    assert (finding.severity, finding.step) == ("critical", first)
    assert len(evidence_of(run, first)["images"][0]) == 4
    assert not run.grid.nonfinite.any()
    norms = run.grid.norm_mean[first - 1 :, 0]
    assert np.isinf(norms).all() if way.is_real else (norms > 1.8e19).all()
    (epoch,) = report.epochs
    last = len(learned)  # 8.4.0 stops at the end of an epoch only
    assert last in {first, 5} if way.is_real else last == first
    assert (epoch.steps, epoch.skipped) == (last, 0)
    assert (heatmap(run, report).states == FINE).all()


@pytest.mark.parametrize(("interval", "captured"), [(1, 40), (3, 14)])
def test_step_counts_include_only_captured_steps(way, tmp_path, interval, captured):
    """All but the first step overflow, so that AMP skips them."""
    options = {"images": 80, "epochs": 2, "kind": way.scaled(), "about": {"interval": interval}}
    calls = [spoil(WEIGHT, math.inf, at=2, until=math.inf)]
    report, run = watched(way, tmp_path, calls=calls, **options)
    assert (report.interval, report.steps) == (interval, captured)
    assert sum(epoch.steps for epoch in report.epochs) == captured
    assert sum(epoch.skipped for epoch in report.epochs) == captured - 1
    assert whole(run)["steps"].sum() == captured
    assert whole(run)["step_last"].max() == 1 + interval * (captured - 1)
    (finding,) = report.alarms
    assert (finding.rule, finding.value, finding.limit) == ("nonfinite", 13.0, 12.0)
    assert finding.step == 1 + interval


def test_overflow_under_amp_is_a_notice(way, tmp_path):
    options = {"images": 20, "kind": way.scaled(), "calls": [spoil(WEIGHT, math.inf, at=3)]}
    report, run = watched(way, tmp_path, **options)
    assert report.healthy
    assert [(f.rule, f.severity) for f in report.findings] == [("amp_overflow", "notice")]
    assert list(whole(run)["skipped"]) == [0, 0, 1, 0, 0]
    assert (run.windows["nonfinite"] == 0).all()
    assert [(e.skipped, e.scale) for e in report.epochs] == [(1, 32768.0)]


def test_steps_are_optimizer_steps_under_accumulation(way, tmp_path):
    kind = recording_trainer(way.base)
    report, _ = watched(way, tmp_path, images=80, kind=kind, epochs=2, nbs=16)
    assert report.steps == len(kind.notes) == 10  # from 40 batches
    assert sum(epoch.steps for epoch in report.epochs) == 10


@pytest.mark.parametrize(
    ("add_hook", "finds"),
    [(in_block(2, silenced), ("dead", "model.2")), (cut, ("no_gradient", "model.2"))],
)
def test_block_without_a_gradient_is_named_with_its_upstream(way, tmp_path, add_hook, finds):
    options = {"images": 20, "calls": [("on_train_start", add_hook)]}
    report, _ = watched(way, tmp_path, finds=finds, **options)
    assert report.findings[0].step == 1
    assert "upstream" in report.findings[0].message


@pytest.mark.parametrize(
    ("moment", "step"), [(("on_train_batch_end", 3), 4), (("on_train_start", 1), 1)]
)
def test_layer_frozen_by_other_code_is_a_notice_and_no_alarm(way, tmp_path, moment, step):
    calls = [at(*moment, requires(grad=False, name="model.3."))]
    report, run = watched(way, tmp_path, images=28, calls=calls, finds=("frozen", "model.3"))
    (finding,) = report.findings
    assert (finding.severity, finding.step, report.healthy) == ("notice", step, True)
    assert not run.windows[["none", "nonfinite"]].to_numpy().any()
    inside = run.windows["module"].str.match(r"model\.3(\.|$)")
    assert not run.windows.loc[inside, "zero"].any()
    unknown = run.windows["norm_mean"].isna()
    assert (unknown == (inside & (run.windows["step_first"] >= step))).all()
    assert not run.windows.groupby("module")["weight_norm"].first().isna().any()


def test_thawed_layer_has_norms_again(way, tmp_path):
    calls = [
        at("on_train_batch_end", 2, requires(grad=False, name="model.3.")),
        at("on_train_batch_end", 5, requires(grad=True)),
    ]
    _, run = watched(way, tmp_path, images=28, calls=calls, finds=("frozen", "model.3"))
    conv = run.windows[run.windows["module"] == "model.3.conv"].set_index("step_first")
    assert list(conv.index[conv["norm_mean"].isna()]) == [3, 4, 5]


def test_layers_frozen_by_option_are_not_a_finding(way, tmp_path):
    report, run = watched(way, tmp_path, images=20, freeze=2)
    assert report.findings == ()
    assert "model.1" not in run.layout.modules
    assert "model.2" in run.layout.modules


@pytest.mark.train
def test_official_coco8_is_healthy(tmp_path):
    watch = GradWatch(live=False)
    train(tmp_path, watch=watch, data=official("coco8"), imgsz=160, epochs=6)
    assert watch.report().healthy
    assert watch.report().steps == 6


# --- what a step consisted of ---------------------------------------------------------------------

ACCUMULATED = {"nbs": 8, "images": 32}
"""Two batches a step."""


def evidence_of(run, step):
    """The evidence of a step, after comparing its norms with the table."""
    path = run.folder / f"gradwatch/evidence/step-{step:05}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = run.windows[run.windows["step_first"] == step].set_index("module")
    assert (rows["step_last"] == step).all()
    norms = content.pop("norms")
    assert list(norms) == list(rows.index) == list(run.layout.modules)
    for module, norm in norms.items():
        bad = isinstance(norm, str)
        assert rows.loc[module, "nonfinite"] == (bad and not content["skipped"]), module
        with np.errstate(over="ignore"):
            single = np.float32(math.nan if bad else norm)
        np.testing.assert_equal(np.float32(rows.loc[module, "norm_mean"]), single, module)
    assert content.pop("step") == step
    assert content.pop("epoch") == rows["epoch"].iloc[0]
    return content


@pytest.mark.parametrize("interval", [1, 2])
def test_nan_loss_leaves_a_file_with_what_its_step_consisted_of(way, tmp_path, interval):
    kind, about = recording_trainer(way.base, at=3, fault="nan"), {"interval": interval}
    options = {"kind": kind, "about": about, "finds": ("nonfinite", "model"), **ACCUMULATED}
    report, run = watched(way, tmp_path, **options)
    (finding,) = report.findings
    assert (finding.step, finding.evidence) == (3, "gradwatch/evidence/step-00003.json")
    content, note = evidence_of(run, 3), kind.notes[2]
    assert [len(batch) for batch in content["images"]] == [4, 4]
    assert content["images"] == note["images"]
    assert content["learning_rates"] == note["learning_rates"]
    assert set(content["losses"]) == set(note["losses"])
    assert "nan" in content["losses"].values()
    assert (content["scale"], content["skipped"]) == (None, False)
    assert finding.evidence in run.alerts.loc[0, "message"]
    assert finding.evidence in str(report)


def test_spike_leaves_a_file_with_its_losses_and_the_loss_scale(way, tmp_path):
    kind = recording_trainer(way.scaled(), at=7, fault="spike")
    options = {"kind": kind, "finds": ("spike", "model"), **ACCUMULATED, "images": 64}
    report, run = watched(way, tmp_path, **options)
    assert report.findings[0].step == 7
    content = evidence_of(run, 7)
    assert content == {**kind.notes[6], "skipped": False}
    assert content["scale"] == 65536.0
    assert len(content["images"]) == 2


def test_nan_in_one_gradient_leaves_a_file_with_the_other_norms(way, tmp_path):
    kind = recording_trainer(way.base)
    options = {"kind": kind, "calls": [spoil(WEIGHT, at=5)], **ACCUMULATED}
    report, run = watched(way, tmp_path, **options)
    assert evidence_of(run, 3) == {**kind.notes[2], "skipped": False}
    norms = json.loads((run.folder / report.findings[0].evidence).read_text())["norms"]
    assert [module for module, norm in norms.items() if norm == "nan"] == AROUND


@pytest.mark.train
def test_classification_has_no_image_files(tmp_path):
    watch = GradWatch(live=False)
    calls = [spoil("model.1.conv.weight", at=4)]
    options = {"batch": 2, "nbs": 4, "warmup_epochs": 0, "model": "yolo26n-cls.yaml"}
    train(tmp_path, watch=watch, data=official("imagenet10"), calls=calls, **options)
    assert watch.report().findings[0].module == "model.1.conv"
    content = evidence_of(load_run(watch.run_dir), 2)
    assert content["images"] == [[], []]
    assert list(content["losses"]) == ["loss"]


def test_new_run_in_the_same_folder_replaces_all_files(way, tmp_path):
    watched(way, tmp_path, images=12, calls=[spoil(WEIGHT, at=2)])
    evidence = tmp_path / "run" / "gradwatch" / "evidence"
    assert [path.name for path in evidence.iterdir()][:1] == ["step-00002.json"]
    report, run = watched(way, tmp_path)
    assert list(evidence.iterdir()) == []
    assert report.healthy
    assert run.windows["step_last"].max() == 2
    assert [event.kind for event in run.meta.events] == ["start"]


# --- options --------------------------------------------------------------------------------------


def test_interval_captures_every_third_step(way, tmp_path):
    _, run = watched(way, tmp_path, images=20, about={"interval": 3})
    assert list(whole(run)["step_first"]) == [1, 4]
    assert run.meta.options.interval == 3


def test_stop_on_ends_the_training_and_keeps_its_checkpoint(way, tmp_path):
    watch = GradWatch(live=False, stop_on=("nonfinite",))
    trainer = way.train(tmp_path, watch=watch, images=20, save=True, calls=[spoil(WEIGHT, at=2)])
    (finding,) = watch.report().findings
    for one in (finding, watch.stopped_by):
        assert (one.rule, one.number, one.step) == ("nonfinite", 1, 2)
    assert [one for one in watch.report().remarks if finding.rule in one and "stop_on" in one]
    assert load_run(watch.run_dir).report().remarks == watch.report().remarks
    assert watch.report().steps <= 5  # an older Ultralytics checks only at the end of an epoch
    assert trainer.last.exists()


# --- resume ---------------------------------------------------------------------------------------


def resumed(way, folder, moment, *, calls=(), kind=None, epochs=4, about=None, **options):  # noqa: PLR0913  # of both parts
    """Interrupt a training at an event, and resume it; the run before and after."""
    about, shared = about or {}, {"images": 20, "epochs": epochs, "save": True, **options}
    first, second = (GradWatch(live=False, **about) for _ in range(2))
    stops = [*calls, at(*moment, leave(KeyboardInterrupt))]
    with pytest.raises(KeyboardInterrupt):
        way.train(folder, watch=first, calls=stops, kind=kind, **shared)
    before = load_run(first.run_dir)
    assert before.report() == first.report()
    tables = [first.run_dir / name for name in ("gradwatch.csv", "gradwatch_alerts.csv")]
    old = [path.read_bytes() for path in tables]
    last = str(first.run_dir / "weights" / "last.pt")
    way.train(folder, watch=second, calls=calls, kind=kind, resume=last, **shared)
    run = load_run(first.run_dir)
    assert run.report() == second.report()
    assert run.meta.status == "finished"
    assert all(path.read_bytes().startswith(o) for path, o in zip(tables, old, strict=True))
    return before, run


IN_EPOCH_3 = ("on_train_batch_end", 11)


def events_of(run):
    return [(event.kind, event.step) for event in run.meta.events]


@pytest.mark.slow
def test_resume_appends_and_continues_the_count(way, tmp_path):
    _, run = resumed(way, tmp_path, IN_EPOCH_3)
    assert events_of(run) == [("start", 1), ("resume", 12)]
    assert list(whole(run)["step_first"]) == list(range(1, 22))  # epoch 3 again, after a step
    assert list(whole(run)["epoch"]) == [1] * 5 + [2] * 5 + [3] * 6 + [4] * 5


def test_resumed_run_also_counts_steps_that_were_not_captured(way, tmp_path):
    moment, about = ("on_train_epoch_start", 2), {"interval": 3}
    _, run = resumed(way, tmp_path, moment, epochs=2, about=about)
    assert events_of(run) == [("start", 1), ("resume", 6)]
    assert list(whole(run)["step_first"]) == [1, 4, 6, 9]  # five steps an epoch
    assert run.meta.last_step == 10


def test_fault_that_continues_after_a_resume_is_the_same_finding(way, tmp_path):
    before, run = resumed(way, tmp_path, IN_EPOCH_3, calls=[("on_train_start", cut)])
    (old,), (new,) = before.report().findings, run.report().findings
    assert (old.rule, old.module, old.step) == ("no_gradient", "model.2", 1)
    assert (new.rule, new.modules, new.step) == (old.rule, old.modules, old.step)
    assert new.message == old.message
    assert (new.number, len(new.episodes), new.step_end) == (1, 1, None)
    assert list(run.alerts["event"]) == ["start"]


@pytest.mark.slow
def test_fault_cured_by_a_resume_ends_there(way, tmp_path):
    before, run = resumed(way, tmp_path, IN_EPOCH_3, calls=[at("on_train_start", 1, cut)])
    (old,), (new,) = before.report().findings, run.report().findings
    assert (new.rule, new.step, new.message) == (old.rule, old.step, old.message)
    assert (old.step_end, new.step_end) == (None, 12)
    assert list(run.alerts["event"]) == ["start", "end"]


def test_spike_before_a_resume_keeps_its_file(way, tmp_path):
    kind = recording_trainer(way.base, at=8, fault="spike")
    before, run = resumed(way, tmp_path, IN_EPOCH_3, kind=kind)
    (old,), (new,) = before.report().findings, run.report().findings
    assert (old.rule, old.step) == (new.rule, new.step) == ("spike", 8)
    assert new.evidence == old.evidence == "gradwatch/evidence/step-00008.json"
    assert (run.folder / new.evidence).exists()
    assert new.message == old.message


def test_damaged_files_are_set_aside_on_resume(way, tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt):
        way.train(
            tmp_path,
            watch=GradWatch(live=False),
            calls=[at("on_train_epoch_start", 2, leave(KeyboardInterrupt))],
            save=True,
        )
    folder = tmp_path / "run"
    (folder / "gradwatch.json").write_text("{", encoding="utf-8")
    resumed = GradWatch(live=False)
    way.train(tmp_path, watch=resumed, resume=str(folder / "weights" / "last.pt"), save=True)
    (one,) = warnings_of(caplog)
    assert "kept as *.old" in one
    assert (folder / "gradwatch.csv.old").exists()
    assert load_run(folder).report() == resumed.report()
    assert resumed.report().steps == 6


# --- attaching ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name"),
    [("RTDETR", "rtdetr-l.yaml"), ("YOLOWorld", "yolov8s-world.yaml"), ("YOLOE", "yoloe-v8s.yaml")],
)
@pytest.mark.slow
def test_every_ultralytics_model_class_can_be_attached(kind, name):
    import ultralytics

    model = getattr(ultralytics, kind)(name)
    watch = GradWatch().attach(model)
    assert model.callbacks["on_pretrain_routine_start"][-1] == watch._attachment.on_begin


def test_model_without_training_is_refused():
    from ultralytics import FastSAM

    model = FastSAM.__new__(FastSAM)
    model.callbacks, model.task = {}, "segment"
    with pytest.raises(TypeError, match=r"FastSAM has no train\(\) in Ultralytics"):
        GradWatch().attach(model)


@pytest.mark.train
def test_documented_usage_trains_validates_and_saves(tmp_path):
    """``YOLO(...)``, ``attach``, ``train``, with a custom trainer class."""
    from ultralytics.models.yolo.detect import DetectionTrainer

    class MyTrainer(DetectionTrainer):
        pass

    watch = GradWatch(live=False)
    model = train(tmp_path, watch=watch, trainer=MyTrainer, val=True)
    assert type(model.trainer) is MyTrainer
    assert watch.report().steps == 2
    checkpoint = model.trainer.last.read_bytes()
    assert b"yolo_gradwatch" not in checkpoint
    assert b"GradWatch" not in checkpoint


@pytest.mark.train
@needs_cuda
def test_weights_are_unchanged_bit_for_bit_on_a_gpu(tmp_path):
    watches = {"bare": None, "watched": GradWatch(live=False)}
    runs = [train(tmp_path / n, watch=w, epochs=2, device="0") for n, w in watches.items()]
    one, other = (bits_of(run.trainer) for run in runs)
    assert one == other


def test_tests_use_their_own_ultralytics_settings():
    from ultralytics import settings

    assert str(HOME) in str(settings.file)
