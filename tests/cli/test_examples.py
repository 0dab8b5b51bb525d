"""Each example, run as a user would."""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from places import REPOSITORY
from training import HOME, shapes, small, train
from ultralytics import YOLO

from yolo_gradwatch import GradWatch, load_run

pytestmark = pytest.mark.train

EXAMPLES = REPOSITORY / "examples"
NOTEBOOK = EXAMPLES / "quickstart.ipynb"


def run(folder, name, *arguments):
    """Run an example and return its output."""
    program = "bash" if name.endswith(".sh") else sys.executable
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [program, EXAMPLES / name, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PATH": path, "YOLO_CONFIG_DIR": str(HOME)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint in place of ``yolo26n.pt``, which would be downloaded."""
    return train(tmp_path_factory.mktemp("weights"), model=small()).trainer.last


EXPECTED = {
    "attach.py": ["healthy, nothing found in 20 steps"],
    "stop_and_notify.py": ["step 1: norm of the whole gradient", "the training is over"],
    "command_line.sh": ["GradWatch: healthy"],
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("attach.py", marks=pytest.mark.full),
        "stop_and_notify.py",
        pytest.param("command_line.sh", marks=pytest.mark.full),
    ],
)
def test_training_example(tmp_path, weights, name):
    out = run(tmp_path, name, shapes(), weights)
    assert all(text in out for text in EXPECTED[name])
    assert out.count("GradWatch: healthy") == 2 or name != "command_line.sh"


@pytest.fixture
def chat():
    """The address of a local server, and the messages it receives."""
    messages = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self):
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            """Keep the log quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Chat) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook", messages
        server.shutdown()


def test_webhook(tmp_path, weights, chat):
    """Weights 30 times their usual size cause a finding."""
    url, messages = chat
    spoiled = YOLO(weights)
    with torch.no_grad():
        for layer in (m for m in spoiled.model.modules() if isinstance(m, torch.nn.Conv2d)):
            layer.weight.mul_(30)
    spoiled.save(tmp_path / "spoiled.pt")
    run(tmp_path, "webhook.py", url, shapes(), tmp_path / "spoiled.pt")
    first, *_, last = (one["text"] for one in messages)
    assert first.startswith("start: ")
    assert ": unhealthy, " in last


def test_review_csv(tmp_path):
    watch = GradWatch(live=False)
    train(tmp_path, watch=watch)
    out = run(tmp_path, "review_csv.py", watch.run_dir)
    answers = out.split("\n\nWh")
    assert "GradWatch: no verdict" in answers[0]
    (convolutions,) = [line for line in answers[1].splitlines() if line.startswith("Conv2d")]
    rows = load_run(watch.run_dir).windows
    first = rows[(rows["type"] == "Conv2d") & (rows["step_last"] == 1)]["norm_mean"].median()
    assert float(convolutions.split()[1]) == pytest.approx(first, abs=1e-4)
    assert "model." in answers[2]
    assert answers[3].endswith(f"{watch.report().verdict}\n")


def code_of(notebook):
    """The code cells, except the one that installs the package."""
    install, *cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert install.source == "%pip install yolo-gradwatch"
    assert install.outputs == []
    return cells


def displayed(cells):
    """Kinds and formats of each cell's outputs, without streams."""
    return [
        [
            (one.output_type, *sorted(one.get("data", {})))
            for one in cell.outputs
            if "name" not in one
        ]
        for cell in cells
    ]


def test_notebook_runs_and_reproduces_its_stored_outputs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(HOME))
    notebook = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    stored = displayed(code_of(notebook))
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, coalesce_streams=True, resources=where).execute()
    cells = code_of(notebook)
    assert displayed(cells) == stored
    assert sum(kind[0] == "display_data" for kinds in stored for kind in kinds) == 2
    assert sum("image/png" in kind for kinds in stored for kind in kinds) == 2
    printed = "".join(
        one.text for cell in cells for one in cell.outputs if one.get("name") == "stdout"
    )
    assert "critical vanishing model.4 since step 1\n" in printed
    reports = [load_run(tmp_path / "runs" / name).report() for name in ("healthy", "faulty")]
    assert [report.healthy for report in reports] == [True, False]


def test_stored_notebook_is_small_and_was_executed_in_order():
    nbformat = pytest.importorskip("nbformat")
    assert NOTEBOOK.stat().st_size < 300_000
    cells = code_of(nbformat.read(NOTEBOOK, nbformat.NO_CONVERT))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [one for cell in cells for one in cell.outputs if one.output_type == "error"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_example_is_short(path):
    text = path.read_text(encoding="utf-8")
    if path == NOTEBOOK:
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
    assert len(text.splitlines()) <= 60
