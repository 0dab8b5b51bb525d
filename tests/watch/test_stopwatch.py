"""What batches take, with a fake clock and a fake GPU."""

from types import SimpleNamespace

import pytest

from yolo_gradwatch.watch.ultralytics import stopwatch as module
from yolo_gradwatch.watch.ultralytics.stopwatch import Stopwatch

CPU, GPU = SimpleNamespace(type="cpu"), SimpleNamespace(type="cuda")


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    return now


@pytest.mark.parametrize(
    ("laps", "expected"),
    [
        ([], None),
        ([(9.0, False)], 9.0),
        ([(9.0, False), (3.0, False)], 3.0),
        ([(9.0, False), (3.0, False), (5.0, False)], 4.0),
        ([(9.0, False), (1.0, True), (3.0, False), (2.0, True)], 1.5),
    ],
)
def test_only_batches_as_in_a_training_count(clock, laps, expected):
    watch = Stopwatch()
    watch.start(CPU)
    for seconds, is_plain in laps:
        clock.seconds += seconds
        watch.lap(is_plain=is_plain)
    assert watch.seconds == expected


def test_time_between_epochs_is_excluded(clock):
    watch = Stopwatch()
    watch.start(CPU)
    clock.seconds += 50.0
    watch.again()
    clock.seconds += 2.0
    watch.lap(is_plain=True)
    assert watch.seconds == 2.0


def test_memory_is_the_peak_of_the_process(monkeypatch):
    sizes = iter([5, 9, 7])
    watch = Stopwatch()
    size = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=next(sizes)))
    monkeypatch.setattr(watch, "_process", size)
    watch.start(CPU)
    watch.lap(is_plain=True)
    watch.lap(is_plain=True)
    cost = watch.cost(1, 2, 3)
    assert (cost.memory, cost.device_memory) == (9, 0)
    assert (cost.together, cost.batches, cost.epochs) == (1, 2, 3)


def test_memory_on_a_gpu_is_what_torch_reserved(monkeypatch):
    import torch

    reset, total = [], SimpleNamespace(total_memory=100)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 60 * (device is GPU))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: total)
    watch = Stopwatch()
    watch.start(GPU)
    watch.lap(is_plain=True)
    cost = watch.cost(1, 2, 3)
    assert (cost.memory, cost.device_memory, reset) == (60, 100, [GPU])
