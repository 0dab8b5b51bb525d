"""The benchmark against other ways to watch, none of which has to be installed."""

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


def test_reads_of_a_value_are_counted_one_by_one():
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 1))
    model(torch.ones(1, 2)).sum().backward()
    counter = peers.SyncCounter(torch.device("cpu"))
    counter.start()
    for parameter in model.parameters():
        parameter.grad.norm().item()
    torch.ones(3).norm().add(1)  # whose value is not read
    assert counter.stop() == 3


def test_a_hook_reads_each_parameter_that_is_trained():
    import torch

    class Trainer:
        model = torch.nn.Linear(2, 3)
        calls = {}  # noqa: RUF012  # of one test

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
def test_a_missing_tool_is_skipped_with_a_word(name, nothing_installed):
    assert peers.measure_apart(name, OPTIONS) == "not installed"


@pytest.mark.slow
def test_a_training_that_fails_says_so_in_its_last_line():
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
def test_the_reason_of_a_failure_is_its_error(printed, words):
    found = peers.reason(printed)
    assert found.endswith(words)
    assert len(found) <= 80


def test_every_way_has_a_row(nothing_installed):
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


def test_without_the_bare_run_there_is_nothing_to_compare_with(nothing_installed):
    found = {BARE: ["failed: no data"], "yolo_gradwatch": [measured()]}
    rows = rows_of(peers.report(OPTIONS, found))
    assert {row[0] for row in rows.values()} == {"failed: no data"}


@pytest.mark.train
@pytest.mark.full
def test_an_item_a_parameter_is_a_synchronization_a_parameter():
    found = peers.measure_apart("an .item() a parameter", OPTIONS)
    assert 366 <= found.synchronizations < 366 + 20  # parameters of YOLO26n, and the step's own
    assert 0 < found.seconds < 60
    assert found.memory > 100
