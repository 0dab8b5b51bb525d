"""A user's script that torchrun starts for each rank: it trains and prints the report.

    python -m torch.distributed.run --nproc_per_node=2 torchrun_script.py OPTIONS

Each rank writes a file with its observations next to the run's folder. It pretends to have two
GPUs.
"""

import json
import logging
import os
import sys
from pathlib import Path

import torch
from two_processes import TwoProcessTrainer
from ultralytics import YOLO

from yolo_gradwatch import GradWatch

warned = []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: warned.append(record.getMessage())
logging.getLogger("yolo_gradwatch").addHandler(handler)

torch.cuda.device_count = lambda: 2
options = json.loads(sys.argv[1])
model = YOLO("yolo26n.yaml")
watch = GradWatch(live=False).attach(model)
before = watch.report().status if int(os.environ["RANK"]) else None
model.train(trainer=TwoProcessTrainer, **options)
report = watch.report()
print(report)  # noqa: T201  # as in the guide
note = {
    "warned": warned,
    "before": before,
    "status": report.status,
    "verdict": report.verdict,
    "healthy": report.healthy,
    "steps": report.steps,
    "run_dir": str(watch.run_dir),
    "has_started": watch.has_started,
    "is_stopped": watch.stopped_by is not None,
    "sessions": len(watch._attachment.sessions),
}
path = Path(options["project"]) / f"rank-{os.environ['RANK']}.json"
path.write_text(json.dumps(note), encoding="utf-8")
