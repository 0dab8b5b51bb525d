"""Every way to train a model, for a few steps: the watch works and finds nothing."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace

import pytest
from healthy import assert_healthy_trainings, cases, watched
from training import TINY, needs, shapes, train

from yolo_gradwatch import GradWatch
from yolo_gradwatch.cli.main import main
from yolo_gradwatch.watch.attachment import Attachment

pytestmark = pytest.mark.train

full = pytest.mark.full


def options(*chosen, marks=()):
    """Test parameters: options of a training, and its optimizer steps."""
    return [pytest.param(o, steps, marks=marks, id=" ".join(o)) for o, steps in chosen]


OPTIONS = options(
    ({"nbs": 16, "epochs": 4, "warmup_epochs": 0}, 3),  # four batches each
    ({"rect": True}, 6),
    ({"multi_scale": 0.5, "imgsz": 96}, 6),
    ({"close_mosaic": 1}, 6),
    ({"val": True}, 6),
    ({"cos_lr": True}, 6),
    ({"single_cls": True}, 6),
    ({"fraction": 0.5}, 4),
    ({"freeze": 10}, 6),
    marks=full,
)


@pytest.mark.parametrize(("chosen", "steps"), OPTIONS)
def test_every_option_of_a_training(tmp_path, oracle, chosen, steps):
    _, model = watched(tmp_path, oracle, steps=steps, **chosen)
    assert {name: getattr(model.trainer.args, name) for name in chosen} == chosen


def test_list_of_frozen_layers(tmp_path, oracle):
    (run,), _ = watched(tmp_path, oracle, freeze=[0, 3, 5], steps=6)
    seen = {module.partition(".")[2].partition(".")[0] for module in run.layout.modules}
    assert {"1", "2", "4", "6"} <= seen
    assert not {"0", "3", "5"} & seen


OPTIMIZERS = cases(
    ("SGD", 0.01),
    ("MuSGD", 0.01),
    ("AdamW", 0.001),
    ("Adam", 0.001),
    ("RMSProp", 0.0001),
    marks=full,
)
"""With a suitable rate. All other trainings here use Ultralytics' default, ``auto``."""


@pytest.mark.parametrize(("name", "lr0"), OPTIMIZERS)
def test_every_optimizer(tmp_path, oracle, name, lr0):
    _, model = watched(tmp_path, oracle, optimizer=name, lr0=lr0, steps=6)
    assert type(model.trainer.optimizer).__name__.lower() == name.lower()


@full
def test_default_rate_that_destroys_the_weights_in_rmsprop_is_reported(tmp_path):
    """A healthy box loss is above three; here no box has a match after five epochs."""
    watch = GradWatch(live=False)
    model = train(tmp_path, watch=watch, data=shapes(12), optimizer="RMSProp", epochs=5)
    assert model.trainer.tloss["box_loss"] < 0.1
    (finding,) = watch.report().alarms
    assert (finding.rule, finding.step) == ("weight_growth", 1)
    assert "a lower lr0 (now 0.01)" in finding.message


@full
def test_hours_instead_of_epochs(tmp_path, oracle, monkeypatch):
    """The clock advances a second per call: one call a step, and three an epoch."""
    from ultralytics.engine import trainer as engine

    seconds, ended = count(), []
    monkeypatch.setattr(engine, "time", SimpleNamespace(time=lambda: next(seconds)))
    calls = [("on_train_batch_end", ended.append)]
    watched(tmp_path, oracle, time=20 / 3600, epochs=100, calls=calls, steps=12)
    assert len(ended) == 11  # the trainer ends before the last batch's callback


def test_custom_block(tmp_path, oracle, monkeypatch):
    """Registered as users do: added to the modules of Ultralytics, and named in a YAML file."""
    import own_block
    from ultralytics.nn import tasks

    monkeypatch.setattr(tasks, "Gated", own_block.Gated, raising=False)
    (tmp_path / "own.yaml").write_text(own_block.MODEL, encoding="utf-8")
    (run,), _ = watched(tmp_path, oracle, model=str(tmp_path / "own.yaml"), steps=6)
    kinds = dict(zip(run.layout.modules, run.layout.types, strict=True))
    assert [kinds[f"model.{block}"] for block in ("3.0", "3.1", "7")] == ["Gated"] * 3
    assert ("model.7", "Gated") in run.layout.blocks
    assert kinds["model.7.gate.1"] == "Conv2d"


def teacher(folder):
    from ultralytics.engine import trainer as engine

    needs(engine, "distill_model")
    return str(train(folder / "teacher", model="yolo11n.yaml").trainer.last)


def test_distillation_is_watched_as_its_student(tmp_path, oracle):
    from ultralytics import YOLO

    (run,), _ = watched(tmp_path, oracle, distill_model=teacher(tmp_path), steps=6)
    found = YOLO("yolo26n.yaml").model.named_modules()
    student = {name or "model" for name, module in found if list(module.parameters())}
    others = set(run.layout.modules) - student
    assert student <= set(run.layout.modules)
    assert {name.partition(".")[0] for name in others} == {"projector"}
    assert run.layout.head == "model.23"


@full
@pytest.mark.parametrize("distills", [False, True])
def test_resumed_training(tmp_path, oracle, distills):
    def interrupt(trainer):
        if trainer.epoch == 2:
            raise KeyboardInterrupt

    chosen = {"distill_model": teacher(tmp_path)} if distills else {}
    calls = [("on_train_start", oracle.take_model), ("on_train_epoch_start", interrupt)]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, watch=GradWatch(live=False), calls=calls, epochs=4, save=True, **chosen)
    last = str(tmp_path / "run" / "weights" / "last.pt")
    (run,), _ = watched(tmp_path, oracle, model=last, data=shapes(), resume=True, steps=8)
    assert [event.kind for event in run.meta.events] == ["start", "resume"]


@pytest.fixture
def _trains_in_series():
    from ultralytics.engine import trainer as engine

    needs(engine, "class MultiTrainer")


@pytest.mark.usefixtures("_trains_in_series")
def test_data_sets_in_series(tmp_path, oracle):
    sets = [shapes(8), shapes(12)]
    # otherwise Ultralytics 8.4.100 trains both in one folder
    options = {"epochs": 1, "exist_ok": False}
    runs, _ = watched(tmp_path, oracle, data=sets, steps=5, **options)
    assert len({run.folder for run in runs}) == len(runs) == 2


@full
@pytest.mark.usefixtures("_trains_in_series")
def test_data_sets_in_series_from_the_command_line(tmp_path, oracle, monkeypatch):
    """With spaces in the paths; otherwise Ultralytics trains each with its own command."""
    watches, begin = set(), Attachment.on_begin

    def recording_begin(self, trainer):
        watches.add(self)
        begin(self, trainer)
        if oracle.take_model not in trainer.callbacks["on_train_start"]:
            trainer.add_callback("on_train_start", oracle.take_model)

    monkeypatch.setattr(Attachment, "on_begin", recording_begin)
    folder = tmp_path / "two sets"
    sets = [shapes(8), shapes(12)]
    arguments = {**TINY, "data": sets, "project": folder, "exist_ok": False}
    words = [f"{name}={value}" for name, value in arguments.items()]
    assert main(["train", "model=yolo26n.yaml", *words]) == 0
    (watch,) = watches
    runs = assert_healthy_trainings(watch.sessions, oracle)
    assert [folder in run.folder.parents for run in runs] == [True, True]


@full
@pytest.mark.parametrize("iterations", [1, 2])
def test_tuned_model_is_watched_in_its_own_trainings_only(tmp_path, oracle, iterations):
    """Ultralytics tunes with ``yolo train`` commands, which have no callbacks."""
    from ultralytics import YOLO

    model = YOLO("yolo26n.yaml")
    watch = GradWatch(live=False).attach(model)
    tuned = {**TINY, "name": "tuned", "project": str(tmp_path), "data": shapes()}
    model.tune(iterations=iterations, **tuned)
    assert (tmp_path / "tuned" / "best_hyperparameters.yaml").exists()
    assert watch._attachment.sessions == []
    assert not list(tmp_path.rglob("gradwatch*"))
    watched(tmp_path, oracle, watch=watch, model=model, epochs=1, steps=3)
