"""Trainings that restart an epoch, and layers that thaw mid-training, compared with torch."""

import inspect
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import NET
from short import at, leave, spoil
from training import needs, recording_trainer
from values import LAYOUT, grown, window, write_run

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.diagnose.diagnosis import Diagnosis, replay
from yolo_gradwatch.diagnose.thresholds import Thresholds
from yolo_gradwatch.measure.event import Event
from yolo_gradwatch.measure.layout import dated, watched_at

pytestmark = pytest.mark.slow  # whole trainings, with a fake trainer too


def watched(way, folder, oracle, *, calls=(), **options):
    """Train; compare each step with torch, and the replay with the live report."""
    wraps, watch = [], GradWatch(live=False)

    def look(trainer):
        wraps.append(("unscale_" in vars(trainer.scaler), "preprocess_batch" in vars(trainer)))

    calls = [("on_train_start", oracle.take_model), ("on_train_epoch_end", look), *calls]
    options = {"save": True, "warmup_epochs": 0, **options}
    try:
        trainer = way.train(folder, watch=watch, calls=calls, **options)
    finally:
        assert set(wraps) == {(True, True)}
        run = load_run(folder / "run")
        assert_as_torch(run, oracle)
        assert run.report() == watch.report()
    return trainer, run


def assert_as_torch(run, oracle):
    """The steps have no gaps, and each has the norms that torch saw when it clipped."""
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


def epochs_of(run):
    return [epoch.epoch for epoch in run.meta.epochs]


# --- NaN ------------------------------------------------------------------------------------------


def ruin(times):
    """A callback that makes a weight NaN at the start of the second epoch, this many times."""
    done = []

    def fill(trainer):
        if trainer.epoch == 1 and len(done) < times:
            done.append(1)
            dict(trainer.model.named_parameters())["model.2.conv.weight"].data.fill_(float("nan"))

    return ("on_train_epoch_start", fill)


def note_recoveries(trainer, oracle, steps):
    """Record the step that follows each recovery.

    In 8.4.100 the restarted epoch has no step, because its batches count as done, and its
    gradients go into the first step of the next epoch: after a second epoch that was not finite,
    that step is not finite either.
    """
    recover = trainer._handle_nan_recovery

    def recorded(epoch):
        is_restored = recover(epoch)
        steps.extend([len(oracle.clip) + 1] * is_restored)
        return is_restored

    trainer._handle_nan_recovery = recorded


@pytest.mark.parametrize("times", [1, 3])
def test_recovery_from_nan_continues_the_count(way, tmp_path, oracle, times):
    from ultralytics.engine.trainer import BaseTrainer

    if way.is_real and "loss_nan and (" in inspect.getsource(BaseTrainer._handle_nan_recovery):
        pytest.skip("this Ultralytics recovers only if the fitness is lost too, and there is none")
    recovered = []
    calls = [
        ruin(times),
        ("on_train_start", lambda trainer: note_recoveries(trainer, oracle, recovered)),
    ]
    _, run = watched(way, tmp_path, oracle, epochs=5, calls=calls)
    assert len(recovered) >= times
    assert recovered[0] == 5
    assert events_of(run) == [("start", 1), *(("nan_recovery", step) for step in recovered)]
    assert epochs_of(run) == oracle.epochs[::2]  # of two steps each, except for those without any
    assert run.meta.status == "finished"
    (finding,) = run.report().findings
    assert (finding.rule, finding.step) == ("nonfinite", 3)
    assert finding.step_end is None  # it might recur within a few steps
    assert len(finding.episodes) == 1


def test_failed_recovery_fails_as_without_the_watch(faked, tmp_path, oracle):
    with pytest.raises(RuntimeError, match="NaN persisted for 4 epochs"):
        faked.train(tmp_path / "bare", save=True, calls=[ruin(4)])
    with pytest.raises(RuntimeError, match="NaN persisted for 4 epochs"):
        watched(faked, tmp_path, oracle, calls=[ruin(4)])
    run = load_run(tmp_path / "run")
    assert events_of(run) == [("start", 1), *(("nan_recovery", step) for step in (5, 7, 9))]
    assert run.meta.status == "failed"


# --- out of memory --------------------------------------------------------------------------------


def starve(times):
    """A callback that makes every second forward pass run out of memory, this many times."""

    def add_hook(trainer):
        passes, failed = [], []

        def hook(_module, _inputs):
            if not torch.is_grad_enabled():
                return
            passes.append(trainer.batch_size)
            if len(passes) % 2 == 0 and len(failed) < times:
                failed.append(1)
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

        trainer.model.model[2].register_forward_pre_hook(hook)

    return add_hook


@pytest.mark.parametrize("times", [1, 2])
def test_halved_batch_after_out_of_memory_continues_the_count(way, tmp_path, oracle, times):
    from ultralytics.engine.trainer import BaseTrainer

    needs(BaseTrainer, "_oom_retries")
    options = {"imgsz": 64, "epochs": 2}  # for batches of a single image
    calls = [("on_train_start", starve(times))]
    trainer, run = watched(way, tmp_path, oracle, calls=calls, **options)
    assert trainer.batch_size == 4 >> times
    assert [kind for kind, _ in events_of(run)] == ["start", *["oom_restart"] * times]
    assert events_of(run)[1] == ("oom_restart", 2)
    assert run.meta.status == "finished"
    assert epochs_of(run)[-2:] == [1, 2]


def test_batch_that_did_not_fit_is_not_part_of_the_next_step(way, tmp_path, oracle):
    """The trainer drops it together with its gradients."""
    from ultralytics.engine.trainer import BaseTrainer

    needs(BaseTrainer, "_oom_retries")
    calls = [("on_train_start", starve(1)), spoil("model.1.conv.weight", at=2)]
    _, run = watched(way, tmp_path, oracle, calls=calls, imgsz=64, epochs=1)
    evidence = json.loads((run.folder / "gradwatch/evidence/step-00002.json").read_text())
    assert {len(batch) for batch in evidence["images"]} == {2}


def test_out_of_memory_after_the_first_epoch_fails_as_without_the_watch(faked, tmp_path, oracle):
    calls = [at("on_train_epoch_start", 2, starve(1))]
    with pytest.raises(torch.cuda.OutOfMemoryError, match="out of memory"):
        watched(faked, tmp_path, oracle, calls=calls)
    run = load_run(tmp_path / "run")
    assert (run.meta.status, run.report().steps) == ("failed", 3)


def test_training_that_stops_early_is_finished(faked, tmp_path, oracle):
    def stop(trainer):
        trainer.stop = True

    calls = [at("on_fit_epoch_end", 2, stop)]
    trainer, run = watched(faked, tmp_path, oracle, epochs=8, calls=calls)
    assert trainer.epoch == 1
    assert run.meta.status == "finished"
    assert epochs_of(run) == [1, 2]


def test_epochs_without_a_step_have_no_rows(faked, tmp_path, oracle):
    """Each step uses the batches of two epochs."""
    _, run = watched(faked, tmp_path, oracle, nbs=16)
    assert run.report().steps == 2
    assert epochs_of(run) == [2, 4]
    assert sorted(set(run.windows["epoch"])) == [2, 4]


# --- thaw -----------------------------------------------------------------------------------------


def names_in(run, step):
    return set(run.windows["module"][run.windows["step_first"] == step])


def thaw(*names, then=lambda _parameter: None):
    """A callback function that thaws parts of the model, or all of it."""

    def change(trainer):
        for name, parameter in trainer.model.named_parameters():
            if name.startswith(names or "model.") and "dfl" not in name:
                parameter.requires_grad_(requires_grad=True)
                then(parameter)

    return change


def kill(parameter):
    parameter.register_hook(lambda grad: grad * 0)


@pytest.mark.parametrize("names", [(), ("model.0.", "model.2.conv.weight")], ids=["all", "some"])
def test_total_covers_everything_that_is_trained(way, tmp_path, oracle, names):
    calls = [at("on_train_batch_start", 3, thaw(*names))]
    _, run = watched(way, tmp_path, oracle, images=20, epochs=1, freeze=4, calls=calls)
    before, after = names_in(run, 2), names_in(run, 3)
    assert not any(name.startswith("model.0") for name in before)
    assert {"model.0", "model.2.conv"} <= after - before
    assert after == set(run.layout.modules)
    assert events_of(run) == [("start", 1), ("thaw", 3)]
    assert run.remarks == run.report().findings == ()


def test_thawed_layers_are_judged_and_a_replay_agrees(way, tmp_path):
    """A thawed block with a cut gradient, and evidence of a step before and after."""
    calls = [at("on_train_epoch_start", 2, thaw("model.0.", then=kill))]
    options = {"images": 12, "freeze": 1, "kind": recording_trainer(way.base, at=11, fault="spike")}
    watch = GradWatch(live=False)
    way.train(tmp_path, watch=watch, calls=calls, **options)
    run, live = load_run(watch.run_dir), watch.report()
    assert run.report() == live
    dead, spike = live.findings
    assert (dead.rule, dead.module, dead.step) == ("dead", "model.0", 4)
    assert (spike.rule, spike.step) == ("spike", 11)
    norms = json.loads((watch.run_dir / spike.evidence).read_text())["norms"]
    assert list(norms) == list(run.layout.modules)
    assert [epoch.steps for epoch in live.epochs] == [3, 3, 3, 3]


def resumed(way, folder, moment, *, first=(), second=(), **options):
    """Interrupt a training at an event, and resume it; the run before and after."""
    options = {"images": 12, "save": True, "freeze": 2, "warmup_epochs": 0, **options}
    watches = [GradWatch(live=False), GradWatch(live=False)]
    calls = [*first, at(*moment, leave(KeyboardInterrupt))]
    with pytest.raises(KeyboardInterrupt):
        way.train(folder, watch=watches[0], calls=calls, **options)
    before = load_run(folder / "run")
    last = str(folder / "run" / "weights" / "last.pt")
    way.train(folder, watch=watches[1], calls=second, resume=last, **options)
    run = load_run(folder / "run")
    assert run.report() == watches[1].report()
    return before, run


def test_resumed_training_that_freezes_less_watches_more(way, tmp_path):
    moment = ("on_train_batch_end", 7)
    before, run = resumed(way, tmp_path, moment, second=[("on_train_start", thaw())])
    new = names_in(run, 8) - names_in(run, 7)
    assert {"model.0", "model.1", "model.0.conv"} <= new
    since = dict(zip(run.layout.modules, run.layout.since, strict=True))
    assert {since[name] for name in new} == {8}
    assert {since[name] for name in before.layout.modules} == {1}
    assert run.report().findings == ()


@pytest.mark.parametrize("again", [True, False], ids=["thaws again", "stays frozen"])
def test_resumed_training_knows_the_findings_of_a_thawed_layer(way, tmp_path, again):
    """Ultralytics freezes it again on resume; the callback may thaw it once more."""
    cut = thaw("model.0.", then=kill)
    first = [at("on_train_epoch_start", 2, cut)]
    second = [at("on_train_epoch_start", 1, cut)] if again else []
    moment = ("on_train_batch_end", 10)
    before, run = resumed(way, tmp_path, moment, first=first, second=second, epochs=6)
    (dead,) = before.report().findings
    assert (dead.rule, dead.module, dead.step) == ("dead", "model.0", 4)
    findings = run.report().findings
    assert (findings[0].episodes[0].step, findings[0].module) == (4, "model.0")
    since = dict(zip(run.layout.modules, run.layout.since, strict=True))
    assert since["model.0.conv"] == 4
    events = run.alerts["event"][run.alerts["finding"] == 1].tolist()
    assert events == (["start"] if again else ["start", "end"])
    frozen = [f.module for f in findings if f.rule == "frozen"]
    assert frozen == ([] if again else ["model.0"])


# --- without a training ---------------------------------------------------------------------------


def test_layout_knows_since_when_each_module_is_watched():
    part, whole = grown()
    assert {whole.since[m] for m, b in enumerate(whole.block_of) if b == "model.0"} == {5}
    assert watched_at(whole, 5) == watched_at(whole, 100) == whole
    assert watched_at(whole, 4) == replace(part, since=(1,) * len(part.modules))
    assert watched_at(LAYOUT, 1) is LAYOUT
    assert dated(whole, whole, 9) == whole


def test_layout_without_dates_is_watched_from_the_start(tmp_path):
    write_run(tmp_path, [window(1)])
    path = tmp_path / "gradwatch.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    del meta["layout"]["since"]
    path.write_text(json.dumps(meta), encoding="utf-8")
    assert load_run(tmp_path).layout.since == ()


@pytest.mark.parametrize("steps", [3, 30])
def test_rows_that_start_later_are_not_frozen_layers(steps):
    part, whole = grown(NET, steps + 1)
    windows = [window(step, layout=part) for step in range(1, steps + 1)]
    later = [window(step, layout=whole) for step in range(steps + 1, 2 * steps)]
    live = Diagnosis(part, Thresholds(), {})
    changes = [change for one in windows for change in live.update(one)]
    live.regroup(whole)
    live.restart()
    changes += [change for one in later for change in live.update(one)]
    assert changes == []

    absent = [name for name in whole.modules if name not in part.modules]
    spread = [window(step, layout=whole, unknown=absent) for step in range(1, steps + 1)]
    again = Diagnosis(whole, Thresholds(), {})
    events = [Event(1, "start"), Event(steps + 1, "thaw")]
    assert replay(again, [*spread, *later], events) == []
    assert again.unjudged() == live.unjudged()
