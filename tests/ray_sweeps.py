"""Sweep with Ray Tune, without loading pytest.

    python ray_sweeps.py OPTIONS TRIALS [own]

OPTIONS are those of ``train`` as JSON, with the model's file. Half of the trials of
``model.tune(use_ray=True)`` have a gain that makes their loss Inf. With ``own``, there
are two more in a custom trainable. The last line is the outcome of each trial, as JSON.
With AUDIT_FOLDER in the environment, each of them also opens a socket, which an audit must see.
"""

import inspect
import json
import os
import sys
from pathlib import Path

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ultralytics import YOLO
from ultralytics.utils.tuner import run_ray_tune

import yolo_gradwatch
from yolo_gradwatch import GradWatch

GAINS = tune.grid_search([0.5, 1e39])
OURS = "gradwatch/"


class Leak:
    """An output that opens a socket, as if it were code of the package."""

    def start(self, _run):
        """Open it."""
        file = str(Path(yolo_gradwatch.__file__).with_name("injected_code.py"))
        exec(compile("import socket; socket.socket().close()", file, "exec"))  # noqa: S102


OUTPUTS = [Leak()] if "AUDIT_FOLDER" in os.environ else []


def tuned(options, trials):
    """Sweep as a user of Ultralytics does."""
    model = YOLO(options["model"])
    GradWatch(stop_on=["nonfinite"], outputs=OUTPUTS).attach(model)
    known = inspect.signature(run_ray_tune).parameters
    chosen = {"search_alg": "random"} if "search_alg" in known else {}
    given = {**options, "name": "tuned", "space": {"cls": GAINS}, "grace_period": 1}
    del given["model"]
    return model.tune(use_ray=True, iterations=trials // 2, **given, **chosen)


def own(options):
    """Sweep with a custom trainable; the scheduler sorts by the number of findings."""

    def trainable(config):
        model = YOLO(options["model"])
        GradWatch(live=False, stop_on=["nonfinite"], outputs=OUTPUTS).attach(model)
        model.train(**options, name=f"own{config['cls']:g}", cls=config["cls"])

    scheduler = ASHAScheduler(
        time_attr="epoch", metric=f"{OURS}findings", mode="min", max_t=2, grace_period=1
    )
    storage = tune.RunConfig(storage_path=str(Path(options["project"]) / "ray"))
    config = tune.TuneConfig(scheduler=scheduler)
    tuner = tune.Tuner(
        trainable, param_space={"cls": GAINS}, tune_config=config, run_config=storage
    )
    return tuner.fit()


def outcome(result):
    """Return what a trial reported: in each epoch, and last."""
    rows = result.metrics_dataframe[["epoch", *KEYS]].to_dict("records")
    last = {key: value for key, value in result.metrics.items() if key.startswith(OURS)}
    error = None if result.error is None else str(result.error)
    return {"cls": result.config["cls"], "rows": rows, "last": last, "error": error}


KEYS = [f"{OURS}{key}" for key in ("verdict", "findings", "total_norm")]
options, trials, *ways = json.loads(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
ray.init(num_cpus=2, include_dashboard=False)
found = {"tuned": list(map(outcome, tuned(options, trials)))}
if ways:
    found["own"] = list(map(outcome, own(options)))
ray.shutdown()
print(json.dumps(found))  # noqa: T201
