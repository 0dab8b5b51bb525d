"""What a model carries to the trials of ``model.tune()``."""

import gc
import logging
import pickle
import weakref
from copy import deepcopy

import pytest
from fake_trainer import FakeModel

from yolo_gradwatch import GradWatch
from yolo_gradwatch.watch.attachment import Attachment
from yolo_gradwatch.watch.ultralytics import tuning

BEGIN = "on_pretrain_routine_start"


class Metrics:
    fitness = 0.5
    results_dict = {"mAP": 0.25}  # noqa: RUF012


class Tunable(FakeModel):
    """As much of a model as tuning needs."""

    results = Metrics()

    def reset_callbacks(self):
        self.callbacks[BEGIN] = []

    def tune(self, use_ray=False, iterations=10, **options):  # noqa: FBT002  # as Ultralytics has it
        return use_ray, iterations, options

    def train(self, **_options):
        return self.results


def attached(model):
    owners = [getattr(call, "__self__", None) for call in model.callbacks[BEGIN]]
    return [owner for owner in owners if isinstance(owner, Attachment)]


def pickled(model):
    cloudpickle = pytest.importorskip("cloudpickle")
    return pickle.loads(cloudpickle.dumps(model))  # noqa: S301  # our own


def carried(model):
    return {name for name in ("reset_callbacks", "train", "tune") if name in vars(model)}


@pytest.mark.parametrize("copied", [lambda model: model, deepcopy])
def test_reset_in_this_process_drops_the_watch_too(copied):
    model = Tunable()
    GradWatch().attach(model)
    copy = copied(model)
    copy.reset_callbacks()
    assert attached(copy) == []


def test_reset_in_another_process_drops_all_callbacks_but_the_watch():
    model = Tunable()
    watch = GradWatch(interval=7).attach(model)
    model.add_callback(BEGIN, print)
    copy = pickled(model)
    copy.reset_callbacks()
    (there,) = attached(copy)
    assert there._options == watch._attachment._options
    assert there is not watch._attachment
    copy.reset_callbacks()  # by now the watch belongs to this process
    assert attached(copy) == []


def test_trial_adds_our_numbers_to_its_results(monkeypatch):
    model = Tunable()
    GradWatch().attach(model)
    copy = pickled(model)
    copy.reset_callbacks()
    (there,) = attached(copy)
    assert copy.train(epochs=1).results_dict == {"mAP": 0.25}  # there is no report
    monkeypatch.setattr(there, "numbers", lambda: {"gradwatch/findings": 2})
    results = copy.train(epochs=1)
    assert results.results_dict == {"mAP": 0.25, "gradwatch/findings": 2}
    assert results.fitness == 0.5
    assert Metrics.results_dict == {"mAP": 0.25}
    assert model.train() is model.results
    for other in (None, {"coco8": {"mAP": 0.25}}):
        copy.results = other
        assert copy.train() is other


@pytest.mark.parametrize(
    ("arguments", "options", "warnings"),
    [((), {}, 1), ((False, 3), {}, 1), ((), {"use_ray": True}, 0), ((True,), {"epochs": 2}, 0)],
)
def test_tune_warns_once_about_unwatched_trainings(caplog, arguments, options, warnings):
    model = Tunable()
    expected = model.tune(*arguments, **options)
    GradWatch().attach(model)
    with caplog.at_level(logging.WARNING):
        assert [model.tune(*arguments, **options) for _ in range(2)] == [expected] * 2
    assert [one.getMessage() for one in caplog.records] == [
        f"GradWatch: {tuning.NOT_WATCHED}"
    ] * warnings


def test_detached_model_carries_nothing():
    model = Tunable()
    first = GradWatch().attach(model)
    assert carried(model) == {"reset_callbacks", "tune"}
    GradWatch().attach(model)
    first.detach()
    assert carried(model) == {"reset_callbacks", "tune"}
    attached(model)[0].detach()
    assert carried(model) == set()


def test_method_of_the_user_stays():
    model = Tunable()
    model.tune = own = lambda: "own"
    GradWatch().attach(model)
    assert model.tune is own
    attached(model)[0].detach()
    assert vars(model)["tune"] is own


def test_carried_methods_keep_no_model_alive():
    model, watch = Tunable(), GradWatch()
    watch.attach(model)
    gc.disable()
    try:
        gone = weakref.ref(model)
        del model
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.slow
def test_ultralytics_has_the_carried_methods():
    from training import small
    from ultralytics import YOLO

    model = YOLO(small())
    GradWatch().attach(model)
    assert carried(model) == {"reset_callbacks", "tune"}
    model.add_callback(BEGIN, print)
    copy = pickled(model)
    copy.reset_callbacks()
    assert print not in copy.callbacks[BEGIN]
    assert attached(copy) not in ([], attached(model))
