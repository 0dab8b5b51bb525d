import gc
import pickle
import weakref

import pytest
import training  # noqa: F401  # attach imports Ultralytics, whose settings are then the tests' own
from fake_trainer import FakeModel

from yolo_gradwatch import GradWatch, Thresholds
from yolo_gradwatch.runs.outputs import OutputBase
from yolo_gradwatch.watch.ultralytics.command import Starter


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"interval": 0}, ValueError, "interval must be an integer of at least 1, got 0"),
        ({"interval": True}, ValueError, "interval must be an integer of at least 1, got True"),
        ({"interval": 1.5}, ValueError, "interval must be an integer of at least 1, got 1.5"),
        (
            {"thresholds": {"dead_windows": 3}},
            TypeError,
            "thresholds must be a Thresholds, got dict",
        ),
        ({"live": "yes"}, TypeError, "live must be True, False or None, got 'yes'"),
        ({"flow": 1}, TypeError, "flow must be True or False, got 1"),
        ({"keep_healthy": "yes"}, TypeError, "keep_healthy must be True or False, got 'yes'"),
        ({"on_finding": 3}, TypeError, "on_finding must be callable, got int"),
        ({"stop_on": "nonfinite"}, TypeError, "stop_on must be a list or tuple of names"),
        ({"stop_on": ["tired"]}, ValueError, "'tired' is not .* collapse, critical, dead"),
        ({"stop_on": ["amp_overflow"]}, ValueError, "stop_on: 'amp_overflow' is only a notice"),
        ({"outputs": [print]}, TypeError, "has none of the methods start, "),
        ({"outputs": [OutputBase]}, TypeError, "OutputBase is a class"),
    ],
)
def test_bad_options_are_reported_with_their_value(options, error, said):
    with pytest.raises(error, match=said):
        GradWatch(**options)


@pytest.mark.parametrize("target", [5, None, "yolo26n.pt", object()])
def test_attach_refuses_anything_but_a_model(target):
    with pytest.raises(TypeError, match=rf"attach needs .* got {type(target).__name__}"):
        GradWatch().attach(target)


def test_attach_refuses_a_torch_module():
    from torch import nn

    with pytest.raises(TypeError, match=r"attach needs an Ultralytics model .* got Linear"):
        GradWatch().attach(nn.Linear(2, 2))


def test_attach_refuses_a_model_without_training():
    with pytest.raises(TypeError, match=r"FakeModel has no train\(\) in Ultralytics"):
        GradWatch().attach(FakeModel(tasks=["predictor"]))


def test_attach_returns_the_watch_and_is_idempotent():
    model, watch = FakeModel(), GradWatch()
    assert watch.attach(model) is watch
    assert watch.attach(model) is watch
    assert len(model.callbacks["on_pretrain_routine_start"]) == 1


def attached(target, *watches):
    known = {watch._attachment: watch for watch in watches}
    return [known[call.__self__] for call in target.callbacks["on_pretrain_routine_start"]]


def test_newest_watch_takes_over():
    model, other = FakeModel(), FakeModel()
    first, second = GradWatch().attach(model).attach(other), GradWatch()
    second.attach(model)
    assert attached(model, first, second) == [second]
    assert attached(other, first, second) == [first]
    first.attach(model)
    assert attached(model, first, second) == [first]


def test_users_callback_stays_when_watches_change():
    model, calls = FakeModel(), []
    model.add_callback("on_pretrain_routine_start", calls.append)
    GradWatch().attach(model)
    watch = GradWatch().attach(model)
    on_begin = watch._attachment.on_begin
    assert model.callbacks["on_pretrain_routine_start"] == [calls.append, on_begin]
    assert watch.detach() is None
    assert model.callbacks["on_pretrain_routine_start"] == [calls.append]


def test_detach_removes_the_watch_everywhere_and_is_idempotent():
    models = [FakeModel(), FakeModel()]
    watch, other = GradWatch(), GradWatch()
    for model in models:
        watch.attach(model)
    other.attach(models[0])
    watch.detach()
    watch.detach()
    assert [attached(model, watch, other) for model in models] == [[other], []]
    watch.attach(models[1])
    assert attached(models[1], watch) == [watch]


@pytest.mark.slow
def test_watch_keeps_no_model_alive():
    model, watch = FakeModel(), GradWatch()
    watch.attach(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    watch.detach()
    for _ in range(100):
        watch.attach(FakeModel())
    assert len(watch._attachment._targets) == 1


def test_before_a_training_there_is_no_folder_and_no_report():
    watch = GradWatch()
    assert watch.run_dir is None
    assert watch.stopped_by is None
    assert watch.reports == []
    with pytest.raises(RuntimeError, match="no training has started"):
        watch.report()


def test_other_ranks_refer_to_the_report_of_rank_0(as_rank):
    as_rank(1)
    watch = GradWatch().attach(FakeModel())
    report = watch.report()
    assert (report.status, report.steps, report.findings) == ("elsewhere", 0, ())
    assert "rank 0" in report.verdict
    assert "rank 0" in str(report).partition(report.verdict)[2]
    assert report.healthy  # a script that exits with an error if unhealthy leaves that to rank 0
    assert not (report.run / "gradwatch.csv").exists()
    assert watch.run_dir is None
    assert watch.stopped_by is None
    assert not watch.has_started


def test_cloudpickled_copy_is_small_and_usable():
    cloudpickle = pytest.importorskip("cloudpickle")
    limits = Thresholds(dead_windows=5)
    watch = GradWatch(interval=7, thresholds=limits, stop_on=["dead"], keep_healthy=True)
    watch.attach(FakeModel())
    data = cloudpickle.dumps({"watch": watch, "calls": [watch._attachment.on_begin]})
    assert len(data) < 10_000
    copy = pickle.loads(data)  # noqa: S301  # our own
    again, (call,) = copy["watch"], copy["calls"]
    assert call.__self__ is again._attachment
    assert again._attachment._options == watch._attachment._options
    assert again.attach(FakeModel()) is again
    assert again.run_dir is None


def test_callback_of_the_command_line_survives_a_deep_copy_without_being_equal():
    from copy import deepcopy

    seen = []
    starter = Starter(seen.append)
    copy = deepcopy(starter)
    copy("trainer")
    assert seen == ["trainer"]
    assert copy != starter
