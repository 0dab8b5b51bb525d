"""Watch a training that torchrun has started, in a process for each GPU:

    torchrun --nproc_per_node=2 torchrun_train.py

Ultralytics wants as many devices as there are processes, on one machine: it trains on no more.
"""

import sys

from ultralytics import YOLO

from yolo_gradwatch import GradWatch

data, weights = (*sys.argv[1:], "coco8.yaml", "yolo26n.pt")[:2]

model = YOLO(weights)
watch = GradWatch().attach(model)
model.train(data=data, epochs=3, imgsz=64, batch=4, nbs=4, device="0,1")

if watch.run_dir:  # on rank 0, which has the report
    print(watch.report().verdict)
    print(watch.run_dir)
