"""A check of a training before it starts: a few steps that leave nothing behind."""

import json
import logging
import tempfile
from contextlib import suppress
from copy import deepcopy

import pytest
from fake_trainer import FakeModel, FakeTrainer, scaler_of
from short import at, leave, ruin, spoil, starve
from training import TINY, shapes, small, train

from yolo_gradwatch import GradWatch, Thresholds
from yolo_gradwatch.views.checked import number_format
from yolo_gradwatch.watch.check import NOWHERE, Unfit, check_model

ARGUMENTS = {**TINY, "data": "noise", "epochs": 40}
del ARGUMENTS["name"], ARGUMENTS["exist_ok"], ARGUMENTS["val"], ARGUMENTS["plots"]


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """An empty folder for temporary files and an empty working directory; both stay clean."""
    for name in ("temporary", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert not [*(tmp_path / "temporary").glob("yolo-*"), *(tmp_path / "here").iterdir()]


class RecordingTrainer(FakeTrainer):
    """Records validations and saved models."""

    notes: tuple = ()

    def validate(self):
        type(self).notes += ("validate",)
        return super().validate()

    def save_model(self):
        type(self).notes += ("save",)
        return super().save_model()


def checked(steps=6, *, calls=(), kind=FakeTrainer, tell=lambda *_: None, **arguments):
    """A check with the fake trainer: two batches an epoch, one step each."""
    model = FakeModel()
    for event, call in calls:
        model.add_callback(event, call)
    given = {**ARGUMENTS, "trainer": kind, **arguments}
    return check_model(model, given, steps, Thresholds(), tell)


def test_check_ends_after_the_given_steps_in_mid_epoch():
    class Trainer(RecordingTrainer):
        notes = ()

    found = checked(5, kind=Trainer)
    assert (found.report.steps, found.report.status, found.report.remarks) == (5, "finished", ())
    assert found.run.grid.step_last.max() == 5
    assert (found.cost.together, found.cost.batches, found.cost.epochs) == (1, 2, 40)
    assert found.cost.steps == 80
    assert found.cost.seconds > 0
    assert found.cost.memory > 1e6
    assert Trainer.notes == ("validate",) * 2  # the trainer itself validates in every epoch


def test_steps_are_optimizer_steps():
    progress = []
    found = checked(3, nbs=16, images=24, tell=lambda *done: progress.append(done[:2]))
    assert found.report.steps == 3
    assert len(progress) == 12
    assert [progress[0], progress[-1]] == [(0, 3), (3, 3)]
    assert found.cost.together == 4


@pytest.mark.parametrize("steps", [1, 6, 7])
def test_first_and_last_step_are_traced_and_measured(steps):
    run = checked(steps).run
    traced = set(run.flow["step"])
    assert {1, steps} <= traced
    ratios = run.grid.update_ratio[run.grid.step_first == steps][0]
    assert ratios[0] > 0
    assert run.grid.weight_max[run.grid.step_first == steps][0, 0] > 0


def test_training_with_fewer_steps_runs_to_its_end():
    class Trainer(RecordingTrainer):
        notes = ()

    progress = []
    found = checked(30, kind=Trainer, epochs=2, tell=lambda *done: progress.append(done[:2]))
    assert found.report.steps == 4
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert found.report.remarks == (
        "the whole training has 4 optimizer steps: 2 epochs of 2 batches, 1 per step",
    )
    assert Trainer.notes == ("validate",)  # not in its last epoch


def test_training_without_a_step_has_no_verdict():
    report = checked(3, epochs=1, nbs=64).report
    assert report.steps == 0
    assert report.verdict.startswith("no verdict")


def test_nonfinite_loss_at_the_end_of_an_epoch_ends_the_check():
    found = checked(30, calls=[at("on_train_epoch_start", 2, ruin)])
    assert found.report.steps == 4
    assert "nonfinite" in [finding.rule for finding in found.report.alarms]
    assert found.report.remarks[-1].startswith("ended after step 4: the loss was not finite")


def test_steps_are_counted_with_a_scaler_set_by_a_callback():
    def scale(trainer):
        trainer.scaler = scaler_of(enabled=True)

    found = checked(4, calls=[("on_train_start", scale)])
    assert found.report.steps == 4
    assert number_format(found.run).name == "float16"


def test_stopped_training_ends_without_a_validation():
    class Trainer(RecordingTrainer):
        notes = ()

    def stop(trainer):
        trainer.stop = True

    found = checked(30, kind=Trainer, calls=[at("on_train_batch_start", 3, stop)])
    assert found.report.remarks == ("ended after step 3: the training was stopped",)
    assert Trainer.notes == ("validate",)


def test_out_of_memory_is_reported():
    progress = []
    options = {"calls": [("on_train_start", starve)], "nbs": 1}
    found = checked(30, images=16, epochs=2, tell=lambda *done: progress.append(done), **options)
    assert all(done <= planned and left >= 0 for done, planned, left in progress)
    assert found.report.remarks[0] == "out of memory: the batch was cut to 2"
    assert (found.cost.together, found.cost.batches, found.cost.epochs) == (1, 8, 2)


def test_training_that_cannot_be_watched_is_ended():
    batches = []

    class Trainer(FakeTrainer):
        def optimizer_step(self):
            self.optimizer.step()
            self.optimizer.zero_grad()

    found = checked(30, kind=Trainer, calls=[("on_train_batch_start", batches.append)])
    assert len(batches) == 1
    assert found.report.steps == 0
    assert "unscale_" in found.report.remarks[0]


def test_finding_is_the_same_as_in_a_training(tmp_path):
    spoiled = spoil("model.1.conv.weight", at=4)
    found = checked(8, calls=[spoiled])
    assert [(one.rule, one.step) for one in found.report.alarms] == [("nonfinite", 4)]
    assert found.report.alarms == found.run.report().alarms
    assert found.report.alarms[0].evidence == ""  # its file would be gone


def test_report_outlives_the_folder():
    model = FakeModel()
    report = GradWatch.check(model, steps=6, **ARGUMENTS)
    assert report.run == NOWHERE
    assert report.verdict in str(report)
    assert json.loads(json.dumps(report.to_dict()))["steps"] == 6


def test_model_is_unchanged_and_its_watch_sees_nothing():
    model, calls = FakeModel(), []
    model.add_callback("on_train_batch_end", calls.append)
    watch = GradWatch(live=False).attach(model)
    before = {event: list(known) for event, known in model.callbacks.items()}
    GradWatch.check(model, steps=3, **ARGUMENTS)
    assert model.callbacks == before
    assert set(vars(model)) == {"task_map", "callbacks", "model"}
    assert watch.reports == []
    assert len(calls) == 3  # the user's own callback


def logging_call(module):
    """An Ultralytics callback defined in this module, and its calls."""
    called = []

    def call(trainer):
        called.append(trainer)

    call.__module__ = f"ultralytics.{module}"
    return call, called


@pytest.mark.parametrize(
    ("module", "count"),
    [
        ("utils.callbacks.wb", 0),
        ("utils.callbacks.mlflow", 0),
        ("utils.events", 0),
        ("utils.callbacks.base", 3),
        ("models.yolo.world.train", 3),
    ],
)
@pytest.mark.parametrize("is_late", [True, False])
def test_loggers_are_not_called_but_callbacks_of_the_training_are(module, count, is_late):
    call, called = logging_call(module)

    class Trainer(FakeTrainer):
        def run_callbacks(self, event):
            if event == "on_pretrain_routine_start" and is_late:  # as Ultralytics adds its loggers
                for known in (event, "on_train_batch_end"):
                    self.callbacks[known].append(call)
            super().run_callbacks(event)

    early = [] if is_late else [("on_train_batch_end", call)]
    checked(3, kind=Trainer, calls=early)
    assert len(called) == count + (count > 0 and is_late)


def test_error_before_the_first_epoch_is_raised():
    with pytest.raises(ZeroDivisionError):
        checked(calls=[("on_pretrain_routine_end", leave(ZeroDivisionError))])


def test_later_error_is_kept_with_the_findings():
    calls = [at("on_train_batch_start", 4, leave(ZeroDivisionError))]
    found = checked(calls=calls)
    assert isinstance(found.error, ZeroDivisionError)
    assert (found.report.steps, found.report.status) == (3, "failed")
    model = FakeModel()
    model.add_callback(*at("on_train_batch_start", 4, leave(ZeroDivisionError)))
    with pytest.raises(ZeroDivisionError):
        GradWatch.check(model, steps=6, **ARGUMENTS)


def test_ctrl_c_is_raised():
    with pytest.raises(KeyboardInterrupt):
        checked(calls=[at("on_train_batch_start", 2, leave(KeyboardInterrupt))])


@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_log_level_of_ultralytics_is_restored(error):
    from ultralytics.utils import LOGGER

    levels, before = [], LOGGER.level
    calls = [("on_train_batch_end", lambda _: levels.append(LOGGER.getEffectiveLevel()))]
    if error:
        calls.append(at("on_train_batch_end", 2, leave(error)))
    with suppress(KeyboardInterrupt):
        checked(calls=calls)
    assert LOGGER.level == before
    assert set(levels) == {logging.WARNING}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"resume": True}, "resume: "),
        ({"resume": "runs/last.pt"}, "resume: "),
        ({"data": ["a.yaml", "b.yaml"]}, "data: "),
        ({"data": "[a.yaml, b.yaml]"}, "data: "),
    ],
)
def test_resumes_and_data_sets_in_series_are_refused(arguments, said):
    with pytest.raises(Unfit, match=said):
        checked(**arguments)


def test_training_in_several_processes_is_refused():
    class Launcher(FakeTrainer):
        ddp = True

        def train(self):
            from ultralytics.engine import trainer

            trainer.generate_ddp_command(self)

    with pytest.raises(Unfit, match="device=0"):
        checked(kind=Launcher)


@pytest.mark.parametrize("steps", [0, -1, True, 1.5])
def test_steps_must_be_a_positive_integer(steps):
    with pytest.raises(ValueError, match="steps must be an integer of at least 1"):
        GradWatch.check(FakeModel(), steps=steps, **ARGUMENTS)


@pytest.mark.parametrize("target", [5, None, "yolo26n.pt"])
def test_only_a_model_can_be_checked(target):
    with pytest.raises(TypeError, match="needs an Ultralytics model"):
        GradWatch.check(target, **ARGUMENTS)


# --- Ultralytics' own trainer ---------------------------------------------------------------------


def state_of(model):
    """Everything that a user can see of a model."""
    network = model.model
    return {
        "weights": {n: v.numpy().tobytes() for n, v in network.state_dict().items()},
        "network": id(network),
        "frozen": [p.requires_grad for p in network.parameters()],
        "gradients": [p.grad for p in network.parameters()],
        "yaml": deepcopy(network.yaml),
        "names": deepcopy(network.names),
        "overrides": deepcopy(model.overrides),
        "callbacks": {event: [*calls] for event, calls in model.callbacks.items()},
        "attributes": {name: id(one) for name, one in vars(model).items()},
    }


@pytest.mark.train
def test_model_in_memory_is_checked_and_unchanged(tmp_path_factory):
    from ultralytics import YOLO

    saved = train(tmp_path_factory.mktemp("weights"), model=small()).trainer.last
    model = YOLO(saved)
    model.model.model[2].conv.weight.data.fill_(float("nan"))  # only the model in memory has it
    before, data = state_of(model), shapes()
    report = GradWatch.check(model, data=data, steps=2, **{**TINY, "epochs": 5})
    assert state_of(model) == before
    assert report.steps == 2
    assert "nonfinite" in [finding.rule for finding in report.alarms]
