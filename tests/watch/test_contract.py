"""What the watch needs of Ultralytics: checked in the installed version, and broken on purpose.

If a test of the first part fails with a new Ultralytics, its name says what changed there.
"""

from __future__ import annotations

import io
import logging
import sys
from contextlib import suppress
from itertools import groupby

import pytest
import torch
from short import FAKE
from short import warnings_of as warnings_in
from torch.nn.utils import clip_grad_norm_
from training import shapes, train

from yolo_gradwatch import GradWatch
from yolo_gradwatch.measure.clipping import CLIP_NORM
from yolo_gradwatch.watch.ultralytics import contract, hooks
from yolo_gradwatch.watch.ultralytics import training as facts
from yolo_gradwatch.watch.ultralytics.contract import Unwatchable

EVENTS = (
    "on_pretrain_routine_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_fit_epoch_end",
    "on_train_end",
)
"""The events that the watch uses, in the order of a training of one batch."""


@pytest.fixture(scope="module")
def base():
    from ultralytics.engine.trainer import BaseTrainer

    return BaseTrainer


def bare(kind):
    """An instance that was not initialized."""
    return object.__new__(kind)


class CallRecorder:
    """Records which of its methods are called."""

    def __init__(self, calls):
        self.calls = calls

    def __getattr__(self, name):
        return lambda *_args: self.calls.append(name)


def test_installed_trainer_unscales_then_clips_then_steps(base, monkeypatch):
    calls = []
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda *_args, **_options: calls.append("clip")
    )
    trainer = bare(base)
    trainer.scaler, trainer.optimizer, trainer.ema = CallRecorder(calls), CallRecorder(calls), None
    trainer.model, trainer.device = torch.nn.Linear(1, 1), torch.device("cpu")
    trainer.optimizer_step()
    assert calls == ["unscale_", "clip", "step", "update", "zero_grad"]
    contract.check_step(base)


@pytest.mark.parametrize("event", EVENTS)
def test_installed_trainer_has_the_callback(base, event):
    from ultralytics.utils.callbacks.base import default_callbacks

    assert event in default_callbacks
    contract.check_event(base, event)


@pytest.mark.train
def test_installed_trainer_runs_the_callbacks_around_its_steps_in_order(tmp_path):
    happened = []
    calls = [(event, lambda _, event=event: happened.append(event)) for event in EVENTS]

    def wrap(trainer):
        hooks.after_unscale(trainer, lambda: happened.append("unscale_"))
        hooks.StepHooks(lambda: None, lambda: happened.append("step")).attach(trainer)
        hooks.before_batch(trainer, lambda *_: happened.append("preprocess_batch"))

    train(tmp_path, calls=[*calls, ("on_train_start", wrap)], data=shapes(4), val=True)
    step = ["preprocess_batch", "unscale_", "step"]
    # Later versions report the final validation with another on_fit_epoch_end.
    assert [event for event, _ in groupby(happened)] == [*EVENTS[:3], *step, *EVENTS[3:]]


class Hooked(io.StringIO):
    """A terminal that receives the frames of a bar through the hook."""

    def __init__(self):
        super().__init__()
        self.frames = []

    def isatty(self):
        return True

    def progress(self, bar, frame):
        self.frames.append((bar, frame))


def test_installed_bar_uses_the_hook_or_carriage_returns():
    from ultralytics.utils import TQDM

    stream = Hooked()
    bar = TQDM(range(2), file=stream, desc="epoch", disable=False, mininterval=0.0)
    bar.noninteractive = False
    assert list(bar) == [0, 1]
    if stream.frames:  # since 8.4.130
        assert {number for number, _ in stream.frames} == {id(bar)}
        assert all("epoch" in frame for _, frame in stream.frames[:-1])
        assert stream.frames[-1] == (id(bar), "")
        assert stream.getvalue() == "\n"
    else:
        first, *frames = stream.getvalue().split("\r")
        assert first == ""
        assert all("epoch" in frame for frame in frames)
        assert stream.getvalue().endswith("\n")
    assert facts.has_known_bar()


def test_installed_engine_prepares_a_launch_with_the_wrapped_function():
    from ultralytics.engine import trainer as engine

    assert callable(engine.generate_ddp_command)


CLIP, UNSCALE = "torch.nn.utils.clip_grad_norm_", "self.scaler.unscale_(self.optimizer)"
MODEL, UP = "(self.model.parameters()", "super().optimizer_step()"
STEPS = {
    "ClipsFirst": ("base", f"clip_grad_norm_{MODEL}, 1.0); {UNSCALE}"),
    "ClipsValuesFirst": ("base", f"torch.nn.utils.clip_grad_value_{MODEL}, 1.0); {UP}"),
    "OldWays": ("base", f"w = self.model.parameters(); {CLIP}(w, 1.0); base.optimizer_step(self)"),
    "Late": ("ClipsFirst", f"{UNSCALE}; {UP}"),
    "ClipsOnly": ("base", f"{CLIP}{MODEL}, 1.0); self.optimizer.step()"),
    "Mended": ("ClipsFirst", f"{UNSCALE}; {CLIP}{MODEL}, 1.0)"),
    "Adds": ("base", f"super(Adds, self).optimizer_step(); {CLIP}(self.other.parameters(), 1.0)"),
    "HasAnother": ("base", f"{CLIP}(self.other.parameters(), 1.0); self.other_opt.step(); {UP}"),
    "ByKeyword": ("base", f"{UNSCALE}; {CLIP}{MODEL}, max_norm=2.5)"),
    "ByPosition": ("base", f"{UNSCALE}; {CLIP}{MODEL}, 3)"),
    "ByName": ("base", f"{UNSCALE}; clip_grad_norm_{MODEL}, max_norm=4.0)"),
    "OnTop": ("base", f"{UP}; self.steps_done = True"),
    "Words": ("base", f"'clip_grad_norm_(p, 1.0)'; {UP}"),
    "OtherCalls": (
        "base",
        f"print(max(7, 8), sum([9], 11)); {CLIP}{MODEL}, norm_type=2, max_norm=5)",
    ),
    "Computed": ("base", f"{UNSCALE}; {CLIP}{MODEL}, max_norm=self.limit)"),
}
"""Trainers by the body of their optimizer step, with their base classes."""

REFUSED = {
    **{name: name for name in ("ClipsFirst", "ClipsValuesFirst", "OldWays")},
    "Late": "ClipsFirst",
}
"""Trainers that clip before they unscale, and the class at fault."""

CLIPS = {
    "ClipsOnly": 1.0,
    "Mended": 1.0,
    "ByKeyword": 2.5,
    "ByPosition": 3.0,
    "ByName": 4.0,
    "OtherCalls": 5.0,
}
"""The total norm at which they clip, if it is not the 10 of Ultralytics."""


@pytest.fixture(scope="module")
def stepping(base, tmp_path_factory):
    """Those classes; a file holds their source, so that it can be inspected."""
    path = tmp_path_factory.mktemp("steps") / "steps.py"
    pattern = "class {}({}):\n    def optimizer_step(self): {}\n"
    path.write_text("".join(pattern.format(name, *how) for name, how in STEPS.items()), "utf-8")
    names = {"base": base, "torch": torch, "clip_grad_norm_": clip_grad_norm_}
    exec(compile(path.read_text("utf-8"), path, "exec"), names)  # noqa: S102  # our own text
    return names


@pytest.mark.parametrize("name", STEPS)
def test_step_that_clips_before_it_unscales_is_refused(stepping, name):
    if name not in REFUSED:
        contract.check_step(stepping[name])
        return
    with pytest.raises(Unwatchable, match=rf"^{REFUSED[name]}\.optimizer_step clips "):
        contract.check_step(stepping[name])


@pytest.mark.parametrize("name", [name for name in STEPS if name not in REFUSED])
def test_clip_comes_from_the_class_that_clips_the_model(stepping, name):
    kind = stepping[name]

    class CallsIt(kind):
        def optimizer_step(self):
            super().optimizer_step()

    for one in (kind, type("Inherits", (kind,), {}), CallsIt):
        clip = contract.clip_norm(bare(one))
        assert (clip, type(clip)) == (CLIPS.get(name, CLIP_NORM), float)


def test_installed_ultralytics_clips_at_10(base):
    from ultralytics.models.yolo.classify import ClassificationTrainer
    from ultralytics.models.yolo.detect import DetectionTrainer

    found = [contract.clip_norm(bare(k)) for k in (base, DetectionTrainer, ClassificationTrainer)]
    assert found == [CLIP_NORM] * 3 == [10.0] * 3


def test_clip_of_a_trainer_without_source_is_the_default(base):
    names = {}  # as in an interpreter
    exec(f"def typed(self): {CLIP}{MODEL}, max_norm=2.5)", names)  # noqa: S102  # our own text
    for step in (names["typed"], dict.update):  # written in C
        assert contract.clip_norm(bare(type("Foreign", (base,), {"optimizer_step": step}))) == 10.0


def test_broken_contract_is_reported_with_a_remedy(base, golden, monkeypatch, stepping):
    monkeypatch.setattr("ultralytics.__version__", "8.4.999")
    own, messages = type("Own", (base,), {"optimizer_step": dict.update, "__module__": "own"}), []
    for check, *arguments in (
        (contract.check_step, stepping["ClipsFirst"]),
        (contract.check_event, base, "on_wibble"),
    ):
        with pytest.raises(Unwatchable) as refused:
            check(*arguments)
        messages.append(refused.value)
    for kind in (base, own):
        messages += [contract.skipped_unscale(kind), contract.never_began(kind, "on_train_start")]
    golden("unwatchable", "".join(f"{one}\n" for one in (*messages, contract.unknown_bar())))


def test_trainer_without_source_is_accepted():
    kind = type("Typed", (), {"__module__": "nowhere", "optimizer_step": dict.update})
    contract.check_event(kind, "on_wibble")
    contract.check_step(kind)


def bar_that(draw):
    """A progress bar that draws frames with `draw` and swallows errors of its stream."""

    def bar(items, file, **_options):
        for item in items:
            with suppress(Exception):
                draw(file)
            yield item

    return bar


@pytest.mark.parametrize(
    ("draw", "is_known"),
    [
        (lambda file: file.progress(1, "50%"), True),
        (lambda file: file.write("\r50%"), True),
        (lambda file: file.progress(1, "50%", done=False), False),
        (lambda file: file.progress("50%"), False),
        (lambda file: file.progress({"bar": 1}, {"share": 0.5}), False),
        (lambda file: file.write("\n"), False),
        (lambda _file: None, False),
    ],
)
def test_bar_is_known_if_its_frames_arrive(draw, is_known):
    assert contract.shows_bar(bar_that(draw)) is is_known


def test_bar_that_cannot_be_tried_is_unknown(monkeypatch):
    monkeypatch.setattr("ultralytics.utils.TQDM", lambda items: items)  # takes no options
    assert not facts.has_known_bar()


@pytest.fixture
def warned(caplog):
    caplog.set_level(logging.WARNING, "yolo_gradwatch")
    return lambda: warnings_in(caplog)


@pytest.mark.train
def test_optimizer_that_calls_its_parent_is_watched(tmp_path, warned):
    """torch wraps `step` of each class that has an instance, so that hooks run twice here."""

    class Mine(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    def swap_optimizer(trainer):
        torch.optim.SGD(trainer.model.parameters(), lr=0.01)
        trainer.optimizer = Mine(trainer.model.parameters(), lr=0.01)
        trainer.optimizer.param_groups[0]["initial_lr"] = 0.01

    watch = GradWatch(live=False)
    train(tmp_path, watch=watch, calls=[("on_pretrain_routine_end", swap_optimizer)])
    assert warned() == []
    assert watch.report().steps == 2


@pytest.mark.train
def test_missing_callback_is_reported_before_the_training(tmp_path, warned, monkeypatch):
    monkeypatch.setattr(contract, "_events", lambda _owner: frozenset({"on_train_start"}))
    watch = GradWatch(live=False)
    train(tmp_path, watch=watch)
    (warning,) = warned()
    assert "on_train_epoch_start" in warning
    assert watch.report().steps == 0


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [True, False])
def test_unknown_bar_disables_the_panel_with_one_warning(
    tmp_path, warned, terminal, monkeypatch, wanted
):
    terminal()
    monkeypatch.setattr(facts, "has_known_bar", lambda: False)
    FAKE.train(tmp_path, watch=GradWatch(live=wanted))
    assert "\x1b[?25" not in sys.stdout.getvalue()  # a panel shows the cursor
    assert warned() == [f"GradWatch: {contract.unknown_bar()}"] * wanted
