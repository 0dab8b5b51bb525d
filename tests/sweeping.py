"""Run `ray_sweeps.py` in a separate process."""

import json
import os
import subprocess
import sys

from logging_run import own_settings, visible
from places import TESTS


def sweep(options, trials, *ways, folder, environment=os.environ, **variables):
    """Run a sweep in a folder and return what the process prints.

    Args:
        options: Training arguments.
        trials: Number of trials of ``model.tune``.
        ways: ``own`` adds trials of a custom trainable.
        folder: Working directory; Ultralytics' settings go into it too.
        environment: Environment to inherit.
        variables: More variables.
    """
    done = subprocess.run(
        [sys.executable, TESTS / "ray_sweeps.py", json.dumps(options), str(trials), *ways],
        env={
            **visible(environment),
            "PYTHONPATH": str(TESTS.parent),
            **own_settings(folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            **variables,
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
