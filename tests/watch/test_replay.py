"""A rule sees the same live, in a replay of the files, and when following them."""

import json
from types import SimpleNamespace

import pytest
from short import at

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.diagnose import detector, reasons, rule
from yolo_gradwatch.diagnose.causes import Cause
from yolo_gradwatch.diagnose.finding import Reason
from yolo_gradwatch.runs.tail import Tail
from yolo_gradwatch.views.judge import Judge

THAWED = ("model.0.conv.weight", "model.0.bn.weight", "model.0.bn.bias")


@pytest.fixture
def seen(monkeypatch):
    """What a rule sees in each window; a test takes it, which clears it."""
    found = []

    def judge(history, _limits):
        items = {one.item: (one.mean, one.nonfinite) for one in history.newest.losses}
        moves = history.optimizer and (history.optimizer.step, history.optimizer.thawed)
        flow = history.flow and (history.flow.step, history.flow.calls)
        found.append((history.newest.step_first, items, moves, flow, history.training["epochs"]))
        return iter(())

    monkeypatch.setattr(detector, "RULES", {"frozen": SimpleNamespace(judge=judge, unit="")})

    def take():
        taken = found[:]
        found.clear()
        return taken

    return take


def thaw(trainer):
    """Thaw what ``freeze`` froze."""
    before = dict(trainer.model.named_parameters())
    for name in THAWED:
        before[name].requires_grad_(requires_grad=True)


@pytest.mark.parametrize("frozen", [0, 1])
def test_replay_shows_a_rule_what_it_saw_live(faked, tmp_path, seen, frozen):
    calls = [at("on_train_batch_start", 6, thaw)] * frozen
    watch = GradWatch(live=False)
    faked.train(tmp_path, watch=watch, calls=calls, epochs=6, freeze=frozen)
    live = seen()
    assert [step for step, *_ in live] == list(range(1, 13))
    assert all({"box_loss", "cls_loss", "sum", "lr/0"} <= set(items) for _, items, *_ in live)
    later = [None, None] if frozen else [4, 4]  # a trace from before is forgotten
    traced = [flow and flow[0] for *_, flow, _ in live]
    assert traced == [1, 2, 2, 4, 4, *later, *[8] * 5]
    moved = [moves for *_, moves, _, _ in live]
    noted = (6, THAWED) if frozen else (1, ())
    assert moved == [*[(1, ())] * 5, *[noted] * 7]

    load_run(tmp_path / "run").report()
    assert seen() == live


@pytest.mark.parametrize("epochs", [1, 4])
def test_following_shows_a_rule_the_same(faked, tmp_path, seen, epochs):
    """Look every few epochs, and once after the training."""
    tail, judges = Tail(tmp_path / "run"), []

    def look(trainer):
        if trainer.epoch % epochs == epochs - 1:
            begun.extend(seen())
            found = tail.look()
            judges[:] = judges or [Judge(tmp_path / "run", lambda own: own, found)]
            judges[0].update(found)
            followed.extend(seen())

    begun, followed = [], []
    calls = [at("on_train_batch_start", 6, thaw), ("on_fit_epoch_end", look)]
    watch = GradWatch(live=False)
    faked.train(tmp_path, watch=watch, calls=calls, epochs=6, freeze=1)
    begun.extend(seen())
    judges[0].update(tail.look())
    assert followed + seen() == begun


def test_resumed_training_continues_with_what_a_rule_saw(faked, tmp_path, seen):
    options = {"save": True, "epochs": 6}
    stop = ("on_fit_epoch_end", lambda trainer: setattr(trainer, "stop", trainer.epoch == 2))
    faked.train(tmp_path, watch=GradWatch(live=False), calls=[stop], **options)
    first = seen()
    last = str(tmp_path / "run" / "weights" / "last.pt")
    faked.train(tmp_path, watch=GradWatch(live=False), resume=last, **options)
    again = seen()
    assert again[: len(first)] == first
    assert [step for step, *_ in again] == list(range(1, 13))

    load_run(tmp_path / "run").report()
    assert seen() == again


def test_damaged_traces_cost_only_the_traces(faked, tmp_path, seen):
    faked.train(tmp_path, watch=GradWatch(live=False))
    live = seen()
    (tmp_path / "run" / "gradwatch" / "flow.csv").write_text("epoch,step\n1,x\n")
    report = load_run(tmp_path / "run").report()
    assert seen() == [(*one[:3], None, one[4]) for one in live]
    assert any("flow.csv" in remark for remark in report.remarks)
    assert json.loads((tmp_path / "run" / "gradwatch.json").read_text())["optimizers_before"] == []


# --- what explains a finding ----------------------------------------------------------------------


@pytest.fixture
def explained_steps(monkeypatch):
    """Let a trace explain any finding with one of its numbers; the list of steps looked up."""
    asked = []

    def measured(_finding, _layout, flow, _training):
        asked.append(flow.step)
        call = flow.calls[-1]
        return Reason("explained", (call.module,), (call.output_rms, call.gradient_norm), 9)

    def cause_of(reason, _layout, _training):
        is_known = reason.kind == "explained"
        return Cause(f"{reason.names} {reason.values}", "that") if is_known else None

    monkeypatch.setattr(reasons, "measured", measured)
    monkeypatch.setattr(rule, "cause_of", cause_of)
    return asked


def kill(trainer):
    """Zero the gradient of the first block from now on."""
    for name, parameter in trainer.model.named_parameters():
        if name.startswith("model.0."):
            parameter.register_hook(lambda grad: grad * 0)


def rows_of(alerts):
    return alerts[["finding", "event", "step", "message"]].to_numpy().tolist()


def test_cause_is_the_same_in_report_files_replay_and_follower(faked, tmp_path, explained_steps):
    tail, judges, followed, called = Tail(tmp_path / "run"), [], [], []

    def look(_trainer):
        found = tail.look()
        judges[:] = judges or [Judge(tmp_path / "run", lambda own: own, found)]
        for part in found.by_epoch():
            followed.extend(judges[0].update(part))

    calls = [at("on_train_batch_start", 9, kill), ("on_fit_epoch_end", look)]
    watch = GradWatch(live=False, on_finding=called.append)
    faked.train(tmp_path, watch=watch, calls=calls, epochs=8)
    look(None)
    run, (dead,) = load_run(tmp_path / "run"), watch.report().findings
    events = [("start", 11), ("cause", 12)]
    assert list(run.alerts[["event", "step"]].itertuples(index=False, name=None)) == events
    assert (dead.rule, dead.step, dead.is_measured) == ("dead", 9, True)
    assert [finding.is_measured for finding in called] == [False, True]
    assert explained_steps == [12, 12, 16, 16]  # live and by the follower
    assert run.report() == watch.report()
    assert run.alerts["message"].iloc[-1] == dead.message
    reported = [[one.finding.number, one.change, one.step, one.finding.message] for one in followed]
    assert reported == rows_of(run.alerts)


def test_unexplained_finding_is_explained_after_a_resume(faked, tmp_path, explained_steps):
    options = {"save": True, "epochs": 8}
    stop = ("on_fit_epoch_end", lambda trainer: setattr(trainer, "stop", trainer.epoch == 5))
    first = [at("on_train_batch_start", 10, kill), stop]
    watch = GradWatch(live=False)
    faked.train(tmp_path, watch=watch, calls=first, **options)
    assert rows_of(load_run(tmp_path / "run").alerts)[0][1:3] == ["start", 12]
    assert not watch.report().findings[0].is_measured
    assert explained_steps == []
    last = str(tmp_path / "run" / "weights" / "last.pt")
    again = GradWatch(live=False)
    calls = [("on_train_start", kill)]
    faked.train(tmp_path, watch=again, calls=calls, resume=last, **options)
    run, (dead,) = load_run(tmp_path / "run"), again.report().findings
    assert run.alerts["event"].tolist() == ["start", "cause"]
    assert explained_steps[0] == 13  # the first batch; the rule needs three windows again
    assert run.alerts["step"].iloc[-1] == 15
    assert dead.is_measured
    assert run.report() == again.report()
