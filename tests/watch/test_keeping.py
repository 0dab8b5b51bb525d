"""The copy of the newest checkpoint from before anything went wrong."""

import errno
from types import SimpleNamespace

import pytest
import torch
from short import FAKE, assert_nothing_left, at, bits_of, spoil, told
from torch import nn
from training import TINY, shapes, small

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.measure.kept import LAST_HEALTHY, Kept
from yolo_gradwatch.runs.tail import Tail
from yolo_gradwatch.views.judge import Judge
from yolo_gradwatch.watch import keeping
from yolo_gradwatch.watch.ultralytics import checkpoints

THREE = (Kept(1, 2), Kept(2, 4), Kept(3, 6))


def trained(way, folder, **options):
    """Train four epochs of two steps, the last of which is not finite."""
    watch = GradWatch(live=False, keep_healthy=True)
    trainer = way.spoiled(folder, watch=watch, **{"save": True, **options})
    return trainer, watch, load_run(folder / "run")


def test_it_is_the_newest_checkpoint_as_long_as_all_is_well(way, tmp_path):
    """As it was written, in a file of its own, while the training is as ever."""
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


def test_without_the_option_there_is_none(tmp_path):
    FAKE.spoiled(tmp_path, watch=GradWatch(live=False), save=True)
    run = load_run(tmp_path / "run")
    assert not (tmp_path / "run" / LAST_HEALTHY).exists()
    assert (run.meta.kept, run.report().findings[0].kept) == ((), None)


def test_it_is_named_only_if_it_is_there(tmp_path):
    """Not if it was removed while the training ran, and not later if it was removed since."""
    gone = at("on_train_batch_start", 8, lambda t: (t.save_dir / LAST_HEALTHY).unlink())
    _, watch, run = trained(FAKE, tmp_path / "before", calls=[gone])
    assert [finding.kept for finding in watch.report().findings] == [None]
    assert run.report() == watch.report()

    _, watch, run = trained(FAKE, tmp_path / "after")
    (tmp_path / "after" / "run" / LAST_HEALTHY).unlink()
    assert [finding.kept for finding in watch.report().findings] == [Kept(3, 6)]
    assert [finding.kept for finding in run.report().findings] == [None]


def test_whoever_follows_reads_the_same_words(tmp_path):
    tail, judges, changes = Tail(tmp_path / "run"), [], []

    def look(_trainer):
        found = tail.look()
        judges[:] = judges or [Judge(tmp_path / "run", lambda own: own, found)]
        changes.extend(judges[0].update(found))

    _, watch, _ = trained(FAKE, tmp_path, calls=[("on_fit_epoch_end", look)])
    assert [one.finding.message for one in changes] == [watch.report().findings[0].message]
    assert changes[0].finding.kept == Kept(3, 6)


def fail(_source, target):
    """Fill a disk: half of the copy is there by then."""
    target.write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "broken",
    [
        (keeping, "_copy", fail),
        (keeping, "_free", lambda _folder: 0.0),
        (checkpoints, "last_of", lambda trainer: trainer.save_dir / "none.pt"),
        (checkpoints, "is_storable", lambda trainer: trainer.no_such_thing),
    ],
)
def test_what_fails_costs_the_copy_and_one_warning(tmp_path, monkeypatch, caplog, broken):
    """From the second epoch on, so that the copy of the first stays."""
    later = at("on_train_epoch_start", 2, lambda _trainer: monkeypatch.setattr(*broken))
    trainer, watch, run = trained(FAKE, tmp_path, calls=[later])
    (said,) = told(caplog)
    assert LAST_HEALTHY in said
    (remark,) = watch.report().remarks
    assert remark in said
    assert run.meta.kept == THREE[:1]
    assert [finding.kept for finding in run.report().findings] == [Kept(1, 2)]
    assert run.report() == watch.report()
    assert torch.load(tmp_path / "run" / LAST_HEALTHY, weights_only=False)["epoch"] == 0
    assert not [*(tmp_path / "run" / "weights").glob(".*")]
    assert bits_of(trainer) == FAKE.bare()


def test_ctrl_c_in_a_copy_leaves_the_one_of_before(tmp_path, monkeypatch):
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
def test_a_training_that_saves_nothing_says_so_and_is_watched(tmp_path, caplog, monkeypatch, lack):
    """With ``save=False``, or by a trainer of the user's that does not say when it has saved."""
    if lack == "event":
        monkeypatch.setattr(checkpoints, "EVENT", "on_no_such_event")
    _, watch, run = trained(FAKE, tmp_path, save=lack != "save")
    (said,) = told(caplog)
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
        ("mask", -float("inf"), True),  # on purpose
    ],
)
def test_what_half_precision_does_not_hold_is_not_kept(place, value, fits):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    net.register_buffer("mask", torch.zeros(2))
    net.state_dict()[place][..., 0] = value
    trainer = SimpleNamespace(ema=SimpleNamespace(ema=net))
    assert checkpoints.is_storable(trainer) == fits


def test_weights_that_no_step_has_shown_are_not_kept(tmp_path):
    """Spoiled behind the last step of the last epoch."""

    def spoil_last(trainer):
        next(trainer.ema.ema.parameters()).data.fill_(float("nan"))

    watch = GradWatch(live=False, keep_healthy=True)
    calls = [at("on_train_epoch_end", 4, spoil_last)]
    FAKE.train(tmp_path, watch=watch, save=True, calls=calls)
    assert load_run(tmp_path / "run").meta.kept == THREE


@pytest.mark.train
def test_a_training_that_is_resumed_from_it_is_healthy(tmp_path):
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
