"""The copy of the newest checkpoint from before any fault."""

import errno
from types import SimpleNamespace

import pytest
import torch
from short import FAKE, assert_nothing_left, at, bits_of, spoil, warnings_of
from torch import nn
from training import TINY, shapes, small

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.measure.kept import LAST_HEALTHY, ONE_BEFORE, Kept
from yolo_gradwatch.runs.healthy import BLOCKING
from yolo_gradwatch.runs.tail import Tail
from yolo_gradwatch.views.judge import Judge
from yolo_gradwatch.watch import keeping
from yolo_gradwatch.watch.ultralytics import checkpoints

pytestmark = pytest.mark.slow  # whole trainings of a fake trainer, or many runs

THREE = (Kept(1, 2), Kept(2, 4), Kept(3, 6))


def trained(way, folder, **options):
    """Train four epochs of two steps, the last of which is not finite."""
    watch = GradWatch(live=False, keep_healthy=True)
    trainer = way.spoiled(folder, watch=watch, **{"save": True, **options})
    return trainer, watch, load_run(folder / "run")


def test_copy_is_the_newest_checkpoint_while_the_run_is_healthy(way, tmp_path):
    """An unchanged copy in its own file, and the training runs as usual."""
    pairs = []

    def look(trainer):
        healthy = trainer.save_dir / LAST_HEALTHY
        assert not healthy.samefile(trainer.last)
        pairs.append((healthy.read_bytes(), trainer.last.read_bytes()))

    trainer, watch, run = trained(way, tmp_path, calls=[("on_fit_epoch_end", look)])
    assert [healthy == last for healthy, last in pairs] == [True, True, True, False]
    assert pairs[3][0] == pairs[2][1]
    assert run.meta.kept == THREE
    assert [finding.kept for finding in run.report().findings] == [Kept(3, 6)]
    assert run.report() == watch.report()
    assert bits_of(trainer) == way.bare()
    assert_nothing_left(trainer)
    names = {path.name for path in (tmp_path / "run" / "weights").iterdir()}
    assert names <= {"last.pt", "best.pt", "last_healthy.pt"}


def test_without_the_option_no_copy_is_kept(tmp_path):
    FAKE.spoiled(tmp_path, watch=GradWatch(live=False), save=True)
    run = load_run(tmp_path / "run")
    assert not (tmp_path / "run" / LAST_HEALTHY).exists()
    assert (run.meta.kept, run.report().findings[0].kept) == ((), None)


def test_copy_is_named_only_while_it_exists(tmp_path):
    """Not if removed during the training, and not after it was removed later."""
    gone = at("on_train_batch_start", 8, lambda t: (t.save_dir / LAST_HEALTHY).unlink())
    _, watch, run = trained(FAKE, tmp_path / "before", calls=[gone])
    assert [finding.kept for finding in watch.report().findings] == [None]
    assert run.report() == watch.report()

    _, watch, run = trained(FAKE, tmp_path / "after")
    (tmp_path / "after" / "run" / LAST_HEALTHY).unlink()
    assert [finding.kept for finding in watch.report().findings] == [Kept(3, 6)]
    assert [finding.kept for finding in run.report().findings] == [None]


def test_follower_reads_the_same_message(tmp_path):
    tail, judges, changes = Tail(tmp_path / "run"), [], []

    def look(_trainer):
        found = tail.look()
        judges[:] = judges or [Judge(tmp_path / "run", lambda own: own, found)]
        changes.extend(judges[0].update(found))

    _, watch, _ = trained(FAKE, tmp_path, calls=[("on_fit_epoch_end", look)])
    assert [one.finding.message for one in changes] == [watch.report().findings[0].message]
    assert changes[0].finding.kept == Kept(3, 6)


def fill_disk(_source, target):
    """Simulate a full disk after half of the copy."""
    target.write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "broken",
    [
        (keeping, "_copy", fill_disk),
        (keeping, "_free", lambda _folder: 0.0),
        (checkpoints, "last_of", lambda trainer: trainer.save_dir / "none.pt"),
        (checkpoints, "is_storable", lambda trainer: trainer.no_such_thing),
    ],
)
def test_failure_costs_the_copy_and_one_warning(tmp_path, monkeypatch, caplog, broken):
    """From the second epoch on, so that the copy of the first stays."""
    later = at("on_train_epoch_start", 2, lambda _trainer: monkeypatch.setattr(*broken))
    trainer, watch, run = trained(FAKE, tmp_path, calls=[later])
    (said,) = warnings_of(caplog)
    assert LAST_HEALTHY in said
    (remark,) = watch.report().remarks
    assert remark in said
    assert run.meta.kept == THREE[:1]
    assert [finding.kept for finding in run.report().findings] == [Kept(1, 2)]
    assert run.report() == watch.report()
    assert torch.load(tmp_path / "run" / LAST_HEALTHY, weights_only=False)["epoch"] == 0
    assert not [*(tmp_path / "run" / "weights").glob(".*")]
    assert bits_of(trainer) == FAKE.bare()


def test_ctrl_c_during_a_copy_leaves_the_previous_one(tmp_path, monkeypatch):
    def interrupt(_source, target):
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    later = at(
        "on_train_epoch_start", 2, lambda _: monkeypatch.setattr(keeping, "_copy", interrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        trained(FAKE, tmp_path, calls=[later])
    run = load_run(tmp_path / "run")
    assert (run.status, run.meta.kept) == ("interrupted", THREE[:1])
    assert torch.load(tmp_path / "run" / LAST_HEALTHY, weights_only=False)["epoch"] == 0
    assert not [*(tmp_path / "run" / "weights").glob(".*")]


@pytest.mark.parametrize("lack", ["save", "event"])
def test_training_that_saves_nothing_warns_and_is_watched(tmp_path, caplog, monkeypatch, lack):
    """With ``save=False``, or a custom trainer without the event after saving."""
    if lack == "event":
        monkeypatch.setattr(checkpoints, "EVENT", "on_no_such_event")
    _, watch, run = trained(FAKE, tmp_path, save=lack != "save")
    (said,) = warnings_of(caplog)
    assert LAST_HEALTHY in said
    assert (run.meta.kept, watch.report().status, watch.report().steps) == ((), "finished", 8)


@pytest.mark.parametrize(
    ("place", "value", "fits"),
    [
        ("0.weight", 65504.0, True),
        ("0.weight", 65600.0, False),
        ("0.bias", float("nan"), False),
        ("1.running_var", float("inf"), False),
        ("1.running_var", 7e4, False),
        ("mask", -float("inf"), True),  # intended
    ],
)
def test_weights_beyond_half_precision_are_not_kept(place, value, fits):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    net.register_buffer("mask", torch.zeros(2))
    net.state_dict()[place][..., 0] = value
    trainer = SimpleNamespace(ema=SimpleNamespace(ema=net))
    assert checkpoints.is_storable(trainer) == fits


def test_weights_not_checked_by_a_step_are_not_kept(tmp_path):
    """Spoiled after the last step of the last epoch."""

    def spoil_last(trainer):
        next(trainer.ema.ema.parameters()).data.fill_(float("nan"))

    watch = GradWatch(live=False, keep_healthy=True)
    calls = [at("on_train_epoch_end", 4, spoil_last)]
    FAKE.train(tmp_path, watch=watch, save=True, calls=calls)
    assert load_run(tmp_path / "run").meta.kept == THREE


# --- older copies ---------------------------------------------------------------------------------


def kill(trainer):
    """Zero the gradient of the first block from now on, which is found after three steps."""
    for name, parameter in trainer.model.named_parameters():
        if name.startswith("model.0."):
            parameter.register_hook(lambda grad: grad * 0)


def dated(folder, *calls, fault, change=kill, **options):
    """Train one step an epoch with a fault starting at one of them, and a follower."""
    tail, judges, aside = Tail(folder / "run"), [], []

    def look(trainer):
        found = tail.look()
        judges[:] = judges or [Judge(folder / "run", lambda own: own, found)]
        followed.extend(judges[0].update(found))
        aside.append((trainer.save_dir / ONE_BEFORE).exists())

    followed = []
    watch = GradWatch(live=False, keep_healthy=True)
    calls = [at("on_train_batch_start", fault, change), *calls, ("on_fit_epoch_end", look)]
    options = {"save": True, "images": 4, "epochs": fault + 6, **options}
    FAKE.train(folder, watch=watch, calls=calls, **options)
    run = load_run(folder / "run")
    assert run.report() == watch.report()
    reported = [[one.change, one.finding.number, one.finding.message] for one in followed]
    assert reported == run.alerts[["event", "finding", "message"]].to_numpy().tolist()
    assert not (folder / "run" / ONE_BEFORE).exists()
    return watch, run, aside


def epoch_in(path):
    return torch.load(path, weights_only=False)["epoch"] + 1


@pytest.mark.parametrize(("fault", "older"), [(10, 1), (25, 21), (22, 21)])
def test_older_copy_replaces_it_if_a_finding_dates_from_before_it(tmp_path, fault, older):
    _, run, aside = dated(tmp_path, fault=fault)
    (dead,) = run.report().findings
    assert (dead.rule, dead.step, dead.episodes[0].reported) == ("dead", fault, fault + 2)
    back = Kept(older, older, since=fault + 2)
    assert run.meta.kept == (*(Kept(n, n) for n in range(1, fault + 2)), back)
    assert dead.kept == Kept(older, older)
    assert epoch_in(tmp_path / "run" / LAST_HEALTHY) == older
    assert aside == [False, *[True] * fault, *[False] * 5]


@pytest.mark.parametrize("fault", [1, 21])
def test_no_copy_is_left_if_none_is_old_enough(tmp_path, fault):
    _, run, _ = dated(tmp_path, fault=fault)
    (dead,) = run.report().findings
    assert (dead.step, dead.kept) == (fault, None)
    assert LAST_HEALTHY not in dead.message
    assert run.meta.kept[-1] == Kept(0, 0, since=fault + 2)
    assert not (tmp_path / "run" / LAST_HEALTHY).exists()


def test_next_checkpoint_is_kept_once_the_run_is_healthy_again(tmp_path):
    """The record has the removal, so that no later finding names the removed copy."""

    def revive(trainer):
        for name, parameter in trainer.model.named_parameters():
            if name.startswith("model.0."):
                parameter._backward_hooks.clear()

    def ruin(trainer):
        next(trainer.model.parameters()).register_hook(lambda grad: grad * float("nan"))

    calls = [at("on_train_batch_start", 4, revive), at("on_train_batch_start", 16, ruin)]
    _, run, _ = dated(tmp_path, *calls, fault=1, epochs=16)
    dead, spoiled = run.report().findings
    assert (dead.step_end, spoiled.step) == (4, 16)
    removed = Kept(0, 0, since=3)
    assert run.meta.kept == (Kept(1, 1), Kept(2, 2), removed, *(Kept(n, n) for n in range(8, 16)))
    assert spoiled.kept == Kept(15, 15)


def test_copy_removed_by_the_user_does_not_come_back(tmp_path):
    def remove(trainer):
        (trainer.save_dir / ONE_BEFORE).unlink()

    _, run, _ = dated(tmp_path, at("on_train_batch_start", 26, remove), fault=25)
    assert [finding.kept for finding in run.report().findings] == [None]
    assert not (tmp_path / "run" / LAST_HEALTHY).exists()


def grow(trainer):
    for parameter in trainer.model.parameters():
        parameter.data.mul_(30)


def test_growing_weights_are_not_kept_and_an_older_copy_comes_back(tmp_path):
    _, run, _ = dated(tmp_path, fault=25, change=grow, epochs=40)
    (growth,) = [one for one in run.report().findings if one.rule == "weight_growth"]
    assert growth.severity == "warning"
    assert growth.step_end is None
    assert run.meta.kept[-1].epoch == 21
    assert run.meta.kept[-1].since > growth.step
    assert epoch_in(tmp_path / "run" / LAST_HEALTHY) == 21


def test_blocking_rules_are_warnings():
    assert {RULES[name].severity for name in BLOCKING} == {"warning"}


@pytest.mark.parametrize("error", [RuntimeError("out of luck"), KeyboardInterrupt()])
def test_spare_copy_is_removed_after_the_training_whatever_its_outcome(tmp_path, error):
    seen = []

    def look(trainer):
        seen.append((trainer.save_dir / ONE_BEFORE).exists())
        raise error

    with pytest.raises(type(error)):
        trained(FAKE, tmp_path, calls=[at("on_train_batch_start", 6, look)])
    assert seen == [True]
    assert not (tmp_path / "run" / ONE_BEFORE).exists()
    assert epoch_in(tmp_path / "run" / LAST_HEALTHY) == 2


def test_resumed_training_removes_the_spare_copy_of_a_killed_one(tmp_path):
    stop = ("on_fit_epoch_end", lambda trainer: setattr(trainer, "stop", trainer.epoch == 2))
    watch = GradWatch(live=False, keep_healthy=True)
    FAKE.train(tmp_path, watch=watch, save=True, calls=[stop])
    aside = tmp_path / "run" / ONE_BEFORE
    aside.write_bytes(b"old")
    seen = []
    look = ("on_train_epoch_start", lambda _trainer: seen.append(aside.exists()))
    last = str(tmp_path / "run" / "weights" / "last.pt")
    again = GradWatch(live=False, keep_healthy=True)
    FAKE.train(tmp_path, watch=again, save=True, resume=last, calls=[look])
    assert seen == [False]
    assert load_run(tmp_path / "run").meta.kept == (*THREE, Kept(4, 8))


def test_keeping_continues_some_calm_windows_after_a_resume(tmp_path):
    options = {"save": True, "images": 4, "epochs": 20}
    stop = ("on_fit_epoch_end", lambda trainer: setattr(trainer, "stop", trainer.epoch == 6))
    calls = [spoil("model.1.conv.weight", at=7), stop]
    FAKE.train(tmp_path, watch=GradWatch(live=False, keep_healthy=True), calls=calls, **options)
    run = load_run(tmp_path / "run")
    assert run.meta.kept == tuple(Kept(n, n) for n in range(1, 7))
    healthy = tmp_path / "run" / LAST_HEALTHY
    (tmp_path / "run" / "weights" / "last.pt").write_bytes(healthy.read_bytes())
    watch = GradWatch(live=False, keep_healthy=True)
    FAKE.train(tmp_path, watch=watch, resume=str(healthy), **options)
    run = load_run(tmp_path / "run")
    assert run.report() == watch.report()
    (spoiled,) = run.report().findings
    assert [(one.step, one.step_end) for one in spoiled.episodes] == [(7, 8)]
    assert run.alerts[["event", "step"]].to_numpy().tolist() == [["start", 7], ["end", 12]]
    assert run.meta.kept[6:] == tuple(Kept(step - 1, step) for step in range(12, 22))


def test_list_of_files_includes_the_copy(tmp_path, capsys):
    def listed():
        lines = capsys.readouterr().out.splitlines()
        return [line.partition("run/")[2] for line in lines if "last_healthy.pt (" in line[-30:]]

    trained(FAKE, tmp_path / "a")
    assert listed() == [f"{LAST_HEALTHY} (epoch 3)"]
    FAKE.spoiled(tmp_path / "b", watch=GradWatch(live=False), save=True)
    assert listed() == []


@pytest.mark.train
def test_training_resumed_from_the_copy_is_healthy(tmp_path):
    from ultralytics import YOLO

    options = {**TINY, "imgsz": 32, "epochs": 14, "save": True, "warmup_epochs": 0}
    model = YOLO(small())
    GradWatch(live=False, keep_healthy=True, stop_on=["nonfinite"]).attach(model)
    model.add_callback(*spoil("model.1.conv.weight", at=7))
    model.train(data=shapes(), project=str(tmp_path), **options)
    before = load_run(tmp_path / "run")
    assert [finding.kept for finding in before.report().findings] == [Kept(3, 6)]

    model, epochs = YOLO(str(tmp_path / "run" / LAST_HEALTHY)), []
    watch = GradWatch(live=False, keep_healthy=True).attach(model)
    model.add_callback("on_train_epoch_start", lambda trainer: epochs.append(trainer.epoch + 1))
    model.train(resume=True)
    assert epochs == [*range(4, 15)]
    run, last = load_run(tmp_path / "run"), before.meta.last_step
    again = run.windows[run.windows["step_first"] > last]
    assert again["step_last"].max() == last + 2 * len(epochs)
    assert not again["nonfinite"].any()
    (finding,) = [one for one in watch.report().findings if one.severity == "critical"]
    assert (finding.step, finding.step_end) == (7, last + 1)
    assert run.report() == watch.report()
    assert run.meta.kept[:3] == THREE
    assert run.meta.kept[-1] == Kept(14, last + 22)
    kept = torch.load(tmp_path / "run" / LAST_HEALTHY, weights_only=False)
    assert kept["epoch"] == 13
    assert kept["optimizer"] is not None
