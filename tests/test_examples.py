"""Each example, run as a user would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from training import HOME, shapes, small, train

from yolo_gradwatch import GradWatch, load_run

pytestmark = pytest.mark.train

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(folder, *command):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "YOLO_CONFIG_DIR": str(HOME)}
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint, as ``yolo26n.pt`` would be downloaded for."""
    return train(tmp_path_factory.mktemp("weights"), model=small()).trainer.last


def test_attach(tmp_path, weights):
    out = run(tmp_path, sys.executable, EXAMPLES / "attach.py", shapes(), weights)
    assert "healthy, nothing found in 6 steps" in out
    assert list(tmp_path.rglob("gradwatch.csv")) or "runs" in out


def test_stop_and_notify(tmp_path, weights):
    out = run(tmp_path, sys.executable, EXAMPLES / "stop_and_notify.py", shapes(), weights)
    assert "step 1: norm of the whole gradient" in out
    assert "the training is over" in out


def test_command_line(tmp_path, weights):
    out = run(tmp_path, "bash", EXAMPLES / "command_line.sh", shapes(), weights)
    assert out.count("GradWatch: healthy") == 2


def test_review_csv(tmp_path):
    watch = GradWatch(live=False)
    train(tmp_path, watch=watch)
    out = run(tmp_path, sys.executable, EXAMPLES / "review_csv.py", watch.run_dir)
    answers = out.split("\n\nWh")
    assert "GradWatch: healthy" in answers[0]
    (convolutions,) = [line for line in answers[1].splitlines() if line.startswith("Conv2d")]
    rows = load_run(watch.run_dir).windows
    first = rows[(rows["type"] == "Conv2d") & (rows["step_last"] == 1)]["norm_mean"].median()
    assert float(convolutions.split()[1]) == pytest.approx(first, abs=1e-4)
    assert "model." in answers[2]
    assert answers[3].endswith(f"{watch.report().verdict}\n")


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_an_example_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60
