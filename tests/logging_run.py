"""Run `logged.py` with offline loggers and read back what they stored."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl
from stores import READERS

SCRIPT = Path(__file__).with_name("logged.py")
HIDES = ("PYTEST_", "GITHUB_", "RUNNER_OS", "WANDB_", "MLFLOW_", "COMET_", "CLEARML_")
"""Prefixes of variables that disable Ultralytics' loggers or redirect them."""


def visible(environment):
    """Return the variables of an environment that do not affect Ultralytics' loggers."""
    return {name: value for name, value in environment.items() if not name.startswith(HIDES)}


def own_settings(folder):
    """Return the variable with which Ultralytics keeps its settings in a folder.

    If that did not exist, it would use one that all processes of the machine share.
    """
    config = folder / "config"
    config.mkdir(exist_ok=True)
    return {"YOLO_CONFIG_DIR": str(config)}


def offline(folder):
    """Return variables with which each logger stores its data in a folder instead of sending it."""
    return {
        **own_settings(folder),
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "COMET_START_ONLINE": "0",
        "COMET_OFFLINE_DIRECTORY": str(folder / "comet"),
        "CLEARML_OFFLINE_MODE": "1",
        "HOME": str(folder),
    }


@dataclass(frozen=True, eq=False)
class Ran:
    """A finished training.

    Attributes:
        folder: Folder of the training.
        code: Exit code.
        weights: Hash of the weights.
        loaded: Logger packages that were loaded.
        said: The printed output.
    """

    folder: Path
    code: int
    weights: str
    loaded: list
    said: str

    @cache  # noqa: B019  # few trainings
    def stored(self, name):
        return READERS[name](self.folder)


def train(folder, *, python=sys.executable, **asked):
    """Train with the options of `logged.Asked`."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [python, SCRIPT, json.dumps(asked)],
        env={
            **visible(os.environ),
            "PYTHONPATH": str(SCRIPT.parents[1]),
            "YOLO_AUTOINSTALL": "false",
            "MPLCONFIGDIR": mpl.get_cachedir(),
            **offline(folder),
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"weights"')]
    outcome = json.loads(lines[-1]) if lines else {"weights": "", "loaded": []}
    return Ran(folder, done.returncode, **outcome, said=done.stdout + done.stderr)
