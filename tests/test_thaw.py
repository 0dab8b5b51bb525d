"""Layers that were frozen on purpose and thaw in mid-training are watched from that step on."""

import json
from dataclasses import replace

import pytest
import torch
from oracle import check
from training import shapes, small, train
from ultralytics.models.yolo.detect import DetectionTrainer
from values import LAYOUT, NET, grown, window, write_run

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.diagnosis import Diagnosis, replay
from yolo_gradwatch.event import Event
from yolo_gradwatch.layout import dated, watched_at
from yolo_gradwatch.thresholds import Thresholds


def names_in(windows, step):
    return set(windows["module"][windows["step_first"] == step])


def thaw_at(batch, *names):
    """A callback that thaws parts of the model before a batch of the run; all by default."""
    done = []

    def thaw(trainer):
        done.append(1)
        if len(done) == batch:
            for name, parameter in trainer.model.named_parameters():
                if name.startswith(names or "model.") and "dfl" not in name:
                    parameter.requires_grad_(requires_grad=True)

    return ("on_train_batch_start", thaw)


@pytest.mark.train
@pytest.mark.parametrize("names", [(), ("model.4.", "model.7.conv.weight")], ids=["all", "some"])
def test_the_total_is_that_of_all_that_is_trained(tmp_path, oracle, names):
    run = check(
        tmp_path, oracle, [thaw_at(3, *names)], data=shapes(20), freeze=10, model="yolo26n.yaml"
    )
    before, after = names_in(run.windows, 2), names_in(run.windows, 3)
    assert not any(name.startswith("model.4.") for name in before)
    assert {"model.4", "model.7.conv"} <= after - before
    assert after == set(run.layout.modules)
    assert [(e.step, e.kind) for e in run.meta.events] == [(1, "start"), (3, "thaw")]
    assert run.remarks == ()
    assert run.report().findings == ()


@pytest.mark.train
def test_what_is_thawed_is_judged_and_a_replay_decides_the_same(tmp_path):
    """A thawed block whose gradient is cut, and evidence of a step before and after."""

    def cut(trainer):
        if trainer.epoch == 1:
            for parameter in trainer.model.model[0].parameters():
                parameter.requires_grad_(requires_grad=True)
                parameter.register_hook(lambda grad: grad * 0)

    class Spiked(DetectionTrainer):
        steps = 0

        def optimizer_step(self):
            self.steps += 1
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            torch._foreach_mul_(gradients, 1e4 if self.steps == 11 else 1.0)
            super().optimizer_step()

    watch = GradWatch(live=False)
    calls = [("on_train_epoch_start", cut)]
    options = {"model": small(), "data": shapes(12), "freeze": 1, "epochs": 4}
    train(tmp_path, watch=watch, trainer=Spiked, calls=calls, **options)
    run, live = load_run(watch.run_dir), watch.report()
    assert run.report() == live
    dead, spike = live.findings
    assert (dead.rule, dead.module, dead.step) == ("dead", "model.0", 4)
    assert (spike.rule, spike.step) == ("spike", 11)
    norms = json.loads((watch.run_dir / spike.evidence).read_text())["norms"]
    assert list(norms) == list(run.layout.modules)
    assert [epoch.steps for epoch in live.epochs] == [3, 3, 3, 3]


@pytest.mark.train
def test_a_resumed_training_that_freezes_less_watches_more(tmp_path):
    def interrupt(trainer):
        if trainer.epoch == 2:
            raise KeyboardInterrupt

    options = {"data": shapes(12), "epochs": 4}
    calls = [("on_train_batch_end", interrupt)]
    watch = GradWatch(live=False)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, watch=watch, model=small(), calls=calls, freeze=2, **options)
    before = load_run(watch.run_dir)

    def thaw(trainer):
        for parameter in trainer.model.parameters():
            parameter.requires_grad_(requires_grad=True)

    last, resumed = tmp_path / "run" / "weights" / "last.pt", GradWatch(live=False)
    calls = [("on_train_start", thaw)]
    train(tmp_path, watch=resumed, model=str(last), resume=True, calls=calls, **options)
    run = load_run(resumed.run_dir)
    new = names_in(run.windows, 8) - names_in(run.windows, 7)
    assert {"model.0", "model.1", "model.0.conv"} <= new
    since = dict(zip(run.layout.modules, run.layout.since, strict=True))
    assert {since[name] for name in new} == {8}
    assert {since[name] for name in before.layout.modules} == {1}
    assert run.report().findings == resumed.report().findings == ()


@pytest.mark.train
@pytest.mark.parametrize("again", [True, False], ids=["thaws again", "stays frozen"])
def test_a_resumed_training_knows_what_was_found_in_a_thawed_layer(tmp_path, again):
    """Ultralytics freezes it again at the resume; its callback may thaw it once more."""

    def cut(trainer):
        if trainer.epoch == 1 or (again and trainer.epoch > 1):
            for parameter in trainer.model.model[0].parameters():
                if not parameter.requires_grad:
                    parameter.requires_grad_(requires_grad=True)
                    parameter.register_hook(lambda grad: grad * 0)

    def interrupt(trainer):
        if trainer.epoch == 3:
            raise KeyboardInterrupt

    options = {"data": shapes(12), "epochs": 6}
    calls = [("on_train_epoch_start", cut)]
    stops = [*calls, ("on_train_batch_end", interrupt)]
    watch, resumed = GradWatch(live=False), GradWatch(live=False)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, watch=watch, model=small(), calls=stops, freeze=2, **options)
    last = tmp_path / "run" / "weights" / "last.pt"
    train(tmp_path, watch=resumed, model=str(last), resume=True, calls=calls, **options)
    run, before, after = load_run(resumed.run_dir), watch.report(), resumed.report()
    assert run.report() == after
    (dead,) = before.findings
    assert (dead.rule, dead.module, dead.step) == ("dead", "model.0", 4)
    assert after.findings[0].episodes[0].step == 4
    assert after.findings[0].module == "model.0"
    since = dict(zip(run.layout.modules, run.layout.since, strict=True))
    assert since["model.0.conv"] == 4
    events = run.alerts["event"][run.alerts["finding"] == 1].tolist()
    assert events == (["start"] if again else ["start", "end"])
    frozen = [f for f in after.findings if f.rule == "frozen"]
    assert [f.module for f in frozen] == ([] if again else ["model.0"])


# --- on paper -------------------------------------------------------------------------------------


def test_a_layout_knows_since_when_each_module_is_watched():
    part, whole = grown()
    assert {whole.since[m] for m, b in enumerate(whole.block_of) if b == "model.0"} == {5}
    assert watched_at(whole, 5) == watched_at(whole, 100) == whole
    assert watched_at(whole, 4) == replace(part, since=(1,) * len(part.modules))
    assert watched_at(LAYOUT, 1) is LAYOUT
    assert dated(whole, whole, 9) == whole


def test_a_layout_without_dates_is_watched_from_the_beginning(tmp_path):
    write_run(tmp_path, [window(1)])
    path = tmp_path / "gradwatch.json"
    meta = json.loads(path.read_text(encoding="utf-8"))
    del meta["layout"]["since"]
    path.write_text(json.dumps(meta), encoding="utf-8")
    assert load_run(tmp_path).layout.since == ()


@pytest.mark.parametrize("steps", [3, 30])
def test_rows_that_begin_later_are_no_frozen_layers(steps):
    part, whole = grown(NET, steps + 1)
    windows = [window(step, layout=part) for step in range(1, steps + 1)]
    later = [window(step, layout=whole) for step in range(steps + 1, 2 * steps)]
    live = Diagnosis(part, Thresholds(), {}, lambda _step: "")
    changes = [change for one in windows for change in live.update(one)]
    live.regroup(whole)
    live.begin_anew()
    changes += [change for one in later for change in live.update(one)]
    assert changes == []

    absent = [name for name in whole.modules if name not in part.modules]
    spread = [window(step, layout=whole, unknown=absent) for step in range(1, steps + 1)]
    again = Diagnosis(whole, Thresholds(), {}, lambda _step: "")
    events = [Event(1, "start"), Event(steps + 1, "thaw")]
    assert replay(again, [*spread, *later], events) == []
    assert again.unjudged() == live.unjudged()
