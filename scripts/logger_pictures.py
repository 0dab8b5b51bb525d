"""Train with an injected fault and store screenshots of it in TensorBoard and MLflow.

    python scripts/logger_pictures.py docs --python PYTHON

Needs playwright and Pillow in its own environment, Chromium on the machine, and tensorboard, mlflow
(not mlflow-skinny) and ultralytics in the environment of PYTHON. Everything is offline, in a
temporary folder; both servers listen on this machine only. It fails unless the pages contain the
finding, the verdict and the series.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright
from served import free_port, keep, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[1]

TRAINING = """
from pathlib import Path
from ultralytics import YOLO, settings
from yolo_gradwatch import GradWatch
from yolo_gradwatch.demo.faults import FAULTS
from yolo_gradwatch.demo.shapes import draw_dataset

known = {"clearml", "comet", "dvc", "mlflow", "tensorboard", "wandb"} & set(settings)
settings.update({name: name in ("mlflow", "tensorboard") for name in known})
data = draw_dataset(Path("shapes").resolve(), train=48)
model = YOLO("yolo26n.yaml")
FAULTS["gradient-cut"].inject(model)  # after block 4, the gradient is multiplied by 1e-4
GradWatch(live=False).attach(model)
model.train(data=data, project=str(Path("runs").resolve()), name="train", epochs=8, imgsz=64,
            batch=4, nbs=4, workers=0, device="cpu", amp=False, plots=False)
"""
VERDICT = "unhealthy, 1 critical; first finding: vanishing in model.4"
CARDS = "gradwatch/(clip_factor|model|model.4|model.5)$"
TRAININGS = "workflowType=machine_learning"
WIDTH = 1200
BACKEND = "sqlite:///mlflow.db"


def main() -> None:
    """Train, serve both pages and take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that trains")
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    given = parser.parse_args()
    target, python = given.folder.resolve(), str(Path(given.python).absolute())
    with tempfile.TemporaryDirectory() as name, sync_playwright() as player:
        os.chdir(name)
        train(python)
        browser = player.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        keep(tensorboard(browser, python), target / "tensorboard.png")
        keep(mlflow(browser, python), target / "mlflow.png")
        browser.close()


def train(python: str) -> None:
    """Train in the working directory."""
    config = Path("config")
    config.mkdir()  # or Ultralytics would use settings that all processes share
    environment = {
        **os.environ,
        "YOLO_CONFIG_DIR": str(config),
        "YOLO_OFFLINE": "true",
        "HOME": str(Path.cwd()),
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": BACKEND,
    }
    subprocess.run([python, "-c", TRAINING], env=environment, stdout=sys.stderr, check=True)


def tensorboard(browser: Browser, python: str) -> list[bytes]:
    """Return screenshots of the series and the texts."""
    port = free_port()
    address = f"http://127.0.0.1:{port}/"
    options = ("--logdir", "runs", "--port", str(port), "--host", "127.0.0.1")
    with serving([python, "-m", "tensorboard.main", *options], f"{address}data/runs"):
        page = browser.new_page(viewport={"width": WIDTH, "height": 960})
        page.goto(f"{address}?tagFilter={CARDS}#timeseries")
        page.get_by_text("4 cards").first.wait_for()
        page.locator(".settings-button").click()  # its panel is open at first
        series = drawn(page)
        page.goto(f"{address}#text")
        page.get_by_text(VERDICT).wait_for()
        page.set_viewport_size({"width": WIDTH, "height": 820})
        texts = drawn(page)
        page.close()
        return [series, texts]


def mlflow(browser: Browser, python: str) -> list[bytes]:
    """Return screenshots of the run's overview and charts."""
    port = free_port()
    address = f"http://127.0.0.1:{port}/"
    options = ("--backend-store-uri", BACKEND, "--port", str(port), "--host", "127.0.0.1")
    command = [python, "-m", "mlflow", "server", *options, "--workers", "1"]
    with serving(command, f"{address}health", MLFLOW_DISABLE_TELEMETRY="true"):
        (run,) = [path.parent.name for path in Path("mlruns").glob("*/*/artifacts")]
        page = browser.new_page(viewport={"width": WIDTH, "height": 1150})
        shown = f"{address}#/experiments/1/runs/{run}"
        page.goto(f"{shown}?{TRAININGS}")
        page.get_by_role("button", name="Close").click()  # the assistant is open at first
        page.get_by_text(VERDICT).last.wait_for()
        page.get_by_text("gradwatch/model.4").first.wait_for()
        page.get_by_text("Show more").first.click()
        overview = drawn(page)
        page.goto(f"{shown}/model-metrics?{TRAININGS}")
        page.get_by_text("clip_factor").first.wait_for()
        charts = drawn(page)
        page.close()
        return [overview, charts]


def drawn(page: Page) -> bytes:
    """Take a screenshot of a page once its charts are drawn."""
    page.wait_for_timeout(5000)
    return page.screenshot()


if __name__ == "__main__":
    main()
