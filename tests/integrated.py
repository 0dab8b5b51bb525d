"""A training in a separate process with integrations of Ultralytics enabled.

    python integrated.py OPTIONS NAME ...

OPTIONS are the options of ``train`` as JSON, with the model's file and whether it is ``watched``.
It enables the named integrations; Ultralytics disables them in processes that have loaded pytest.
The last line of output lists as JSON what each stand-in in ``stand_ins`` received.
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
