"""Injected faults in real trainings: each is found, named and written."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from training import shapes, train

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.demo.faults import FAULTS, STEP
from yolo_gradwatch.diagnose.catalog import RULES
from yolo_gradwatch.views.terminal.output import Terminal
from yolo_gradwatch.views.terminal.panel import Panel

FAULTY = [name for name, fault in FAULTS.items() if fault.rule]
OFTEN = ("gradient-cut", "nan")
"""Faults injected in every test run; the others run in the full tier."""


def run(folder, name):
    """Train 30 steps with an injected fault; return the watch and its live panel."""
    from ultralytics import YOLO

    model = YOLO("yolo26n.yaml")
    FAULTS[name].inject(model)
    watch = GradWatch(live=False)
    saving = {"save": name == "nan"}  # Ultralytics recovers from a NaN
    options = {"data": shapes(24), "epochs": 5, **saving, **FAULTS[name].options}
    boards = []
    keep = ("on_train_epoch_start", lambda _: boards.append(board_of(watch)))
    train(folder, watch=watch, model=model, calls=[keep], **options)
    return watch, Panel(boards[0])


def board_of(watch):
    """The board behind the live report of the current training."""
    (session,) = watch._attachment.sessions
    outputs = session._parts.recorder._outputs._outputs
    return next(one._board for one in outputs if isinstance(one, Terminal))


def rendered(panel, width):
    out = io.StringIO()
    Console(file=out, width=width, height=40, color_system=None, _environ={}).print(panel)
    return out.getvalue()


@pytest.mark.train
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in OFTEN else pytest.mark.full) for name in FAULTY],
)
def test_fault_is_found_and_its_layer_named(tmp_path, name):
    import torch

    if name == "amp-overflow" and not hasattr(torch.amp, "GradScaler"):
        pytest.skip(f"torch {torch.__version__} has no loss scaler for a CPU, 2.3 has")
    fault = FAULTS[name]
    watch, panel = run(tmp_path, name)
    report = watch.report()
    finding = next(f for f in report.alarms if f.rule == fault.rule)
    assert finding.module == fault.module
    assert finding.message in str(report)
    loaded = load_run(watch.run_dir)
    rows = loaded.alerts[loaded.alerts["finding"] == finding.number]
    assert next(iter(rows["event"])) == "start"
    assert {*rows["rule"]} == {fault.rule}
    if not RULES[fault.rule].spreads:  # a finding that spreads further is not reported again
        assert [*rows["message"]][-1] == finding.message
    assert loaded.report().findings == report.findings
    assert len(report.alarms) <= 4  # not a flood
    if name in {"loss-spike", "nan"}:  # at its step, with evidence
        assert finding.step == STEP
        assert finding.evidence == f"gradwatch/evidence/step-{STEP:05}.json"
        assert (watch.run_dir / finding.evidence).exists()
    if finding.step_end is None:
        for width in (80, 140):
            assert f"{fault.rule}: " in rendered(panel, width)


@pytest.mark.train
def test_training_without_a_fault_is_healthy(tmp_path):
    report = run(tmp_path, "healthy")[0].report()
    assert report.healthy, report
    assert report.verdict.startswith("healthy, nothing found in 30 steps")


def test_every_fault_expects_a_rule_that_exists():
    assert {FAULTS[name].rule for name in FAULTY} <= set(RULES)


def test_fault_that_needs_a_newer_torch_is_refused(monkeypatch):
    import torch

    monkeypatch.delattr(torch.amp, "GradScaler", raising=False)
    with pytest.raises(NotImplementedError, match=r"this fault needs torch 2\.3 or later, not "):
        FAULTS["amp-overflow"].begin(None)
