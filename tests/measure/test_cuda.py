"""Trainings on a CUDA device: the same numbers, and no callback that waits for the device."""

from importlib.util import find_spec

import pytest
import torch
from devices import NO_CUDA, no_waiting
from oracle import Oracle
from training import shapes, train

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.watch.guard import Guard

pytestmark = [
    pytest.mark.train,
    pytest.mark.gpu,
    NO_CUDA,
]


@pytest.fixture(autouse=True)
def _no_download(monkeypatch):
    """Ultralytics tests half precision on a checkpoint that it downloads."""
    monkeypatch.setattr("ultralytics.engine.trainer.check_amp", lambda _model: True)


def calibrate(trainer):
    """Start with a loss scale without overflows: the oracle does not handle skipped steps."""
    if trainer.scaler.is_enabled():
        trainer.scaler = torch.amp.GradScaler("cuda", init_scale=128.0)


def check_kernel(watch):
    """Return a callback that checks that a kernel reads the gradients, if there is Triton."""

    def check(_trainer):
        tables = watch._attachment.sessions[-1]._events._capture._tables
        assert bool(tables) == bool(find_spec("triton"))

    return ("on_train_epoch_end", check)


@pytest.mark.parametrize("amp", [False, True, "bf16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_norms_equal_the_oracle(tmp_path, monkeypatch, amp, channels_last):
    oracle, watch = Oracle(monkeypatch), GradWatch(live=False)
    calls = [("on_train_start", calibrate), ("on_train_start", oracle.take_model)]
    calls.append(check_kernel(watch))
    options = {"amp": amp, "channels_last": channels_last, "device": "0", "imgsz": 160}
    train(tmp_path, watch=watch, calls=calls, data=shapes(24), **options)
    oracle.check(load_run(watch.run_dir))
    assert watch.report().healthy


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("live", [False, True])
def test_our_callbacks_do_not_wait_for_the_device(tmp_path, monkeypatch, amp, live):
    safely, waits, wait = Guard.safely, [], torch.cuda.Event.synchronize

    def counted(self):  # does not synchronize the whole device, so the debug mode allows it
        waits.append(1)
        wait(self)

    monkeypatch.setattr(torch.cuda.Event, "synchronize", counted)

    def strictly(self, call, *args):
        with no_waiting():  # the guard catches what it raises
            safely(self, call, *args)

    monkeypatch.setattr(Guard, "safely", strictly)
    watch = GradWatch(live=live)
    options = {"amp": amp, "device": "0", "epochs": 8}
    train(tmp_path, watch=watch, calls=[check_kernel(watch)], data=shapes(40), **options)
    assert not watch._attachment.sessions[-1].is_broken
    assert watch.report().steps == 80
    assert len(waits) <= options["epochs"]  # at the end of an epoch it may wait
    assert load_run(watch.run_dir).report().steps == 80


def test_waiting_check_detects_a_wait():
    norm = torch.ones(3, device="cuda").norm()
    with no_waiting(), pytest.raises(RuntimeError, match="synchronizing"):
        norm.item()
