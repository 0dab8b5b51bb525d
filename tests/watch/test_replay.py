"""A rule sees the same live, in a replay of the files, and while it follows them."""

import json
from types import SimpleNamespace

import pytest
from short import at

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.diagnose import detector
from yolo_gradwatch.runs.tail import Tail
from yolo_gradwatch.views.judge import Judge

THAWED = ("model.0.conv.weight", "model.0.bn.weight", "model.0.bn.bias")


@pytest.fixture
def seen(monkeypatch):
    """What a rule sees, one entry a window; each test takes it away before the next look."""
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
    """Go on with what ``freeze`` has frozen, in a group of its own."""
    before = dict(trainer.model.named_parameters())
    for name in THAWED:
        before[name].requires_grad_(requires_grad=True)


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_replay_shows_a_rule_what_it_saw_live(faked, tmp_path, seen, frozen):
    calls = [at("on_train_batch_start", 6, thaw)] * frozen
    watch = GradWatch(live=False)
    faked.train(tmp_path, watch=watch, calls=calls, epochs=6, freeze=frozen)
    live = seen()
    assert [step for step, *_ in live] == list(range(1, 13))
    assert all({"box_loss", "cls_loss", "sum", "lr/0"} <= set(items) for _, items, *_ in live)
    later = [None, None] if frozen else [4, 4]  # a trace of before is forgotten
    traced = [flow and flow[0] for *_, flow, _ in live]
    assert traced == [1, 2, 2, 4, 4, *later, *[8] * 5]
    moved = [moves for *_, moves, _, _ in live]
    noted = (6, THAWED) if frozen else (1, ())
    assert moved == [*[(1, ())] * 5, *[noted] * 7]

    load_run(tmp_path / "run").report()
    assert seen() == live


@pytest.mark.parametrize("epochs", [1, 4])
def test_following_shows_a_rule_the_same(faked, tmp_path, seen, epochs):
    """Looks in every so many epochs, and one when the training is over."""
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


def test_a_resumed_training_goes_on_with_what_a_rule_saw(faked, tmp_path, seen):
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


def test_damaged_traces_cost_the_traces_alone(faked, tmp_path, seen):
    faked.train(tmp_path, watch=GradWatch(live=False))
    live = seen()
    (tmp_path / "run" / "gradwatch" / "flow.csv").write_text("epoch,step\n1,x\n")
    report = load_run(tmp_path / "run").report()
    assert seen() == [(*one[:3], None, one[4]) for one in live]
    assert any("flow.csv" in remark for remark in report.remarks)
    assert json.loads((tmp_path / "run" / "gradwatch.json").read_text())["optimizers_before"] == []
