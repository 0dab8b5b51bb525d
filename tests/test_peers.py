"""The benchmark against other tools; none of them has to be installed."""

from __future__ import annotations

import peers
import pytest
from peers import BARE, WAYS, Measured

OPTIONS = {"model": "yolo26n.yaml", "imgsz": 64, "batch": 2, "steps": 7, "device": "cpu"}
OTHERS = [name for name, way in WAYS.items() if way.package]


def measured(**changes):
    plain = {"seconds": 0.2, "synchronizations": 7.0, "memory": 900.0, "device_memory": 0.0}
    return Measured(**{**plain, **changes})


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {name: rest for name, *rest in cells}


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr("peers.importlib.util.find_spec", lambda _name: None)


def test_sync_counter_counts_every_read_of_a_value():
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 1))
    model(torch.ones(1, 2)).sum().backward()
    counter = peers.SyncCounter(torch.device("cpu"))
    counter.start()
    for parameter in model.parameters():
        parameter.grad.norm().item()
    torch.ones(3).norm().add(1)  # the value is not read
    assert counter.stop() == 3


def test_hook_reads_each_trained_parameter():
    import torch

    class Trainer:
        model = torch.nn.Linear(2, 3)
        calls = {}  # noqa: RUF012  # used by one test

        def add_callback(self, event, call):
            self.calls[event] = call

    trainer = Trainer()
    trainer.model.bias.requires_grad = False
    peers.item_a_parameter(trainer)
    trainer.calls["on_train_start"](trainer)
    counter = peers.SyncCounter(torch.device("cpu"))
    counter.start()
    trainer.model(torch.ones(1, 2)).sum().backward()
    assert counter.stop() == 1


@pytest.mark.parametrize("name", OTHERS)
def test_missing_tool_is_skipped_and_noted(name, nothing_installed):
    assert peers.measure_apart(name, OPTIONS) == "not installed"


@pytest.mark.slow
def test_failed_training_returns_its_error():
    found = peers.measure_apart(BARE, {**OPTIONS, "steps": "many"})
    assert found.startswith("failed: ")
    assert "invalid int value: 'many'" in found


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ("", ""),
        ("only a line\n\n", "only a line"),
        ("Traceback:\n  x = 1\ntorch.OutOfMemoryError: a | b\nwandb: bye\n", "a / b"),
        ("RuntimeError: " + "x" * 100, "x"),
    ],
)
def test_reason_of_a_failure_is_the_last_error(printed, words):
    found = peers.reason(printed)
    assert found.endswith(words)
    assert len(found) <= 80


def test_report_has_a_row_for_every_tool(nothing_installed):
    found = {name: [measured(), measured()] for name in WAYS}
    found["wandb.watch"] = ["not installed"] * 2
    found["yolo_gradwatch"] = [measured(seconds=0.3), measured(seconds=0.25, memory=910)]
    found["monitorch"] = [measured(synchronizations=739, device_memory=2000.4), measured()]
    rows = rows_of(peers.report(OPTIONS, found))
    assert list(rows) == list(WAYS)
    assert rows[BARE][1:] == ["1.000 (1.000 to 1.000)", "0", "900", "0 (0 to 0)", "-"]
    assert rows["yolo_gradwatch"][0] == "275 (250 to 300)"
    assert rows["yolo_gradwatch"][1] == "1.375 (1.250 to 1.500)"
    assert rows["yolo_gradwatch"][4] == "5 (0 to 10)"
    assert rows["monitorch"][2] == "366"
    assert rows["monitorch"][5] == "2000"
    assert rows["wandb.watch"] == ["not installed", *["-"] * 5]


def test_without_a_bare_run_all_rows_give_its_error(nothing_installed):
    found = {BARE: ["failed: no data"], "yolo_gradwatch": [measured()]}
    rows = rows_of(peers.report(OPTIONS, found))
    assert {row[0] for row in rows.values()} == {"failed: no data"}


@pytest.mark.train
@pytest.mark.full
def test_item_per_parameter_synchronizes_once_per_parameter():
    found = peers.measure_apart("an .item() a parameter", OPTIONS)
    assert 366 <= found.synchronizations < 366 + 20  # parameters of YOLO26n plus the step's own
    assert 0 < found.seconds < 60
    assert found.memory > 100
