"""Trainings in several processes, as Ultralytics launches them for several GPUs."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from commands import SMALL
from oracle import RELATIVE
from places import REPOSITORY, TESTS
from stores import READERS
from training import HOME, TINY, shapes, small, train

from yolo_gradwatch import GradWatch, load_run
from yolo_gradwatch.cli.main import main
from yolo_gradwatch.watch.ultralytics import ddp
from yolo_gradwatch.watch.ultralytics import training as facts

pytestmark = pytest.mark.train

STEPS = (1, 2, 3)


def trainer_class(*, is_old=False):
    """The trainer class, or a skip if this Ultralytics is too new or too old for the test."""
    from two_processes import TwoProcessTrainer

    if ddp.drops_callbacks() != is_old:
        pytest.skip(f"Ultralytics {facts.versions()['ultralytics']} is not what this is about")
    return TwoProcessTrainer


def added(folder, step):
    """The gradients that each of the two ranks added in a step, in float64."""
    import torch

    ranks = [torch.load(folder / f"step-{step}-rank-{rank}.pt") for rank in (0, 1)]
    return [{name: gradient.double() for name, gradient in rank.items()} for rank in ranks]


def norms_of(gradients, modules):
    """L2 norm of all gradients in each module."""

    def norm(module):
        inside = "" if module == "model" else f"{module}."
        return sum(square for name, square in squares.items() if name.startswith(inside)) ** 0.5

    squares = {name: float((gradient**2).sum()) for name, gradient in gradients.items()}
    return np.array([norm(module) for module in modules])


def assert_norms_are_those_of_the_mean(folder, run):
    """The mean of both ranks, not the gradient of rank 0."""
    for step in STEPS:
        rows = run.windows[run.windows["step_first"] == step]
        first, second = added(folder, step)
        mean = {name: (first[name] + second[name]) / 2 for name in first}
        found = rows["norm_mean"].to_numpy(np.float64)
        np.testing.assert_allclose(found, norms_of(mean, rows["module"]), rtol=RELATIVE, atol=1e-12)
        alone = norms_of(first, rows["module"])
        assert (np.abs(found - alone) > 0.01 * alone).mean() > 0.9


def assert_updates_and_losses_are_those_of_rank_0(folder, run):
    import torch

    for step in STEPS:
        before, after, items = torch.load(folder / f"moved-{step}-rank-0.pt")
        losses = run.losses[run.losses["step_first"] == step].set_index("item")["mean"]
        for name, value in items.items():
            assert losses[name] == pytest.approx(float(value), rel=1e-6)
        rows = run.windows[run.windows["step_first"] == step]
        moved = norms_of({name: after[name] - before[name] for name in before}, rows["module"])
        expected = moved / norms_of(before, rows["module"]) if step in {1, 2} else np.nan
        found = rows["update_ratio"].to_numpy(np.float64)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-9)


LOGGERS = ("clearml", "comet", "dvc", "mlflow", "tensorboard", "wandb")


def turn_tensorboard_on(folder, monkeypatch):
    """Let launched processes log to TensorBoard only, as they would outside of pytest."""
    from ultralytics.utils import SettingsManager

    for name in ("PYTEST_CURRENT_TEST", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    config = folder / "config"
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(config))
    settings = SettingsManager(config / "Ultralytics" / "settings.json")
    settings.update({name: name == "tensorboard" for name in LOGGERS if name in settings})


def assert_tensorboard_has_it_once(folder):
    """Rank 0 sent our numbers to the same event file as Ultralytics' own."""
    if not find_spec("tensorboard"):
        return
    stored = READERS["tensorboard"](folder)
    assert stored.runs == 1
    whole = stored.ours()["gradwatch/model"]
    assert [step for step, _ in whole] == list(STEPS)
    windows = load_run(folder / "run").windows_in_order()
    assert [norm for _, norm in whole] == pytest.approx([w.norm_mean[0] for w in windows])
    assert "train/box_loss" in stored.ultralytics_metrics()


def test_rank_0_records_reduced_gradients_and_the_launcher_finds_the_run(tmp_path, monkeypatch):
    turn_tensorboard_on(tmp_path, monkeypatch)
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("gradwatch.json", "of_an_earlier_run.txt"):
        (folder / name).write_text("{", encoding="utf-8")
    watch = GradWatch(live=False)
    model = train(tmp_path, watch=watch, trainer=trainer_class(), data=shapes(12))

    assert model.trainer.ddp
    assert not hasattr(model.trainer, "scaler")  # nothing was trained in this process
    assert not (folder / "of_an_earlier_run.txt").exists()  # the launcher emptied the folder
    run = load_run(folder)
    assert_norms_are_those_of_the_mean(tmp_path, run)
    assert_updates_and_losses_are_those_of_rank_0(tmp_path, run)
    assert run.windows["step_last"].max() == len(STEPS)
    assert not any(name.startswith("module") for name in run.windows["module"])
    assert run.flow.groupby("step").size().to_dict() == {1: 543, 2: 543}
    assert set(run.layout.modules) - set(run.flow["module"]) >= {"model"}
    assert not any(name.startswith("module") for name in run.flow["module"])
    assert np.isfinite(run.flow["gradient_norm"]).all()

    assert watch.run_dir == folder
    assert watch.has_started
    assert watch.stopped_by is None
    assert watch.report() == run.report()
    assert watch.report().status == "finished"
    assert watch.report().healthy

    notes = [json.loads((tmp_path / f"end-rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert notes[0]["recorders"] == 1
    assert notes[0]["wraps"] == ["unscale_", "preprocess_batch"]
    assert notes[0]["listeners"] > 0
    assert notes[1] == {"recorders": 0, "wraps": [], "listeners": 0}
    assert_tensorboard_has_it_once(tmp_path)


@pytest.mark.full
def test_launched_training_stops_and_the_exit_code_shows_it(tmp_path, monkeypatch, capfd):
    """A NaN on the other rank only is in the gradient of both."""
    from two_processes import INJECT_NAN
    from ultralytics.models.yolo import detect

    monkeypatch.setattr(detect, "DetectionTrainer", trainer_class())
    monkeypatch.setenv(INJECT_NAN, "2")
    arguments = ["train", "model=yolo26n.yaml", f"data={shapes(12)}", *SMALL, "epochs=4"]
    options = [f"project={tmp_path}", "--stop-on", "nonfinite", "--no-live"]
    assert main([*arguments, *options]) == 3
    run = load_run(tmp_path / "run")
    (finding,) = run.report().findings
    assert (finding.rule, finding.step) == ("nonfinite", 2)
    assert finding.module == "model.6.cv2.conv"
    assert run.windows["epoch"].max() == 1
    assert "GradWatch:" in capfd.readouterr().out


def test_dropped_callbacks_are_reported_before_the_launch(tmp_path, monkeypatch, caplog):
    trainer = trainer_class(is_old=True)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    watch = GradWatch(live=False)
    train(tmp_path, watch=watch, trainer=trainer, data=shapes(12))
    assert "drops callbacks when it trains on several GPUs" in caplog.text
    assert list((tmp_path / "run").glob("gradwatch*")) == []
    assert watch.run_dir == tmp_path / "run"
    assert not watch.has_started
    with pytest.raises(RuntimeError, match=r"drops callbacks .* update it"):
        watch.report()


def torchrun(folder, *arguments):
    """What a script prints when torchrun starts it in two processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launch, *arguments],
        cwd=folder,
        env={
            "YOLO_CONFIG_DIR": str(HOME),
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.full
def test_torchrun_example_prints_the_verdict_once(tmp_path):
    example = REPOSITORY / "examples" / "torchrun_train.py"
    printed = torchrun(tmp_path, TESTS / "without_gpus.py", example, shapes(12), small())
    (found,) = tmp_path.glob("*/gradwatch.json")
    run = load_run(found.parent)
    assert (run.meta.status, run.report().steps) == ("finished", 9)
    assert printed.splitlines().count(run.report().verdict) == 1
    assert printed.splitlines().count(str(run.folder)) == 1


def test_torchrun_script_reports_on_rank_0_only(tmp_path, monkeypatch):
    """Any version is watched, because Ultralytics launches and pickles nothing here."""
    turn_tensorboard_on(tmp_path, monkeypatch)
    options = {**TINY, "data": shapes(12), "project": str(tmp_path)}
    printed = torchrun(tmp_path, TESTS / "torchrun_script.py", json.dumps(options))
    first, second = (
        json.loads((tmp_path / f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)
    )
    run = load_run(tmp_path / "run")
    assert run.report().steps == len(STEPS)
    assert first == {
        "warned": [],
        "before": None,
        "status": "finished",
        "verdict": run.report().verdict,
        "healthy": True,
        "steps": len(STEPS),
        "run_dir": str(tmp_path / "run"),
        "has_started": True,
        "is_stopped": False,
        "sessions": 1,
    }
    assert "rank 0" in second.pop("verdict")
    assert second == {
        "warned": [],
        "before": "elsewhere",
        "status": "elsewhere",
        "healthy": True,
        "steps": 0,
        "run_dir": "None",
        "has_started": False,
        "is_stopped": False,
        "sessions": 0,
    }
    assert f"GradWatch: {run.report().verdict}" in printed
    assert_tensorboard_has_it_once(tmp_path)
