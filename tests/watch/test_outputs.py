"""What a custom output receives in a training, in which order, and what happens if it raises."""

import pytest
from short import assert_nothing_left, at, bits_of, leave, ruin, spoil, starve, warnings_of

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.measure.capture import Capture
from yolo_gradwatch.runs.outputs import METHODS

RECORDED = {
    "start": lambda run: (run.begin.kind, run.begin.step),
    "epoch_start": lambda epoch, epochs: (epoch, epochs),
    "steps": lambda samples, norms: (*(one.step for one in samples), norms.ndim),
    "window": lambda window: (window.step_first, window.step_last),
    "findings": lambda changes: tuple(one.finding.rule for one in changes),
    "epoch": lambda clipping: (clipping.epoch, clipping.steps),
    "flow": lambda flow: (flow.step,),
    "regroup": lambda layout: (max(layout.since),),
    "membership": lambda optimizer: (optimizer.step,),
    "restart": lambda event: (event.kind, event.step),
    "kept": lambda kept: (kept.epoch, kept.step),
    "end": lambda report: (report.status,),
    "close": tuple,
}
"""Which arguments of a method are recorded."""


class RecordingOutput:
    """An output that records its calls.

    Args:
        calls: The list of calls: the method and its recorded arguments.
        raises: A method that raises afterwards.
    """

    def __init__(self, calls, raises=None):
        self.calls = calls
        for method in METHODS:
            setattr(self, method, self._recording(method, fails=method == raises))

    def _recording(self, method, *, fails):
        def note(*args):
            self.calls.append((method, *RECORDED[method](*args)))
            if fails:
                raise OSError("no connection")

        return note


def trained(way, folder, *, calls=(), raises=None, **options):
    """Train with two outputs, the first of which may raise; the trainer, watch and their calls."""
    notes = [], []
    outputs = [RecordingOutput(notes[0], raises), RecordingOutput(notes[1])]
    watch = GradWatch(live=False, outputs=outputs, keep_healthy="save" in options)
    trainer = way.train(folder, watch=watch, calls=calls, warmup_epochs=0, **options)
    return trainer, watch, *notes


def epoch(number, *, finds=(), end=True):
    """The calls of an epoch with two steps, each one a window, in a new training."""
    first = 2 * number - 1
    steps = []
    for step in (first, first + 1):
        steps += [("flow", step)] * (step in {1, 2, 4, 8})
        steps += [("steps", step, 2), ("window", step, step)]
        steps += [("findings", *finds)] * bool(finds and step > first)
    begin = [("epoch_start", number, 4), *[("membership", 1)] * (number == 1)]
    return [*begin, *steps, *[("epoch", number, 2)] * end]


def ends(calls):
    return [call for call in calls if call[0] in {"end", "close"}]


FINISHED = [("end", "finished"), ("close",)]


def test_output_receives_everything_in_order(way, tmp_path):
    """Its end comes before a callback on the training's end that was added before the watch."""
    calls = []
    watch = GradWatch(live=False, outputs=[RecordingOutput(calls)])
    way.train(
        tmp_path,
        watch=watch,
        first=[("on_train_end", lambda _trainer: calls.append("first"))],
        calls=[spoil("model.1.conv.weight", at=8)],
    )
    passes = [*epoch(1), *epoch(2), *epoch(3), *epoch(4, finds=["nonfinite"])]
    assert calls == [("start", "start", 1), *passes, ("end", "finished"), "first", ("close",)]


def thaw(trainer):
    trainer.model.requires_grad_(requires_grad=True)


@pytest.mark.parametrize(
    ("options", "call", "expected"),
    [
        (
            {"freeze": 2},
            ("on_train_batch_start", 3, thaw),
            [
                ("epoch_start", 2, 4),
                ("regroup", 3),
                ("restart", "thaw", 3),
                ("membership", 3),
                ("steps", 3, 2),
            ],
        ),
        (
            {"save": True},
            ("on_train_epoch_start", 2, ruin),
            [("epoch", 2, 2), ("restart", "nan_recovery", 5), ("epoch_start", 2, 4)],
        ),
        (
            {"imgsz": 64},
            ("on_train_start", 1, starve),
            [("epoch", 1, 1), ("restart", "oom_restart", 2), ("epoch_start", 1, 4)],
        ),
    ],
    ids=["thaw", "NaN", "memory"],
)
def test_restart_is_reported_between_before_and_after(way, tmp_path, options, call, expected):
    _, _, calls, _ = trained(way, tmp_path, calls=[at(*call)], **options)
    begin = calls.index(expected[0])
    assert [one for one in calls[begin:] if one[0] not in {"findings", "flow"}][
        : len(expected)
    ] == expected
    assert sum(one[0] == "restart" for one in calls) == 1
    assert ends(calls) == FINISHED


@pytest.mark.parametrize(
    ("moment", "error", "expected"),
    [
        (("on_fit_epoch_end", 2), KeyboardInterrupt, [("end", "interrupted"), ("close",)]),
        (("on_fit_epoch_end", 2), ZeroDivisionError, [("end", "failed"), ("close",)]),
        (
            ("on_train_end", 1),
            ZeroDivisionError,
            [("end", "finished"), ("end", "failed"), ("close",)],
        ),
        (("teardown", 1), ZeroDivisionError, FINISHED),
    ],
)
def test_output_is_ended_and_closed_however_a_training_ends(way, tmp_path, moment, error, expected):
    calls = []
    watch = GradWatch(live=False, outputs=[RecordingOutput(calls)])
    with pytest.raises(error):
        way.train(tmp_path, watch=watch, calls=[at(*moment, leave(error))])
    assert ends(calls) == expected


def test_output_is_closed_if_the_watch_ends_before_the_training(faked, tmp_path, monkeypatch):
    detached, broken = [], []
    watch = GradWatch(live=False, outputs=[RecordingOutput(detached)])
    faked.train(
        tmp_path, watch=watch, calls=[at("on_train_batch_end", 3, lambda _: watch.detach())]
    )
    assert ends(detached) == [("end", "interrupted"), ("close",)]
    watch = GradWatch(live=False, outputs=[RecordingOutput(broken)])
    broke = at("on_train_epoch_start", 2, lambda _: monkeypatch.delattr(Capture, "take"))
    faked.train(tmp_path, watch=watch, calls=[broke])
    assert ends(broken) == [("close",)]  # after an error of ours there is no end


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_output_that_raises_is_closed_and_nothing_else_changes(faked, tmp_path, caplog, method):
    options = {"freeze": 2, "save": True}
    calls = [at("on_train_batch_start", 3, thaw), spoil("model.2.conv.weight", at=8)]
    usual, _, _, expected = trained(faked, tmp_path / "usual", calls=calls, **options)
    calls = [at("on_train_batch_start", 3, thaw), spoil("model.2.conv.weight", at=8)]
    caplog.clear()
    trainer, watch, bad, good = trained(faked, tmp_path, calls=calls, raises=method, **options)
    assert good == expected
    assert {call[0] for call in good} == set(METHODS)
    place = [call[0] for call in expected].index(method)
    assert bad == [*expected[: place + 1], *[("close",)] * (method != "close")]
    (one,) = warnings_of(caplog)
    assert f"RecordingOutput.{method} raised OSError: no connection" in one
    assert bits_of(trainer) == bits_of(usual)
    assert_nothing_left(trainer)
    assert watch.report().status == "finished"
    assert load_run(watch.run_dir).report() == watch.report()
