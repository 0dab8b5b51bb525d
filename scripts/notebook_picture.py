"""Watch a training in JupyterLab in a browser, and store a screenshot for the documentation.

    python scripts/notebook_picture.py docs/notebook.png --kernel PYTHON

Needs jupyterlab, playwright and Pillow in its own environment, Chromium on the machine, and
yolo_gradwatch in the kernel's environment. JupyterLab is served on this machine only, in a
temporary folder. It fails unless the display updates in place during the training and all progress
bars of Ultralytics stay intact.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright
from served import free_port, keep, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

KERNEL = "watched"
EPOCHS, STEPS = 8, 12
CELLS = (
    f"""
from pathlib import Path
from ultralytics import YOLO
from yolo_gradwatch import GradWatch
from yolo_gradwatch.demo.faults import FAULTS
from yolo_gradwatch.demo.shapes import draw_dataset

data = draw_dataset(Path("shapes"), train={STEPS * 4})
model = YOLO("yolo26n.yaml")
FAULTS["gradient-cut"].inject(model)  # after block 4, the gradient is multiplied by 1e-4
""",
    """
watch = GradWatch().attach(model)
watch.view()
""",
    f"""
model.train(data=data, epochs={EPOCHS}, imgsz=64, batch=4, nbs=4, workers=0, device="cpu",
            amp=False, plots=False, val=False);
""",
)
DISPLAY, TRAINING = (f".jp-Notebook .jp-Cell >> nth={n} >> .jp-OutputArea" for n in (1, 2))
BAR = re.compile(r"^\s*(\d+)/(\d+) .*?(\d+)% [━╸─]+ (\d+)/(\d+)", re.MULTILINE)
SIZE = {"width": 1000, "height": 1500}
SECONDS = 300


def main() -> None:
    """Serve JupyterLab, run the notebook, and store the screenshot."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--kernel", default=sys.executable, help="the interpreter of the kernel")
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        served(Path(name), given.kernel) as address,
        sync_playwright() as player,
    ):
        browser = player.chromium.launch(executable_path=given.chromium)
        page = browser.new_page(viewport=SIZE)
        page.goto(address)
        states, picture = watched(page)
        printed = page.locator(TRAINING).inner_text()
        browser.close()
    check(states, printed)
    keep([picture], given.picture)


@contextmanager
def served(folder: Path, kernel: str) -> Iterator[str]:
    """Serve JupyterLab with the notebook from a folder, and yield the notebook's address."""
    spec = folder / "jupyter" / "kernels" / KERNEL
    spec.mkdir(parents=True)
    settings = folder / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = settings / "notification.jupyterlab-settings"
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}', encoding="utf-8")
    argv = [kernel, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    text = json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"})
    (spec / "kernel.json").write_text(text, encoding="utf-8")
    (folder / "watched.ipynb").write_text(json.dumps(notebook()), encoding="utf-8")
    port = free_port()
    token = secrets.token_hex()
    places = ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR")
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *(f"--ServerApp.port={port}", f"--IdentityProvider.token={token}"),
        f"--ServerApp.root_dir={folder}",
    ]
    private = {name: str(folder / name) for name in places}
    answers = f"http://127.0.0.1:{port}/api?token={token}"
    with serving(command, answers, JUPYTER_DATA_DIR=str(folder / "jupyter"), **private):
        yield f"http://127.0.0.1:{port}/doc/tree/watched.ipynb?token={token}"


def notebook() -> dict[str, object]:
    """Return the cells as a notebook."""
    common = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    cells = [{**common, "id": f"c{n}", "source": cell.strip()} for n, cell in enumerate(CELLS)]
    kernel = {"name": KERNEL, "display_name": "Python 3", "language": "python"}
    meta = {"kernelspec": kernel}
    return {"cells": cells, "metadata": meta, "nbformat": 4, "nbformat_minor": 5}


def watched(page: Page) -> tuple[list[str], bytes]:
    """Run all cells; return the states of the display, and a screenshot during the training."""
    page.locator(".jp-Notebook .jp-Cell").nth(2).wait_for()
    page.get_by_text("| Idle").wait_for()  # otherwise the cells do not run
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    states: list[str] = []
    picture = b""
    for _ in range(4 * SECONDS):
        shown = page.locator(DISPLAY)
        text = shown.inner_text() if shown.count() else ""
        if text and (not states or text != states[-1]):
            states.append(text)
        if "vanishing" in text and f"epoch {EPOCHS - 2}/" in text.replace("\xa0", " "):
            picture = picture or page.screenshot()
        if "GradWatch: " in text:
            page.screenshot(path=os.environ.get("LAST_STATE"))  # for debugging
            return states, picture
        time.sleep(0.25)
    raise TimeoutError(states[-1:])


def check(states: list[str], printed: str) -> None:
    """Fail unless the display was updated and every bar is complete and alone on its line."""
    steps = [
        int(found[1]) for state in states if (found := re.search(r"step\s+(\d+)\s+total", state))
    ]
    bars = [tuple(map(int, bar)) for bar in BAR.findall(printed)]
    print(f"{len(states)} states of the display, at steps {steps}")
    print(f"{len(bars)} bars: {bars}")
    if len(set(steps)) < EPOCHS // 2 or steps != sorted(steps):
        raise SystemExit("the display does not move")
    if bars != [(n, EPOCHS, 100, STEPS, STEPS) for n in range(1, EPOCHS + 1)]:
        raise SystemExit(f"a bar is torn:\n{printed}")


if __name__ == "__main__":
    main()
