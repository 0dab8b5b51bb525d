"""A training in a process of its own, with integrations of Ultralytics at work.

    python integrated.py OPTIONS NAME ...

OPTIONS are those of ``train`` as JSON, with the model's file, and whether it is ``watched``. Of the
integrations, those named are on; they are off in a process that has loaded pytest. Its last line is
what each stand-in of ``stand_ins`` was given, as JSON.
"""

import json
import sys

from ultralytics import YOLO, settings

from yolo_gradwatch import GradWatch

INTEGRATIONS = ("clearml", "comet", "dvc", "hub", "mlflow", "neptune", "raytune", "tensorboard")

options, names = json.loads(sys.argv[1]), sys.argv[2:]
known = {*INTEGRATIONS, "wandb"} & set(settings)
settings.update({**{name: name in names for name in known}, "sync": False})
model = YOLO(options.pop("model"))
if options.pop("watched"):
    GradWatch(live=False).attach(model)
model.train(**options)
loaded = {name: sys.modules.get(name) for name in ("clearml", "dvclive", "wandb")}
print(json.dumps({n: getattr(m, "pictures", None) for n, m in loaded.items() if m}))  # noqa: T201
