"""Watch a training from Python: one line more than without."""

import sys

from ultralytics import YOLO

from yolo_gradwatch import GradWatch

data, weights = (*sys.argv[1:], "coco8.yaml", "yolo26n.pt")[:2]

model = YOLO(weights)
watch = GradWatch().attach(model)
model.train(data=data, epochs=10, imgsz=64, batch=4, nbs=4)

print(watch.report().verdict)
print(watch.run_dir)
